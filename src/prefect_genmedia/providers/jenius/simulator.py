"""Jenius on the wire, as its page describes it; the envelope and the task's fields as in docs/providers/jenius.md.

Its error codes are published nowhere: here they are HTTP statuses, in the body where the answer itself is a 200.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from prefect_genmedia.simulator.dialect import Dialect, Refusal, bearer_of, id_in_path, json_object
from prefect_genmedia.simulator.faults import HOSTILE_TEXT, Fault
from prefect_genmedia.simulator.media import Recipe, fetch_input
from prefect_genmedia.simulator.world import SimulatedJob

_SCENES = ("youqian", "zhongming", "anime_cake", "real_cake", "firework")
_STATUSES = {"queued": "pending", "running": "processing", "failed": "failed", "done": "completed"}
_SECONDS = 5.0
_SHORT_SIDE = 720
_POINTS = 1000
_PRICE = 10


def _refusal(status: int, message: str, code: int | None = None, headers: dict[str, str] | None = None) -> Refusal:
    return Refusal(status, {"code": code or status, "message": message, "data": None}, headers)


class Jenius(Dialect):
    """The dialect's endpoints over one world."""

    name = "jenius"
    title = "Jenius"
    prefix = "/jenius"

    def routes(self) -> Mount:
        """Everything below `/jenius`."""
        tasks = "/api/plugins/poster/tasks"
        return Mount(
            self.prefix,
            routes=[
                Route(tasks, self.guarded("submit", self.create), methods=["POST"]),
                Route(f"{tasks}/{{uuid}}", self.guarded("poll", self.status), methods=["GET"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        """The key, which is itself the account's name."""
        key = bearer_of(request)
        if key not in self.world.keys:
            raise _refusal(401, f"无效的接口密钥: {key}")
        return key

    def refused_by(self, fault: Fault) -> Refusal | None:
        """Refusals: as an HTTP status, or as a code in the body of a 200."""
        retry_after = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"}
        refusals = {
            "refuse_invalid": _refusal(200, "参数错误", 400),
            "refuse_hostile": _refusal(400, HOSTILE_TEXT),
            "refuse_key": _refusal(401, "无效的接口密钥"),
            "refuse_balance": _refusal(200, "积分不足", 402),
            "rate_limited": _refusal(429, "请求过于频繁", headers=retry_after),
            "poll_404": _refusal(404, "任务不存在"),
            "poll_key_revoked": _refusal(200, "无效的接口密钥", 401),
        }
        return refusals.get(fault.name)

    async def create(self, request: Request) -> Response:
        """POST /api/plugins/poster/tasks."""
        body = await json_object(request)
        problems = ["body must be a JSON object"] if body is None else _problems(body, self.world.settings.shipped)
        if body is None or problems:
            raise _refusal(400, "; ".join(problems))

        def accept() -> dict[str, Any]:
            key = self.key_of(request)
            job = self.world.accept(self.name, key, body, self._recipe, str(uuid4()))
            spent = _PRICE * sum(other.provider == self.name and other.key == key for other in self.world.jobs.values())
            data = {
                "uuid": job.id,
                "status": "pending",
                "remaining_points": _POINTS - spent,
                "task_type": "poster",
                "message": "任务已提交",
            }
            return {"code": 200, "message": "success", "data": data}

        return await self.submitted(request, accept)

    async def status(self, request: Request) -> Response:
        """GET /api/plugins/poster/tasks/{uuid}."""
        job = self.job_named(id_in_path(request, "uuid"), request)
        if job is None:
            raise _refusal(404, "任务不存在")

        def answer(status: Any) -> dict[str, Any]:
            return {"code": 200, "message": "success", "data": self._task(job, status)}

        return await self.polled(request, answer)

    def _task(self, job: SimulatedJob, status: Any) -> dict[str, Any]:
        status = _STATUSES[self.stage(job)] if status is None else status
        created = datetime.fromtimestamp(job.created_at, timezone.utc).isoformat()
        now = datetime.now(timezone.utc).isoformat()
        over = status in ("failed", "completed")
        task: dict[str, Any] = {
            "id": int(job.created_at * 1000) % 10**9,
            "uuid": job.id,
            "scene": job.body["prompt"],
            "status": status,
            "price": _PRICE,
            "created_at": created,
            "updated_at": now,
            "completed_at": now if over else None,
            "live_poster_url": self.world.result_url(job) if status == "completed" else None,
        }
        if status == "failed":
            task["error_msg"] = _reason(job)
        return task

    async def _recipe(self, job: SimulatedJob) -> Recipe:
        picture = await asyncio.to_thread(fetch_input, job.body["image_url"], "portrait.jpg")
        return Recipe(
            picture,
            seconds=_SECONDS / 2 if job.has("short_video") else _SECONDS,
            short_side=480 if job.has("small_video") else _SHORT_SIDE,
        )


def _problems(body: dict[str, Any], shipped: frozenset[str]) -> list[str]:
    problems = []
    url = body.get("image_url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        problems.append("image_url must be a public URL")
    if body.get("prompt") not in {*_SCENES, *shipped}:
        problems.append(f"prompt must be one of {', '.join(_SCENES)}")
    return problems


def _reason(job: SimulatedJob) -> str:
    if job.has("fail_input"):
        return "图片未通过审核"
    if job.has("fail_output"):
        return "生成内容未通过审核"
    if job.has("fail_hostile"):
        return HOSTILE_TEXT
    return str(job.failure["message"]) if job.failure else "内部错误"

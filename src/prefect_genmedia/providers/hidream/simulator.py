"""HiDream on the wire, as its page describes it; results, tokens and callbacks as in docs/providers/hidream.md.

Its error codes are published nowhere, but for that a code other than 0 is an error also with HTTP 200: here they are
HTTP statuses, in the body of a 200 wherever no gateway would answer by itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import httpx
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_genmedia.simulator.dialect import Dialect, Refusal, bearer_of, json_object
from prefect_genmedia.simulator.faults import HOSTILE_TEXT, Fault
from prefect_genmedia.simulator.media import (
    CLIP,
    Recipe,
    UnusableInput,
    fetch_input,
    first_frame,
    is_reserved,
    png,
)
from prefect_genmedia.simulator.world import SimulatedJob, World

# Each style, and the colour that stands for it here.
_STYLES = {
    "barbie_doll": (255, 105, 180),
    "ink_wash": (90, 90, 90),
    "van_goph": (230, 180, 40),
    "hayao_miyazaki": (90, 170, 90),
    "cyber_punk": (150, 40, 220),
    "cartoon": (250, 140, 40),
    "anime": (90, 160, 240),
    "vector_art": (40, 190, 180),
    "abstract": (220, 60, 60),
    "watercolor": (160, 200, 230),
}
_STATUSES = {"queued": 0, "running": 2, "failed": 3, "done": 1}
_REFUSED = 4
_DIRECT_KEY = "sk-"
_MINUTE = 60.0
_CALLBACK_TRIES = 3
_CALLBACK_PAUSE = 1.0
_CALLBACK_TIMEOUT = 5.0


def _refusal(status: int, message: str, code: int | None = None, headers: dict[str, str] | None = None) -> Refusal:
    return Refusal(status, {"code": code or status, "message": message, "request_id": str(uuid4())}, headers)


class HiDream(Dialect):
    """The dialect's endpoints over one world."""

    name = "hidream"
    title = "HiDream"
    prefix = "/hidream"
    sample_hosts = ("hidreamai.com",)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._tokens: dict[str, tuple[str, float]] = {}
        self._callbacks: set[asyncio.Task[None]] = set()

    def routes(self) -> Mount:
        """Everything below `/hidream`."""
        submission = "/api-pub/gw/v2/video/video_edit/async"
        return Mount(
            self.prefix,
            routes=[
                Route(submission, self.guarded("submit", self.create), methods=["POST"]),
                Route(f"{submission}/results", self.guarded("poll", self.results), methods=["GET"]),
                Route(f"{submission}/results/batch", self.guarded("batch", self.batch), methods=["POST"]),
                Route("/prod-api/user/apikey2token", self.counted("token", self.token), methods=["GET"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        """The key that a token was given for; keys that begin with `sk-` are tokens themselves."""
        token = bearer_of(request)
        key, ends_at = self._tokens.get(token, ("", 0.0))
        if key in self.world.keys and ends_at > time.time():
            return key
        if token.startswith(_DIRECT_KEY) and token in self.world.keys:
            return token
        raise _refusal(401, f"token无效或已过期: {token}")

    def refused_by(self, fault: Fault) -> Refusal | None:
        """Refusals: as an HTTP status, or as a code in the body of a 200."""
        retry_after = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"}
        refusals = {
            "refuse_invalid": _refusal(200, "参数错误", 400),
            "refuse_hostile": _refusal(200, HOSTILE_TEXT, 400),
            "refuse_key": _refusal(401, "token无效或已过期"),
            "refuse_balance": _refusal(200, "余额不足", 402),
            "rate_limited": _refusal(429, "请求过于频繁", headers=retry_after),
            "poll_404": _refusal(404, "任务不存在"),
            "poll_key_revoked": _refusal(200, "token无效或已过期", 401),
        }
        return refusals.get(fault.name)

    async def token(self, request: Request) -> Response:
        """GET /prod-api/user/apikey2token."""
        fault = self.world.faults.take(self.name, "token")
        if fault is not None:
            return await self._broken(fault, request)
        key = request.headers.get("api-key", "")
        if key not in self.world.keys:
            raise _refusal(200, f"无效的API Key: {key}", 401)
        token = f"token-{secrets.token_hex(16)}"
        ends_at = time.time() + self.world.settings.token_seconds
        self._tokens[token] = (key, ends_at)
        return JSONResponse(_envelope({"token": token, "expire_time": int(ends_at)}))

    async def create(self, request: Request) -> Response:
        """POST …/video_edit/async."""
        body = await json_object(request)
        problems = ["body must be a JSON object"] if body is None else _problems(body, self.world.settings.shipped)
        if body is None or problems:
            raise _refusal(200, "; ".join(problems), 400)
        key = self.key_of(request)
        self._keep_pace(key)

        def accept() -> dict[str, Any]:
            job = self.world.accept(self.name, key, body, self._recipe, str(uuid4()))
            if body.get("notify_url"):
                callback = asyncio.create_task(self._call_back(job))
                self._callbacks.add(callback)
                callback.add_done_callback(self._callbacks.discard)
            result = {"sub_task_ids": [_sub_task_id(job)], "task_id": job.id}
            return _envelope(result, str(body.get("request_id") or uuid4()))

        return await self.submitted(request, accept)

    async def results(self, request: Request) -> Response:
        """GET …/video_edit/async/results."""
        job = self.job_named(request.query_params.get("task_id", ""), request)
        if job is None:
            raise _refusal(404, "任务不存在")
        return await self.polled(request, lambda status: _envelope(self._result(job, status)))

    async def batch(self, request: Request) -> Response:
        """POST …/video_edit/async/results/batch; tasks of others are left out."""
        body = await json_object(request) or {}
        ids = body.get("task_id_list")
        if not isinstance(ids, list) or not all(isinstance(task_id, str) for task_id in ids):
            raise _refusal(200, "task_id_list must be a list of task ids", 400)
        jobs = [job for job in (self.job_named(task_id, request) for task_id in ids) if job is not None]
        return await self.polled(request, lambda status: _envelope([self._result(job, status) for job in jobs]))

    def _keep_pace(self, key: str) -> None:
        limit = self.world.settings.submissions_per_minute
        whose = self.world.customer_of
        jobs = (job for job in self.world.jobs.values() if job.provider == self.name)
        own = (job for job in jobs if whose(job.key) == whose(key))
        if limit is not None and sum(self.world.elapsed(job) < _MINUTE for job in own) >= limit:
            raise _refusal(429, "请求过于频繁")

    def _result(self, job: SimulatedJob, given: Any = None) -> dict[str, Any]:
        stage = self.stage(job)
        status = _STATUSES[stage]
        if stage == "failed" and (job.has("fail_input") or job.has("fail_output")):
            status = _REFUSED
        worked = self.world.elapsed(job) - self.world.settings.queue_seconds
        share = min(max(worked / max(self.world.settings.run_seconds, 0.001), 0.0), 0.99)
        sub_task = {
            "sub_task_id": _sub_task_id(job),
            "task_status": status if given is None else given,
            "task_completion": 1 if stage == "done" else round(share, 2),
            "video": self.world.result_url(job) if stage == "done" and given is None else "",
        }
        if job.has("fail_hostile") and stage == "failed":
            sub_task["description"] = HOSTILE_TEXT
        return {"task_id": job.id, "sub_task_results": [sub_task]}

    async def _call_back(self, job: SimulatedJob) -> None:
        """Tell `notify_url` of the end: at most three tries, one second apart, until one is answered with 200."""
        url = job.body["notify_url"]
        assert job.video is not None  # set when the job was accepted
        settings = self.world.settings
        await asyncio.sleep(settings.queue_seconds + settings.run_seconds + 0.05)
        await asyncio.wait({job.video})
        if job.id not in self.world.jobs or self.stage(job) not in ("failed", "done") or is_reserved(url):
            return
        result = self._result(job)
        body = {"main_task_id": job.id, "sub_task_results": result["sub_task_results"]}
        async with httpx.AsyncClient(timeout=_CALLBACK_TIMEOUT) as client:
            for attempt in range(_CALLBACK_TRIES):
                if attempt:
                    await asyncio.sleep(_CALLBACK_PAUSE)
                if job.id not in self.world.jobs:  # forgotten by a reset
                    return
                self.world.requests["hidream.callback"] += 1
                try:
                    if (await client.post(url, json=body)).status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    continue

    async def _recipe(self, job: SimulatedJob) -> Recipe:
        return await asyncio.to_thread(_stylized, job)


def _envelope(result: Any, request_id: str | None = None) -> dict[str, Any]:
    return {"code": 0, "message": "请求成功", "request_id": request_id or str(uuid4()), "result": result}


def _sub_task_id(job: SimulatedJob) -> str:
    return str(uuid5(NAMESPACE_URL, ascii(job.id)))


def _stylized(job: SimulatedJob) -> Recipe:
    """The video's first picture in the style's colour, for as long as the video plays, with its sound."""
    content = _video(job.body["video_name"])
    picture, seconds, has_sound = first_frame(content)
    words = sum(str(job.body.get("prompt")).encode())
    colour = _STYLES.get(job.body.get("style") or "", (words * 37 % 256, words * 71 % 256, words * 113 % 256))
    tinted = Image.blend(picture, Image.new("RGB", picture.size, colour), 0.35)
    return Recipe(
        png(tinted),
        content if has_sound and not job.has("silent_video") else None,
        seconds=seconds / 2 if job.has("short_video") else seconds,
        short_side=480 if job.has("small_video") else min(picture.size) // 2 * 2,
    )


def _video(video_name: str) -> bytes:
    if video_name.startswith(("http://", "https://")):
        return fetch_input(video_name, CLIP, HiDream.sample_hosts)
    try:
        return base64.b64decode(video_name, validate=True)
    except (binascii.Error, ValueError):
        raise UnusableInput("the base64 text cannot be decoded") from None


def _problems(body: dict[str, Any], shipped: frozenset[str]) -> list[str]:
    texts = ("prompt", "style", "video_name", "request_id", "notify_url")
    problems = [f"{name} must be a string" for name in texts if not isinstance(body.get(name, ""), str)]
    if problems:
        return problems
    if not body.get("prompt") and not body.get("style"):
        problems.append("prompt or style is required")
    if body.get("style") and body["style"] not in {*_STYLES, *shipped}:
        problems.append(f"style must be one of {', '.join(_STYLES)}")
    if not body.get("video_name"):
        problems.append("video_name is required")
    if body.get("notify_url") and not body["notify_url"].startswith(("http://", "https://")):
        problems.append("notify_url must be a public URL")
    return problems

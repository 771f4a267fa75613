"""Acme's dialect of the simulator, written from Acme's documents: it imports nothing from the client."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_genmedia.simulator import (
    HOSTILE_TEXT,
    Dialect,
    Fault,
    Recipe,
    Refusal,
    SimulatedJob,
    World,
    bearer_of,
    fetch_input,
    id_in_path,
    json_object,
)

STATES = {"queued": "waiting", "running": "filming", "done": "ready", "failed": "broken"}
PRESENTERS = {"Robin": "presenter-17", "Kim": "presenter-4"}
STATUSES = {
    "refuse_invalid": 400,
    "refuse_hostile": 400,
    "refuse_key": 401,
    "refuse_balance": 402,
    "rate_limited": 429,
    "poll_404": 404,
    "poll_key_revoked": 401,
}


class Acme(Dialect):
    """Acme's endpoints over one world."""

    name = "acme"
    title = "Acme"
    prefix = "/acme/v1"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._callbacks: set[asyncio.Task[None]] = set()

    def routes(self) -> Mount:
        return Mount(
            self.prefix,
            routes=[
                Route("/clips", self.guarded("submit", self.create), methods=["POST"]),
                Route("/clips/{id}", self.guarded("poll", self.look), methods=["GET"]),
                Route("/presenters", self.guarded("presenters", self.presenters), methods=["GET"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        key = bearer_of(request)
        if key not in self.world.keys:
            raise Refusal(401, {"error": {"message": f"unknown key {key}"}})
        return key

    def refused_by(self, fault: Fault) -> Refusal | None:
        status = STATUSES.get(fault.name)
        wait = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"} if status == 429 else None
        message = HOSTILE_TEXT if fault.name == "refuse_hostile" else "no"
        return Refusal(status, {"error": {"message": message}}, wait) if status else None

    async def create(self, request: Request) -> Response:
        body = await json_object(request)
        if body is None or not body.get("picture") or body.get("mood") not in ("calm", "wild"):
            raise Refusal(400, {"error": {"message": "picture and mood are required"}})
        if body.get("presenter_id", "presenter-4") not in PRESENTERS.values():
            raise Refusal(400, {"error": {"message": "no such presenter"}})

        def accept() -> dict[str, Any]:
            job = self.world.accept(self.name, self.key_of(request), body, self._recipe, f"clip-{uuid4()}")
            if body.get("notify"):
                callback = asyncio.create_task(self._call_back(job))
                self._callbacks.add(callback)
                callback.add_done_callback(self._callbacks.discard)
            return {"clip": {"id": job.id, "state": "waiting"}}

        return await self.submitted(request, accept)

    async def look(self, request: Request) -> Response:
        job = self.job_named(id_in_path(request), request)
        if job is None:
            raise Refusal(404, {"error": {"message": "no such clip"}})
        return await self.polled(request, lambda odd: {"clip": self._clip(job, odd)})

    async def presenters(self, request: Request) -> Response:
        return JSONResponse(PRESENTERS)

    def _clip(self, job: SimulatedJob, odd: Any = None) -> dict[str, Any]:
        state = STATES[self.stage(job)] if odd is None else odd
        clip: dict[str, Any] = {"id": job.id, "state": state}
        if state == "ready":
            clip["url"] = self.world.result_url(job)
        if state == "broken":
            reasons = {"fail_input": "picture refused", "fail_output": "clip refused"}
            clip["reason"] = reasons.get(job.fault.name if job.fault else "", "internal error")
        return clip

    async def _call_back(self, job: SimulatedJob) -> None:
        while self.stage(job) in ("queued", "running"):
            await asyncio.sleep(0.05)
        async with httpx.AsyncClient() as client:
            self.world.requests["acme.callback"] += 1
            await client.post(job.body["notify"], json={"clip": self._clip(job)})

    async def _recipe(self, job: SimulatedJob) -> Recipe:
        picture = await asyncio.to_thread(fetch_input, job.body["picture"], "portrait.jpg")
        return Recipe(picture, seconds=2.5 if job.has("short_video") else 5.0, short_side=240)

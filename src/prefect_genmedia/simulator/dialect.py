"""What the dialects share: documented refusals, reading a body, counting and guarding endpoints, ordered faults."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from prefect_genmedia.simulator import gateways
from prefect_genmedia.simulator.faults import FAILURES, ODD_IDS, STATUSES, Fault, broken_answer
from prefect_genmedia.simulator.world import SimulatedJob, World

Handler = Callable[[Request], Awaitable[Response]]
Stage = Literal["queued", "running", "failed", "done"]


class Refusal(Exception):
    """A documented error answer, in its dialect's own words."""

    def __init__(self, status: int, payload: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(str(payload))
        self.status = status
        self.payload = payload
        self.response = json_answer(payload, status, headers)


class Dialect:
    """Base of the dialects: one provider's endpoints over one world.

    Attributes:
        name: the provider's name.
        title: the provider's name for people; by default the same.
        prefix: the path of its base URL, below the simulator's.
        sample_hosts: hosts in the provider's examples, which exist only in its documents: a sample file is taken in
            place of what they would serve.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    sample_hosts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> Mount:
        """Every endpoint, below the dialect's prefix."""
        raise NotImplementedError

    def key_of(self, request: Request) -> str:
        """The key of the account that asks.

        Raises:
            Refusal: no such account.
        """
        raise NotImplementedError

    def refused_by(self, fault: Fault) -> Refusal | None:
        """The refusal that an ordered fault means in this dialect; None for faults of another kind."""
        raise NotImplementedError

    def guarded(self, endpoint: str, handler: Handler) -> Handler:
        """The handler, for those only who have a key; each request is counted."""

        async def behind_key(request: Request) -> Response:
            self.key_of(request)
            return await handler(request)

        return self.counted(endpoint, behind_key)

    def counted(self, endpoint: str, handler: Handler) -> Handler:
        """The handler, with each request counted and refusals answered."""

        async def answer(request: Request) -> Response:
            self.world.requests[f"{self.name}.{endpoint}"] += 1
            if self.world.settings.gateway == "web-page":
                return gateways.page()
            try:
                return await handler(request)
            except Refusal as refusal:
                if self.world.settings.gateway == "new-api":
                    status, payload = gateways.refused(endpoint, refusal.status, refusal.payload)
                    return json_answer(payload, status)
                return refusal.response

        return answer

    async def submitted(self, request: Request, accept: Callable[[], dict[str, Any]]) -> Response:
        """Answer a submission that is right in itself; `accept` takes the job on and words the yes."""
        fault = self.world.faults.take(self.name, "submit", self.world.customer_of(self.key_of(request)))
        if fault is None:
            payload = accept()
            return json_answer(gateways.accepted(payload) if self.world.settings.gateway == "new-api" else payload)
        self._refuse(fault)
        if fault.name in gateways.REFUSALS:
            return gateways.REFUSALS[fault.name](request.url.path)
        if fault.name == "drop_before_accept":
            return await self._broken(fault, request)
        if fault.name in gateways.CHANGED or fault.name in ODD_IDS:
            return json_answer(self._accepted_as(fault.name, accept))
        answer = json_answer(accept())
        return await broken_answer(fault, request, self.world.drop) or answer

    def _accepted_as(self, name: str, accept: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Accept a job whose id, or the answer about it, is another one."""
        self.world.disguise = ODD_IDS.get(name)
        try:
            payload = accept()
        finally:
            self.world.disguise = None
        return gateways.changed(name, payload, list(self.world.jobs)[-1])

    async def polled(self, request: Request, answer: Callable[[Any], dict[str, Any]]) -> Response:
        """Answer a poll of a job; `answer` returns the body for its state, or for the status that it is given."""
        fault = self.world.faults.take(self.name, "poll")
        if fault is None:
            payload = answer(None)
            return json_answer(gateways.state(payload) if self.world.settings.gateway == "new-api" else payload)
        self._refuse(fault)
        if fault.name in STATUSES:
            return json_answer(answer(STATUSES[fault.name]))
        return await self._broken(fault, request)

    def stage(self, job: SimulatedJob) -> Stage:
        """Where a job is in its life."""
        if self.world.is_queued(job):
            return "queued"
        if not self.world.is_over(job):
            return "running"
        if job.failure or any(map(job.has, FAILURES)):
            return "failed"
        return "done" if job.video is not None and job.video.done() else "running"

    def job_named(self, job_id: str, request: Request) -> SimulatedJob | None:
        """The asking account's own job, whichever of its keys it was submitted with."""
        job, asker = self.world.jobs.get(job_id), self.world.customer_of(self.key_of(request))
        own = job is not None and job.provider == self.name and self.world.customer_of(job.key) == asker
        return job if own else None

    def _refuse(self, fault: Fault) -> None:
        refusal = self.refused_by(fault)
        if refusal is not None:
            raise refusal

    async def _broken(self, fault: Fault, request: Request) -> Response:
        return await broken_answer(fault, request, self.world.drop) or Response()


def id_in_path(request: Request, name: str = "id") -> str:
    """The job's id in a path, whatever is in it; see `app.EncodedPaths`."""
    return unquote(request.path_params[name])


def json_answer(payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; lone surrogates, which UTF-8 cannot say, are escaped."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    try:
        body = text.encode()
    except UnicodeEncodeError:
        body = json.dumps(payload).encode()
    return Response(body, status, headers, "application/json")


async def json_object(request: Request) -> dict[str, Any] | None:
    """The request's JSON object; None where it is none."""
    try:
        body = json.loads(await request.body())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def bearer_of(request: Request) -> str:
    """What stands behind `Bearer ` in the Authorization header; empty where nothing does."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme == "Bearer" else ""

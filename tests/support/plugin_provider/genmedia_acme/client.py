"""Acme over HTTP, and what only Acme can tell about a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

import httpx

from genmedia_acme.request import AcmeClip
from prefect_genmedia.errors import FieldProblem, GenerationFailed, InputRefused, InvalidRequest, OutputRefused
from prefect_genmedia.providers import (
    Accepted,
    BearerClient,
    ErrorAnswer,
    Observation,
    Phase,
    ResolveSession,
    ResultStream,
    Sendable,
    id_in,
    open_url,
    paid_submission,
    path_segment,
    read_json,
    unreadable,
)

BASE_URL = "https://api.acme.example/v1"
PHASES = {"waiting": Phase.QUEUED, "filming": Phase.RUNNING, "ready": Phase.SUCCEEDED, "broken": Phase.FAILED}
FAILURES = {"picture refused": InputRefused, "clip refused": OutputRefused}


class AcmeClient(BearerClient):
    """One Acme account, in one event loop."""

    provider: ClassVar[str] = "acme"
    provider_url: ClassVar[str] = BASE_URL

    async def submit(self, request: Sendable) -> Accepted:
        with paid_submission():
            response = await self._api.post_paid("/clips", request.payload())
            clip = self._clip(response, "POST /clips")
            clip_id = id_in(clip.get("id"))
            if clip_id is None:
                raise unreadable(response, "POST /clips", self._redactor, "no id in its clip")
            return Accepted(clip_id, str(clip.get("state", "waiting")))

    async def poll(self, provider_job_id: str) -> Observation:
        clip = await self._get(provider_job_id)
        state = str(clip.get("state"))
        failure = None
        if state == "broken":
            reason = self._redactor.clean(str(clip.get("reason", "no details")))
            failure = FAILURES.get(reason, GenerationFailed)(f"Acme reports: {reason}.")
        return Observation(PHASES.get(state, Phase.RUNNING), state, state in PHASES, clip.get("percent"), failure)

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        url = str((await self._get(provider_job_id)).get("url"))
        async with self._api.download_turn(), open_url(url, self.fetch_rules) as stream:
            yield stream

    async def presenters(self) -> dict[str, str]:
        """The ids of the presenters, by name."""
        response = await self._api.get("/presenters")
        payload = self._read(response, "GET /presenters")
        return {str(name): str(presenter_id) for name, presenter_id in payload.items()}

    async def _get(self, clip_id: str) -> dict[str, Any]:
        return self._clip(await self._api.get(f"/clips/{path_segment(clip_id)}"), "GET /clips/{id}")

    def _clip(self, response: httpx.Response, what: str) -> dict[str, Any]:
        clip = self._read(response, what).get("clip")
        if not isinstance(clip, dict):
            raise unreadable(response, what, self._redactor, "no clip in it")
        return clip

    def _read(self, response: httpx.Response, what: str) -> dict[str, Any]:
        refusal = ErrorAnswer.in_answer(response, what, self._redactor)
        if refusal is not None:
            raise refusal.by_status()
        return read_json(response, what, self._redactor)


async def resolve(request: AcmeClip, session: ResolveSession) -> AcmeClip:
    """The clip with the id that its presenter has today."""
    presenters = await cast(AcmeClient, session.client).presenters()
    if request.presenter not in presenters:
        problem = f"Acme has no presenter {request.presenter!r}; it has {', '.join(sorted(presenters))}"
        raise InvalidRequest.of("AcmeClip request", [FieldProblem("presenter", problem)])
    return request.with_presenter(presenters[request.presenter])


def callback_words(payload: Any) -> str:
    """What a callback says of its clip."""
    return str(payload["clip"]["state"])


async def service_notices() -> list[str]:
    """What `reconcile_jobs` logs about Acme at its end."""
    return ["Acme has no notices"]

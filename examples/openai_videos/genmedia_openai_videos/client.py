"""The videos API over HTTP."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx

from prefect_genmedia.errors import GenerationFailed, QuotaError
from prefect_genmedia.providers import (
    Accepted,
    Account,
    ApiClient,
    BearerAuth,
    ErrorAnswer,
    FetchRules,
    FilePart,
    Observation,
    Phase,
    Redactor,
    ResultStream,
    Sendable,
    id_in,
    name_in,
    number_in,
    open_url,
    paid_submission,
    path_segment,
    read_body,
    read_json,
    redirect_target,
    result_stream,
    unreadable,
)

BASE_URL = "https://api.openai.com/v1"
PHASES = dict(zip(("queued", "in_progress", "completed", "failed"), Phase, strict=True))
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes that come with status 429 or 400, and do not pass with time."""


class OpenAIVideosClient:
    """One account at one gateway, in one event loop."""

    def __init__(
        self,
        api_key: str,
        base_url: str = BASE_URL,
        allow_private_hosts: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        submissions_per_minute: float | None = None,
    ) -> None:
        """Open no connection yet."""
        self.account = Account.of("openai_videos", base_url, api_key)
        self._redactor = Redactor([api_key])
        self._api = ApiClient(base_url, BearerAuth(api_key), self._redactor, None, transport, submissions_per_minute)
        self.fetch_rules = FetchRules.beside(base_url, allow_private_hosts, transport)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the right to submit now, and hold it."""
        return self._api.turn()

    async def submit(self, request: Sendable) -> Accepted:
        """POST /videos, once, as multipart/form-data: what the published client sends, and every gateway reads."""
        fields, files = _form(request.payload())
        with paid_submission():
            response = await self._api.post_paid("/videos", fields, files)
            video = self._read(response, "POST /videos")
            video_id = id_in(video.get("id"))
            if video_id is None:
                raise unreadable(response, "POST /videos", self._redactor, "no id")
            return Accepted(video_id, str(video.get("status", "queued")))

    async def poll(self, provider_job_id: str) -> Observation:
        """GET /videos/{id}."""
        what = "GET /videos/{id}"
        response = await self._api.get(_path(provider_job_id))
        video = self._read(response, what)
        word = name_in(video.get("status"))
        if word is None:
            raise unreadable(response, what, self._redactor, "no status")
        failure = self._failure(video) if word == "failed" else None
        phase = PHASES.get(word, Phase.RUNNING)
        return Observation(phase, word, word in PHASES, number_in(video.get("progress")), failure)

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        """GET /videos/{id}/content: the file, or a redirect to where it is, which is fetched without the key."""
        path, what = f"{_path(provider_job_id)}/content", "GET /videos/{id}/content"
        async with self._api.stream(path) as response:
            if response.is_success:
                yield result_stream(response)
                return
            url = redirect_target(response)
            if url is None:
                answer = await read_body(response, what, self._redactor)
                raise ErrorAnswer.of(answer, what, self._redactor).by_status()
        async with self._api.download_turn(), open_url(url, self.fetch_rules) as stream:
            yield stream

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    def _read(self, response: httpx.Response, what: str) -> dict[str, Any]:
        if not response.is_success:
            said = ErrorAnswer.of(response, what, self._redactor)
            raise said.error(QuotaError) if said.code in QUOTA_CODES else said.by_status()
        return read_json(response, what, self._redactor)

    def _failure(self, video: dict[str, Any]) -> GenerationFailed:
        error = video.get("error")
        error = error if isinstance(error, dict) else {}
        reason = self._redactor.clean(str(error.get("message") or "no details"))[:500]
        return GenerationFailed(f"The provider reports: {reason.rstrip('.')}.", code=name_in(error.get("code")))


def _path(video_id: str) -> str:
    return f"/videos/{path_segment(video_id)}"


def _form(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, FilePart]]:
    """Fields and files of the form: a picture as a `data:` URI becomes a file, which every gateway takes."""
    reference = body.get("input_reference")
    url = reference.get("image_url", "") if isinstance(reference, dict) else ""
    if not url.startswith("data:"):
        return body, {}
    head, _, text = url.partition(",")
    media_type = head.removeprefix("data:").partition(";")[0]
    fields = {name: value for name, value in body.items() if name != "input_reference"}
    name = f"reference.{media_type.rpartition('/')[2]}"
    return fields, {"input_reference": (name, base64.b64decode(text), media_type)}

"""The videos API over HTTP."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx

from prefect_genmedia.errors import GenerationFailed
from prefect_genmedia.providers import (
    Accepted,
    BearerClient,
    ErrorAnswer,
    FilePart,
    Observation,
    Phase,
    ResultStream,
    Sendable,
    StatusWords,
    clean_word,
    evidence_in,
    job_id_in,
    open_content,
    paid_submission,
    path_segment,
    percent_in,
    read_json,
    reason_in,
    task_in,
    unreadable,
)

BASE_URL = "https://api.openai.com/v1"
STATUS_WORDS = StatusWords(
    queued=frozenset({"queued"}),
    running=frozenset({"in_progress"}),
    succeeded=frozenset({"completed"}),
    failed=frozenset({"failed"}),
)


class OpenAIVideosClient(BearerClient):
    """One account at one gateway."""

    provider: ClassVar[str] = "openai_videos"
    provider_url: ClassVar[str] = BASE_URL

    async def submit(self, request: Sendable) -> Accepted:
        """POST /videos, once, as multipart/form-data: what the published client sends, and every gateway reads."""
        fields, files = _form(request.payload())
        with paid_submission():
            response = await self._api.post_paid("/videos", fields, files)
            video = self._read(response, "POST /videos")
            video_id = job_id_in(video)
            if video_id is None:
                raise unreadable(response, "POST /videos", self._redactor, "no id")
            evidence = evidence_in(response, video, self._redactor)
            return Accepted(video_id, clean_word(video.get("status")) or "queued", evidence=evidence)

    async def poll(self, provider_job_id: str) -> Observation:
        """GET /videos/{id}."""
        what = "GET /videos/{id}"
        response = await self._api.get(_path(provider_job_id))
        answer = self._read(response, what)
        video = task_in(answer)
        if video is None:
            raise unreadable(response, what, self._redactor, "no status")
        word = clean_word(video.get("status"))
        phase, recognized = STATUS_WORDS.phase(word)
        failure = self._failure(video) if phase is Phase.FAILED else None
        progress, evidence = percent_in(video.get("progress")), evidence_in(response, answer, self._redactor)
        return Observation(phase, word, recognized, progress, failure, evidence=evidence)

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        """GET /videos/{id}/content: the file, or where it is, which is fetched without the key."""
        path, what = f"{_path(provider_job_id)}/content", "GET /videos/{id}/content"
        async with open_content(self._api, path, what, self.fetch_rules) as stream:
            yield stream

    def _read(self, response: httpx.Response, what: str) -> dict[str, Any]:
        refusal = ErrorAnswer.in_answer(response, what, self._redactor)
        if refusal is not None:
            raise refusal.by_status()
        return read_json(response, what, self._redactor)

    def _failure(self, video: dict[str, Any]) -> GenerationFailed:
        reason = reason_in(video, None)
        words = self._redactor.clean(reason.words or "no details")[:500]
        return GenerationFailed(f"The provider reports: {words.rstrip('.')}.", code=reason.code or None)


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

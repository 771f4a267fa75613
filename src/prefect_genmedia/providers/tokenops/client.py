"""TokenOps over HTTP: create a video, poll it, open its content, detect and recognize subjects (TokenOps' page)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx

from prefect_genmedia.errors import ProviderError
from prefect_genmedia.providers.answers import evidence_in, job_id_in, status_in, task_in
from prefect_genmedia.providers.bearer import BearerClient
from prefect_genmedia.providers.protocol import Accepted, Observation, ResultStream, Sendable
from prefect_genmedia.providers.responses import paid_submission, unreadable
from prefect_genmedia.providers.results import open_content
from prefect_genmedia.providers.tokenops import catalog, responses
from prefect_genmedia.providers.tokenops.subjects import Detection, Recognition
from prefect_genmedia.text import clean_word, path_segment


class TokenOpsClient(BearerClient):
    """One TokenOps account."""

    provider: ClassVar[str] = "tokenops"
    provider_url: ClassVar[str] = catalog.BASE_URL

    async def submit(self, request: Sendable) -> Accepted:
        """POST /videos, once.

        Raises:
            GenMediaError: with an `outcome` that tells whether it was unsent, refused, or nobody can know.
        """
        with paid_submission():
            response = await self._api.post_paid("/videos", request.payload())
            payload = self._read(response, "POST /videos")
            job_id = job_id_in(payload)
            if job_id is None:
                raise unreadable(response, "POST /videos", self._redactor, "no id")
            status = clean_word(status_in(task_in(payload) or {})) or "in_queue"
            return Accepted(job_id, status, evidence=evidence_in(response, payload, self._redactor))

    async def poll(self, provider_job_id: str) -> Observation:
        """GET /videos/{id}.

        Raises:
            CredentialsError, JobExpired, RateLimited, ProviderError.
        """
        response = await self._api.get(_video(provider_job_id))
        payload = self._read(response, "GET /videos/{id}")
        task = task_in(payload)
        if task is None:
            raise responses.without_status(response, "GET /videos/{id}", self._redactor)
        return responses.observation(task, self._redactor, evidence_in(response, payload, self._redactor))

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        """GET /videos/{id}/content: mp4 bytes, a redirect, or JSON that names a URL, fetched without the key.

        Raises:
            JobExpired: the file is gone.
            ProviderError: no file came; retryable.
        """
        path, what = f"{_video(provider_job_id)}/content", "GET /videos/{id}/content"
        async with open_content(self._api, path, what, self.fetch_rules) as stream:
            yield stream

    async def detect_subjects(self, image_url: str, model: str = catalog.OMNIHUMAN_MODEL) -> Detection:
        """POST /omnihuman/subject/detection: who is in the picture.

        Args:
            image_url: URL of the picture.
            model: the model's name at TokenOps.

        Raises:
            InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
        """
        payload = await self._inspect_picture("detection", catalog.DETECTION_REQ_KEY, image_url, model)
        urls = payload.get("mask_urls") or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise ProviderError("Subject detection answered with mask_urls that are not a list of URLs.")
        if len(urls) > catalog.MAX_TOLERATED_MASKS:
            raise ProviderError(
                f"Subject detection answered with {len(urls)} masks; {catalog.MAX_MASKS} are documented, and more than "
                f"{catalog.MAX_TOLERATED_MASKS} are not believed.",
                retryable=False,
            )
        return Detection(
            found=_is_one(payload), mask_urls=tuple(urls), request_id=clean_word(payload.get("request_id"))
        )

    async def recognize_subject(self, image_url: str, model: str = catalog.OMNIHUMAN_MODEL) -> Recognition:
        """POST /omnihuman/subject/recognition: whether a person, or something like one, is in the picture.

        Described as asynchronous, but its answer carries the status, and no query is documented.

        Args:
            image_url: the picture, where the provider can fetch it.
            model: the model that shall make the video.

        Raises:
            InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
        """
        payload = await self._inspect_picture("recognition", catalog.RECOGNITION_REQ_KEY, image_url, model)
        return Recognition(
            found=_is_one(payload),
            task_id=clean_word(payload.get("task_id")),
            request_id=clean_word(payload.get("request_id")),
        )

    async def _inspect_picture(self, what: str, req_key: str, image_url: str, model: str) -> dict[str, Any]:
        path = f"/omnihuman/subject/{what}"
        response = await self._api.post(path, {"model": model, "req_key": req_key, "image_url": image_url})
        payload = self._read(response, f"POST {path}")
        if "status" not in payload:
            raise ProviderError(f"POST {path} answered without a status.", http_status=response.status_code)
        return payload

    def _read(self, response: httpx.Response, what: str) -> dict[str, Any]:
        responses.raise_for_error(response, what, self._redactor)
        return responses.json_object(response, what, self._redactor)


def _video(provider_job_id: str) -> str:
    return f"/videos/{path_segment(provider_job_id)}"


def _is_one(payload: dict[str, Any]) -> bool:
    return str(payload.get("status")) == "1"

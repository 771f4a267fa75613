"""Jenius over HTTP: create a poster task, poll it, fetch its file (Jenius' page)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from prefect_genmedia.providers.answers import evidence_in, parsed
from prefect_genmedia.providers.bearer import BearerClient
from prefect_genmedia.providers.jenius import catalog, responses
from prefect_genmedia.providers.protocol import Accepted, Observation, ResultStream, Sendable
from prefect_genmedia.providers.responses import paid_submission
from prefect_genmedia.providers.results import open_url
from prefect_genmedia.text import path_segment


class JeniusClient(BearerClient):
    """One Jenius account."""

    provider: ClassVar[str] = "jenius"
    provider_url: ClassVar[str] = catalog.BASE_URL

    async def submit(self, request: Sendable) -> Accepted:
        """POST /tasks, once.

        Raises:
            GenMediaError: with an `outcome` that tells whether it was unsent, refused, or nobody can know.
        """
        with paid_submission():
            response = await self._api.post_paid(catalog.TASKS_PATH, request.payload())
            return responses.accepted(response, "POST /tasks", self._redactor)

    async def poll(self, provider_job_id: str) -> Observation:
        """GET /tasks/{uuid}.

        Raises:
            CredentialsError, JobExpired, RateLimited, ProviderError.
        """
        task, evidence = await self._task(provider_job_id)
        return responses.observation(task, self._redactor, evidence)

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        """Poll the task again for a URL that is still valid, and open it without the key; a task has one file.

        Raises:
            JobExpired: the file is gone.
            GenerationFailed: the task has failed after all.
            ProviderError: no file came; retryable.
        """
        task, _ = await self._task(provider_job_id)
        observed = responses.observation(task, self._redactor)
        if observed.failure is not None and observed.recognized:
            raise observed.failure
        url = self._api.absolute(responses.result_url(task))
        async with self._api.download_turn(), open_url(url, self.fetch_rules) as stream:
            yield stream

    async def _task(self, uuid: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task, and what proves it."""
        what = "GET /tasks/{uuid}"
        response = await self._api.get(f"{catalog.TASKS_PATH}/{path_segment(uuid)}")
        task = responses.task_of(response, what, self._redactor)
        return task, evidence_in(response, parsed(response.content), self._redactor)

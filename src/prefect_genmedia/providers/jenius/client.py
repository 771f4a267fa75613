"""Jenius over HTTP: create a poster task, look at it, fetch its file (Jenius' page)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx

from prefect_genmedia._transport import ApiClient, FetchRules, Gates, Redactor
from prefect_genmedia.providers.answers import evidence_in, parsed
from prefect_genmedia.providers.bearer import BearerAuth
from prefect_genmedia.providers.jenius import catalog, responses
from prefect_genmedia.providers.protocol import Accepted, Account, Observation, ResultStream, Sendable
from prefect_genmedia.providers.responses import paid_submission
from prefect_genmedia.providers.results import open_url
from prefect_genmedia.text import path_segment


class JeniusClient:
    """One Jenius account, in one event loop.

    Parameters:
        api_key: the key (接口密钥); it stays inside.
        base_url: the site's root; another one for a gateway or the simulator.
        gates: how many requests and downloads may be under way.
        allow_private_hosts: whether results may come from private addresses other than the API's own host.
        transport: replaces the network, for tests.
        submissions_per_minute: the pace of submissions; None for none.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str = catalog.BASE_URL,
        gates: Gates | None = None,
        allow_private_hosts: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        submissions_per_minute: float | None = None,
    ) -> None:
        """Open no connection yet."""
        self.account = Account.of("jenius", base_url, api_key)
        self._redactor = Redactor([api_key])
        self._api = ApiClient(base_url, BearerAuth(api_key), self._redactor, gates, transport)
        self.submissions_per_minute = submissions_per_minute
        self.fetch_rules = FetchRules.beside(base_url, allow_private_hosts, transport)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the pace, and a place among the requests under way; hold the place."""
        return self._api.turn()

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
        """Look at the task again for a URL that is still valid, and open it without the key; a task has one file.

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

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    async def _task(self, uuid: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task, and what proves it."""
        what = "GET /tasks/{uuid}"
        response = await self._api.get(f"{catalog.TASKS_PATH}/{path_segment(uuid)}")
        task = responses.task_of(response, what, self._redactor)
        return task, evidence_in(response, parsed(response.content), self._redactor)

"""HiDream over HTTP: submit a stylization, poll one task or many, fetch files, exchange a key (HiDream's page)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from typing import Any

import httpx

from prefect_genmedia._transport import ApiClient, FetchRules, Gates
from prefect_genmedia.errors import CredentialsError, GenMediaError, ProviderError, RateLimited
from prefect_genmedia.providers.answers import evidence_in, id_in, parsed
from prefect_genmedia.providers.hidream import catalog, responses
from prefect_genmedia.providers.hidream.stylize import StylizedVideo
from prefect_genmedia.providers.hidream.token import (
    ApiKeyAuth,
    LearningRedactor,
    Token,
    TokenAuth,
    TokenSource,
    cached_token,
)
from prefect_genmedia.providers.protocol import (
    Accepted,
    Account,
    Observation,
    PreparedRequest,
    ResultStream,
    Sendable,
    SharedLock,
)
from prefect_genmedia.providers.responses import paid_submission
from prefect_genmedia.providers.results import open_url

_DIRECT_KEY = "sk-"
"""Keys that begin so are sent as the token itself, without an exchange (docs/providers/hidream.md)."""


class HiDreamClient:
    """One HiDream account, in one event loop.

    Args:
        token: a token; it lives one day.
        api_key: an API key, in place of the token: exchanged for tokens, which are renewed before they end.
        user_id: sent as `API-User-ID`. Beside a token it also names the account, so that tomorrow's token finds
            today's jobs.
        base_url: the site's root; another one for a gateway or the simulator.
        submissions_per_minute: the pace of submissions; None for none.
        gates: how many requests and downloads may be under way.
        allow_private_hosts: whether results may come from private addresses other than the API's own host.
        now: tells the time, in seconds since 1970, for tests.

    Raises:
        CredentialsError: not exactly one of token and api_key is given.
    """

    def __init__(
        self,
        token: str | None = None,
        api_key: str | None = None,
        user_id: str = "",
        base_url: str = catalog.BASE_URL,
        submissions_per_minute: float | None = catalog.SUBMISSIONS_PER_MINUTE,
        gates: Gates | None = None,
        allow_private_hosts: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open no connection yet, and exchange nothing."""
        secret = token or api_key
        if not secret or (token and api_key):
            raise CredentialsError("HiDream takes a token or an api_key: give one of them.")
        lasting = not token or token.startswith(_DIRECT_KEY)
        self.account = Account.of("hidream", base_url, secret if lasting else user_id or secret)
        self._redactor = LearningRedactor([secret])
        self._now = now
        self._pause = 60.0 / (submissions_per_minute or catalog.SUBMISSIONS_PER_MINUTE)
        self.submissions_per_minute = submissions_per_minute
        self._keys: ApiClient | None = None
        if api_key and not api_key.startswith(_DIRECT_KEY):
            # A client of its own: the key travels to this one endpoint only, and never waits behind the account's gate.
            self._keys = ApiClient(base_url, ApiKeyAuth(api_key), self._redactor, Gates(1, 1))
        self._headers: dict[str, str] = {}
        self._lock: SharedLock = lambda name: nullcontext()
        if self._keys:
            cached = cached_token(base_url, secret)
            self._tokens = TokenSource(None, self._exchange, cached, self._redactor.learn, now)
        else:
            self._tokens = TokenSource(secret)
        self._api = ApiClient(base_url, TokenAuth(self._tokens, user_id), self._redactor, gates)
        self.fetch_rules = FetchRules.beside(base_url, allow_private_hosts, transport=None)

    def share_lock(self, lock: SharedLock) -> None:
        """Exchange the key under this lock: processes of one account do not exchange it at the same instant.

        Args:
            lock: the job ledger's.
        """
        self._lock = lock

    def of_request(self, request: Mapping[str, Any]) -> HiDreamClient:
        """The client that polls and downloads for the user that a job was asked for; shares the connections.

        Args:
            request: the job's request, as the ledger has it.
        """
        user_id = request.get("api_user_id")
        if not user_id:
            return self
        client = copy(self)
        client._headers = _user_header(str(user_id))
        return client

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the pace, a place among the requests under way, and a token that is not near its end."""
        async with self._api.turn():
            await self._tokens.fresh()
            yield

    async def submit(self, request: Sendable) -> Accepted:
        """POST …/video_edit/async, once: whatever it answers, it is not repeated here.

        Raises:
            GenMediaError: with an `outcome` that tells whether it was unsent, refused, or nobody can know.
        """
        token = await self._tokens.fresh()
        try:
            with paid_submission():
                response = await self._api.post_paid(
                    catalog.SUBMIT_PATH, request.payload(), headers=_user_header(_user_of(request))
                )
                accepted = responses.accepted(response, "POST …/video_edit/async", self._redactor)
        except RateLimited as error:
            # Two submissions a minute are documented, a Retry-After header is not.
            raise error.after(self._pause if error.retry_after is None else error.retry_after) from None
        except CredentialsError as error:
            # Refused, so nothing was accepted; the caller may try again with the token that the next call gets.
            error.retryable = self._tokens.forget(token)
            raise
        self._tokens.prove(token)
        return accepted

    async def poll(self, provider_job_id: str) -> Observation:
        """GET …/async/results.

        Raises:
            CredentialsError, JobExpired, RateLimited, ProviderError.
        """
        sub_tasks, evidence = await self._sub_tasks(provider_job_id)
        return responses.observation(sub_tasks, self._redactor, evidence)

    async def poll_many(self, provider_job_ids: Sequence[str]) -> dict[str, Observation]:
        """POST …/async/results/batch: poll many tasks at once.

        Returns:
            The observation of each task; tasks that are not in the answer are missing.

        Raises:
            CredentialsError, RateLimited, ProviderError.
        """
        if not provider_job_ids:
            return {}
        what, body = "POST …/results/batch", {"task_id_list": list(provider_job_ids)}
        result = await self._read(what, lambda: self._api.post(catalog.BATCH_PATH, body))
        if not isinstance(result, list):
            raise ProviderError(f"{what} answered without a list of results.")
        found = {}
        for task in result:
            sub_tasks = responses.sub_tasks_in(task)
            if sub_tasks is not None and (task_id := id_in(task.get("task_id"))) in provider_job_ids:
                found[str(task_id)] = responses.observation(sub_tasks, self._redactor)
        return found

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        """Poll the task again for a URL that is still valid, and open it without the token.

        Args:
            provider_job_id: the task.
            index: which of its finished files, in the order of its sub-tasks.

        Raises:
            JobExpired: the file is gone.
            ProviderError: no file came; retryable.
        """
        sub_tasks, _ = await self._sub_tasks(provider_job_id)
        urls = responses.file_urls(sub_tasks)
        if not 0 <= index < len(urls):
            raise ProviderError(f"The task has {len(urls)} finished files, and no number {index}.")
        async with self._api.download_turn(), open_url(self._api.absolute(urls[index]), self.fetch_rules) as stream:
            yield stream

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()
        if self._keys is not None:
            await self._keys.aclose()

    async def _sub_tasks(self, task_id: str) -> tuple[list[responses.SubTask], dict[str, Any]]:
        """The sub-tasks of a task, and what proves them."""
        what, answers = "GET …/async/results", []

        async def call() -> httpx.Response:
            answers.append(await self._api.get(catalog.RESULTS_PATH, {"task_id": task_id}, self._headers))
            return answers[-1]

        sub_tasks = responses.sub_tasks_in(await self._read(what, call))
        if sub_tasks is None:
            raise ProviderError(f"{what} answered without sub_task_results.")
        return sub_tasks, evidence_in(answers[-1], parsed(answers[-1].content), self._redactor)

    async def _read(self, what: str, call: Callable[[], Awaitable[httpx.Response]]) -> Any:
        """Make a call that costs nothing; once more with another token where the first one is refused."""
        token = await self._tokens.fresh()
        try:
            result = responses.result_in(await call(), what, self._redactor)
        except CredentialsError:
            if not self._tokens.forget(token):
                raise
            token = await self._tokens.fresh()
            result = responses.result_in(await call(), what, self._redactor)
        self._tokens.prove(token)
        return result

    async def _exchange(self) -> Token:
        assert self._keys is not None  # only a client with a key exchanges it
        try:
            async with self._lock(f"token of {self.account}"):
                response = await self._keys.get(catalog.TOKEN_PATH)
            return responses.token_in(response, "The exchange of the API key", self._redactor, self._now())
        except GenMediaError as error:
            error.outcome = "unsent"  # of a submission that waits for this token, nothing has left yet
            raise


def _user_of(request: Sendable) -> str:
    wanted = request.request if isinstance(request, PreparedRequest) else request
    return wanted.api_user_id if isinstance(wanted, StylizedVideo) else ""


def _user_header(user_id: str) -> dict[str, str]:
    return {catalog.USER_HEADER: user_id} if user_id else {}

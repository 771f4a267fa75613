"""The life of one row inside its task run: select who speaks, submit, wait, deliver; each step tried again if safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.slots import Slots
from prefect_genmedia._prefect.credentials import ProviderCredentials
from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia._inputs import Seen
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia.providers.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest, Observation
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia._prefect.concurrency import place_in
from prefect_genmedia._prefect.steps import deliver_step, submit_step, wait_step
from prefect_genmedia.providers.tokenops.tasks import with_subject
from prefect_genmedia._prefect.run import RETRY_DELAYS, RunListener

DELIVERIES_AT_ONCE = 4
"""Downloads that are verified at once: decoding keeps the processors busy, and forty threads of it starve the rest."""

T = TypeVar("T")


class Place:
    """A row's place among the jobs in flight: left once, whoever leaves first."""

    def __init__(self, slots: Slots) -> None:
        """Take over a place that was acquired already."""
        self.slots = slots
        self._held = True

    def leave(self) -> None:
        """Give the place back, if it is still held."""
        if self._held:
            self._held = False
            self.slots.release()

    async def take_again(self) -> None:
        """Wait for a place, before those that have not begun."""
        await self.slots.acquire(first=True)
        self._held = True


class RowListener(RunListener):
    """Leaves out what nobody looks for among thousands of jobs: each word of the provider's as an event of its own.

    Handling an event costs Prefect's server as much as a request.
    """

    def changed(self, job: Job, observation: Observation) -> None:
        """Only what nobody has heard of yet is worth a line."""
        if not observation.recognized:
            super().changed(job, observation)


class RowLife:
    """One row's way from request to file.

    Not a dataclass: Prefect looks through the parameters of a task for futures, and into dataclasses.

    Parameters:
        row: what is wanted.
        known: its job, where an earlier run has left one.
        is_sent: whether a submission is to come.
        credentials: the Block, whose client is held open by the batch.
        scope: what "the same request" is bounded by.
        output: where its file goes.
        timeout_seconds: how long to wait for its result, and for a provider that asks to slow down.
        place: its place among the jobs in flight.
        concurrency_limit: a Prefect global concurrency limit that is held as long, or None.
        accepted: called when the provider has accepted it.
        stopped: tells whether nothing more may be submitted.
        delivering: a place among the deliveries under way.
        prices: what results cost.
        spend: reserves its money when it begins to be sent; None where nothing limits that.
        preflight: whether its inputs are checked.
        seen: what was seen in them before the batch began; None where they were not looked at.
    """

    def __init__(
        self,
        *,
        row: Row,
        known: Job | None,
        is_sent: bool,
        credentials: ProviderCredentials,
        scope: str,
        output: str,
        timeout_seconds: float,
        place: Place,
        concurrency_limit: str | None,
        accepted: Callable[[], None],
        stopped: Callable[[], bool],
        delivering: asyncio.Semaphore,
        prices: PriceTable,
        spend: Spend | None,
        preflight: bool,
        seen: Mapping[str, Seen] | None,
    ) -> None:
        """Do nothing yet."""
        self.row = row
        self.known = known
        self.is_sent = is_sent
        self.credentials = credentials
        self.scope = scope
        self.output = output
        self.timeout_seconds = timeout_seconds
        self.place = place
        self.concurrency_limit = concurrency_limit
        self.accepted = accepted
        self.stopped = stopped
        self.delivering = delivering
        self.prices = prices
        self.spend = spend
        self.preflight = preflight
        self.seen = seen

    async def live(self) -> Job:
        """Go the whole way; returns the delivered job."""
        if self.known is not None and self.known.state is JobState.DELIVERED:
            self.place.leave()
            return await self._deliver(self.known)
        async with self._limit():
            job = await self._submit()
            self.place.slots.faster()
            self.accepted()
            job = await wait_step(job, self.credentials, self.timeout_seconds, RowListener())
        self.place.leave()  # a download takes nothing from the provider's jobs in flight
        return await self._deliver(job)

    async def _submit(self) -> Job:
        request = await self._when_allowed(self._with_subject)
        return await self._when_allowed(lambda: self._send(request))

    async def _when_allowed(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step while the provider asks to slow down, until the row's time is over or the batch stops.

        The step itself spends the time that the provider asks for.
        """
        begun, pauses = time.monotonic(), iter(RETRY_DELAYS)
        while True:
            try:
                return await _patiently(step)
            except RateLimited as error:
                self.place.slots.slower()
                if self.stopped() or time.monotonic() - begun > self.timeout_seconds:
                    raise
                pause = next(pauses, RETRY_DELAYS[-1]) if error.retry_after is None else 0.0
            # Others that are in flight must end before the provider takes this one.
            self.place.leave()
            await asyncio.sleep(pause)
            await self.place.take_again()

    def _send(self, request: GenerationRequest) -> Awaitable[Job]:
        return submit_step(
            request,
            self.credentials,
            idempotency_key=self.scope,
            label=self.row.id,
            output=self.output,
            preflight=self.preflight,
            seen=self.seen,
            prices=self.prices,
            spend=self.spend,
        )

    async def _deliver(self, job: Job) -> Job:
        async with self.delivering:
            return await _patiently(lambda: deliver_step(job, self.output, self.credentials))

    async def _with_subject(self) -> GenerationRequest:
        """The request with the masks of who shall speak; not where its job only has to be joined."""
        request = self.row.request
        if not isinstance(request, OmniHumanVideo) or not request.subject or request.mask_urls:
            return request
        if not self.is_sent:
            return request  # `submit_once` completes it, should it have to be sent after all
        return await with_subject(request, self.credentials)

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        joins = self.known is not None and self.known.state in AT_PROVIDER  # see `holding_limit`
        async with place_in(self.concurrency_limit) if self.concurrency_limit and not joins else nullcontext():
            yield


@task(task_run_name="{row_id}", cache_policy=NO_CACHE, persist_result=False)
async def generate_row(row_id: str, life: RowLife) -> Job:
    """One row of a batch, from request to verified file.

    Parameters:
        row_id: the row's id; it names the task run.
        life: its way.

    Returns:
        The delivered job.
    """
    return await life.live()


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step whose error says that this is safe; a request to slow down is left to the caller."""
    for pause in [*RETRY_DELAYS, None]:
        try:
            return await step()
        except RateLimited:
            raise
        except GenMediaError as error:
            if not error.retryable or pause is None:
                raise
            await asyncio.sleep(pause)
    raise AssertionError("the last attempt returns or raises")

"""One row inside its task run: the job pipeline, with each step retried if that is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from prefect_genmedia._core.listener import WaitListener
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.pipeline import JobSteps, deliver_job, run_job
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._prefect.concurrency import Deadline, slot_of
from prefect_genmedia._prefect.run import RETRY_DELAYS, RunHooks, RunListener
from prefect_genmedia.batch.slots import Slots
from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia.providers.protocol import Observation

DELIVERIES_AT_ONCE = 4
"""Number of concurrent deliveries: decoding is CPU-bound, and forty decoding threads would starve everything else."""

ROW_TASK = "generate_row"

Step = Callable[[], Awaitable[Job]]


class Slot:
    """A row's in-flight slot. Only the first release has an effect."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._held = True

    def release(self) -> None:
        """Release the slot if it is still held."""
        if self._held:
            self._held = False
            self.slots.release()

    async def acquire_again(self) -> None:
        """Wait for a slot, with priority over rows that have not begun."""
        await self.slots.acquire(first=True)
        self._held = True


class RowListener(RunListener):
    """Does not emit an event for each of the provider's status words, which nobody reads for thousands of jobs.

    An event costs Prefect's server as much as a request.
    """

    def changed(self, job: Job, observation: Observation) -> None:
        """Logs only unknown status words."""
        if not observation.recognized:
            super().changed(job, observation)


class RowHooks(RunHooks):
    """Reports only problems of a row's job."""

    def listener(self) -> WaitListener:
        """Returns the listener for a job's progress."""
        return RowListener()


@dataclass
class SharedLimits:
    """State shared by all rows of a batch.

    Args:
        accepted: called when the provider has accepted a row's job.
        stopped: whether nothing more may be submitted.
        delivering: limits the concurrent deliveries.
    """

    accepted: Callable[[], None]
    stopped: Callable[[], bool]
    delivering: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DELIVERIES_AT_ONCE))


class RowRun(JobSteps):
    """The execution of one row, from request to file.

    Not a dataclass: Prefect searches the parameters of a task for futures, and descends into dataclasses.

    Args:
        session: the account that pays; shared by all of its rows.
        spec: the row's job.
        known: its job from an earlier run, if there is one.
        slot: its in-flight slot.
        shared: the state shared by all rows.
    """

    def __init__(self, session: Session, spec: JobSpec, known: Job | None, slot: Slot, shared: SharedLimits) -> None:
        self._session = session
        self._spec = spec
        self._known = known
        self._slot = slot
        self._shared = shared
        self.task_run_id: str | None = None

    async def run(self) -> Job:
        """Run the whole lifecycle; returns the delivered job."""
        if self._known is not None and self._known.state is JobState.DELIVERED:
            self._slot.release()
            return await deliver_job(self._session, self._spec, self._known, self)
        return await run_job(self._session, self._spec, self)

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        """Hold the global concurrency limit as well. The slot is released afterwards: a download does not need it."""
        limit = self._session.concurrency_limit
        joins = self._known is not None and self._known.state in AT_PROVIDER  # see `holding_limit`
        until = Deadline(self._spec.timeout_seconds)
        async with slot_of(limit, until) if limit and not joins else nullcontext():
            yield
        self._slot.release()

    def delivering(self) -> AbstractAsyncContextManager[Any]:
        """Limit the concurrent deliveries."""
        return self._shared.delivering

    async def submitting(self, step: Step) -> Job:
        """Retry while the provider asks to slow down, until the row's time is over or the batch stops.

        The step itself waits for the time that the provider asks for.
        """
        begun, pauses = time.monotonic(), iter(RETRY_DELAYS)
        while True:
            try:
                job = await self.fetching(step)
            except RateLimited as error:
                self._slot.slots.slower()
                if self._shared.stopped() or time.monotonic() - begun > self._spec.timeout_seconds:
                    raise
                pause = next(pauses, RETRY_DELAYS[-1]) if error.retry_after is None else 0.0
            else:
                self._slot.slots.faster()
                self._shared.accepted()
                return job
            # Other in-flight jobs must end before the provider accepts this one.
            self._slot.release()
            await asyncio.sleep(pause)
            await self._slot.acquire_again()

    async def fetching(self, step: Step) -> Job:
        """Retry a step if its error is marked as retryable; a request to slow down is passed to the caller."""
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


ROW: ContextVar[str] = ContextVar("genmedia_row", default="")
"""The current row, which is named in the lines of the flow run's log; see `quiet_rows`."""


@task(task_run_name="{row_id}", cache_policy=NO_CACHE, persist_result=False)
async def generate_row(row_id: str, row: RowRun) -> Job:
    """One row of a batch, from request to verified file.

    Args:
        row_id: the row's id; it names the task run.
        row: its way.

    Returns:
        The delivered job.
    """
    row.task_run_id = task_run.id
    return await row.run()

"""One row inside its task run: the job pipeline, with each step retried if that is safe."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from prefect_genmedia._core.limits import LONGEST_WAIT_SECONDS
from prefect_genmedia._core.listener import WaitListener
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.pipeline import JobSteps, deliver_job, run_job
from prefect_genmedia._core.session import JobSpec
from prefect_genmedia._prefect.concurrency import Deadline, slot_of
from prefect_genmedia._prefect.run import RETRY_DELAYS, RunHooks, RunListener
from prefect_genmedia.batch.pool import Lease
from prefect_genmedia.batch.reservations import Reservation
from prefect_genmedia.errors import BudgetStop, GenMediaError, RateLimited
from prefect_genmedia.providers.protocol import Observation

DELIVERIES_AT_ONCE = 4
"""Number of concurrent deliveries: decoding is CPU-bound, and forty decoding threads would starve everything else."""

ROW_TASK = "generate_row"

_STEP_RUN = re.compile(r"(.*) · step \d+ of \d+", re.DOTALL)


def step_run_name(label: str, number: int, steps: int) -> str:
    """Returns the name of a step's task run.

    Args:
        label: the row's id, or the label of a single chain.
        number: the step, from 1.
        steps: the number of the row's steps.
    """
    return label if steps == 1 else f"{label} · step {number} of {steps}"


def row_of_run(name: str, ids: Container[str]) -> str:
    """Returns the id of the row that a task run has worked on.

    Args:
        name: the task run's name; see `step_run_name`.
        ids: the ids of the rows.
    """
    step = _STEP_RUN.fullmatch(name)
    return name if step is None or name in ids else step[1]


Step = Callable[[], Awaitable[Job]]


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


class _LeavesAccount(Exception):
    """The row's account cannot take it now: another account of its pool is tried.

    Args:
        error: what the submission raised; nothing was paid, and the ledger has recorded that.
        is_refusal: whether the account cannot pay; False if it only has no slot or turn now.
    """

    def __init__(self, error: GenMediaError, is_refusal: bool) -> None:
        super().__init__()
        self.error, self.is_refusal = error, is_refusal


class RowRun(JobSteps):
    """The execution of one row, from request to file.

    Not a dataclass: Prefect searches the parameters of a task for futures, and descends into dataclasses.

    Args:
        spec: the row's job.
        known: its job from an earlier run, if there is one.
        lease: its in-flight slot, of the account that is to pay.
        shared: the state shared by all rows.
        reservation: its part of the budget.
    """

    def __init__(
        self, spec: JobSpec, known: Job | None, lease: Lease, shared: SharedLimits, reservation: Reservation
    ) -> None:
        self._spec = spec
        self._known = known
        self._lease = lease
        self._shared = shared
        self._reservation = reservation
        self._begun: float | None = None
        self._pauses = iter(RETRY_DELAYS)
        self.task_run_id: str | None = None

    async def reserve(self) -> None:
        """Reserve the row's cost in the budget of its account, or of the next one that has its own and holds it.

        Raises:
            BudgetStop: no budget holds it.
        """
        while True:
            try:
                return await self._reservation.take(self._lease.session, self._known)
            except BudgetStop as stop:
                if not self._lease.pool.is_refusal(stop):
                    raise
                await self._lease.move_on(stop)

    async def run(self) -> Job:
        """Run the whole lifecycle; returns the delivered job."""
        if self._known is not None and self._known.state is JobState.DELIVERED:
            self._lease.release()
            session = await self._lease.session.payer_of(self._known)
            return await deliver_job(session, self._spec, self._known, self)
        while True:
            spec = replace(self._spec, spend=self._reservation.spend)
            try:
                return await run_job(self._lease.session, spec, self)
            except _LeavesAccount as left:
                await self._leave(left)

    async def _leave(self, left: _LeavesAccount) -> None:
        """Take a slot of another account, and reserve the row's cost in its budget."""
        before = self._lease.account
        if left.is_refusal:
            await self._lease.move_on(left.error)
        else:
            await self._lease.acquire_again()
        if self._shared.stopped():
            raise left.error
        if left.is_refusal or self._lease.account is not before:
            session = self._lease.session
            self._known = await session.ledger.get(left.error.job_key or "") or self._known
            await self._reservation.give_back(self._known)
            await self.reserve()

    @asynccontextmanager
    async def in_flight(self) -> AsyncIterator[None]:
        """Hold the global concurrency limit as well. The slot is released afterwards: a download does not need it."""
        limit = self._lease.session.concurrency_limit
        joins = self._known is not None and self._known.state in AT_PROVIDER  # see `holding_limit`
        until = Deadline(self._spec.timeout_seconds)
        async with slot_of(limit, until) if limit and not joins else nullcontext():
            yield
        self._lease.release()

    def delivering(self) -> AbstractAsyncContextManager[Any]:
        """Limit the concurrent deliveries."""
        return self._shared.delivering

    async def submitting(self, step: Step) -> Job:
        """Retry while the provider asks to slow down, until the row's time is over or the batch stops.

        The step itself waits for the time that the provider asks for. In a pool, another account may take the row.
        """
        self._begun = time.monotonic() if self._begun is None else self._begun
        pool, account = self._lease.pool, self._lease.account
        while True:
            try:
                job = await self.fetching(step)
            except RateLimited as error:
                pause = self._slowed(error)
            except GenMediaError as error:
                if not pool.is_refusal(error):
                    raise
                raise _LeavesAccount(error, is_refusal=True) from None
            else:
                account.slots.faster()
                account.refusal = None
                self._shared.accepted()
                return job
            # Other in-flight jobs must end before the provider accepts this one.
            self._lease.release()
            await asyncio.sleep(pause)
            await self._lease.acquire_again()

    def _slowed(self, error: RateLimited) -> float:
        """Handle a request to slow down: returns the pause before the next try, in seconds.

        Raises:
            RateLimited: the row's time is over, or the batch has stopped.
            _LeavesAccount: another account of the pool may have a slot or turn earlier.
        """
        account, pool = self._lease.account, self._lease.pool
        no_turn = not error.retryable  # a wait for the account has ended; its provider was not asked
        if not no_turn:
            account.slots.slower()
        waited = time.monotonic() - (self._begun or 0.0)
        longest = LONGEST_WAIT_SECONDS if no_turn and not pool.is_single else self._spec.timeout_seconds
        if self._shared.stopped() or waited > longest or (no_turn and pool.is_single):
            raise error
        pause = next(self._pauses, RETRY_DELAYS[-1]) if error.retry_after is None else 0.0
        if pool.is_single:
            return pause
        pool.cool(account, pause or error.retry_after or 0.0)
        raise _LeavesAccount(error, is_refusal=False) from None

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
    """One row of a batch, or one step of it, from request to verified file.

    Args:
        row_id: the row's id, with the step if it is a chain; it names the task run.
        row: its way.

    Returns:
        The delivered job.
    """
    row.task_run_id = task_run.id
    return await row.run()

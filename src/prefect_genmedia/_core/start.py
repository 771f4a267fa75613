"""Waits for an account's turn, moves a job to `sending`, and makes the last check before the first byte.

A process that was suspended between `sending` and the POST must not send later; see `SendCheck`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio

from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.ledger import Ledger, Spend
from prefect_genmedia._core.limits import InFlightSlots
from prefect_genmedia._core.model import STALE_SENDING_SECONDS, Job, JobState
from prefect_genmedia._core.pace import ASK_SECONDS, Refused, Turn, first_in_process
from prefect_genmedia._core.session import Session
from prefect_genmedia._transport.api import SUBMIT_SECONDS
from prefect_genmedia.errors import LedgerError, ProviderError, RateLimited, SendOutcome
from prefect_genmedia.providers.protocol import PreparedRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """A job that waits for its account's turn.

    Args:
        job: the job.
        prepared: its request.
        admit: checks its account and reserves its cost, in the transaction that moves it to `sending`.
        begin_within: how long after a grant its POST may begin, in seconds.
        until: when waiting ends, by the monotonic clock.
    """

    job: Job
    prepared: PreparedRequest[Any]
    admit: Spend
    begin_within: float
    until: float


@dataclass(frozen=True)
class Started:
    """A job that is `sending`, with its request and the time when it began."""

    job: Job
    prepared: PreparedRequest[Any]
    start: Start


async def start_in_line(
    session: Session, slots: InFlightSlots, waiting: Waiting, gate: AsyncExitStack
) -> Started | None:
    """Wait for an in-flight slot and the account's turn, and move the job to `sending`; see `start_in_turn`.

    Args:
        session: the account.
        slots: the account's in-flight slots.
        waiting: the job.
        gate: the exit stack that holds the client's `turn()` afterwards.
    """
    started: Started | None = None
    try:
        async with slots.line(session.ledger, waiting.job, session.clock):
            started = await start_in_turn(session, waiting, gate)
    except asyncio.CancelledError:
        if started is not None:  # cancelled while leaving the queue: no byte was sent
            await finish(session.ledger.unsend(started.job))
        raise
    return started


async def start_in_turn(session: Session, waiting: Waiting, gate: AsyncExitStack) -> Started | None:
    """Wait for the account's turn, and move the job to `sending`.

    Args:
        session: the account.
        waiting: the job.
        gate: the exit stack that holds the client's `turn()` afterwards.

    Returns:
        What must be sent; None if no in-flight slot is free, or another process has moved the job.

    Raises:
        RateLimited: the time is over; nothing was sent.
        BudgetStop, AccountPaused, AccountConflict: `admit` refuses the job; nothing was sent.
    """
    ledger, clock, job, prepared = session.ledger, session.clock, waiting.job, waiting.prepared
    begun, per_minute, refused = clock.monotonic(), session.submissions_per_minute, False
    turn = Turn(job, per_minute, session.is_batch, begin_within=waiting.begin_within)
    starting: asyncio.Future[Job | Refused | None] | None = None
    try:
        async with first_in_process(turn, clock, lambda: _check_time(job, waiting.until, clock)):
            while True:
                prepared = await completed(session, prepared)
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(session.client.turn())
                    start = Start.now(clock) if per_minute is None else Start.now(clock, waiting.begin_within)
                    asked = replace(turn, waited=clock.monotonic() - begun)
                    starting = asyncio.ensure_future(
                        ledger.start_sending(
                            job, session.run.flow_run_id, session.max_in_flight, waiting.admit, turn=asked
                        )
                    )
                    mine = await finish(starting)
                    if not isinstance(mine, Refused):
                        refused = False
                        gate.push_async_exit(stack.pop_all())
                        return None if mine is None else Started(mine, prepared, start)
                refused = True
                _check_time(job, waiting.until, clock)
                await clock.sleep(max(mine.seconds, ASK_SECONDS[0]))
                present = await ledger.get(job.key)
                if present is None or present.state is not JobState.RESERVED:
                    return None
    except asyncio.CancelledError:
        await finish(_unsent(ledger, starting))
        raise
    finally:
        if refused:
            with contextlib.suppress(LedgerError):  # a waiter that no longer asks expires anyway
                await finish(ledger.leave_line(job))


def _check_time(job: Job, until: float, clock: Clock) -> None:
    if clock.monotonic() >= until:
        raise RateLimited("The account's pace left no turn for this job in time.", retryable=False).about(job.key, None)


async def completed(session: Session, prepared: PreparedRequest[Any]) -> PreparedRequest[Any]:
    """Returns the request with data that only the provider has, such as its speaker's masks; unchanged if complete.

    Args:
        session: the account.
        prepared: the request. Its identity does not change.

    Raises:
        GenMediaError: the provider's plug-in could not complete it; nothing was sent.
    """
    stale_at, resolve = prepared.request.stale_at(), session.plugin.resolve
    if resolve is None or stale_at is None or stale_at >= session.clock.now():
        return prepared
    try:
        return prepared.with_request(await resolve(prepared.request, session))
    except RateLimited as error:
        await session.clock.sleep(error.retry_after or 0.0)  # a retry must not come too early
        raise


async def _unsent(ledger: Ledger, starting: asyncio.Future[Job | Refused | None] | None) -> None:
    """Move a job from `sending` back to `reserved`: its task was cancelled before any byte was sent."""
    if starting is not None and not starting.cancelled() and starting.exception() is None:
        mine = starting.result()
        if isinstance(mine, Job):
            await ledger.unsend(mine)


async def finish(work: Awaitable[T]) -> T:
    """Run work to its end even if the task is cancelled; the cancellation takes effect afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved: asyncio reports it otherwise
        raise cancelled
    return task.result()


BEGIN_SECONDS = STALE_SENDING_SECONDS - SUBMIT_SECONDS
"""How long after `sent_at` a POST may begin, in seconds: it then ends before its process counts as dead."""


class SendingLapsed(ProviderError):
    """The job was not sent: another process has taken over its row, or too much time has passed."""

    outcome: SendOutcome = "unsent"
    next_step = "nothing: the job is sent again, or joined."


@dataclass(frozen=True)
class Start:
    """When a process requested the right to send, which is just before the job's `sent_at`.

    Args:
        wall: time of the wall clock, which is corrected after a pause of the virtual machine.
        boottime: time of the clock that includes suspended time.
        within_seconds: how long afterwards the POST may begin.
    """

    wall: float
    boottime: float
    within_seconds: float = BEGIN_SECONDS

    @classmethod
    def now(cls, clock: Clock, within_seconds: float = BEGIN_SECONDS) -> Start:
        """Returns a start at the current time.

        Args:
            clock: the time source.
            within_seconds: how long afterwards the POST may begin.
        """
        return cls(clock.now(), clock.boottime(), within_seconds)


@dataclass(frozen=True)
class SendCheck:
    """The check that is called before the first byte of a job's POST.

    It raises `SendingLapsed` if the job must not be sent, or the exception that ends a suspended run. The job is then
    `reserved` again.

    Args:
        session: the account, and the run that requests the job.
        job: the job in state `sending`, with the token of this process.
        start: when the right to send was requested.
    """

    session: Session
    job: Job
    start: Start

    async def __call__(self) -> None:
        """Check whether the run was suspended, read the row again, and check whether there is time left."""
        try:
            await self.session.run.leave_if_suspended()
        except BaseException:
            await finish(self.session.ledger.unsend(self.job))  # no byte was sent
            raise
        present: Job | None = None
        try:
            with anyio.move_on_after(max(self.start.within_seconds - self._passed(), 0.0)):
                present = await self.session.ledger.get(self.job.key)
        except LedgerError:
            present = None
        self.in_time()  # after the read: the process may have been suspended while it waited for the answer
        if present is None:
            raise SendingLapsed("The request was not sent: its row cannot be read.")
        if present.state is not JobState.SENDING or present.send_token != self.job.send_token:
            raise SendingLapsed("The request was not sent: another process or a person has decided about it.")

    def in_time(self) -> None:
        """Check whether there is time left: the process may have been suspended at any point."""
        if self._passed() > self.start.within_seconds:
            raise SendingLapsed("The request was not sent: too much time has passed since it was written down.")

    def _passed(self) -> float:
        clock = self.session.clock
        return max(abs(clock.now() - self.start.wall), clock.boottime() - self.start.boottime)

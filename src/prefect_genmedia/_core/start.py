"""Waiting for an account's turn, taking a job to `sending` in it, and the last check before the first byte.

A process that was frozen between `sending` and the POST must not pay later: see `SendCheck`."""

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
from prefect_genmedia._core.limits import Places
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

    Parameters:
        job: the job.
        prepared: its request.
        admit: checks its account and reserves its money, in the transaction in which it begins to be sent.
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
    """A job that is `sending`, with what is sent, and when that began."""

    job: Job
    prepared: PreparedRequest[Any]
    start: Start


async def start_in_line(session: Session, places: Places, waiting: Waiting, gate: AsyncExitStack) -> Started | None:
    """Wait for an in-flight slot and for the account's turn, and take the job to `sending`; see `start_in_turn`.

    Parameters:
        session: the account.
        places: the account's in-flight slots.
        waiting: the job.
        gate: holds the client's `turn()` afterwards.
    """
    started: Started | None = None
    try:
        async with places.line(session.ledger, waiting.job, session.clock):
            started = await start_in_turn(session, waiting, gate)
    except asyncio.CancelledError:
        if started is not None:  # cancelled while the line was left: not a byte has gone
            await finish(session.ledger.unsend(started.job))
        raise
    return started


async def start_in_turn(session: Session, waiting: Waiting, gate: AsyncExitStack) -> Started | None:
    """Wait for the account's turn, and take the job to `sending`.

    Parameters:
        session: the account.
        waiting: the job.
        gate: holds the client's `turn()` afterwards.

    Returns:
        What is to be sent; None if there is no in-flight slot, or another process has moved the job.

    Raises:
        RateLimited: the time is over; nothing was sent.
        BudgetStop, AccountPaused, AccountConflict: `admit` does not let it; nothing was sent.
    """
    ledger, clock, job, prepared = session.ledger, session.clock, waiting.job, waiting.prepared
    begun, per_minute, refused = clock.monotonic(), session.submissions_per_minute, False
    turn = Turn(job, per_minute, session.is_batch, begin_within=waiting.begin_within)
    starting: asyncio.Future[Job | Refused | None] | None = None
    try:
        async with first_in_process(turn, clock, lambda: _check_time(job, waiting.until, clock)):
            while True:
                prepared = await completed(session, prepared)
                async with AsyncExitStack() as held:
                    await held.enter_async_context(session.client.turn())
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
                        gate.push_async_exit(held.pop_all())
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
            with contextlib.suppress(LedgerError):  # a waiter that no longer asks is forgotten anyway
                await finish(ledger.leave_line(job))


def _check_time(job: Job, until: float, clock: Clock) -> None:
    if clock.monotonic() >= until:
        raise RateLimited("The account's pace left no turn for this job in time.", retryable=False).about(job.key, None)


async def completed(session: Session, prepared: PreparedRequest[Any]) -> PreparedRequest[Any]:
    """The request with what only the provider can tell, such as the masks of its speaker; as it is if that is there.

    Parameters:
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
        await session.clock.sleep(error.retry_after or 0.0)  # whoever tries again must not come too early
        raise


async def _unsent(ledger: Ledger, starting: asyncio.Future[Job | Refused | None] | None) -> None:
    """Take back that a job is being sent: its task was cancelled in between, and not a byte has left."""
    if starting is not None and not starting.cancelled() and starting.exception() is None:
        mine = starting.result()
        if isinstance(mine, Job):
            await ledger.unsend(mine)


async def finish(work: Awaitable[T]) -> T:
    """Let what must not be left half done end, even if its task is cancelled; then it is."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: the ledger has it
        raise cancelled
    return task.result()


BEGIN_SECONDS = STALE_SENDING_SECONDS - SUBMIT_SECONDS
"""How long after `sent_at` a POST may begin, in seconds: it has ended before anybody takes its process for dead."""


class SendingLapsed(ProviderError):
    """The job was not sent: its row is somebody else's by now, or too much time has passed."""

    outcome: SendOutcome = "unsent"
    next_step = "nothing: the job is sent again, or joined."


@dataclass(frozen=True)
class Start:
    """When a process asked for the right to send, which is just before the job's `sent_at`.

    Parameters:
        wall: by the wall clock, which is set right after a virtual machine was paused.
        boottime: by the clock that counts suspended time too.
        within_seconds: how long after it the POST may begin.
    """

    wall: float
    boottime: float
    within_seconds: float = BEGIN_SECONDS

    @classmethod
    def now(cls, clock: Clock, within_seconds: float = BEGIN_SECONDS) -> Start:
        """Begin to count now.

        Args:
            clock: the time source.
            within_seconds: how long after it the POST may begin.
        """
        return cls(clock.now(), clock.boottime(), within_seconds)


@dataclass(frozen=True)
class SendCheck:
    """What is called before the first byte of a job's POST.

    It raises `SendingLapsed` if the job must not be sent, or what ends a suspended run; the job is reserved again then.

    Parameters:
        session: the account, and the run that asks.
        job: the job, `sending`, with the token of this process.
        start: when the right to send was asked for.
    """

    session: Session
    job: Job
    start: Start

    async def __call__(self) -> None:
        """See whether the run was suspended, read the row again, and see whether there still is time."""
        try:
            await self.session.run.leave_if_suspended()
        except BaseException:
            await finish(self.session.ledger.unsend(self.job))  # not a byte has gone
            raise
        present: Job | None = None
        try:
            with anyio.move_on_after(max(self.start.within_seconds - self._passed(), 0.0)):
                present = await self.session.ledger.get(self.job.key)
        except LedgerError:
            present = None
        self.in_time()  # after the read: the process may have been frozen while it waited for the answer
        if present is None:
            raise SendingLapsed("The request was not sent: its row cannot be read.")
        if present.state is not JobState.SENDING or present.send_token != self.job.send_token:
            raise SendingLapsed("The request was not sent: another process or a person has decided about it.")

    def in_time(self) -> None:
        """See whether there still is time: the process may have been frozen at any point."""
        if self._passed() > self.start.within_seconds:
            raise SendingLapsed("The request was not sent: too much time has passed since it was written down.")

    def _passed(self) -> float:
        clock = self.session.clock
        return max(abs(clock.now() - self.start.wall), clock.boottime() - self.start.boottime)

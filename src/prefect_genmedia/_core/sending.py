"""The last look before a paid request: a process that was frozen between `sending` and the POST must not pay later.

What remains: a process that is frozen between the answer of this check and the kernel's taking of the first byte. That
is a few instructions without waiting, and the connection with its TLS session is open already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import STALE_SENDING_SECONDS, Job, JobState
from prefect_genmedia._transport.api import SUBMIT_SECONDS
from prefect_genmedia.errors import LedgerError, ProviderError, SendOutcome

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
            clock: tells the time.
            within_seconds: how long after it the POST may begin.
        """
        return cls(clock.now(), clock.boottime(), within_seconds)


def send_check(ledger: Ledger, job: Job, start: Start, clock: Clock) -> Callable[[], Awaitable[None]]:
    """What is called before the first byte of a job's POST.

    Args:
        ledger: where the job is recorded.
        job: the job, `sending`, with the token of this process.
        start: when the right to send was asked for.
        clock: tells the time.

    Returns:
        A check that raises `SendingLapsed` if the job must not be sent.
    """

    def passed() -> float:
        return max(abs(clock.now() - start.wall), clock.boottime() - start.boottime)

    async def check() -> None:
        present: Job | None = None
        try:
            with anyio.move_on_after(max(start.within_seconds - passed(), 0.0)):
                present = await ledger.get(job.key)
        except LedgerError:
            present = None
        # After the read: the process may have been frozen while it waited for the answer.
        if passed() > start.within_seconds:
            raise SendingLapsed("The request was not sent: too much time has passed since it was written down.")
        if present is None:
            raise SendingLapsed("The request was not sent: its row cannot be read.")
        if present.state is not JobState.SENDING or present.send_token != job.send_token:
            raise SendingLapsed("The request was not sent: another process or a person has decided about it.")

    return check

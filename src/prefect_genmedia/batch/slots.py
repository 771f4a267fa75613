"""Limits in-flight jobs: fewer after "slow down", more after successes, none after repeated equal errors."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from prefect_genmedia.errors import (
    AccountConflict,
    AccountPaused,
    CredentialsError,
    GenMediaError,
    QuotaError,
    StorageError,
    SubmissionUnknown,
)


class Slots:
    """In-flight slots: halved by a 429, and raised by one after about as many successes as there are slots.

    Args:
        limit: the maximum number of slots.
        calm_seconds: "slow down" answers within this time count once: they have the same cause, and halving for each of
            them would leave one slot after every burst.
    """

    def __init__(self, limit: int, calm_seconds: float = 2.0) -> None:
        self.limit = limit
        self.allowed = float(limit)
        self.used = 0
        self._calm_seconds = calm_seconds
        self._slowed_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, first: bool = False) -> None:
        """Acquire a slot; `first` gives priority over all other waiters."""
        if self._has_place() and (first or not self._waiting):
            self.used += 1
            return
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self.release()  # the slot was granted at the time of the cancellation
            raise

    def release(self) -> None:
        """Release a slot."""
        self.used -= 1
        self._wake()

    def slower(self) -> None:
        """Handle a "slow down" answer of the provider."""
        now = time.monotonic()
        if now - self._slowed_at >= self._calm_seconds:
            self._slowed_at = now
            self.allowed = max(1.0, self.allowed / 2)

    def faster(self) -> None:
        """Handle an accepted job."""
        if self.allowed < self.limit:
            self.allowed = min(float(self.limit), self.allowed + 1 / self.allowed)
            self._wake()

    def _has_place(self) -> bool:
        return self.used < int(self.allowed)

    def _wake(self) -> None:
        while self._waiting and self._has_place():
            ticket = self._waiting.popleft()
            if not ticket.done():
                self.used += 1
                ticket.set_result(None)


BREAKING = frozenset(
    error.__name__
    for error in (AccountConflict, AccountPaused, CredentialsError, QuotaError, SubmissionUnknown, StorageError)
)
"""Errors that the next row will probably get too: they concern the account, the provider or the storage, not the
row."""


class Breaker:
    """Counts consecutive errors of the same breaking kind.

    Args:
        streak: how many consecutive errors stop the batch; 0 for never.
    """

    def __init__(self, streak: int) -> None:
        self._streak = streak
        self._kind: str | None = None
        self._count = 0
        self.reason: GenMediaError | None = None

    @property
    def open(self) -> bool:
        """Whether nothing more may be submitted."""
        return self.reason is not None

    def accepted(self) -> None:
        """Handle an accepted submission, which resets errors of the account but not those of the storage."""
        if self._kind != StorageError.__name__:
            self.delivered()

    def delivered(self) -> None:
        """Handle a delivered job."""
        self._kind, self._count = None, 0

    def failed(self, error: GenMediaError) -> None:
        """Handle a row that ended with this error."""
        if error.kind not in BREAKING:
            return  # neither a sign of a working account nor of a broken one
        self._count = self._count + 1 if error.kind == self._kind else 1
        self._kind = error.kind
        if self._streak and self._count >= self._streak and self.reason is None:
            self.reason = error

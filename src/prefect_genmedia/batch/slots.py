"""How many jobs may be in flight: fewer after "slow down", more while all goes well, none after many equal failures."""

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
    """Places for jobs in flight; halved by a 429, raised by one after about as many successes as there are places.

    Parameters:
        limit: the most places.
        calm_seconds: answers that say "slow down" within this time of each other count once: they are about the same
            moment, and halving for each of them would leave one place after every burst.
    """

    def __init__(self, limit: int, calm_seconds: float = 2.0) -> None:
        """Start with every place free."""
        self.limit = limit
        self.allowed = float(limit)
        self.used = 0
        self._calm_seconds = calm_seconds
        self._slowed_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, first: bool = False) -> None:
        """Take a place; `first` goes before all others that wait."""
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
                self.release()  # the place was given to us at the very moment
            raise

    def release(self) -> None:
        """Give a place back."""
        self.used -= 1
        self._wake()

    def slower(self) -> None:
        """The provider asked to slow down."""
        now = time.monotonic()
        if now - self._slowed_at >= self._calm_seconds:
            self._slowed_at = now
            self.allowed = max(1.0, self.allowed / 2)

    def faster(self) -> None:
        """The provider accepted a job."""
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
"""Errors that the next row will very probably meet as well: the account's, the provider's or the storage's, not the
row's."""


class Breaker:
    """Counts the same breaking error in a row.

    Parameters:
        streak: how many in a row stop the batch; 0 for never.
    """

    def __init__(self, streak: int) -> None:
        """Start closed."""
        self._streak = streak
        self._kind: str | None = None
        self._count = 0
        self.reason: GenMediaError | None = None

    @property
    def open(self) -> bool:
        """Whether nothing more may be submitted."""
        return self.reason is not None

    def accepted(self) -> None:
        """A row's submission was accepted: the account is fine, of the storage it says nothing."""
        if self._kind != StorageError.__name__:
            self.delivered()

    def delivered(self) -> None:
        """A row's job was delivered."""
        self._kind, self._count = None, 0

    def failed(self, error: GenMediaError) -> None:
        """A row ended with this error."""
        if error.kind not in BREAKING:
            return  # says nothing about the account either way
        self._count = self._count + 1 if error.kind == self._kind else 1
        self._kind = error.kind
        if self._streak and self._count >= self._streak and self.reason is None:
            self.reason = error

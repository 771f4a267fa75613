"""The breaker: when the same thing goes wrong again and again, nothing more is submitted."""

from __future__ import annotations

from prefect_genmedia.errors import (
    AccountConflict,
    AccountPaused,
    CredentialsError,
    GenMediaError,
    QuotaError,
    StorageError,
    SubmissionUnknown,
)

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

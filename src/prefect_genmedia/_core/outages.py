"""Maps database failures to one error, and retries operations while the database is unavailable."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prefect_genmedia._core.clock import Clock
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.text import clean_text

PATIENCE_SECONDS = 600.0
"""How long each operation waits for an unreachable database, in seconds: a failover takes minutes."""

RETRY_SECONDS = (0.1, 5.0)
"""Pauses between retries, in seconds: initial and maximum."""

T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html: connection exceptions, transaction rollbacks,
# insufficient resources, operator intervention, system errors; and a standby that is read-only during a failover.
_TRANSIENT = ("08", "40", "53", "57", "58", "25006", "55P03")
_REFUSED = ("28", "3D")  # wrong password, no such database

_READ_ONLY = "make the ledger's file and its folder writable for this user. Nothing is sent or recorded without it."
_CORRUPT = (
    "restore the ledger from a backup (`sqlite3 LEDGER .recover` may save what was not backed up). "
    "Nothing is sent without it."
)


def ledger_error(error: Exception) -> LedgerError | None:
    """Converts a database error to a `LedgerError`; returns None if the statement itself is at fault.

    Args:
        error: what the driver or SQLAlchemy raised.
    """
    original = getattr(error, "orig", None) or error
    said = f"{type(original).__name__}: {clean_text(unsigned_text(str(original)), 200)}".rstrip(".: ")
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original, said)
    code = str(getattr(original, "sqlstate", None) or "")
    if code.startswith(_REFUSED):
        step = "check the ledger's URL, its user and its password."
        return LedgerError(f"The ledger's database refuses the connection: {said}.", retryable=False, next_step=step)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    no_answer = isinstance(error, OSError | TimeoutError | PoolTimeout | DisconnectionError)
    if lost or no_answer or code.startswith(_TRANSIENT) or (not code and _is_of_connection(original)):
        return LedgerError(f"The ledger's database cannot be used at the moment: {said}.")
    return None


def _of_sqlite(original: sqlite3.Error, said: str) -> LedgerError | None:
    text = str(original).lower()
    if "readonly" in text or "read-only" in text:
        return LedgerError(f"The ledger is read-only: {said}.", retryable=False, next_step=_READ_ONLY)
    if "malformed" in text or "not a database" in text:
        return LedgerError(f"The ledger's file is damaged: {said}.", retryable=False, next_step=_CORRUPT)
    if "no such" in text:
        return LedgerError(f"The ledger has lost its tables: {said}.", retryable=False, next_step=_CORRUPT)
    if isinstance(original, sqlite3.OperationalError):
        return LedgerError(f"The ledger cannot be used at the moment: {said}.")
    return None


def _is_of_connection(original: BaseException) -> bool:
    """Whether asyncpg reports a closed or unusable connection; such errors have no SQLSTATE."""
    return type(original).__name__ in ("InterfaceError", "InternalClientError", "ConnectionDoesNotExistError")


async def despite_outage(attempt: Callable[[], Awaitable[T]], clock: Clock, patience: float) -> tuple[T, bool]:
    """Run a database operation, and repeat it while the database is unavailable.

    Args:
        attempt: the operation; it must be harmless to repeat it if it was committed and only the answer was lost.
        clock: the time source, also used to sleep.
        patience: how long to retry, in seconds.

    Returns:
        The operation's result, and whether it was repeated.

    Raises:
        LedgerError: the database remained unavailable, or waiting does not help.
    """
    until, pause, repeated = clock.monotonic() + patience, RETRY_SECONDS[0], False
    while True:
        try:
            return await attempt(), repeated
        except LedgerError as error:
            left = until - clock.monotonic()
            if not error.retryable or left <= 0:
                raise
        repeated = True
        await clock.sleep(min(pause * random.uniform(0.5, 1.0), left))  # noqa: S311 - spreads the retries
        pause = min(pause * 2, RETRY_SECONDS[1])

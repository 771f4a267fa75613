"""Rounds of reconcile, recorded in the ledger: one at a time per set of credentials, with the time of the last success.

A round holds a lease: its row, which it renews while it runs. If a round is killed, its lease expires. If its process
is suspended for too long, the round finds the lease lost when it continues, and stops. Two concurrent rounds would be
safe, because each job is taken over by one of them; the lease prevents duplicate polls and downloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, delete, func, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.pace import database_now, lock
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.text import clean_text

logger = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
"""How long a round's lease is valid without renewal, in seconds."""

RENEW_SECONDS = 20.0
"""How often a round renews its lease, in seconds."""

END_SECONDS = 10.0
"""How long a round that failed or was stopped may take to release its lease, in seconds."""

OVERDUE_SECONDS = 1200.0
"""Reconcile is overdue if no round has succeeded for this long, in seconds: two ten-minute rounds were missed."""

KEPT_SECONDS = 7 * 86400.0
"""How long the records of rounds are kept, in seconds."""

_TABLE = schema.reconciles


@dataclass(frozen=True)
class Round:
    """A running round.

    Args:
        id: its id in the ledger.
        scope: what it reconciles; two rounds of the same scope do not run at once.
        started_at: when it began, in seconds since 1970.
    """

    id: str
    scope: str
    started_at: float


@dataclass(frozen=True)
class AtWork:
    """Another running round of the same scope.

    Args:
        holder: who runs it.
        started_at: when it began, in seconds since 1970.
    """

    holder: str
    started_at: float


@dataclass(frozen=True)
class Health:
    """The health of reconcile according to the ledger.

    Args:
        now: the ledger's current time, in seconds since 1970.
        started_at: when the last round began; None if there was none.
        succeeded_at: when the last successful round ended; None if there was none.
        error: why the last completed round failed; empty if it succeeded.
    """

    now: float
    started_at: float | None = None
    succeeded_at: float | None = None
    error: str = ""

    @property
    def is_overdue(self) -> bool:
        """Whether no round has succeeded for `OVERDUE_SECONDS`."""
        return self.succeeded_at is None or self.now - self.succeeded_at > OVERDUE_SECONDS

    def __str__(self) -> str:
        """One sentence about the health of reconcile."""
        if self.succeeded_at is None:
            words = "has never succeeded with this ledger"
        else:
            words = f"succeeded {_ago(self.now - self.succeeded_at)} ago"
            words = f"last {words}" if self.is_overdue else words
        if self.is_overdue and self.started_at is not None:
            words += f"; its last round began {_ago(self.now - self.started_at)} ago"
        return f"Reconcile {words}{f' ({self.error})' if self.error else ''}."


NEXT_STEP = "keep `prefect-genmedia reconcile --every 10m` running, or a worker of the work pool genmedia-reconcile."
"""The next step for a person if reconcile is overdue."""


def _ago(seconds: float) -> str:
    minutes = max(seconds, 0.0) / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


async def health(ledger: Ledger, clock: Clock = SYSTEM_CLOCK) -> Health:
    """Returns when reconcile last began and last succeeded.

    Args:
        ledger: the ledger.
        clock: the time source on SQLite.
    """

    def read(connection: Connection) -> Health:
        times = connection.execute(select(func.max(_TABLE.c.started_at), func.max(_TABLE.c.succeeded_at))).one()
        ended = select(_TABLE.c.error).where(_TABLE.c.ended_at.is_not(None)).order_by(_TABLE.c.ended_at.desc())
        error = connection.execute(ended.limit(1)).scalar()
        return Health(database_now(connection, clock), times[0], times[1], error or "")

    return await ledger.transact(read)


@asynccontextmanager
async def begin_round(
    ledger: Ledger, scope: str, holder: str, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[Round | AtWork]:
    """Hold the lease of a scope around a round, and record its outcome. Yields the other round if the lease is taken.

    If the lease is lost, the block is cancelled and ends with `LedgerError`.

    Args:
        ledger: the ledger.
        scope: what is reconciled, such as the names of the credentials.
        holder: who reconciles, for display.
        clock: the time source on SQLite, also used to sleep.

    Raises:
        LedgerError: the lease was lost.
    """
    begun = await ledger.transact(_take(Round(uuid4().hex, scope, 0.0), holder, clock))
    if isinstance(begun, AtWork):
        yield begun
        return
    work = asyncio.current_task()
    assert work is not None  # an async context manager is entered in a task
    lease = _Lease(ledger, begun, clock, work)
    renewing = asyncio.create_task(lease.keep())
    error: str | None = "was stopped"
    try:
        yield begun
        error = None
    except asyncio.CancelledError:
        if lease.lost:
            getattr(work, "uncancel", int)()  # Python 3.11: our own cancellation, which ends here
            raise LedgerError("Another round of reconcile has begun, since this one stood still.") from None
        raise
    except BaseException as trouble:
        error = type(trouble).__name__
        raise
    finally:
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        ending = asyncio.ensure_future(_end(ledger, begun, error, clock))
        if error is None:
            await asyncio.shield(ending)
        else:  # a process that is being stopped does not wait for a database; the lease expires
            await asyncio.wait({ending}, timeout=END_SECONDS)
            ending.cancel()


def _take(wanted: Round, holder: str, clock: Clock) -> Any:
    def take(connection: Connection) -> Round | AtWork:
        lock(connection, f"reconcile {wanted.scope}")
        now = database_now(connection, clock)
        open_ones = select(_TABLE).where(_TABLE.c.scope == wanted.scope, _TABLE.c.ended_at.is_(None))
        for row in connection.execute(open_ones).fetchall():
            if row.id == wanted.id:  # committed before, and only the answer was lost
                return Round(row.id, row.scope, row.started_at)
            # An expiry further ahead than a lease can have results from a clock jump, and counts as expired.
            if now < row.expires_at <= now + LEASE_SECONDS:
                return AtWork(row.holder, row.started_at)
            lost = {"ended_at": now, "error": "its process was lost"}
            connection.execute(update(_TABLE).where(_TABLE.c.id == row.id).values(**lost))
        last = select(func.max(_TABLE.c.succeeded_at)).scalar_subquery()
        old = delete(_TABLE).where(_TABLE.c.started_at < now - KEPT_SECONDS)
        connection.execute(old.where(_TABLE.c.succeeded_at.is_(None) | (_TABLE.c.succeeded_at < last)))
        values = {"scope": wanted.scope, "holder": holder, "started_at": now, "expires_at": now + LEASE_SECONDS}
        connection.execute(_TABLE.insert().values(id=wanted.id, **values))
        return Round(wanted.id, wanted.scope, now)

    return take


@dataclass
class _Lease:
    """Renews a round's lease, and cancels the round if the lease is lost."""

    ledger: Ledger
    round: Round
    clock: Clock
    work: asyncio.Task[Any]
    lost: bool = False

    async def keep(self) -> None:
        while True:
            await self.clock.sleep(RENEW_SECONDS)
            try:
                if not await self.ledger.transact(self._renew):
                    break
            except LedgerError as trouble:  # the next renewal may succeed; otherwise the lease expires
                logger.warning("The lease of this round of reconcile cannot be renewed now: %s", trouble.message)
        self.lost = True
        self.work.cancel()

    def _renew(self, connection: Connection) -> bool:
        until = database_now(connection, self.clock) + LEASE_SECONDS
        own = update(_TABLE).where(_TABLE.c.id == self.round.id, _TABLE.c.ended_at.is_(None))
        return connection.execute(own.values(expires_at=until)).rowcount == 1


async def _end(ledger: Ledger, done: Round, error: str | None, clock: Clock) -> None:
    def end(connection: Connection) -> None:
        now = database_now(connection, clock)
        words = None if error is None else clean_text(error, 200)
        values = {"ended_at": now, "error": words, "succeeded_at": now if error is None else None}
        own = update(_TABLE).where(_TABLE.c.id == done.id, _TABLE.c.ended_at.is_(None))
        connection.execute(own.values(**values))

    await ledger.transact(end)

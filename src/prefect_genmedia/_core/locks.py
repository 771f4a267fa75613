"""Named locks in the ledger: what one process at a time may do, over all processes and machines that share it.

A lock has an expiry, so that the holder that was killed blocks nobody. It is a courtesy: who does not get it in time,
or cannot reach the ledger, goes on without it. Nothing that costs money relies on it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
from sqlalchemy import Connection, delete, select, update

from prefect_genmedia._core import pace, schema
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia.errors import LedgerError

HELD_SECONDS = 90.0
"""When a lock lapses whose holder has not released it: longer than what is done under it may take."""

WAIT_SECONDS = 120.0
"""How long a lock is waited for."""

ASK_SECONDS = 0.3
"""How often a lock is asked for by those that wait, at the most."""

AWAY_SECONDS = 5.0
"""A ledger that does not answer for so long keeps nobody waiting here."""

_LOCKS = schema.locks

logger = logging.getLogger(__name__)


def share_locks(client: Any, ledger: Ledger) -> None:
    """Let a client take locks of a ledger, if it has use for them; see `ProviderClient`.

    Args:
        client: a provider's client.
        ledger: where its jobs are recorded.
    """
    share = getattr(client, "share_lock", None)
    if share is not None:
        share(lambda name: exclusively(ledger, name))


@asynccontextmanager
async def exclusively(ledger: Ledger, name: str, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[None]:
    """Hold a lock; see the module for who enters without it.

    Args:
        ledger: where the lock is.
        name: what is locked; no secret.
        clock: the time source, also used to sleep.
    """
    holder = uuid4().hex
    until = clock.monotonic() + WAIT_SECONDS
    held = False
    try:
        while not held and clock.monotonic() < until:
            with anyio.move_on_after(AWAY_SECONDS) as asking:
                held = await ledger.transact(lambda connection: take(connection, name, holder, clock))
            if asking.cancelled_caught:
                break
            if not held:
                await clock.sleep(ASK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - spreads those that ask
    except LedgerError as error:
        logger.warning("Going on without the lock %r of the ledger: %s", name, error.message)
    try:
        yield
    finally:
        if held:
            with anyio.move_on_after(AWAY_SECONDS, shield=True):
                await _release(ledger, name, holder)


def take(connection: Connection, name: str, holder: str, clock: Clock) -> bool:
    """Take a lock that is free or has lapsed, in the caller's transaction; tells whether it is the holder's now.

    Args:
        connection: to the ledger.
        name: what is locked.
        holder: who asks.
        clock: the time source if the database has no clock of its own.
    """
    pace.lock(connection, f"lock {name}")
    now = pace.database_now(connection, clock)
    row = connection.execute(select(_LOCKS).where(_LOCKS.c.name == name)).fetchone()
    # A time much further ahead than it was ever set is what a jump of the clock left behind.
    if row is not None and row.holder != holder and now < row.held_until <= now + 2 * HELD_SECONDS:
        return False
    values = {"holder": holder, "held_until": now + HELD_SECONDS}
    if row is None:
        connection.execute(_LOCKS.insert().values(name=name, **values))
    else:
        connection.execute(update(_LOCKS).where(_LOCKS.c.name == name).values(**values))
    return True


async def _release(ledger: Ledger, name: str, holder: str) -> None:
    mine = delete(_LOCKS).where(_LOCKS.c.name == name, _LOCKS.c.holder == holder)
    try:
        await ledger.transact(lambda connection: connection.execute(mine))
    except LedgerError:
        logger.warning("The lock %r of the ledger could not be released; it lapses", name)

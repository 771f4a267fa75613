"""Named locks in the ledger, which one process at a time may hold, across all processes and machines that share it.

A lock expires, so that a killed holder does not block other processes. It is advisory: a process that does not get it
in time, or cannot reach the ledger, continues without it. Nothing that costs money relies on it.
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
"""When an unreleased lock expires, in seconds: longer than the work under it may take."""

WAIT_SECONDS = 120.0
"""How long to wait for a lock, in seconds."""

ASK_SECONDS = 0.3
"""Maximum interval between two attempts of a waiting process to take a lock, in seconds."""

AWAY_SECONDS = 5.0
"""Waiting ends if the ledger does not answer for this long, in seconds."""

_LOCKS = schema.locks

logger = logging.getLogger(__name__)


def share_locks(client: Any, ledger: Ledger) -> None:
    """Give a client access to a ledger's locks, if it uses them; see `ProviderClient`.

    Args:
        client: a provider's client.
        ledger: where its jobs are recorded.
    """
    share = getattr(client, "share_lock", None)
    if share is not None:
        share(lambda name: exclusively(ledger, name))


@asynccontextmanager
async def exclusively(ledger: Ledger, name: str, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[None]:
    """Hold a lock; the module's docstring says when the block is entered without it.

    Args:
        ledger: where the lock is.
        name: the lock's name; must not contain a secret.
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
                await clock.sleep(ASK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the attempts
    except LedgerError as error:
        logger.warning("Going on without the lock %r of the ledger: %s", name, error.message)
    try:
        yield
    finally:
        if held:
            with anyio.move_on_after(AWAY_SECONDS, shield=True):
                await _release(ledger, name, holder)


def take(connection: Connection, name: str, holder: str, clock: Clock) -> bool:
    """Take a lock that is free or has expired, in the caller's transaction; returns whether the holder has it now.

    Args:
        connection: to the ledger.
        name: the lock's name.
        holder: the process that requests it.
        clock: the time source if the database has no clock of its own.
    """
    pace.lock(connection, f"lock {name}")
    now = pace.database_now(connection, clock)
    row = connection.execute(select(_LOCKS).where(_LOCKS.c.name == name)).fetchone()
    # An expiry further ahead than was ever set results from a clock jump, and is ignored.
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

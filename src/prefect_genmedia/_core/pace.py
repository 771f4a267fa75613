"""An account's pace and cool-down, stored in the ledger: they apply across tasks, event loops, processes and machines.

A grant is part of the transaction that moves a job to `sending`. It lapses if the POST has not begun within
`Turn.begin_within` seconds. The interval between two grants is the one that the pace requires plus these seconds, so
that any minute has at most `per_minute` POSTs, although each may begin late.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, text, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.statements import lock_number

BEGIN_SECONDS = (1.0, 10.0)
"""How long after its grant a POST may begin, in seconds: initial value, and maximum after lapsed grants, for networks
with slow connections."""

MINUTE = 60.0

ASK_SECONDS = (0.5, 10.0)
"""Interval at which a waiting process asks for its turn, in seconds: minimum and maximum."""

ALIVE_SECONDS = 30.0
"""A waiter that has not asked for this long, in seconds, loses its position in the order."""

LONGEST_COOL_DOWN_SECONDS = 900.0
"""Maximum cool-down of an account after "slow down", in seconds, even if Retry-After says more."""

RUNS_BEFORE_BATCH = 3
"""How many consecutive turns single runs may get while a batch waits."""

_PACE, _WAITERS = schema.pace, schema.waiters


def account_key(job: Job) -> str:
    """Returns the key by which pace, cool-down and in-flight slots are counted.

    Args:
        job: a job of the account.
    """
    return job.account_id or job.account


@dataclass(frozen=True)
class Refused:
    """The answer if it is not a job's turn.

    Args:
        seconds: how long to wait before asking again.
    """

    seconds: float


@dataclass(frozen=True)
class Turn:
    """A job's request for its account's turn.

    Args:
        job: the job.
        per_minute: the account's pace; None if only a cool-down applies.
        is_batch: whether the job is a row of a batch; single runs come first.
        waited: how long the job has waited, in seconds.
        begin_within: how long after the grant the POST may begin, in seconds.
    """

    job: Job
    per_minute: float | None = None
    is_batch: bool = False
    waited: float = 0.0
    begin_within: float = BEGIN_SECONDS[0]

    @property
    def spacing(self) -> float:
        """Returns the seconds between this grant and the next one."""
        return 0.0 if self.per_minute is None else MINUTE / self.per_minute + self.begin_within


def ask(connection: Connection, turn: Turn, clock: Clock) -> Refused | None:
    """Ask for a turn; a refused caller is recorded as waiting. Call it in the same transaction as `grant`.

    Args:
        connection: to the ledger.
        turn: the job that asks.
        clock: the time source if the database has no clock of its own.

    Returns:
        How long to wait before asking again; None if it is this job's turn.
    """
    account = account_key(turn.job)
    if turn.per_minute is not None:
        lock(connection, account)
    row = connection.execute(select(_PACE).where(_PACE.c.account == account)).fetchone()
    if turn.per_minute is None and row is None:
        return None
    now = database_now(connection, clock)
    cooled_until, next_at, runs = (now, now, 0) if row is None else _without_jumps(connection, row, now)
    if turn.per_minute is None:
        return Refused(cooled_until - now) if cooled_until > now else None
    position, spacing = _position(connection, turn, runs, now), turn.spacing
    free_at = max(cooled_until, next_at)
    if free_at > now:
        return Refused(min(free_at - now + position * spacing, ASK_SECONDS[1]))
    return Refused(ASK_SECONDS[0]) if position else None


def grant(connection: Connection, turn: Turn, clock: Clock) -> None:
    """Record that this job got its turn, which sets the time of the next turn.

    Args:
        connection: to the ledger.
        turn: the job that is sent.
        clock: the time source if the database has no clock of its own.
    """
    if turn.per_minute is None:
        return
    next_at = database_now(connection, clock) + turn.spacing
    runs = 0 if turn.is_batch else _PACE.c.runs_in_a_row + 1
    _write(connection, account_key(turn.job), next_at=next_at, spacing=turn.spacing, runs_in_a_row=runs)
    leave(connection, turn.job)


def leave(connection: Connection, job: Job) -> None:
    """Remove a job from the waiters.

    Args:
        connection: to the ledger.
        job: the job.
    """
    connection.execute(delete(_WAITERS).where(_WAITERS.c.account == account_key(job), _WAITERS.c.job_key == job.key))


def cool_down(connection: Connection, job: Job, seconds: float, clock: Clock) -> None:
    """Block submissions of the job's account for a while; a longer existing cool-down stays.

    Args:
        connection: to the ledger.
        job: the job whose submission the provider rejected with "slow down".
        seconds: how long.
        clock: the time source if the database has no clock of its own.
    """
    account = account_key(job)
    lock(connection, account)
    until = database_now(connection, clock) + min(seconds, LONGEST_COOL_DOWN_SECONDS)
    row = connection.execute(select(_PACE.c.cooled_until).where(_PACE.c.account == account)).fetchone()
    _write(connection, account, cooled_until=max(until, row[0] if row else 0.0))


def lock(connection: Connection, account: str) -> None:
    """Serialize the transactions of an account. SQLite needs no lock: it has a single writer.

    Args:
        connection: to the ledger.
        account: see `account_key`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(lock_number(f"in flight {account}"))))


def _without_jumps(connection: Connection, row: Any, now: float) -> tuple[float, float, int]:
    """Returns the account's times. Times further ahead than were ever set result from a clock jump and are reset."""
    cooled_until = min(row.cooled_until, now + LONGEST_COOL_DOWN_SECONDS)
    next_at = min(row.next_at, now + row.spacing)
    if (cooled_until, next_at) != (row.cooled_until, row.next_at):
        _write(connection, row.account, cooled_until=cooled_until, next_at=next_at)
    return cooled_until, next_at, row.runs_in_a_row


def _position(connection: Connection, turn: Turn, runs: int, now: float) -> int:
    """Returns how many waiters come before this one, and records that it waits."""
    account, key = account_key(turn.job), turn.job.key
    connection.execute(delete(_WAITERS).where(_WAITERS.c["seen_at"] < now - ALIVE_SECONDS))
    leave(connection, turn.job)
    values = {"is_batch": int(turn.is_batch), "arrived_at": now - turn.waited, "seen_at": now}
    connection.execute(_WAITERS.insert().values(account=account, job_key=key, **values))
    order = select(_WAITERS).where(_WAITERS.c.account == account).order_by(_WAITERS.c.arrived_at, _WAITERS.c.job_key)
    waiting = connection.execute(order).fetchall()
    single = [row.job_key for row in waiting if not row.is_batch]
    batch = [row.job_key for row in waiting if row.is_batch]
    turns: list[str] = []
    while single or batch:
        if batch and (not single or runs >= RUNS_BEFORE_BATCH):
            turns.append(batch.pop(0))
            runs = 0
        else:
            turns.append(single.pop(0))
            runs += 1
    return turns.index(key)


def _write(connection: Connection, account: str, **values: Any) -> None:
    changed = connection.execute(update(_PACE).where(_PACE.c.account == account).values(**values))
    if changed.rowcount == 0:
        fresh = {"next_at": 0.0, "spacing": 0.0, "cooled_until": 0.0, "runs_in_a_row": 0}
        known = {name: value for name, value in values.items() if isinstance(value, int | float)}
        connection.execute(_PACE.insert().values(account=account, **{**fresh, **known}))


def database_now(connection: Connection, clock: Clock) -> float:
    """Returns the time shared by all processes of a ledger, in seconds since 1970: the database's clock, if it has one.

    Args:
        connection: to the ledger.
        clock: the time source if the database has no clock of its own.
    """
    if connection.dialect.name != "postgresql":
        return clock.now()
    found = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    return float(found)


class _Line:
    """The jobs of this process, in any event loop, that wait for an account's turn; only the first one asks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[tuple[str, bool], list[object]] = {}

    def join(self, key: tuple[str, bool], ticket: object) -> None:
        with self.lock:
            self.waiting.setdefault(key, []).append(ticket)

    def position(self, key: tuple[str, bool], ticket: object) -> int:
        with self.lock:
            return self.waiting[key].index(ticket)

    def leave(self, key: tuple[str, bool], ticket: object) -> None:
        with self.lock:
            self.waiting[key].remove(ticket)
            if not self.waiting[key]:
                del self.waiting[key]


_LINE = _Line()


@asynccontextmanager
async def first_in_process(turn: Turn, clock: Clock, gone: Callable[[], None]) -> AsyncIterator[None]:
    """Wait until this job is the first of its process. Inside the context, no other job of the process asks for a turn.

    Args:
        turn: the job that waits; without a pace it does not wait.
        clock: waits.
        gone: called before each pause; raises if the job no longer needs to wait.
    """
    if turn.per_minute is None:
        yield
        return
    key, ticket = (account_key(turn.job), turn.is_batch), object()
    _LINE.join(key, ticket)
    try:
        while position := _LINE.position(key, ticket):
            gone()
            await clock.sleep(min(0.05 * position, 2.0))
        yield
    finally:
        _LINE.leave(key, ticket)

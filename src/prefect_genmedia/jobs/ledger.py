"""The ledger: one row a job, and the only place that changes one.

Every operation is a single SQL statement that commits by itself, so there is no transaction to hold open, to deadlock
or to lose, and a move from one state to another succeeds in exactly one process.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from sqlalchemy import Connection, Row, Select, event, make_url, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from prefect_genmedia.jobs import schema
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.model import LEGAL_MOVES, Job, JobState
from prefect_genmedia.transport import LoopShared

BUSY_SECONDS = 30.0
"""How long a write waits for another process's, in seconds."""

_TIME_OF_STATE = {
    JobState.SENDING: "sent_at",
    JobState.SUBMITTED: "submitted_at",
    JobState.SUCCEEDED: "succeeded_at",
    JobState.DELIVERED: "delivered_at",
}


class Ledger:
    """The jobs of one database, in one event loop; get one from `open_ledger`."""

    def __init__(self, engine: AsyncEngine, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock

    async def reserve(self, job: Job) -> Job:
        """Write a new job down, unless its identity and attempt are there already; returns the row that is there."""
        now = self._clock.now()
        values = _columns(job.model_copy(update={"key": job.key or new_key(), "created_at": now, "updated_at": now}))
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(schema.jobs).values(**values)
        statement = statement.on_conflict_do_nothing(index_elements=["identity", "attempt"])
        row = await self._one(statement.returning(*schema.jobs.c))
        if row is None:
            row = await self._one(
                select(schema.jobs).where(schema.jobs.c.identity == job.identity, schema.jobs.c.attempt == job.attempt)
            )
        return _job(row)

    async def move(self, job: Job, state: JobState, **changes: Any) -> Job | None:
        """Take a job to another state, if it still is where `job` says it is.

        Parameters:
            job: the job as it was read.
            state: where it shall go.
            changes: further fields of `Job` to set with it.

        Returns:
            The job as it is now; None where another process has moved it in between.

        Raises:
            ValueError: there is no such way in the job life.
        """
        if state not in LEGAL_MOVES[job.state]:
            raise ValueError(f"a job never goes from {job.state.value} to {state.value}")
        now = self._clock.now()
        values = {"state": state.value, "updated_at": now, **_plain(changes)}
        if state in _TIME_OF_STATE:
            values.setdefault(_TIME_OF_STATE[state], now)
        return await self._update(job, values)

    async def note(self, job: Job, **changes: Any) -> Job | None:
        """Set fields of a job that stays in its state; None where it has left that state in between."""
        return await self._update(job, {"updated_at": self._clock.now(), **_plain(changes)})

    async def take_over(self, job: Job, flow_run_id: str | None) -> Job | None:
        """Make a job this run's own; of several runs that saw the same row, one gets it and the others get None."""
        table = schema.jobs
        statement = (
            update(table)
            .where(table.c.key == job.key, table.c.state == job.state.value, table.c.updated_at == job.updated_at)
            .values(flow_run_id=flow_run_id, updated_at=self._clock.now())
        )
        row = await self._one(statement.returning(*table.c))
        return None if row is None else _job(row)

    async def get(self, key: str) -> Job | None:
        """The job with this key."""
        return await self._maybe(select(schema.jobs).where(schema.jobs.c.key == key))

    async def find(self, name: str) -> Job | None:
        """The job that a person means: by key, by the start of a key, or by the provider's id."""
        exact = await self.get(name) or await self._maybe(
            select(schema.jobs).where(schema.jobs.c.provider_job_id == name).order_by(schema.jobs.c.created_at.desc())
        )
        if exact is not None or len(name) < 4:
            return exact
        beginning = select(schema.jobs).where(schema.jobs.c.key.startswith(name, autoescape=True)).limit(2)
        found = await self._all(beginning)
        return found[0] if len(found) == 1 else None

    async def newest(self, identity: str) -> Job | None:
        """The last attempt at an identity."""
        return await self._maybe(
            select(schema.jobs).where(schema.jobs.c.identity == identity).order_by(schema.jobs.c.attempt.desc())
        )

    async def jobs(
        self,
        states: Collection[JobState] = (),
        provider: str | None = None,
        flow_run_id: str | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Jobs, closest expiry first, then newest first; `states` empty means every state."""
        table = schema.jobs
        statement = select(table).order_by(table.c.expires_at.asc().nulls_last(), table.c.created_at.desc())
        if states:
            statement = statement.where(table.c.state.in_([state.value for state in states]))
        if provider is not None:
            statement = statement.where(table.c.provider == provider)
        if flow_run_id is not None:
            statement = statement.where(table.c.flow_run_id == flow_run_id)
        return await self._all(statement.limit(limit))

    async def typical_seconds(self, provider: str, model: str, length_seconds: float | None) -> float | None:
        """How long such a job usually takes from acceptance to result: the median of the last 50 of like length.

        Parameters:
            provider: the provider's name.
            model: the provider's model.
            length_seconds: the result's duration; results within a factor of 1.5 count as like. None: any length.

        Returns:
            Seconds, or None while fewer than three such jobs are known.
        """
        table = schema.jobs
        length = table.c.expectation["seconds"].as_float()
        took = table.c.succeeded_at - table.c.submitted_at
        statement = (
            select(took)
            .where(table.c.provider == provider, table.c.model == model, took.is_not(None))
            .order_by(table.c.succeeded_at.desc())
            .limit(50)
        )
        if length_seconds:
            statement = statement.where(length.between(length_seconds / 1.5, length_seconds * 1.5))
        async with self._engine.connect() as connection:
            found = [float(row[0]) for row in await connection.execute(statement)]
        return statistics.median(found) if len(found) >= 3 else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction for the few things that need more than one statement: budgets. It ends with the block."""
        async with self._engine.connect() as connection:
            level = "SERIALIZABLE" if self._engine.dialect.name == "sqlite" else "READ COMMITTED"
            connection = await connection.execution_options(isolation_level=level)
            async with connection.begin():
                yield connection

    async def _update(self, job: Job, values: dict[str, Any]) -> Job | None:
        table = schema.jobs
        statement = update(table).where(table.c.key == job.key, table.c.state == job.state.value).values(**values)
        row = await self._one(statement.returning(*table.c))
        return None if row is None else _job(row)

    async def _one(self, statement: Any) -> Row[Any] | None:
        async with self._engine.connect() as connection:
            return (await connection.execute(statement)).first()

    async def _maybe(self, statement: Select[Any]) -> Job | None:
        row = await self._one(statement.limit(1))
        return None if row is None else _job(row)

    async def _all(self, statement: Select[Any]) -> list[Job]:
        async with self._engine.connect() as connection:
            return [_job(row) for row in await connection.execute(statement)]


_ENGINES: LoopShared[AsyncEngine] = LoopShared(AsyncEngine.dispose)


@asynccontextmanager
async def open_ledger(url: str, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Ledger]:
    """Use the ledger at `url`, brought to the present schema; its connections are shared within the event loop.

    Parameters:
        url: `sqlite:///path`, `postgresql://…`, or either with an async driver named.
        clock: the time to write down.
    """
    async with _ENGINES.lease(url, lambda: _open_engine(url)) as engine:
        yield Ledger(engine, clock)


def new_key() -> str:
    """A new job's key: 12 hexadecimal digits, short enough to type."""
    return uuid4().hex[:12]


async def _open_engine(url: str) -> AsyncEngine:
    target = _with_async_driver(make_url(url))
    # Statements commit by themselves, so there is nothing to roll back when a connection returns to the pool.
    engine = _engine(target, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
    try:
        async with engine.connect() as connection:
            current = await connection.run_sync(schema.is_current)
        if not current:
            await _migrate(target)
    except BaseException:
        await engine.dispose()
        raise
    return engine


async def _migrate(url: URL) -> None:
    engine = _engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(schema.migrate)
    finally:
        await engine.dispose()


def _with_async_driver(url: URL) -> URL:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    return url.set(drivername=drivers.get(url.drivername, url.drivername))


def _engine(url: URL, **options: Any) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, pool_size=4, max_overflow=4, pool_pre_ping=True, **options)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, pool_size=4, connect_args={"timeout": BUSY_SECONDS}, **options)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver opens no transactions of its own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL, not NORMAL: "sending" must outlive a power cut, or the same submission would be paid again.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    if "isolation_level" not in options:

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            # A migration takes the write lock at once, so that of two the second waits and finds nothing to do.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _columns(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in changes.items()
    }


def _job(row: Row[Any] | None) -> Job:
    if row is None:
        raise LookupError("the ledger's row has vanished")
    return Job.model_validate(dict(row._mapping))

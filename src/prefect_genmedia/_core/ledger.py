"""The ledger: one row per job. Only this module changes a job's row.

Every operation on a job is a single, self-contained SQL statement. So no transaction stays open, deadlocks or gets
lost, and a transition from one state to another succeeds in exactly one process.
"""

from __future__ import annotations

import hashlib
import socket
import statistics
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, Row, Select, select, text, update

from prefect_genmedia._core import pace, schema, telemetry
from prefect_genmedia._core.attempts import chosen
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.database import Database, open_database
from prefect_genmedia._core.identity import Identities
from prefect_genmedia._core.model import LEGAL_MOVES, Job, JobState, new_key
from prefect_genmedia._core.outages import PATIENCE_SECONDS, despite_outage
from prefect_genmedia._core.pace import Refused, Turn, account_key
from prefect_genmedia._core.statements import (
    BY_KEY,
    JOBS,
    NEW,
    NEWEST,
    RESERVE,
    ROWS_AT_ONCE,
    TIME_OF_STATE,
    TYPICAL_FRESH_SECONDS,
    WHICH_POSTGRESQL,
    columns_of,
    count_in_flight,
    followed,
    job_of,
    plain,
    took_query,
    update_of,
)
from prefect_genmedia._transport import LoopShared
from prefect_genmedia.text import storable

T = TypeVar("T")

Spend = Callable[[Connection, Job], None]
"""Reserves a job's cost in the transaction that moves it to `sending`; raises if the budget does not allow it."""


class Ledger:
    """The jobs of one database, for one event loop. Use `open_ledger` to get one."""

    def __init__(
        self, database: Database, clock: Clock = SYSTEM_CLOCK, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience_seconds
        self._typical: dict[tuple[str, str, float | None], tuple[float, float | None]] = {}

    async def reserve(self, job: Job) -> Job:
        """Insert a new job, unless a row with its identity and attempt exists; returns the row in the ledger."""
        now = self._clock.now()
        values = columns_of(job.model_copy(update={"key": job.key or new_key(), "created_at": now, "updated_at": now}))
        row = await self._one(RESERVE[self._database.dialect], values)
        if row is not None:
            return telemetry.changed(None, job_of(row))
        present = select(JOBS).where(JOBS.c.identity == job.identity, JOBS.c.attempt == job.attempt)
        return job_of(await self._one(present))

    async def move(self, job: Job, state: JobState, **changes: Any) -> Job | None:
        """Move a job to another state, if its state is still the one in `job`.

        Args:
            job: the job as it was read.
            state: the new state.
            changes: further fields of `Job` to set in the same statement.

        Returns:
            The job as it is now; None if another process has moved it in the meantime.

        Raises:
            ValueError: the job lifecycle has no such transition.
        """
        if state not in LEGAL_MOVES[job.state]:
            raise ValueError(f"a job never goes from {job.state.value} to {state.value}")
        now = self._clock.now()
        values = {"state": state.value, "updated_at": now, **plain(changes)}
        if state in TIME_OF_STATE:
            values.setdefault(TIME_OF_STATE[state], now)
        return telemetry.changed(job.state, await self._update(job, values))

    async def start_sending(
        self,
        job: Job,
        flow_run_id: str | None,
        max_in_flight: int | None = None,
        spend: Spend | None = None,
        turn: Turn | None = None,
    ) -> Job | Refused | None:
        """Atomically move a reserved job to `sending`, if an in-flight slot is free and the budget allows it.

        The step is atomic across all processes: only one of them gets the last free slot.

        Args:
            job: the job as it was read.
            flow_run_id: the flow run that sends it.
            max_in_flight: the maximum number of in-flight jobs of the account, including this one; None for no limit.
            spend: reserves its cost; None if there is no budget.
            turn: requests the account's turn, according to its pace and cool-down; None if it has neither.

        Returns:
            The job, which must be sent now; a `Refused` with the time to retry, if it is not the job's turn; None if
            no slot is free or another process has moved the job.

        Raises:
            BudgetStop: `spend` does not allow its cost; the job stays reserved.
        """
        table, now, token = schema.jobs, self._clock.now(), uuid4().hex
        values = {"state": JobState.SENDING.value, "sent_at": now, "updated_at": now, "send_token": token}
        values["flow_run_id"] = flow_run_id
        statement = update(table).where(table.c.key == job.key, table.c.state == JobState.RESERVED.value)
        is_ours = table.c.state == JobState.SENDING.value, table.c.send_token == token
        ours = select(table).where(table.c.key == job.key, *is_ours)
        if max_in_flight is not None:
            statement = statement.where(count_in_flight(job.account, now).scalar_subquery() < max_in_flight)

        def take(connection: Connection) -> Job | Refused | None:
            if max_in_flight is not None:
                for name in (account_key(job), job.account):  # the text: used by earlier versions
                    pace.lock(connection, name)
            refused = None if turn is None else pace.ask(connection, turn, self._clock)
            if refused is not None:
                row = connection.execute(ours).fetchone()
                return refused if row is None else job_of(row)
            row = connection.execute(statement.values(**values).returning(*table.c)).fetchone()
            if row is None:
                if turn is not None:
                    pace.leave(connection, job)
                # Committed before, and only the answer was lost: the token shows that this process sends.
                row = connection.execute(ours).fetchone()
                return None if row is None else job_of(row)
            taken = job_of(row)
            if turn is not None:
                pace.grant(connection, turn, self._clock)
            if spend is not None:
                spend(connection, taken)
            return taken

        return telemetry.changed(JobState.RESERVED, await self.transact(take))

    async def unsend(self, job: Job, **changes: Any) -> Job | None:
        """Move a job that this process was sending back to `reserved`: no byte was sent, and none will be.

        Args:
            job: the job, as `start_sending` returned it.
            changes: further fields of `Job` to set in the same statement.

        Returns:
            The job as it is now; None if this process is no longer the one that sends it.
        """
        values = {"state": JobState.RESERVED.value, "updated_at": self._clock.now(), "send_token": None}
        statement = (
            update(JOBS)
            .where(JOBS.c.key == job.key, JOBS.c.state == JobState.SENDING.value)
            .where(JOBS.c.send_token == job.send_token)
            .values(**values, **plain(changes))
        )
        row = await self._one(statement.returning(*JOBS.c))
        return telemetry.changed(JobState.SENDING, None if row is None else job_of(row))

    async def cool_down(self, job: Job, seconds: float) -> None:
        """Block submissions of the job's account for a while.

        Args:
            job: the job whose submission the provider rejected with "slow down".
            seconds: how long; at most `pace.LONGEST_COOL_DOWN_SECONDS`.
        """
        await self.transact(lambda connection: pace.cool_down(connection, job, seconds, self._clock))

    async def leave_line(self, job: Job) -> None:
        """Remove a job from the waiters for its account's turn.

        Args:
            job: the job.
        """
        await self.transact(lambda connection: pace.leave(connection, job))

    async def in_flight(self, account: str) -> int:
        """Returns how many jobs of an account may be in flight at its provider now."""
        return int((await self._run(count_in_flight(account, self._clock.now())))[0][0])

    async def note(self, job: Job, **changes: Any) -> Job | None:
        """Set fields of a job without changing its state; returns None if its state has changed in the meantime."""
        return await self._update(job, {"updated_at": self._clock.now(), **plain(changes)})

    async def take_over(self, job: Job, flow_run_id: str | None) -> Job | None:
        """Take over a job for this run. If several runs read the same row, one gets the job and the others get None.

        Args:
            job: the job, as it was read.
            flow_run_id: the run that takes it over; None outside of flows.
        """
        statement = (
            update(JOBS)
            .where(JOBS.c.key == job.key, JOBS.c.state == job.state.value, JOBS.c.updated_at == job.updated_at)
            .values(flow_run_id=flow_run_id, updated_at=self._clock.now())
        )
        row = await self._one(statement.returning(*JOBS.c))
        return None if row is None else job_of(row)

    async def get(self, key: str) -> Job | None:
        """Returns the job with this key, or None."""
        return await self._maybe(BY_KEY, {"key": storable(key)})

    async def find(self, name: str) -> Job | None:
        """Returns the job that matches a key, a key prefix or a provider id."""
        name = storable(name)
        exact = await self.get(name) or await self._maybe(
            select(JOBS).where(JOBS.c.provider_job_id == name).order_by(JOBS.c.created_at.desc()).limit(1)
        )
        if exact is not None or len(name) < 4:
            return exact
        found = await self._all(select(JOBS).where(JOBS.c.key.startswith(name, autoescape=True)).limit(2))
        return found[0] if len(found) == 1 else None

    async def newest(self, identity: str) -> Job | None:
        """Returns the last attempt under an identity."""
        return await self._maybe(NEWEST, {"identity": identity})

    async def successor(self, job: Job) -> Job | None:
        """Returns the newest attempt after this one; None if there is none."""
        return await self._maybe(followed(job))

    async def newest_of(self, identities: Identities) -> Job | None:
        """Returns the job of a requested result, under any of its identities; see `attempts.chosen`.

        Args:
            identities: the identities that it may have.
        """
        if len(identities.lookup) == 1:
            return await self.newest(identities.new)
        statement = select(JOBS).where(JOBS.c.identity.in_(identities.lookup)).order_by(JOBS.c.attempt)
        newest = {job.identity: job for job in await self._all(statement)}
        return chosen(identities, newest.values(), self._clock.now())

    async def newest_in(self, scope: str) -> dict[str, Job]:
        """Returns the last attempt under each identity whose scope begins with `scope`, keyed by identity."""
        statement = select(JOBS).where(JOBS.c.scope.startswith(scope, autoescape=True)).order_by(JOBS.c.key)
        newest: dict[str, Job] = {}
        last: str | None = ""
        while last is not None:
            page = await self._all(statement.where(JOBS.c.key > last).limit(ROWS_AT_ONCE))
            for job in page:
                known = newest.get(job.identity, job)
                newest[job.identity] = known if known.attempt > job.attempt else job
            last = page[-1].key if len(page) == ROWS_AT_ONCE else None
        return newest

    async def jobs(
        self,
        states: Collection[JobState] = (),
        provider: str | None = None,
        limit: int | None = None,
        *,
        by_expiry: bool = True,
    ) -> list[Job]:
        """Returns jobs by nearest expiry, then newest first.

        Args:
            states: only jobs in one of these states; empty for all states.
            provider: only jobs of this provider.
            limit: at most this many.
            by_expiry: whether to sort by expiry first; if False, only newest first.
        """
        order = [JOBS.c.expires_at.asc().nulls_last()] if by_expiry else []
        statement = select(JOBS).order_by(*order, JOBS.c.created_at.desc())
        if states:
            statement = statement.where(JOBS.c.state.in_([state.value for state in states]))
        if provider is not None:
            statement = statement.where(JOBS.c.provider == provider)
        return await self._all(statement.limit(limit))

    async def typical_seconds(self, provider: str, model: str, length_seconds: float | None) -> float | None:
        """Returns the usual time from acceptance to result: the median of the last 50 jobs polled throughout.

        Args:
            provider: the provider's name.
            model: the provider's model.
            length_seconds: the result's duration; jobs within a factor of 1.5 count as similar. None for any duration.

        Returns:
            Seconds, or None while fewer than three such jobs are known.
        """
        key, now = (provider, model, length_seconds), self._clock.monotonic()
        known_at, typical = self._typical.get(key, (now, None))
        if typical is None or not 0 <= now - known_at < TYPICAL_FRESH_SECONDS:
            found = [float(row[0]) for row in await self._run(*took_query(*key))]
            typical = statistics.median(found) if len(found) >= 3 else None
            self._typical[key] = now, typical
        return typical

    async def fingerprint(self) -> str:
        """Returns a digest unique to this ledger: all processes that share the ledger get the same one."""
        if self._database.dialect == "sqlite":
            rows = await self._run(text("PRAGMA database_list"))
            words = [socket.gethostname(), *(str(row[2]) for row in rows if row[1] == "main")]
        else:
            rows = await self._run(WHICH_POSTGRESQL)
            words = [str(part) for part in rows[0]]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]

    async def query(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        """Executes a read-only statement and returns its rows."""
        return await self._run(statement)

    def now(self) -> float:
        """Returns the time to record, in seconds since 1970."""
        return self._clock.now()

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run several statements in one transaction.

        `work` is repeated after an outage, so it must be harmless to repeat it if the first one was committed.

        Args:
            work: executes the statements.

        Raises:
            LedgerError: the database remained unavailable.
        """
        changes = telemetry.Changes()
        noted = changes.noted(work)
        done, _ = await despite_outage(lambda: self._database.transact(noted), self._clock, self._patience)
        changes.report()
        return done

    @property
    def database(self) -> Database:
        """The database, for maintenance: vacuum and size."""
        return self._database

    async def _update(self, job: Job, values: dict[str, Any]) -> Job | None:
        bound = {NEW + name: value for name, value in values.items()}
        where = {"its_key": job.key, "its_state": job.state.value, "its_id": job.provider_job_id}
        rows, repeated = await self._repeatable(update_of(tuple(values)), {**where, **bound})
        if rows:
            return job_of(rows[0])
        if repeated:
            # The first attempt may have been committed, and only its answer was lost.
            present = await self.get(job.key)
            expected = (values.get("state", job.state.value), values["updated_at"])
            if present is not None and (present.state.value, present.updated_at) == expected:
                return present
        return None

    async def _repeatable(self, statement: Any, values: dict[str, Any] | None) -> tuple[Sequence[Row[Any]], bool]:
        return await despite_outage(lambda: self._database.run(statement, values), self._clock, self._patience)

    async def _run(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        return (await self._repeatable(statement, values))[0]

    async def _one(self, statement: Any, values: dict[str, Any] | None = None) -> Row[Any] | None:
        return next(iter(await self._run(statement, values)), None)

    async def _maybe(self, statement: Select[Any], values: dict[str, Any] | None = None) -> Job | None:
        row = await self._one(statement, values)
        return None if row is None else job_of(row)

    async def _all(self, statement: Select[Any]) -> list[Job]:
        return [job_of(row) for row in await self._run(statement)]


_DATABASES: LoopShared[Database] = LoopShared(lambda database: database.close())


@asynccontextmanager
async def open_ledger(
    url: str, clock: Clock = SYSTEM_CLOCK, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Ledger]:
    """Open the ledger at `url`, migrated to the current schema. Its connections are shared within the event loop.

    Args:
        url: `sqlite:///path`, `postgresql://…`, or either with an async driver named.
        clock: the source of recorded times.
        patience_seconds: how long each operation waits for an unavailable database.

    Raises:
        LedgerError: the database remained unavailable, or the ledger is lost, damaged, or of a newer version.
    """

    async def opened() -> Database:
        return (await despite_outage(lambda: open_database(url), clock, patience_seconds))[0]

    async with _DATABASES.lease(url, opened) as database:
        yield Ledger(database, clock, patience_seconds)

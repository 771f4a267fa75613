"""The ledger's connections: a pool on PostgreSQL; on SQLite one thread that groups concurrent writes into one commit.

SQLite has one writer at a time, and each commit waits for the disk. Concurrent writes of one process therefore share a
transaction. No caller continues before that transaction is on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NotSupportedError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from prefect_genmedia._core import schema
from prefect_genmedia._core.ledger_file import LedgerFile
from prefect_genmedia._core.outages import ledger_error
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.text import clean_text

BUSY_SECONDS = 30.0
"""How long a write waits for another process's write, in seconds."""

_URL_STEP = (
    "set PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL to sqlite:///PATH (four slashes before an absolute path) or "
    "postgresql://USER:PASSWORD@HOST/NAME."
)

T = TypeVar("T")


class Database(Protocol):
    """Executes statements; bound to one event loop."""

    dialect: str
    """`sqlite` or `postgresql`."""
    existed: bool
    """Whether a ledger existed here before, as recorded outside of the database."""

    async def run(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Execute one statement, commit it, and return its rows.

        Args:
            statement: an SQLAlchemy statement.
            values: its bound values, by name.
        """
        ...

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, which is rolled back if `work` raises."""
        ...

    def mark(self) -> None:
        """Record outside of the database, if possible, that it holds a ledger."""
        ...

    async def vacuum(self) -> None:
        """Reclaim the space of deleted rows and texts, and remove their content from the database file.

        PostgreSQL reuses the space and overwrites it later; SQLite's file is rewritten.
        """
        ...

    async def size(self) -> int:
        """Size in bytes: of the ledger's tables on PostgreSQL, of the whole file on SQLite."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def ledger_target(url: str) -> URL:
    """Parses the ledger's URL.

    Args:
        url: `sqlite:///path`, `postgresql://…`, or either with an async driver named.

    Raises:
        LedgerError: it is not the URL of a supported database. The message does not contain the URL.
    """
    problem = "is not a database URL"
    try:
        target = make_url(url)
        if target.get_backend_name() in ("sqlite", "postgresql", "postgres"):
            return target
        problem = f"names the database {clean_text(target.get_backend_name(), 40)}, which cannot hold it"
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        pass
    raise LedgerError(f"The ledger's URL {problem}.", retryable=False, next_step=_URL_STEP)


def shown_ledger(url: str) -> str:
    """Returns the ledger's URL for display, without password and options.

    Args:
        url: the URL.

    Raises:
        LedgerError: see `ledger_target`.
    """
    return ledger_target(url).set(query={}).render_as_string(hide_password=True)


def _database(target: URL) -> Database:
    if target.get_backend_name() == "sqlite":
        return SqliteThread(target.set(drivername="sqlite"))
    driver = "postgresql+asyncpg" if target.drivername in ("postgresql", "postgres") else target.drivername
    try:
        return Pool(target.set(drivername=driver))
    except (ImportError, ArgumentError, InvalidRequestError) as error:
        problem = f"The ledger's URL names the driver {clean_text(driver, 40)}, which cannot be used"
        reason = f"{problem}: {type(error).__name__}."
    raise LedgerError(reason, retryable=False, next_step=_URL_STEP)


async def open_database(url: str) -> Database:
    """Connect to the database at `url` and migrate it to the current schema."""
    database = _database(ledger_target(url))
    try:
        if not await database.transact(lambda connection: schema.is_current(connection, database.existed)):
            await database.transact(schema.migrate)
        database.mark()
    except BaseException:
        await database.close()
        raise
    return database


class Pool:
    """A connection pool, for a server that supports concurrent writers."""

    existed = False

    def __init__(self, url: URL) -> None:
        """Set up without connecting."""
        self._engine = _pool(url)
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self.dialect = self._engine.dialect.name

    async def run(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Execute one statement and commit it."""

        async def attempt() -> Sequence[Row[Any]]:
            async with self._single.connect() as connection:
                return (await connection.execute(statement, values)).fetchall()

        return await _despite_migration(attempt)

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction."""

        async def attempt() -> T:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

        return await _despite_migration(attempt)

    def mark(self) -> None:
        """Does nothing: a server's database has no marker file."""

    async def vacuum(self) -> None:
        """Vacuum the ledger's tables; other connections are not blocked."""

        async def attempt() -> None:
            async with self._single.connect() as connection:
                for table in schema.metadata.tables:
                    await connection.execute(text(f"VACUUM (ANALYZE) {table}"))

        await _despite_migration(attempt)

    async def size(self) -> int:
        """Size of the tables in bytes, including their indexes and TOAST data."""
        sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in schema.metadata.tables)
        return int((await self.run(text(f"SELECT {sizes}")))[0][0])

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


_Entry = tuple[Callable[[Connection], Any], bool, "asyncio.Future[Any]"]


class SqliteThread:
    """One connection in one thread; see the module's docstring."""

    dialect = "sqlite"

    def __init__(self, url: URL) -> None:
        """Set up without connecting."""
        self._file = LedgerFile(url.database)
        self._file.create()
        self.existed = self._file.has_marker
        self._engine = sqlite_engine(url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._connection: Connection | None = None
        self._waiting: list[_Entry] = []
        self._draining: asyncio.Task[None] | None = None

    async def run(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Execute one statement; concurrent statements are committed in the same transaction."""

        def work(connection: Connection) -> Sequence[Row[Any]]:
            return connection.execute(statement, values).fetchall()

        return await self._do(work, not isinstance(statement, Select))

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction."""
        return await self._do(work, writes=True)

    async def close(self) -> None:
        """Write what is still queued, and close."""
        if self._draining is not None:
            await self._draining
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[Connection], T], writes: bool) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, writes, done))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        try:
            return await done
        except Exception as error:
            failure = ledger_error(error)
            if failure is None:
                raise
        raise failure  # outside of `except`: the driver's error, as context, would contain the statement's values

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            outcomes = await loop.run_in_executor(self._thread, self._together, group)
            for (_, _, done), (value, error) in zip(group, outcomes, strict=True):
                if done.done():
                    continue  # the caller was cancelled; its write is committed anyway
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(value)

    def _together(self, group: list[_Entry]) -> list[tuple[Any, BaseException | None]]:
        try:
            return [(value, None) for value in self._attempt(group)]
        except Exception as error:
            if len(group) == 1:
                return [(None, error)]
        return [self._together([entry])[0] for entry in group]  # one of them fails: run each alone

    async def vacuum(self) -> None:
        """Rewrite the file and its journal; writes of other processes wait until then."""

        def work(connection: Connection) -> None:
            connection.exec_driver_sql("VACUUM").close()
            is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
            if is_busy:
                raise LedgerError(
                    "The ledger was vacuumed, but another process reads it: its journal still has the old pages.",
                    retryable=False,
                    next_step="run `prefect-genmedia ledger vacuum` when that process has ended.",
                )

        await self._do(work, writes=False)

    async def size(self) -> int:
        """Size of the file's pages in bytes."""

        def work(connection: Connection) -> int:
            pages, size = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("page_count", "page_size")
            )
            return pages * size

        return await self._do(work, writes=False)

    def mark(self) -> None:
        """Write the marker file; see `ledger_file`."""
        self._file.mark()

    def _attempt(self, group: list[_Entry]) -> list[Any]:
        self._file.check()
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        writes = any(writes for _, writes, _ in group)
        try:
            if writes:
                connection.begin()  # so that a migration, which begins and commits if nobody has, leaves that to us
                _execute(connection, "BEGIN IMMEDIATE")
            values = [work(connection) for work, _, _ in group]
            if writes:
                _execute(connection, "COMMIT")
        except BaseException:
            if writes and connection.connection.in_transaction:
                _execute(connection, "ROLLBACK")
            raise
        finally:
            connection.commit()  # ends SQLAlchemy's own transaction state; the database has no open transaction
        return values

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()


def _execute(connection: Connection, statement: str) -> None:
    """Execute a statement directly through the driver: SQLAlchemy's overhead exceeds the database's time for it."""
    driver: Any = connection.connection.dbapi_connection
    driver.execute(statement)


async def _despite_migration(attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry once if another process has migrated the ledger, which makes PostgreSQL refuse prepared statements.

    PostgreSQL refuses such a statement before executing it, and the driver then discards its prepared statements.
    """
    try:
        try:
            return await attempt()
        except NotSupportedError:
            return await attempt()
    except Exception as error:
        failure = ledger_error(error)
        if failure is None:
            raise
    raise failure  # outside of `except`: the driver's error, as context, would contain the statement's values


def _pool(url: URL) -> AsyncEngine:
    return create_async_engine(url, pool_size=4, max_overflow=4, pool_pre_ping=True)


def sqlite_engine(url: URL) -> Engine:
    """Returns the engine for a ledger on SQLite, in WAL mode; each commit waits for the disk.

    Args:
        url: the file's URL.
    """
    engine = create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not open transactions implicitly
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL, not NORMAL: `sending` must survive a power failure, or the same submission would be paid again.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine

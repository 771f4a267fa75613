"""Backs up a ledger from either database: the copy is always a single SQLite file with the ledger's tables.

A ledger on SQLite is copied with SQLite's backup API. A ledger on PostgreSQL is read in one transaction with a single
snapshot, and written to a new file. No other program is needed, and no password leaves the process.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, Table, insert, select, text

from prefect_genmedia._core import schema
from prefect_genmedia._core.database import ledger_target, sqlite_engine
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.ledger_file import copy_file, name_new, unfinished_file
from prefect_genmedia.errors import GenMediaError, StorageError

ROWS_AT_ONCE = 500
"""Number of rows copied per statement."""


@dataclass(frozen=True)
class BackupReport:
    """The content of a backup.

    Args:
        file: its path.
        jobs: number of jobs.
        newest_at: time of the last change to any job, in seconds since 1970; None if there are no jobs.
    """

    file: str
    jobs: int
    newest_at: float | None


async def back_up_ledger(url: str, file: Path, patience_seconds: float = 60.0) -> BackupReport:
    """Copy a ledger to a new file with mode 0600. Workers can continue; the copy is a consistent snapshot.

    Args:
        url: the ledger.
        file: the copy; the path must not exist yet.
        patience_seconds: how long to wait for an unavailable database.

    Raises:
        StorageError: the file exists already, or the copy cannot be written.
        LedgerError: the ledger cannot be read.
    """
    _check_new(file)
    problem: Exception
    try:
        async with open_ledger(url, patience_seconds=patience_seconds) as ledger:
            if ledger.database.dialect == "sqlite":
                copy_file(Path(ledger_target(url).database or ""), file, is_new=True)
            else:
                await _copy_tables(ledger, file)
        return report_of(file)
    except (OSError, sqlite3.Error) as error:
        problem = error
    reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    raise _unwritable(file, reason, "make room and make its folder writable, then run again.")


def _check_new(file: Path) -> None:
    if file.exists():
        raise _unwritable(file, "a file is there already, and backups are never overwritten", "name another file.")


def _unwritable(file: Path, reason: str, next_step: str) -> GenMediaError:
    return StorageError(
        f"The backup {file} cannot be written: {reason}.", paid="nothing", next_step=next_step, retryable=False
    )


async def _copy_tables(ledger: Ledger, file: Path) -> None:
    unfinished = unfinished_file(file)
    engine = sqlite_engine(URL.create("sqlite", database=str(unfinished)))

    def read(source: Connection) -> None:
        source.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        with engine.connect() as target:
            target.exec_driver_sql("PRAGMA journal_mode=DELETE")
            target.exec_driver_sql("BEGIN IMMEDIATE")
            schema.migrate(target)
            for table in schema.metadata.sorted_tables:
                copy_table(source, target, table)
            target.exec_driver_sql("COMMIT")

    try:
        await ledger.transact(read)
        name_new(unfinished, file)
    finally:
        engine.dispose()
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def copy_table(source: Connection, target: Connection, table: Table) -> None:
    """Copy every row of a table from one database to another.

    Args:
        source: the database to read from.
        target: the database to write to, in a transaction.
        table: the table.
    """
    for rows in row_groups(source, table):
        target.execute(insert(table), rows)


def row_groups(source: Connection, table: Table) -> Iterator[list[dict[str, object]]]:
    """Yields the rows of a table in groups.

    Args:
        source: the database.
        table: the table.
    """
    found = source.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table))
    for rows in found.partitions():
        yield [dict(row._mapping) for row in rows]


def report_of(file: Path) -> BackupReport:
    """Returns the content of a backup.

    Args:
        file: the backup.
    """
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as backup:
        count, newest = backup.execute(f"SELECT count(*), max(updated_at) FROM {schema.jobs.name}").fetchone()  # noqa: S608
    return BackupReport(str(file), int(count), newest)

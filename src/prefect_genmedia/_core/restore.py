"""Restores a ledger from a backup without losing the record of later payments.

A private copy of the backup is migrated to the current schema. It replaces a ledger only if it has every job of that
ledger, none in an earlier version than in the ledger: a job missing from the ledger would be sent again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, delete, insert, select, text, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.backup import back_up_ledger, report_of, row_groups
from prefect_genmedia._core.database import ledger_target, sqlite_engine
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.ledger_file import copy_file
from prefect_genmedia._core.model import JobState
from prefect_genmedia.errors import LedgerError, SubmissionUnknown
from prefect_genmedia.text import counted

_OF_PROCESSES = frozenset({schema.waiters.name, schema.locks.name, schema.reconciles.name, schema.pace.name})
"""Tables about running processes; they are not restored from a backup."""

_MAY_BE_SENT = (JobState.RESERVED.value, JobState.SENDING.value)
_UNKNOWN: dict[str, Any] = {
    "state": JobState.UNKNOWN.value,
    "send_token": None,
    "error_kind": SubmissionUnknown.__name__,
    "error_message": "The ledger was restored from a backup that does not tell whether this job was sent.",
}


@dataclass(frozen=True)
class RestoreReport:
    """The result of a restore.

    Args:
        jobs: number of jobs in the ledger now.
        newest_at: time of the last change to any job, in seconds since 1970; jobs sent later are not in the ledger.
        unknown: number of jobs set to `unknown`, because the backup does not show whether they were sent.
        lost: number of jobs of the former ledger that the backup does not have.
        older: number of jobs that had changed in the former ledger since the backup.
        kept: where the former content was saved; None if nothing was lost.
    """

    jobs: int
    newest_at: float | None
    unknown: int
    lost: int = 0
    older: int = 0
    kept: str | None = None


@dataclass(frozen=True)
class _Difference:
    """What the ledger has and the backup does not.

    Args:
        lost: keys of jobs that the backup does not have.
        older: keys of jobs that have changed since the backup.
    """

    lost: tuple[str, ...]
    older: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lost or self.older)


async def restore_ledger(url: str, file: Path, *, force: bool = False, patience_seconds: float = 60.0) -> RestoreReport:
    """Replace a ledger's content with a backup's. Stop the workers first.

    Jobs that are `reserved` or `sending` in the backup, and whose rows differ in the ledger, become `unknown`: they may
    have been sent since.

    Args:
        url: the ledger; it may be missing, empty, or, with `force`, damaged.
        file: the backup.
        force: whether jobs that the backup does not have, or has in an earlier state, may be forgotten. The former
            content is kept in a file beside the backup.
        patience_seconds: how long to wait for an unavailable database.

    Raises:
        LedgerError: the file is not a backup or is damaged, or the ledger has more than it. Nothing was changed.
        StorageError: the former content cannot be saved.
    """
    target = ledger_target(url)
    path = Path(target.database or "") if target.get_backend_name() == "sqlite" else None
    async with present_copy(file) as copy:
        if path is not None and not (path.exists() and path.stat().st_size):
            return _placed(copy, path)
        try:
            async with open_ledger(url, patience_seconds=patience_seconds) as ledger:
                return await _replaced(url, ledger, copy, file, force)
        except LedgerError as error:
            if error.retryable or path is None or "damaged" not in error.message:
                raise
            if not force:
                raise _refusal(f"{error.message.removesuffix('.')}, so it cannot be compared with the backup") from None
        kept = _moved_away(path)
        return replace(_placed(copy, path), kept=kept)


@asynccontextmanager
async def present_copy(file: Path) -> AsyncIterator[Path]:
    """Yields a private copy of a backup, migrated to the current schema and checked.

    Args:
        file: the backup.

    Raises:
        LedgerError: the file is not a backup, is damaged, or is of a newer version.
    """
    with tempfile.TemporaryDirectory(prefix="genmedia-restore-") as folder:
        copy = Path(folder) / "ledger.db"
        problem = ""
        try:
            copy_file(file, copy)
            with contextlib.closing(sqlite3.connect(copy)) as database:
                found = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
                problem = "" if found == ["ok"] else f"it is damaged ({found[0]})"
                tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if not {schema.jobs.name, schema.VERSION_TABLE} <= tables:
                    problem = problem or "it has no ledger"
        except (OSError, sqlite3.Error) as error:
            problem = str(error)
        if problem:
            raise LedgerError(
                f"{file} is no backup that can be restored: {problem}.",
                retryable=False,
                next_step="name a file that `prefect-genmedia ledger backup` has made.",
            )
        async with open_ledger(f"sqlite:///{copy}"):
            pass
        yield copy


def _placed(copy: Path, path: Path) -> RestoreReport:
    """Put a backup in the place of a missing ledger. The file gets its final name only when it is complete."""
    engine = sqlite_engine(URL.create("sqlite", database=str(copy)))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            unknown = _doubt(connection, {})
            connection.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()
    path.parent.mkdir(parents=True, exist_ok=True)
    for journal in ("-wal", "-shm"):
        path.with_name(f"{path.name}{journal}").unlink(missing_ok=True)
    copy_file(copy, path)
    report = report_of(path)
    return RestoreReport(report.jobs, report.newest_at, unknown)


def _moved_away(path: Path) -> str:
    """Rename a damaged ledger and its journals."""
    mark = f".damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{ending}", f"{path}{mark}{ending}")  # noqa: PTH105 - names, not paths
    return f"{path}{mark}"


async def _replaced(url: str, ledger: Ledger, copy: Path, file: Path, force: bool) -> RestoreReport:
    """Compare and replace the ledger's rows in one transaction."""
    engine = sqlite_engine(URL.create("sqlite", database=str(copy)))
    kept: Path | None = None

    def work(connection: Connection) -> tuple[_Difference, int]:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"LOCK TABLE {schema.jobs.name} IN ACCESS EXCLUSIVE MODE"))
        with engine.connect() as source:
            source.exec_driver_sql("BEGIN")  # so that a repeat after an outage begins with the unmodified backup
            try:
                rows = _rows_by_key(connection)
                difference = _compared(rows, _rows_by_key(source))
                if difference and kept is None:
                    return difference, 0
                unknown = _doubt(source, rows)
                _copy_all(source, connection)
            finally:
                source.exec_driver_sql("ROLLBACK")
        return difference, unknown

    try:
        difference, unknown = await ledger.transact(work)
        if difference and not force:
            raise _refusal(_words(difference))
        if difference:
            kept = file.with_name(f"{file.name}.before-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}")
            await back_up_ledger(url, kept)
            difference, unknown = await ledger.transact(work)
    finally:
        engine.dispose()
    report = report_of(copy)
    return RestoreReport(
        jobs=report.jobs,
        newest_at=report.newest_at,
        unknown=unknown,
        lost=len(difference.lost),
        older=len(difference.older),
        kept=None if kept is None else str(kept),
    )


_Row = tuple[str, float, str | None]


def _rows_by_key(connection: Connection) -> dict[str, _Row]:
    """Returns each job's state, time of last change and provider id."""
    jobs = schema.jobs.c
    found = connection.execute(select(jobs.key, jobs.state, jobs.updated_at, jobs.provider_job_id))
    return {row.key: (row.state, row.updated_at, row.provider_job_id) for row in found}


def _compared(ledger: Mapping[str, _Row], backup: Mapping[str, _Row]) -> _Difference:
    lost = tuple(key for key in ledger if key not in backup)
    older = tuple(
        key for key, row in ledger.items() if key in backup and row != backup[key] and row[1] >= backup[key][1]
    )
    return _Difference(lost, older)


def _doubt(source: Connection, ledger: Mapping[str, _Row]) -> int:
    """Mark the backup's jobs that may have been sent since; returns their number."""
    jobs = schema.jobs
    rows = source.execute(
        select(jobs.c.key, jobs.c.state, jobs.c.updated_at, jobs.c.provider_job_id).where(
            jobs.c.state.in_(_MAY_BE_SENT)
        )
    )
    doubtful = [row.key for row in rows if ledger.get(row.key) != (row.state, row.updated_at, row.provider_job_id)]
    for key in doubtful:
        source.execute(update(jobs).where(jobs.c.key == key).values(**_UNKNOWN))
    return len(doubtful)


def _copy_all(source: Connection, target: Connection) -> None:
    """Replace every table about payments and payers. Paused accounts stay paused."""
    accounts = schema.accounts.c
    paused = target.execute(
        select(accounts.id, accounts.paused_at, accounts.paused_by, accounts.pause_reason).where(
            accounts.paused_at.is_not(None)
        )
    ).fetchall()
    for table in schema.metadata.sorted_tables:
        if table.name in _OF_PROCESSES:
            continue
        target.execute(delete(table))
        for rows in row_groups(source, table):
            target.execute(insert(table), rows)
    for row in paused:
        values = dict(row._mapping)
        target.execute(update(schema.accounts).where(accounts.id == values.pop("id")).values(**values))


def _words(difference: _Difference) -> str:
    parts = []
    if difference.lost:
        parts.append(f"{counted(len(difference.lost), 'job')} that the backup does not have")
    if difference.older:
        parts.append(f"{counted(len(difference.older), 'job')} that changed since the backup")
    keys = (*difference.lost, *difference.older)
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"The ledger has {' and '.join(parts)} ({shown})"


def _refusal(reason: str) -> LedgerError:
    return LedgerError(
        f"{reason}. What was sent since would be forgotten, and paid again. Nothing was restored.",
        retryable=False,
        next_step=(
            "keep this ledger. --force restores all the same, and keeps the ledger's content in a file beside the "
            "backup: adopt from it what was paid before you run anything."
        ),
    )

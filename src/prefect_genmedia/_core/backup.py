"""Backing up a SQLite ledger before its schema changes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import Connection

from prefect_genmedia.errors import StorageError


def back_up(connection: Connection, versions: Collection[str]) -> Path | None:
    """Copy the ledger's file to one beside it, named after the versions that it has and the time.

    Call it inside the transaction that migrates, before the first change: other writers wait, and the copy has what was
    committed last.

    Parameters:
        connection: the ledger's connection.
        versions: the migrations that the ledger has.

    Returns:
        The copy; None for a ledger in memory.

    Raises:
        StorageError: the copy cannot be written; the ledger must not be migrated.
    """
    files = {row[1]: row[2] for row in connection.exec_driver_sql("PRAGMA database_list")}
    if not files.get("main"):
        return None
    ledger = Path(files["main"])
    time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    copy = ledger.with_name(f"{ledger.name}.backup-{'-'.join(sorted(versions))}-{time}")
    unfinished = copy.with_name(f"{copy.name}.part")  # a copy that is cut short never has the final name
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with (
            contextlib.closing(sqlite3.connect(ledger)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as to,
        ):
            source.backup(to)
            to.execute("PRAGMA journal_mode=DELETE")  # one file: the source's WAL is not needed to read it
        unfinished.replace(copy)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise StorageError(
            f"The ledger {ledger} cannot be backed up before its schema is brought up to date: {error}.",
            paid="nothing",
            next_step=f"make room in {ledger.parent} and make it writable, then run again: the ledger is unchanged.",
            retryable=False,
        ) from None
    return copy

"""The file of a ledger on SQLite: created once, marked so that its loss is detected, and backed up before a migration.

An empty ledger has no record of paid jobs, so all of them would be paid again. The marker `NAME.marker` is written once
the ledger has its tables. If the marker exists and the ledger does not, opening fails. Delete the marker to begin a new
ledger.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection

from prefect_genmedia._core.schema import RESTORE
from prefect_genmedia.errors import LedgerError, StorageError


class LedgerFile:
    """An open ledger file.

    Args:
        name: its path; an in-memory database has no file.
    """

    def __init__(self, name: str | None) -> None:
        """Does not access the disk."""
        self._path = Path(name) if name and name != ":memory:" and not name.startswith("file:") else None
        self._inode: int | None = None

    @property
    def has_marker(self) -> bool:
        """Whether a ledger existed here before."""
        return self._path is not None and self._marker(self._path).exists()

    def create(self) -> None:
        """Create the file with mode 0600 if it does not exist, since it contains users' file names.

        Its journals get the same mode.

        An existing file keeps its mode, because a team may share it.

        Raises:
            LedgerError: a ledger existed here and its file is missing or empty, or the file cannot be created.
        """
        if self._path is None:
            return
        if self.has_marker and not (self._path.exists() and self._path.stat().st_size):
            raise LedgerError(
                f"The ledger's file {self._path} is missing or empty.", retryable=False, next_step=RESTORE
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._inode = self._path.stat().st_ino
        except OSError as error:
            reason = error.strerror or type(error).__name__
        else:
            return
        raise LedgerError(
            f"The ledger's file {self._path} cannot be created: {reason}.",
            retryable=False,
            next_step="make its folder writable, or set another ledger URL.",
        )

    def mark(self) -> None:
        """Write the marker. Without it the ledger works, but its loss is not detected."""
        if self._path is not None and not self.has_marker:
            with contextlib.suppress(OSError):
                marker = os.open(self._marker(self._path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(marker, "w", encoding="utf-8") as file:
                    file.write("This marker belongs to the ledger beside it; keep it.\n")

    def check(self) -> None:
        """Check that the open file is still the file at its path: writes to a deleted file would be lost.

        Raises:
            LedgerError: the file was removed or replaced.
        """
        if self._path is None or self._inode is None:
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                return
        raise LedgerError(
            f"The ledger's file {self._path} was removed or replaced while it was in use.",
            retryable=False,
            next_step=RESTORE,
        )

    @staticmethod
    def _marker(path: Path) -> Path:
        return path.with_name(f"{path.name}.marker")


def back_up(connection: Connection, versions: Collection[str]) -> Path | None:
    """Copy the ledger's file to a file beside it, named after its schema versions and the time.

    Call it inside the migrating transaction, before the first change: other writers wait, and the copy contains the
    last committed state.

    Args:
        connection: the ledger's connection.
        versions: the migrations that were applied to the ledger.

    Returns:
        The copy; None for an in-memory ledger.

    Raises:
        StorageError: the copy cannot be written; the ledger must not be migrated.
    """
    files = {row[1]: row[2] for row in connection.exec_driver_sql("PRAGMA database_list")}
    if not files.get("main"):
        return None
    ledger = Path(files["main"])
    time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    copy = ledger.with_name(f"{ledger.name}.backup-{'-'.join(sorted(versions))}-{time}")
    try:
        copy_file(ledger, copy)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"The ledger {ledger} cannot be backed up before its schema is brought up to date: {error}.",
            paid="nothing",
            next_step=f"make room in {ledger.parent} and make it writable, then run again: the ledger is unchanged.",
            retryable=False,
        ) from None
    return copy


def copy_file(ledger: Path, copy: Path, *, is_new: bool = False) -> None:
    """Copy a ledger's file, as it was last committed, to one file with mode 0600; other processes go on meanwhile.

    Args:
        ledger: the file.
        copy: the copy. It has its name only when it is complete.
        is_new: whether nothing may have its name, not even what was put there meanwhile.

    Raises:
        OSError, sqlite3.Error: the ledger cannot be read, or the copy cannot be written.
    """
    unfinished = unfinished_file(copy)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as to,
        ):
            source.backup(to)
            to.execute("PRAGMA journal_mode=DELETE")  # one file: the source's WAL is not needed to read it
        if is_new:
            name_new(unfinished, copy)
        else:
            unfinished.replace(copy)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def unfinished_file(final: Path) -> Path:
    """Create an empty temporary file with mode 0600 beside the final one, so that no partial file has the final name.

    Args:
        final: the file that it will be renamed to.

    Raises:
        OSError: it cannot be created.
    """
    unfinished = final.with_name(f"{final.name}.{uuid4().hex[:12]}.part")  # another process may make the same file
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return unfinished


def name_new(unfinished: Path, final: Path) -> None:
    """Give a complete file its final name, if nothing has it.

    Args:
        unfinished: the file. It may still be there afterwards.
        final: the name.

    Raises:
        FileExistsError: something has the name.
    """
    try:
        os.link(unfinished, final)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        unfinished.replace(final)

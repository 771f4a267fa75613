"""The ledger's upkeep in code: backing up, restoring, checking and vacuuming the ledger of the settings.

`prefect-genmedia ledger …` does the same. Jobs are pruned by the flow `prune_jobs` and the task `prune_ledger`.
"""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from prefect_genmedia._core.backup import BackupReport
from prefect_genmedia._core.backup import back_up_ledger as _back_up
from prefect_genmedia._core.check import CheckReport, Problem
from prefect_genmedia._core.check import check_ledger as _check
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.restore import RestoreReport, present_copy
from prefect_genmedia._core.restore import restore_ledger as _restore
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect.targets import SCHEME, target_of
from prefect_genmedia.settings import current_settings

__all__ = [
    "BackupReport",
    "CheckReport",
    "Problem",
    "RestoreReport",
    "back_up_ledger",
    "check_backup",
    "check_ledger",
    "restore_ledger",
    "vacuum_ledger",
]

PATIENCE_SECONDS = 5.0
"""How long each of these waits for a database that is away, in seconds: a person waits too."""


async def vacuum_ledger() -> int:
    """Rewrite the database without what was deleted or pruned.

    Returns:
        Bytes that it takes now.
    """
    async with open_ledger(current_settings().ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
        await ledger.database.vacuum()
        return await ledger.database.size()


async def back_up_ledger(file: str | Path) -> BackupReport:
    """Copy the ledger, on SQLite or PostgreSQL, to a new SQLite file with mode 0600. Workers go on meanwhile.

    Args:
        file: the copy; nothing may be there yet.

    Raises:
        StorageError: a file is there already, or it cannot be written.
        LedgerError: the ledger cannot be read.
    """
    return await _back_up(current_settings().ledger, Path(file), PATIENCE_SECONDS)


async def restore_ledger(file: str | Path, *, force: bool = False) -> RestoreReport:
    """Replace the ledger's content by a backup's. Stop the workers first.

    Args:
        file: a file that `back_up_ledger` has made, of either database.
        force: whether jobs may be forgotten that the backup does not have. The former content is kept in a file.

    Raises:
        LedgerError: the file is no backup, or the ledger knows of jobs, or of news of them, that the backup does not
            have. Nothing was changed.
    """
    return await _restore(current_settings().ledger, Path(file), force=force, patience_seconds=PATIENCE_SECONDS)


async def check_ledger(*, files: bool = False) -> CheckReport:
    """Check the database, every row, accounts, budgets, and with `files` the digest of every delivered file.

    Args:
        files: whether delivered files are read; that takes as long as downloading them from where they are.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    async with open_ledger(current_settings().ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
        return await _check(ledger, _digest_of if files else None)


async def check_backup(file: str | Path, *, files: bool = False) -> CheckReport:
    """Check a backup as `check_ledger` does, in a private copy.

    Args:
        file: the backup.
        files: whether delivered files are read.

    Raises:
        LedgerError: it is no backup, or it is damaged.
    """
    async with present_copy(Path(file)) as copy, open_ledger(f"sqlite:///{copy}") as ledger:
        return await _check(ledger, _digest_of if files else None)


async def _digest_of(uri: str) -> str | None:
    folder = uri.rpartition("/")[0] + "/"
    storage = (await target_of(folder) if uri.startswith(SCHEME) else target_at(folder)).storage
    return await to_thread.run_sync(storage.digest, uri)

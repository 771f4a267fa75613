"""Private folders for files that are not published yet, and the removal of those whose process is gone.

A folder is named `.genmedia-….part`, has mode 0700, and holds a file `lock` that its process keeps locked. The
operating system releases the lock when the process ends, however it ends: what is old and not locked can be removed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: age alone decides
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".genmedia-", ".part"

LOCK = "lock"

STALE_SECONDS = 3600.0
"""What is not locked is removed when nothing in it has changed for so long: a process may have just begun it."""

STALE_UNLOCKED_SECONDS = 7 * 24 * 3600.0
"""The same where there are no locks: a week, which no download or upload takes."""

FILE_OF_OLD = re.compile(r"\.[0-9a-f]{32}\.part")
"""What earlier versions called a file that is not published yet; they did not lock it."""


@contextlib.contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A new folder that only this user can enter; it is removed afterwards.

    Args:
        parent: where it is made: on the file system that its files are published on.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=parent))  # mode 0700
    try:
        with (folder / LOCK).open("wb") as lock:
            _locked(lock)
            yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a private folder. What was in it is published mostly, and nothing but the lock is left."""
    try:
        (folder / LOCK).unlink()
        folder.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def is_private(folder: Path) -> bool:
    """Whether a folder is one that `private_folder` makes.

    Args:
        folder: the folder.
    """
    return folder.name.startswith(PREFIX) and folder.name.endswith(SUFFIX)


def temporary_folder() -> contextlib.AbstractContextManager[Path]:
    """A private folder among this machine's temporary files."""
    return private_folder(Path(tempfile.gettempdir()))


def remove_stale(parent: Path, now: float | None = None) -> int:
    """Remove what processes that are gone have left in a folder; never what a living process, of any machine, holds.

    Args:
        parent: the folder.
        now: seconds since 1970.

    Returns:
        How many files and folders were removed.
    """
    now = time.time() if now is None else now
    removed = 0
    with contextlib.suppress(OSError):  # no such folder, or not ours to list
        for path in list(parent.iterdir()):
            with contextlib.suppress(OSError):  # another process removes it, too
                removed += _remove_if_stale(path, now)
    return removed


def _remove_if_stale(path: Path, now: float) -> bool:
    if FILE_OF_OLD.fullmatch(path.name):
        if now - path.lstat().st_mtime < STALE_UNLOCKED_SECONDS:
            return False
        path.unlink()
        return True
    if not is_private(path) or path.is_symlink() or not path.is_dir():
        return False
    changed = max(each.lstat().st_mtime for each in (path, *path.iterdir()))
    if now - changed < STALE_SECONDS:
        return False
    with contextlib.ExitStack() as held:
        lock = held.enter_context((path / LOCK).open("r+b")) if (path / LOCK).exists() else None
        has_lock = lock is not None and _locked(lock)
        if lock is not None and has_lock is None:
            return False
        if has_lock is False and now - changed < STALE_UNLOCKED_SECONDS:
            return False
        shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _locked(lock: IO[bytes]) -> bool | None:
    """Whether the lock was taken; None if another process holds it, False if there are no locks here."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # a file system without locks
        return False
    return True

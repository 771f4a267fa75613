"""A folder of this machine that files are published into."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect_genmedia._media.failures import FULL, storing
from prefect_genmedia._media.folder import NOTHING
from prefect_genmedia._media.staging import is_private, private_folder, remove_stale
from prefect_genmedia.errors import StorageError

QUARANTINE = "quarantine"
"""Folder beside the target for files that were paid for and do not verify."""

MAX_SMALL_BYTES = 4 * 1024**2
"""The largest sidecar or poster that is read."""

MIN_FREE_BYTES = 64 * 1024**2
"""What must be free on a disk before anything is paid, in bytes: the floor of what a result may have."""

MAX_NAME_BYTES = 255
"""The longest name of a file, in bytes: what ext4, XFS, APFS, NTFS and CIFS take."""

LONGEST_ADDITION = f"-{'0' * 12}.json"
"""What a file's name may get at its end: its job's key where the name is taken, and that of its sidecar."""

_BROKEN = FULL | {errno.EIO}

STAGED = "staged"
"""What a file is called before it is published."""


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A file in a private folder on the same file system, so that publishing is a rename."""
        with private_folder(self.folder) as folder:
            yield folder / STAGED

    def publish(self, staged: Path, name: str, beside: Mapping[str, bytes] = NOTHING) -> str:
        """Flush each file to disk, rename it, and flush the folder: after a power cut it is whole or not there."""
        target = self.folder / inside(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if beside:
            is_own = staged.parent.parent == self.folder and is_private(staged.parent)
            with nullcontext(staged.parent) if is_own else private_folder(self.folder) as folder:
                for number, (other, content) in enumerate(beside.items()):
                    path = folder / f"beside-{number}"
                    path.write_bytes(content)
                    _name(path, self.folder / inside(other))
        _name(staged, target)
        _flush_folder(target.parent)
        return str(target)

    def size(self, name: str) -> int | None:
        """Bytes of what stands under a name, be it a link that leads nowhere."""
        try:
            return (self.folder / name).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_folder(self, name: str) -> bool:
        """Whether a folder has the name."""
        return (self.folder / name).is_dir()

    def free_bytes(self) -> int:
        """Free bytes of the folder's disk."""
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return shutil.disk_usage(there).free

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """The file itself."""
        yield Path(uri)

    def read(self, uri: str) -> bytes:
        """The bytes of a small file."""
        path = Path(uri)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SMALL_BYTES:
            raise OSError(f"{uri} is not a small file")
        return path.read_bytes()

    def uri_of(self, name: str) -> str:
        """Path of a file in the folder."""
        return str(self.folder / name)

    def digest(self, uri: str) -> str | None:
        """SHA-256 of a published file."""
        with storing():
            try:
                with Path(uri).open("rb") as file:
                    return sha256_of(file)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def stamp(self, uri: str) -> str | None:
        """Size and time of the last change, in nanoseconds."""
        with contextlib.suppress(OSError):
            status = Path(uri).stat()
            if stat.S_ISREG(status.st_mode):
                return f"{status.st_size}-{status.st_mtime_ns}"
        return None

    def quarantined(self) -> int | None:
        """Bytes of all files in quarantine."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sum(each.lstat().st_size for each in (self.folder / QUARANTINE).iterdir())
        return 0

    def remove_stale(self) -> int:
        """Remove staged files whose processes are gone."""
        return remove_stale(self.folder)

    def probe(self, name: str | None = None) -> None:
        """Write a file with as long a name as the sidecar's in a private folder, which is removed with it."""
        if name is not None and self.is_folder(name):
            raise IsADirectoryError(f"{self.folder / name} is a folder; end it with / to put files in it")
        with private_folder(self.folder) as folder:
            (folder / f"{inside(name or STAGED)}{LONGEST_ADDITION}").write_bytes(b"probe")
        check_space(self.folder)


def check_space(folder: Path) -> None:
    """See that the disk of a folder has room for a file.

    Args:
        folder: the folder.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"{free} bytes are free on the disk of {folder}, fewer than {MIN_FREE_BYTES}")


def inside(name: str) -> str:
    """A name that surely is one of a file in the folder.

    Raises:
        StorageError: it leads out of the folder.
    """
    if any(part in ("", ".", "..") for part in re.split(r"[/\\]", name)):
        raise StorageError(f"{name!r} is no name of a file in a folder.", retryable=False)
    return name


def sha256_of(file: Any) -> str:
    """SHA-256 of an open file, in hex, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _name(path: Path, target: Path) -> None:
    _flush(path)
    path.replace(target)  # atomic: a reader sees the whole file or none


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, as far as its file system can: CIFS, FUSE and WSL often refuse it.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        _flush(folder)
    except OSError as error:
        if error.errno in _BROKEN:
            raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Where files go: a local folder, or any fsspec URL. A file gets its final name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs

from prefect_genmedia._media.failures import is_lasting, storing
from prefect_genmedia._media.folder import NOTHING, Storage
from prefect_genmedia._media.locations import OBJECT_STORES, location_problem
from prefect_genmedia._media.staging import private_folder, remove_stale, temporary_folder
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import FieldProblem, InvalidRequest, StorageError
from prefect_genmedia.providers.inputs import local_path

QUARANTINE = "quarantine"
"""Folder beside the target for files that were paid for and do not verify."""

QUARANTINE_BYTES = 2 * 1024**3
"""What quarantine may hold beside one target, in bytes, where nothing else is set."""

MAX_SMALL_BYTES = 4 * 1024**2
"""The largest sidecar or poster that is read."""

PROBE = ".prefect-genmedia-probe"
"""The file that is written and removed to find out whether a folder of a storage takes files."""

MIN_FREE_BYTES = 64 * 1024**2
"""What must be free on a disk before anything is paid, in bytes: the floor of what a result may have."""

_LONGEST_ADDITION = f"-{'0' * 12}.json"
"""What a file's name may get at its end: its job's key where the name is taken, and that of its sidecar."""

_ATOMIC_PROTOCOLS = OBJECT_STORES | {"memory"}

STAGED = "staged"
"""What a file is called before it is published."""

_logger = logging.getLogger(__name__)

_PASSWORD = re.compile(r"://[^/?#@]*:[^/?#]*@")
"""Also inside of chained URLs, such as `simplecache::sftp://…`."""


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
            with private_folder(self.folder) as folder:
                for number, (other, content) in enumerate(beside.items()):
                    path = folder / str(number)
                    path.write_bytes(content)
                    _name(path, self.folder / inside(other))
        _name(staged, target)
        _flush(target.parent)
        return str(target)

    def size(self, name: str) -> int | None:
        """Bytes of what stands under a name, be it a link that leads nowhere."""
        try:
            return (self.folder / name).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

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
            except (FileNotFoundError, NotADirectoryError):
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
        with private_folder(self.folder) as folder:
            (folder / f"{inside(name or STAGED)}{_LONGEST_ADDITION}").write_bytes(b"probe")
        check_space(self.folder)


def check_space(folder: Path) -> None:
    """See that the disk of a folder has room for a file.

    Parameters:
        folder: the folder.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"{free} bytes are free on the disk of {folder}, fewer than {MIN_FREE_BYTES}")


@contextlib.contextmanager
def staged_here() -> Iterator[Path]:
    """A private file of this machine, for storages that take whole files only."""
    with temporary_folder() as folder:
        yield folder / STAGED


def remove_stale_here() -> int:
    """Remove files of `staged_here` whose processes are gone; returns how many."""
    return remove_stale(Path(tempfile.gettempdir()))


class RemoteFolder:
    """A folder behind fsspec, such as `s3://bucket/media`.

    A bucket is never created: one that is missing is misspelled, or another account's.

    Parameters:
        url: the folder.
        settings: what the file system is made with, beside fsspec's own configuration.
    """

    def __init__(self, url: str, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = url_to_fs(self.url, **settings)
        protocols = {urlsplit(part).scheme for part in self.url.split("::")}
        self._has_folders = not protocols & OBJECT_STORES

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A private file of this machine: what is uploaded is verified before it leaves."""
        return staged_here()

    def publish(self, staged: Path, name: str, beside: Mapping[str, bytes] = NOTHING) -> str:
        """Upload; under a temporary name first where the storage would show half a file.

        Raises:
            OSError: the upload failed; nothing is there under the final name.
        """
        for other, content in beside.items():
            with self.staging() as path:
                path.write_bytes(content)
                self.publish(path, other)
        target = f"{self._root}/{inside(name)}"
        self._make_folder_of(target)
        protocol = urlsplit(self.url).scheme
        first = target if protocol in _ATOMIC_PROTOCOLS else f"{target}.{uuid4().hex}.part"
        self._fs.put_file(str(staged), first)
        size = self._fs.info(first)["size"]
        if size != staged.stat().st_size:
            self._fs.rm_file(first)
            raise OSError(f"{self.url}/{name} arrived with {size} of {staged.stat().st_size} bytes")
        if first != target:
            self._fs.mv(first, target)
        return self.uri_of(name)

    def size(self, name: str) -> int | None:
        """Bytes of what stands under a name."""
        try:
            return int(self._fs.info(f"{self._root}/{name}")["size"] or 0)
        except (FileNotFoundError, PermissionError):  # who may not list a bucket gets 403 for what is not there
            return None

    def read(self, uri: str) -> bytes:
        """The bytes of a small file."""
        with fsspec.open(uri, "rb") as file:
            content: bytes = file.read(MAX_SMALL_BYTES + 1)
        if len(content) > MAX_SMALL_BYTES:
            raise OSError(f"{uri} is not a small file")
        return content

    def uri_of(self, name: str) -> str:
        """URL of a file in the folder."""
        return f"{self.url}/{name}"

    def digest(self, uri: str) -> str | None:
        """SHA-256 of a published file."""
        with storing():
            try:
                with fsspec.open(uri, "rb") as file:
                    return sha256_of(file)
            except FileNotFoundError:
                return None

    def quarantined(self) -> int | None:
        """Bytes of all files in quarantine."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache(f"{self._root}/{QUARANTINE}")
            found: Any = self._fs.du(f"{self._root}/{QUARANTINE}", total=True)
            return int(found)
        return 0

    def remove_stale(self) -> int:
        """Remove files of this machine that were to be uploaded, and whose processes are gone."""
        return remove_stale_here()

    def probe(self, name: str | None = None) -> None:
        """Upload a small file and remove it. Who may only write leaves it: it is replaced by the next probe."""
        check_space(Path(tempfile.gettempdir()))
        inside(name or PROBE)
        target = f"{self._root}/{PROBE}"
        self._make_folder_of(target)
        self._fs.pipe_file(target, b"probe")
        try:
            self._fs.rm_file(target)
        except Exception as error:
            if not is_lasting(error):
                raise
            _logger.warning("%s/%s cannot be removed: %s", self.url, PROBE, type(error).__name__)

    def _make_folder_of(self, target: str) -> None:
        if self._has_folders:  # fsspec would create the bucket
            self._fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)


@dataclass(frozen=True)
class Target:
    """Where one job's file goes.

    Parameters:
        storage: the folder.
        name: the file's name in it, if the user gave one.
        quarantine_bytes: how much quarantine may hold beside it.
    """

    storage: Storage
    name: str | None = None
    quarantine_bytes: int = QUARANTINE_BYTES


def inside(name: str) -> str:
    """A name that surely is one of a file in the folder.

    Raises:
        StorageError: it leads out of the folder.
    """
    if any(part in ("", ".", "..") for part in re.split(r"[/\\]", name)):
        raise StorageError(f"{name!r} is no name of a file in a folder.", retryable=False)
    return name


def is_relative(location: str) -> bool:
    """Whether a path or URL means another place in another process's folder."""
    path = local_path(location)
    return path is not None and not path.is_absolute()


def anywhere(location: str) -> str:
    """A path or URL that means the same in another process's folder."""
    path = local_path(location)
    return location if path is None or ("://" in location and path.is_absolute()) else str(path.absolute())


def target_at(output: str) -> Target:
    """Read a path or URL: one that ends in .mp4 names the file itself, any other a folder.

    Raises:
        InvalidRequest: nothing here opens such a URL, it can never be written to, or it holds a password.
        StorageError: the storage cannot be reached.
    """
    folder, name = output, None
    problem = location_problem(output)
    if problem is not None:
        raise _no_place(f"{unsigned_text(without_password(output))!r} {problem}")
    if output.lower().endswith(".mp4"):
        folder, separator, name = output.replace("\\", "/").rpartition("/")
        folder = folder if separator else "."
    if problem := location_problem(folder):  # such as s3://anna.mp4, which names a file and no bucket
        raise _no_place(f"{output!r} {problem}")
    if "://" in folder and not folder.startswith("file://"):
        return Target(_remote(folder), name)
    return Target(LocalFolder(Path(folder.removeprefix("file://") or "/")), name)


def without_password(url: str) -> str:
    """The URL of an output, which is stored and shown with each file.

    Raises:
        InvalidRequest: it holds a password.
    """
    if _PASSWORD.search(url):
        raise _no_place(
            "holds a password, and a file's URL is stored and shown with its job: put credentials into the storage's "
            "own configuration (fsspec's, or its library's), or into a filesystem Block, and give block://TYPE/NAME"
        )
    return url


def _remote(url: str) -> RemoteFolder:
    problem = ""
    with storing(paid="nothing"):  # some connect here
        try:
            return RemoteFolder(without_password(url))
        except (ImportError, ValueError) as error:
            problem = f"{unsigned_text(url)} cannot be opened here: {unsigned_text(str(error))}"
    raise _no_place(problem)


def _no_place(problem: str) -> InvalidRequest:
    return InvalidRequest.of("The output", [FieldProblem("output", problem)])


def sha256_of(file: Any) -> str:
    """SHA-256 of an open file, in hex, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _name(path: Path, target: Path) -> None:
    _flush(path)
    path.replace(target)  # atomic: a reader sees the whole file or none


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

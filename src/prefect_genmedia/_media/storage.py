"""Where files go: a local folder, or any fsspec URL. A file gets its final name only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs

from prefect_genmedia._media.staging import private_folder, remove_stale, temporary_folder
from prefect_genmedia._transport import excerpt, unsigned_text
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, StorageError
from prefect_genmedia.providers.inputs import local_path

QUARANTINE = "quarantine"
"""Folder beside the target for files that were paid for and do not verify."""

QUARANTINE_BYTES = 2 * 1024**3
"""What quarantine may hold beside one target, in bytes, where nothing else is set."""

MAX_SMALL_BYTES = 4 * 1024**2
"""The largest sidecar or poster that is read."""

_ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oss", "memory"})

NOTHING: Mapping[str, bytes] = MappingProxyType({})
"""No files beside the one."""


STAGED = "staged"
"""What a file is called before it is published."""

_PASSWORD = re.compile(r"://[^/?#@]*:[^/?#]*@")
"""Also inside of chained URLs, such as `simplecache::sftp://…`."""


@contextlib.contextmanager
def storing(paid: str | None = None) -> Iterator[None]:
    """Tell a storage's failure as ours: each storage has errors of its own.

    Parameters:
        paid: what this cost, in words, where no job is paid yet.

    Raises:
        StorageError: the block failed in another way than with an error of ours; retryable.
    """
    try:
        yield
    except GenMediaError:
        raise
    except Exception as error:
        # A storage's words may quote its URL, with credentials or a signature in it.
        told = excerpt(unsigned_text(str(error)), 300)
        failure = StorageError(f"The storage failed: {type(error).__name__}: {told}.", paid=paid)
    else:
        return
    raise failure


class Storage(Protocol):
    """A folder that files are published into. All calls block; run them in a thread."""

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A local, private path to write a file to before it is published; gone afterwards."""
        ...

    def publish(self, staged: Path, name: str, beside: Mapping[str, bytes] = NOTHING) -> str:
        """Give a whole file its final name, at once or not at all.

        Parameters:
            staged: the file, as `staging` gave it.
            name: its final name, in the folder.
            beside: small files that belong to it, by their names: they are there before it is.

        Returns:
            Its path or URL.

        Raises:
            OSError: it could not be written; nothing is there under the final name.
            StorageError: the name leads out of the folder.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of what stands under a name in the folder; None if nothing does, as far as can be seen."""
        ...

    def read(self, uri: str) -> bytes:
        """The bytes of a small file; whatever the storage raises where it is not there."""
        ...

    def uri_of(self, name: str) -> str:
        """Path or URL of a file that is, or will be, in the folder."""
        ...

    def digest(self, uri: str) -> str | None:
        """SHA-256 of a published file, in hex; None if it is not there.

        Raises:
            StorageError: nobody can tell; what cannot be read now is not lost.
        """
        ...

    def quarantined(self) -> int | None:
        """Bytes of all files in quarantine; None where the storage does not list its files."""
        ...

    def remove_stale(self) -> int:
        """Remove staged files whose processes are gone; returns how many."""
        ...

    def try_writing(self) -> str:
        """Write a small file and remove it; returns what was tried, in words.

        Raises:
            OSError: it cannot be written; storages raise errors of their own, too.
        """
        ...


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

    def try_writing(self) -> str:
        """Write a small file and remove it; where the folder does not exist, in the nearest folder above that does."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b".")
        return "writable" if there == self.folder else "is made when needed"


@contextlib.contextmanager
def staged_here() -> Iterator[Path]:
    """A private file of this machine, for storages that take whole files only."""
    with temporary_folder() as folder:
        yield folder / STAGED


def remove_stale_here() -> int:
    """Remove files of `staged_here` whose processes are gone; returns how many."""
    return remove_stale(Path(tempfile.gettempdir()))


class RemoteFolder:
    """A folder behind fsspec, such as `s3://bucket/media`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = url_to_fs(self.url)

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
        self._fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
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

    def try_writing(self) -> str:
        """Write a small file and remove it."""
        path = f"{self._root}/{uuid4().hex}.try"
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(path, b"")
        self._fs.rm_file(path)
        return "writable"


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
        InvalidRequest: nothing here opens such a URL, or it holds a password.
        StorageError: the storage cannot be reached.
    """
    folder, name = output, None
    if output.lower().endswith(".mp4"):
        folder, separator, name = output.replace("\\", "/").rpartition("/")
        folder = folder if separator else "."
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

"""Where files go: a local folder, or any fsspec URL. A file gets its final name only when it is whole."""

from __future__ import annotations

import contextlib
import logging
import mimetypes
import re
import shutil
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

from prefect_genmedia._media.compatible import storage_settings
from prefect_genmedia._media.decoding import Level
from prefect_genmedia._media.failures import is_lasting, storing
from prefect_genmedia._media.folder import NOTHING, Storage
from prefect_genmedia._media.local import (
    MAX_SMALL_BYTES,
    MIN_FREE_BYTES,
    QUARANTINE,
    STAGED,
    LocalFolder,
    check_space,
    inside,
    sha256_of,
)
from prefect_genmedia._media.locations import (
    OBJECT_STORES,
    file_problem,
    location_problem,
    name_problem,
    split_output,
)
from prefect_genmedia._media.staging import remove_stale, temporary_folder
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import FieldProblem, InvalidRequest, StorageError
from prefect_genmedia.providers.inputs import local_path

__all__ = [
    "MAX_SMALL_BYTES",
    "MIN_FREE_BYTES",
    "PROBE",
    "QUARANTINE",
    "QUARANTINE_BYTES",
    "LocalFolder",
    "RemoteFolder",
    "Storage",
    "Target",
    "anywhere",
    "check_space",
    "inside",
    "is_relative",
    "remove_stale_here",
    "sha256_of",
    "staged_here",
    "storing",
    "target_at",
    "without_password",
]

QUARANTINE_BYTES = 2 * 1024**3
"""What quarantine may hold beside one target, in bytes, where nothing else is set."""

PROBE = ".prefect-genmedia-probe"
"""The file that is written and removed to find out whether a folder of a storage takes files."""

_STAMPS = ("ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""What storages call the entity tag or the time of a file's last change, the most exact first."""

_ATOMIC_PROTOCOLS = OBJECT_STORES | {"memory"}

_logger = logging.getLogger(__name__)

_LET_IT_BE_READ = (
    "let these credentials list and read the storage (S3: ListBucket, GetObject), or set overwrite=True to fetch the "
    "file again: nothing is paid again."
)

_PASSWORD = re.compile(r"://[^/?#@]*:[^/?#]*@")
"""Also inside of chained URLs, such as `simplecache::sftp://…`."""


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

    Args:
        url: the folder.
        settings: what the file system is made with, beside fsspec's own configuration.
    """

    def __init__(self, url: str, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = url_to_fs(self.url, **storage_settings(self.url, settings))
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
        part = str(PurePosixPath(target).parent / f".{uuid4().hex}.part")  # as long a name as any file system takes
        first = target if protocol in _ATOMIC_PROTOCOLS else part
        with _ending_as(staged, name) as named:
            self._fs.put_file(str(named), first)
        size = self._uploaded_size(first)
        if size not in (None, staged.stat().st_size):
            self._fs.rm_file(first)
            raise OSError(f"{self.url}/{name} arrived with {size} of {staged.stat().st_size} bytes")
        if first != target:
            self._fs.mv(first, target)
        return self.uri_of(name)

    def _uploaded_size(self, target: str) -> int | None:
        """Bytes that have arrived; None where the storage may be written to only."""
        try:
            return int(self._fs.info(target)["size"])
        except PermissionError:
            return None

    def is_folder(self, name: str) -> bool:
        """Whether a folder has the name. An object store can have an object and a folder of the same name."""
        return self._has_folders and bool(self._fs.isdir(f"{self._root}/{name}"))

    def free_bytes(self) -> int:
        """Free bytes of this machine's temporary disk, where downloads are verified."""
        return shutil.disk_usage(tempfile.gettempdir()).free

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """A private copy."""
        with self.staging() as path:
            with fsspec.open(uri, "rb") as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            yield path

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

    def signed_url(self, name: str, seconds: int) -> str | None:
        """A URL that opens a file for a while; None where the storage cannot sign. It must not be kept anywhere.

        Args:
            name: the file's name in the folder.
            seconds: how long it is valid.
        """
        target = f"{self._root}/{inside(name)}"
        is_s3 = urlsplit(self.url).scheme in ("s3", "s3a")
        # Objects that were uploaded without a type are downloaded by browsers, and not played.
        options = {"ResponseContentType": mimetypes.guess_type(name)[0] or "video/mp4"} if is_s3 else {}
        try:
            signed = str(self._fs.sign(target, expiration=seconds, **options))
        except (NotImplementedError, AttributeError):
            return None
        return signed if urlsplit(signed).scheme in ("http", "https") else None

    def digest(self, uri: str) -> str | None:
        """SHA-256 of a published file."""
        with storing():
            self._fs.invalidate_cache()  # others change files, too
            try:
                with fsspec.open(uri, "rb") as file:
                    return sha256_of(file)
            except IsADirectoryError:
                return None
            except FileNotFoundError:
                self._check_bucket()
                return None
            except PermissionError:
                closed = f"{unsigned_text(uri)} exists cannot be checked: the storage refuses to list and to read."
        raise StorageError(f"Whether {closed}", retryable=False, next_step=_LET_IT_BE_READ)

    def stamp(self, uri: str) -> str | None:
        """Size, and entity tag or time, as the storage has them."""
        with contextlib.suppress(Exception):  # each storage has errors of its own; who gets None reads the file
            path = f"{self._root}/{uri.removeprefix(self.url + '/')}"
            self._fs.invalidate_cache(path)  # others change files, too
            found = self._fs.info(path)
            stamp = next((str(found[name]) for name in _STAMPS if found.get(name)), None)
            return None if stamp is None or found["type"] != "file" else f"{found['size']}-{stamp}"
        return None

    def _check_bucket(self) -> None:
        """Make sure that a file is absent because it is not in its bucket.

        Raises:
            FileNotFoundError: the bucket does not exist.
        """
        bucket = self._root.partition("/")[0]
        if not self._has_folders:
            with contextlib.suppress(PermissionError):  # who may not ask for a bucket may still use it
                if not self._fs.exists(bucket):
                    raise FileNotFoundError(f"the bucket does not exist: {bucket}")

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
        if name is not None and self.is_folder(name):
            raise IsADirectoryError(f"{self.uri_of(name)} is a folder; end it with / to put files in it")
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


@contextlib.contextmanager
def _ending_as(staged: Path, name: str) -> Iterator[Path]:
    """Give a staged file its final name's ending while it is uploaded: storages take the Content-Type from it."""
    named = staged.with_name(f"{staged.stem}{PurePosixPath(name).suffix}")
    staged.rename(named)
    try:
        yield named
    finally:
        named.rename(staged)


@dataclass(frozen=True)
class Target:
    """Where one job's file goes.

    Args:
        storage: the folder.
        name: the file's name in it, if the user gave one.
        quarantine_bytes: how much quarantine may hold beside it.
        overwrite: whether a delivered file that was edited since is replaced by the provider's.
        verify: how the file is verified before it gets its name.
    """

    storage: Storage
    name: str | None = None
    quarantine_bytes: int = QUARANTINE_BYTES
    overwrite: bool = False
    verify: Level = "full"


def is_relative(location: str) -> bool:
    """Whether a path or URL means another place in another process's folder."""
    path = local_path(location.strip())
    return path is not None and not path.is_absolute()


def anywhere(location: str) -> str:
    """A path or URL that means the same in another process's folder."""
    location = location.strip()
    path = local_path(location)
    return location if path is None or ("://" in location and path.is_absolute()) else str(path.absolute())


def target_at(output: str) -> Target:
    """Read a path or URL without the blanks around it: one that ends in .mp4 names the file itself, any other a folder.

    Raises:
        InvalidRequest: nothing here opens such a URL, it can never be written to, or it holds a password.
        StorageError: the storage cannot be reached.
    """
    output = output.strip()
    problem = location_problem(output) or file_problem(output)
    if problem is not None:
        raise _no_place(f"{unsigned_text(without_password(output))!r} {problem}")
    folder, name = split_output(output)
    if problem := location_problem(folder):  # such as s3://anna.mp4, which names a file and no bucket
        raise _no_place(f"{output!r} {problem}")
    path = local_path(output)
    if path is None:
        return Target(_remote(folder), name)
    if name is not None:
        folder, name = split_output(str(path))
        path = Path(folder)
    if name and (problem := name_problem(name)):
        raise _no_place(f"{output!r} {problem}")
    return Target(LocalFolder(path), name)


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

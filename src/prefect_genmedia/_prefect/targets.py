"""Resolves a run's output: a folder, an fsspec URL, or the name of a Prefect filesystem Block."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from anyio import to_thread
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_genmedia._media.failures import is_lasting, storing
from prefect_genmedia._media.folder import NOTHING
from prefect_genmedia._media.local import check_space, inside
from prefect_genmedia._media.locations import OBJECT_STORES, file_problem
from prefect_genmedia._media.storage import (
    PROBE,
    RemoteFolder,
    Target,
    remove_stale_here,
    staged_here,
    target_at,
)
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.settings import current_settings, verify_level

SCHEME = "block://"

_logger = logging.getLogger(__name__)


async def target_of(output: str, what: str = "The output") -> Target:
    """Read an output: a path, an fsspec URL, or `block://SLUG/NAME[/folder]` for a stored filesystem Block.

    Args:
        output: the path or URL.
        what: what it is, for errors about the Block.

    Raises:
        InvalidRequest: there is no such Block, it does not store files, or the path leads out of it; or no installed
            package opens such a URL, or it contains a password.
        StorageError: the storage cannot be reached.
    """
    quota, level = current_settings().quarantine_bytes, verify_level("auto")
    output = output.strip()
    if not output.startswith(SCHEME):
        return replace(target_at(output), quarantine_bytes=quota, verify=level)
    slug, _, rest = output.removeprefix(SCHEME).partition("/")
    name, _, path = rest.partition("/")
    if not slug or not name:
        raise _refusal(f"{output!r} names no Block: {SCHEME}SLUG/NAME, or {SCHEME}SLUG/NAME/FOLDER", what)
    if problem := file_problem(output):
        raise _refusal(f"{output!r} {problem}", what)
    if ".." in re.split(r"[/\\]", rest):
        raise _refusal(f"{output!r} leads out of the Block's folder", what)
    try:
        block: Any = await Block.aload(f"{slug}/{name}")
    except ValueError:
        raise _refusal(f"there is no {slug} Block named {name!r}", what) from None
    if not isinstance(block, WritableFileSystem):
        raise _refusal(f"the {slug} Block {name!r} is no filesystem", what)
    folder, file = path, None
    if path.lower().endswith(".mp4"):
        folder, _, file = path.rpartition("/")
    return Target(BlockFolder(block, f"{SCHEME}{slug}/{name}", folder.strip("/")), file, quota, verify=level)


async def read_file(uri: str) -> bytes | None:
    """Returns the content of a small delivered file, such as a poster frame; None if it cannot be read."""
    try:
        if uri.startswith(SCHEME):
            target = await target_of(uri.rpartition("/")[0])
            assert isinstance(target.storage, BlockFolder)  # because of its scheme
            return await to_thread.run_sync(target.storage.read, uri)
        return await to_thread.run_sync(_read_anywhere, uri)
    except (OSError, ValueError, InvalidRequest):
        return None


def _read_anywhere(uri: str) -> bytes:
    with fsspec.open(uri, "rb") as file:
        content: bytes = file.read()
        return content


class BlockFolder:
    """A folder inside a Prefect filesystem Block. Its calls block; run them in threads, as for any storage.

    The Block's interface accepts only whole files, so each file is held in memory once.
    """

    def __init__(self, block: WritableFileSystem, url: str, folder: str) -> None:
        self._block = block
        self._url = url
        self._folder = folder
        self._bucket = _bucket_folder(block, folder)

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """Yields a private local file: files are verified before they are written to the Block."""
        return staged_here()

    def publish(self, staged: Path, name: str, beside: Mapping[str, bytes] = NOTHING) -> str:
        """Write each file into the Block; returns `block://…`."""
        if self._bucket is not None:
            self._bucket.publish(staged, name, beside)
            return self.uri_of(name)
        for other, content in beside.items():
            _waited_for(self._block.write_path(self._path_of(inside(other)), content))
        _waited_for(self._block.write_path(self._path_of(inside(name)), staged.read_bytes()))
        return self.uri_of(name)

    def size(self, name: str) -> int | None:
        """Returns the size of a file in bytes; None if it does not exist, or the Block cannot read.

        A Block's interface can detect a file only by reading it. Any error counts as "does not exist": otherwise a
        write-only Block would never get a file.
        """
        try:
            return len(self.read(self.uri_of(name)))
        except Exception:
            return None

    def is_folder(self, name: str) -> bool:
        """Returns False: a Block's interface does not report folders, and a bucket has none."""
        return False

    def free_bytes(self) -> int:
        """Returns the free bytes of the local temporary disk, where downloads are verified."""
        return shutil.disk_usage(tempfile.gettempdir()).free

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """Yields a private copy."""
        with self.staging() as path:
            path.write_bytes(self.read(uri))
            yield path

    def uri_of(self, name: str) -> str:
        """Returns the `block://…` URI of a file in the folder."""
        return f"{self._url}/{self._path_of(name)}"

    def _path_of(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def signed_url(self, name: str, seconds: int) -> str | None:
        """Returns a signed URL of a file in a bucket; None for other Blocks.

        Args:
            name: the file's name in the folder.
            seconds: how long it is valid.
        """
        return None if self._bucket is None else self._bucket.signed_url(name, seconds)

    def digest(self, uri: str) -> str | None:
        """Returns the SHA-256 of a written file; None if it does not exist, or the Block cannot read.

        Raises:
            StorageError: this cannot be determined: a file that cannot be read now is not lost.
        """
        with storing():
            try:
                return hashlib.sha256(self.read(uri)).hexdigest()
            except Exception as error:
                if _says_absent(error):
                    return None
                raise

    def stamp(self, uri: str) -> str | None:
        """Returns the stamp in the bucket; None for other Blocks, whose interface can only read whole files."""
        if self._bucket is None:
            return None
        return self._bucket.stamp(self._bucket.uri_of(uri.removeprefix(f"{self.uri_of('')}")))

    def quarantined(self) -> int | None:
        """Returns None: a Block's interface cannot list files."""
        return None

    def remove_stale(self) -> int:
        """Remove local files of ended processes that were to be written to the Block."""
        return remove_stale_here()

    def probe(self, name: str | None = None) -> None:
        """Write and remove a small file; a Block that cannot remove files keeps it."""
        inside(name or PROBE)
        if self._bucket is not None:
            self._bucket.probe()
            return
        check_space(Path(tempfile.gettempdir()))
        path = self._path_of(PROBE)
        written = _waited_for(self._block.write_path(path, b"probe"))
        try:
            _remove(self._block, str(written or path))
        except Exception as error:
            if not is_lasting(error):
                raise
            _logger.warning("%s cannot be removed: %s", self.uri_of(PROBE), type(error).__name__)

    def read(self, uri: str) -> bytes:
        """Returns the content of a written file.

        Raises:
            OSError, ValueError: it does not exist, or the Block cannot read.
        """
        path = uri.removeprefix(f"{self._url}/")
        read = getattr(self._block, "read_path", None)  # a Block may be write-only
        if path == uri or read is None:
            raise ValueError(f"{uri} is not in a Block that can be read")
        content: bytes = _waited_for(read(path))
        return content


def _bucket_folder(block: WritableFileSystem, folder: str) -> RemoteFolder | None:
    """Returns the bucket folder of a Block whose `write_path` would create the bucket; None for other Blocks."""
    if not isinstance(block, RemoteFileSystem) or urlsplit(block.basepath).scheme not in OBJECT_STORES:
        return None
    with storing(paid="nothing"):
        return RemoteFolder(f"{block.basepath.rstrip('/')}/{folder}", block.settings)


def _remove(block: Any, written: str) -> None:
    """Remove a file of a Block, if its type supports that.

    Args:
        block: a filesystem Block.
        written: the return value of its `write_path`.
    """
    if isinstance(block, LocalFileSystem):
        check_space(Path(written).parent)
        Path(written).unlink(missing_ok=True)
    elif isinstance(block, RemoteFileSystem):
        block.filesystem.rm_file(written if "://" in written else f"{block.basepath.rstrip('/')}/{written}")
    elif hasattr(block, "bucket_name") and hasattr(getattr(block, "credentials", None), "get_s3_client"):
        block.credentials.get_s3_client().delete_object(Bucket=block.bucket_name, Key=written)  # prefect-aws


def _says_absent(error: Exception) -> bool:
    """Whether a Block's error means that the file does not exist: each storage reports this differently."""
    if isinstance(error, FileNotFoundError | ValueError):
        return True
    words = f"{type(error).__name__} {error}"
    return any(word in words for word in ("NoSuchKey", "NotFound", "Not Found", "404"))


def _waited_for(result: Any) -> Any:
    """Returns the result of a Block's call: its methods either block in a thread or return a coroutine."""
    return run_coro_as_sync(result) if hasattr(result, "__await__") else result


def _refusal(problem: str, what: str) -> InvalidRequest:
    return InvalidRequest.of(what, [FieldProblem(what.split()[-1], problem)])

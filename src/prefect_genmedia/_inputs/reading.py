"""Reading inputs: each one once, all at the same time, into files that live as long as they are needed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import fsspec
from anyio import to_thread
from fsspec.core import url_to_fs

from prefect_genmedia._media.failures import is_lasting, reason_of
from prefect_genmedia._transport import FetchRules, body_of, excerpt, fetch, unsigned_text
from prefect_genmedia.errors import GenMediaError, ProviderError
from prefect_genmedia.providers.inputs import absence, is_public, local_path

MAX_INPUT_BYTES = 100 * 1024**2
"""The largest input that is read, in bytes."""

FETCH_SECONDS = 120.0
"""Timeout for fetching an http(s) input, in seconds: it is fetched only to inspect it."""

OWN_SECONDS = 600.0
"""How long reading a user's own file from its storage may take, in seconds; after that the storage is given up."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class LocalCopy:
    """A copy of an input on this machine.

    Args:
        path: a private copy: what is inspected is what is sent, even if the user's file changes meanwhile.
        size: how many bytes were read.
        sha256: their digest, in hex.
    """

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Unusable:
    """A user's own input that cannot be what was meant, and why."""

    problem: str


Reading = LocalCopy | Unusable | GenMediaError
"""What came of reading an input: its bytes, a problem of the user's, or a failure on the way."""


def is_own(url: str) -> bool:
    """Whether an input is a user's own file, which no provider can fetch: neither http(s) nor inside of the request."""
    return not is_public(url) and not url.startswith("data:")


async def read_all(limits: Mapping[str, int], rules: FetchRules, folder: Path) -> dict[str, Reading]:
    """Read inputs, each once, all at the same time.

    Args:
        limits: how many bytes to read of each input at most, by its URL. Of an http(s) input what is beyond is left;
            a user's own file that has more is unusable.
        rules: what a fetch may do.
        folder: where to put the bytes.

    Returns:
        What came of each; nothing is raised.
    """
    paths = [(url, folder / str(number)) for number, url in enumerate(limits)]
    readings = await asyncio.gather(*(_read(url, limits[url], rules, path) for url, path in paths))
    return dict(zip(limits, readings, strict=True))


async def _read(url: str, limit: int, rules: FetchRules, path: Path) -> Reading:
    if is_own(url):
        with anyio.move_on_after(OWN_SECONDS):
            # A storage that hangs keeps its thread, which writes to a private copy only.
            return await to_thread.run_sync(_copied, url, limit, path, abandon_on_cancel=True)
        return ProviderError(
            f"Reading an input from its storage took longer than {OWN_SECONDS:.0f} s.", outcome="unsent"
        )
    try:
        if url.startswith("data:"):
            return await to_thread.run_sync(_decoded, url, limit, path)
        with anyio.fail_after(FETCH_SECONDS):
            return await _fetched(url, limit, rules, path)
    except GenMediaError as error:
        return error
    except TimeoutError:
        return ProviderError(f"The URL took longer than {FETCH_SECONDS:.0f} s.")


async def _fetched(url: str, limit: int, rules: FetchRules, path: Path) -> LocalCopy:
    digest, size = hashlib.sha256(), 0
    async with fetch(url, rules) as response:
        if not response.is_success:
            raise ProviderError(f"The URL answered {response.status_code}.", http_status=response.status_code)
        with path.open("wb") as file:
            async for piece in body_of(response, "The download"):
                kept = piece[: limit - size]
                file.write(kept)
                digest.update(kept)
                size += len(kept)
                if size >= limit:
                    break
    return LocalCopy(path, size, digest.hexdigest())


def _decoded(url: str, limit: int, path: Path) -> LocalCopy:
    try:
        content = base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError:  # its text is the input
        raise ProviderError("Its base64 text cannot be decoded here.") from None
    kept = content[:limit]
    path.write_bytes(kept)
    return LocalCopy(path, len(kept), hashlib.sha256(kept).hexdigest())


def _copied(url: str, limit: int, path: Path) -> Reading:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for piece in _pieces(url):
                size += len(piece)
                if size > limit:
                    return _too_large(limit)
                file.write(piece)
                digest.update(piece)
    except Exception as error:
        return _trouble(url, error)
    return LocalCopy(path, size, digest.hexdigest()) if size else Unusable("is empty")


def size_of(url: str, limit: int) -> int | Unusable | GenMediaError:
    """The size of a user's own file in bytes, without reading it; nothing is raised. Blocks; run it in a thread.

    Args:
        url: where the user has it.
        limit: a file that has more bytes is unusable.
    """
    try:
        size = _size(url)
    except Exception as error:
        return _trouble(url, error)
    if size > limit:
        return _too_large(limit)
    return size or Unusable("is empty")


def head_of(url: str, count: int) -> bytes | Unusable | GenMediaError:
    """The first bytes of a user's own file; nothing is raised. Blocks; run it in a thread.

    Args:
        url: where the user has it.
        count: how many bytes.
    """
    try:
        with _opened(url) as source:
            head: bytes = source.read(count)
    except Exception as error:
        return _trouble(url, error)
    return head


def _size(url: str) -> int:
    local = local_path(url)
    if local is not None:
        with local.open("rb") as source:  # it is there, and may be read
            return os.fstat(source.fileno()).st_size
    fs, path = url_to_fs(url)
    info = fs.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError("it is a folder")
    return int(info["size"])


def _too_large(limit: int) -> Unusable:
    return Unusable(f"is larger than {limit / 1024**2:.0f} MiB")


def _trouble(url: str, error: Exception) -> Unusable | GenMediaError:
    """Why a user's own file cannot be read: a problem of the user's, or a failure of its storage."""
    absent = absence(url)  # first: a name that is too long fails with an error of its own kind
    if absent is not None:
        return Unusable(absent)
    if isinstance(error, FileNotFoundError):
        return Unusable("is not there")
    if isinstance(error, PermissionError):
        return Unusable("may not be read by this process")
    if is_lasting(error):
        return Unusable(f"cannot be read: {excerpt(unsigned_text(str(error)), 300)}")
    return ProviderError(f"An input cannot be read from its storage: {reason_of(error)}.", outcome="unsent")


def _pieces(url: str) -> Iterator[bytes]:
    with _opened(url) as source:
        while piece := source.read(_PIECE):
            yield piece


def _opened(url: str) -> Any:
    local = local_path(url)
    return local.open("rb") if local is not None else fsspec.open(url, "rb").open()

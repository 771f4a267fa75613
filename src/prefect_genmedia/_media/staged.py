"""A download on its way to the disk: hashed and written in threads, in as few trips to them as it takes."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from anyio import to_thread

from prefect_genmedia._media.decoding import Decoding
from prefect_genmedia._media.failures import storing
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.verify import MAX_BYTES
from prefect_genmedia.errors import ProviderError, ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import ResultStream

PIECE_BYTES = 1 << 20
"""What is held in memory before it is written. A file that is no larger needs no trip to a thread of its own."""

_NO_ROOM = "make room on the disk, then run again: the same job's file is fetched, before it expires."

_TOO_LARGE = "nothing was kept: ask the provider about the job, which is paid for. A retry downloads it anew."


class StagedDownload:
    """A file that arrives, under a name that nobody takes for the final one.

    Its methods block, except `receive`; `close` may be called twice, and must be called.

    Args:
        storage: where it is staged.
        max_bytes: how large it may be.
    """

    def __init__(self, storage: Storage, max_bytes: int = MAX_BYTES) -> None:
        """Touch nothing yet."""
        self._storage = storage
        self._max_bytes = max_bytes
        self.decoding = Decoding()
        """Ended by `close`: who cancels a download does not wait for the decoder."""
        self._place = ExitStack()
        self._opened: tuple[Path, IO[bytes]] | None = None
        self._digest = hashlib.sha256()
        self._held = bytearray()
        self.size = 0
        self.is_proven = False
        """Whether as many bytes arrived as the server had announced."""

    async def receive(self, stream: ResultStream) -> None:
        """Take in the whole stream; its last piece stays in memory until `settle`.

        Raises:
            ResultInvalid: it is, or is announced to be, larger than it may be; not retryable.
            ProviderError: it is cut short, empty, or no video by its own words; retryable.
            StorageError: it cannot be written, or the disk has no room for it; retryable.
        """
        self._check_size(stream.content_length or 0)
        await to_thread.run_sync(self._check_space, stream.content_length or 0)
        writing: asyncio.Future[Any] | None = None
        try:
            async for chunk in stream.chunks():
                self._held += chunk
                self.size += len(chunk)
                self._check_size(self.size)
                if len(self._held) >= PIECE_BYTES:
                    if writing is not None:
                        await writing
                    piece, self._held = self._held, bytearray()
                    # One piece is written while the next one arrives.
                    writing = asyncio.ensure_future(to_thread.run_sync(self._write, piece))
        finally:
            if writing is not None:
                await writing
        if stream.content_length is not None and self.size != stream.content_length:
            raise ProviderError(f"The download ended after {self.size} of {stream.content_length} bytes.")
        self.is_proven = stream.content_length is not None
        if self.size == 0:
            raise ProviderError("The download is empty.")
        if "html" in stream.content_type or "json" in stream.content_type:
            raise ProviderError(f"The download is {stream.content_type}, not a video.")

    def settle(self) -> tuple[Path, str]:
        """Write what is left; returns the whole file's path and its SHA-256 in hex."""
        path, file = self._write(self._held)
        with storing():
            file.close()
        return path, self._digest.hexdigest()

    def close(self) -> None:
        """End the decoding, and remove what has not been published."""
        self.decoding.stop()
        self._place.close()
        self._opened = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._opened is not None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            reason = f"The file is larger than {self._max_bytes} bytes, which is more than the request can give."
            raise ResultInvalid(reason, retryable=False, next_step=_TOO_LARGE)

    def _check_space(self, size: int) -> None:
        with storing():
            free = self._storage.free_bytes()
        if size > free:
            reason = f"The file has {size} bytes, and the disk has {free} free: nothing was fetched."
            raise StorageError(reason, next_step=_NO_ROOM)

    def _write(self, piece: bytearray) -> tuple[Path, IO[bytes]]:
        self._digest.update(piece)
        with storing():
            if self._opened is None:
                path = self._place.enter_context(self._storage.staging())
                self._opened = path, self._place.enter_context(path.open("xb"))
            self._opened[1].write(piece)
            return self._opened

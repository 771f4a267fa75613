"""What a folder is that files are published into, wherever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

NOTHING: Mapping[str, bytes] = MappingProxyType({})
"""No files beside the one."""


class Storage(Protocol):
    """A folder that files are published into. All calls block; run them in a thread."""

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A local, private path to write a file to before it is published; gone afterwards."""
        ...

    def publish(self, staged: Path, name: str, beside: Mapping[str, bytes] = NOTHING) -> str:
        """Give a whole file its final name, at once or not at all.

        Args:
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

    def is_folder(self, name: str) -> bool:
        """Whether a folder has the name; False if that cannot be told."""
        ...

    def free_bytes(self) -> int:
        """Free bytes of the disk that files are staged on."""
        ...

    def local_copy(self, uri: str) -> contextlib.AbstractContextManager[Path]:
        """A published file as a file of this machine, to be read only; a copy of it is gone afterwards."""
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

    def stamp(self, uri: str) -> str | None:
        """What changes when a published file does, without reading it: its size and time. None if nothing tells.

        Nothing is raised: who gets None reads the file.
        """
        ...

    def quarantined(self) -> int | None:
        """Bytes of all files in quarantine; None where the storage does not list its files."""
        ...

    def remove_stale(self) -> int:
        """Remove staged files whose processes are gone; returns how many."""
        ...

    def probe(self, name: str | None = None) -> None:
        """Write a small file into the folder and remove it again, and see whether the disk has room.

        Args:
            name: the name that a file is to get in the folder; None if it is not known.

        Raises:
            Exception: whatever the storage raises if it does not take files; an OSError if a disk is full.
        """
        ...

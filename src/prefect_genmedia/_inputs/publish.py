"""Publishing a user's own file where a provider can fetch it: under its digest, once, behind a URL that ends."""

from __future__ import annotations

import mimetypes
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from prefect_genmedia._inputs.content import FILE_TYPES, content_at
from prefect_genmedia._inputs.reading import Held
from prefect_genmedia._media.failures import is_lasting, told_of
from prefect_genmedia._media.locations import location_problem
from prefect_genmedia._media.storage import RemoteFolder
from prefect_genmedia._media.verify import examine_streams
from prefect_genmedia.errors import GenMediaError, ProviderError
from prefect_genmedia.providers.inputs import is_public, local_path

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"

HOW_TO_PUBLISH = f"set {SETTING} to a storage that can sign URLs, such as s3://bucket/inputs, or give an http(s) URL"


class NotPublishable(Exception):
    """Nothing is set that could publish a file; the text says what to set."""


@dataclass(frozen=True)
class Publication:
    """Where users' own files are published for providers to fetch.

    Parameters:
        url: an fsspec URL of a folder whose storage can sign URLs, such as `s3://bucket/inputs`; None for nowhere.
        seconds: how long a signed URL is valid. Providers may fetch it late: a task waits for up to 12 h.
    """

    url: str | None = None
    seconds: int = 24 * 3600

    def publish(self, held: Held, name: str) -> str:
        """Upload the file, unless it is there already, and sign a URL of it. Blocks; run it in a thread.

        Parameters:
            held: the file.
            name: the user's name of it, for its ending where its bytes do not tell.

        Returns:
            The signed URL; its path has the file's digest.

        Raises:
            NotPublishable: no storage is set, it cannot sign, or it takes no files: its bucket does not exist, or may
                not be written to.
            ProviderError: the storage failed; retryable, nothing was sent to the provider.
        """
        if not self.url:
            raise NotPublishable(f"cannot be fetched by the provider from where it is: {HOW_TO_PUBLISH}")
        if problem := location_problem(self.url):
            raise NotPublishable(f"cannot be published: {SETTING} {problem}")
        try:
            return self._publish(self.url, held, f"{held.sha256}{ending_of(held.path, name)}")
        except (GenMediaError, NotPublishable):
            raise
        except Exception as error:
            if is_lasting(error):
                raise NotPublishable(f"cannot be published through {SETTING}: {told_of(error)}") from None
            failure = ProviderError(
                f"Publishing through {SETTING} failed: {told_of(error)}.",
                outcome="unsent",
                next_step=f"check {SETTING} and the storage's credentials.",
            )
        raise failure

    def _publish(self, url: str, held: Held, name: str) -> str:
        fs, root = url_to_fs(url.rstrip("/"))
        target = f"{root}/{name}"
        signed = self._signed(fs, target)  # before the upload: a storage that cannot sign should not be filled
        # A listing that this process remembers may be older than the storage's clean-up.
        fs.invalidate_cache(root)
        if not _is_there(fs, target, held.size):
            with TemporaryDirectory(prefix="genmedia-") as folder:
                named = Path(folder) / name  # storages read the Content-Type off the ending
                shutil.copyfile(held.path, named)
                RemoteFolder(url).publish(named, name)
        return signed

    def _signed(self, fs: Any, target: str) -> str:
        try:
            signed = str(fs.sign(target, expiration=self.seconds))
        except (NotImplementedError, AttributeError):
            signed = ""
        if not is_public(signed):
            raise NotPublishable(f"cannot be published: the storage of {SETTING} cannot sign URLs; {HOW_TO_PUBLISH}")
        return signed


def ending_of(path: Path, name: str) -> str:
    """The ending that a file's bytes tell, or else its name's: the same bytes are the same file under every name.

    Parameters:
        path: the file.
        name: its name, where the bytes do not tell.
    """
    kind = _kind_of(path)
    if kind in FILE_TYPES:
        return FILE_TYPES[kind][0]
    suffix = (local_path(name) or PurePosixPath(urlsplit(name).path)).suffix.lower()
    return suffix if len(suffix) <= 6 and suffix[1:].isalnum() and suffix.isascii() else ""


def media_type_of(path: Path, name: str) -> str:
    """The file's type, such as `image/png`.

    Parameters:
        path: the file.
        name: its name, where the bytes do not tell.
    """
    kind = _kind_of(path)
    if kind in FILE_TYPES:
        return FILE_TYPES[kind][1]
    return mimetypes.guess_type(f"x{ending_of(path, name)}")[0] or "application/octet-stream"


def _kind_of(path: Path) -> str:
    """The type's name. An mp4 file is M4A if there is only sound in it: encoders write either brand."""
    kind = content_at(path).name
    if kind in ("mp4", "QuickTime"):
        streams = examine_streams(path)
        if streams is not None and streams.sound and not streams.video:
            return "M4A"
    return kind


def _is_there(fs: Any, target: str, size: int) -> bool:
    try:
        info = fs.info(target)
    except FileNotFoundError:
        return False
    return bool(info.get("type") == "file" and info.get("size") == size)

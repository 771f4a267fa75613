"""Publishing a user's own file where a provider can fetch it: under its digest, once, behind a URL that ends."""

from __future__ import annotations

import mimetypes
import shutil
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fsspec.core import url_to_fs

from prefect_genmedia._inputs.content import FILE_TYPES, content_at
from prefect_genmedia._inputs.reading import LocalCopy
from prefect_genmedia._inputs.upload import UploadRefused, has_file, lacks_file, put_file
from prefect_genmedia._media.compatible import storage_settings
from prefect_genmedia._media.failures import is_lasting, reason_of
from prefect_genmedia._media.locations import location_problem
from prefect_genmedia._media.storage import PROBE, LocalFolder, RemoteFolder
from prefect_genmedia._media.verify import examine_streams
from prefect_genmedia.errors import GenMediaError, ProviderError
from prefect_genmedia.providers.inputs import fetchable, is_public, local_path

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"

BASE_SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_BASE_URL"

HOW_TO_PUBLISH = (
    f"set {SETTING} to a storage that can sign URLs, such as s3://bucket/inputs, or to a folder or upload server whose "
    f"files {BASE_SETTING} serves, or give an http(s) URL"
)

_TEMPORARY = ("security-token", "session-token", "sessiontoken")
"""How the parameters end by which signed URLs name a session: of S3, OSS, COS and their relatives."""

_warned: set[str] = set()


class NotPublishable(Exception):
    """Nothing is set that could publish a file; the text says what to set."""


@dataclass(frozen=True)
class Publication:
    """Where users' own files are published for providers to fetch.

    Args:
        url: a folder, as a path or fsspec URL, such as `s3://bucket/inputs`; or an http(s) URL that takes files by PUT;
            None for nowhere.
        seconds: how long a signed URL is valid. Providers may fetch it late: a task waits for up to 12 h.
        base_url: the http(s) URL under which the folder's files are public. None: URLs are signed by the storage, or
            are those that files were put to.
        authorization: the header of that name for PUT, such as `Bearer …`.
    """

    url: str | None = None
    seconds: int = 24 * 3600
    base_url: str | None = None
    authorization: str | None = field(default=None, repr=False)

    def publish(self, held: LocalCopy, name: str) -> str:
        """Upload the file, unless it is there already, and name its URL. Blocks; run it in a thread.

        Args:
            held: the file.
            name: the user's name of it, for its ending where its bytes do not tell.

        Returns:
            The URL, which may be signed; its path has the file's digest.

        Raises:
            NotPublishable: no storage is set, it cannot sign, or it takes no files: its bucket does not exist, or may
                not be written to.
            ProviderError: the storage failed; retryable, nothing was sent to the provider.
        """
        if not self.url:
            raise NotPublishable(f"cannot be fetched by the provider from where it is: {HOW_TO_PUBLISH}")
        if problem := self._problem():
            raise NotPublishable(f"cannot be published: {problem}")
        try:
            return self._publish(self.url.strip(), held, f"{held.sha256}{ending_of(held.path, name)}")
        except UploadRefused as error:
            raise NotPublishable(f"cannot be published through {SETTING}: {error}") from None
        except (GenMediaError, NotPublishable):
            raise
        except Exception as error:
            if is_lasting(error):
                raise NotPublishable(f"cannot be published through {SETTING}: {reason_of(error)}") from None
            failure = ProviderError(
                f"Publishing through {SETTING} failed: {reason_of(error)}.",
                outcome="unsent",
                next_step=f"check {SETTING} and the storage's credentials.",
            )
        raise failure

    def try_publishing(self) -> str:
        """Publish a small file, and remove it where that is possible; returns what was tried, in words. Blocks.

        Raises:
            NotPublishable: no file can be published. Storages raise errors of their own, too.
        """
        if problem := self._problem():
            raise NotPublishable(problem)
        url = (self.url or "").strip().rstrip("/")
        path = local_path(url)
        if self.base_url is not None and not is_public(url):
            (RemoteFolder(url) if path is None else LocalFolder(path)).probe()
            return f"writable, served as {self.base_url}"
        if is_public(url):
            with TemporaryDirectory(prefix="genmedia-") as folder:
                small = Path(folder) / "probe"
                small.write_bytes(b"probe")
                self._publish(url, LocalCopy(small, 5, sha256(b"probe").hexdigest()), PROBE)
            return "takes files by PUT"
        fs, root = url_to_fs(url, **storage_settings(url, {}))
        self._signed(fs, f"{root}/try")
        RemoteFolder(url).probe()
        return "signs URLs, writable"

    def _problem(self) -> str | None:
        url, base = (self.url or "").strip(), self.base_url
        for setting, public in ((SETTING, url if is_public(url) else None), (BASE_SETTING, base)):
            if public is None:
                continue
            try:
                parts = urlsplit(fetchable(public))
            except ValueError as error:
                return f"{setting} {error}"
            if parts.username or parts.password:
                return f"{setting} must not contain a user or password; see publish_authorization"
            if setting == BASE_SETTING and (parts.query or parts.fragment):
                return f"{setting} must end with a path"
        if is_public(url):
            return None
        if local_path(url) is not None and base is None:
            return f"{SETTING} is a folder: set {BASE_SETTING} to the http(s) URL under which its files are public"
        problem = location_problem(url)
        return f"{SETTING} {problem}" if problem else None

    def _publish(self, url: str, held: LocalCopy, name: str) -> str:
        if not is_public(url) and self.base_url is None:
            return self._published_and_signed(url, held, name)
        parts = urlsplit(url)
        put_to = parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment="").geturl()
        public = f"{self.base_url.rstrip('/')}/{name}" if self.base_url else put_to.partition("?")[0]
        if not is_public(url):
            _store(url, held, name)
        elif not has_file(public, held.size):
            put_file(put_to, held.path, media_type_of(held.path, name), self.authorization)
        if lacks_file(public):
            where = f"{BASE_SETTING} is not the public URL of {SETTING}" if self.base_url else f"set {BASE_SETTING}"
            raise NotPublishable(f"was published, and {public} answers that there is no such file: {where}")
        return public

    def _published_and_signed(self, url: str, held: LocalCopy, name: str) -> str:
        fs, root = url_to_fs(url.rstrip("/"), **storage_settings(url.rstrip("/"), {}))
        target = f"{root}/{name}"
        signed = self._signed(fs, target)  # before the upload: a storage that cannot sign should not be filled
        # A listing that this process remembers may be older than the storage's clean-up.
        fs.invalidate_cache(root)
        if not _is_there(fs, target, held.size):
            _upload(url, held, name)
        return signed

    def _signed(self, fs: Any, target: str) -> str:
        try:
            signed = str(fs.sign(target, expiration=self.seconds))
        except (NotImplementedError, AttributeError):
            signed = ""
        if not is_public(signed):
            raise NotPublishable(f"cannot be published: the storage of {SETTING} cannot sign URLs; {HOW_TO_PUBLISH}")
        return signed


def _store(url: str, held: LocalCopy, name: str) -> None:
    """Put a file into a folder whose files are public, unless it is there already."""
    path = local_path(url)
    if path is None:
        if RemoteFolder(url).size(name) != held.size:
            _upload(url, held, name)
        return
    folder = LocalFolder(path)
    if folder.size(name) == held.size:
        return
    with folder.staging() as staged:
        shutil.copyfile(held.path, staged)
        staged.chmod(0o644)  # a web server of another user serves it
        folder.publish(staged, name)


def _upload(url: str, held: LocalCopy, name: str) -> None:
    with TemporaryDirectory(prefix="genmedia-") as folder:
        named = Path(folder) / name  # storages read the Content-Type off the ending
        shutil.copyfile(held.path, named)
        RemoteFolder(url).publish(named, name)


def early_end(url: str, publication: Publication) -> str | None:
    """A warning that a signed URL ends with the session that signed it; once a process, None otherwise.

    Args:
        url: the URL of a published file.
        publication: where it was published.
    """
    names = [name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)]
    if not any(name.endswith(_TEMPORARY) for name in names) or publication.url in _warned:
        return None
    _warned.add(publication.url or "")
    return (
        f"The credentials of {SETTING} are temporary (a role or STS): its signed URLs end with that session, often "
        f"after an hour, and not after {publication.seconds} s. A provider that fetches an input later fails. Sign "
        f"with a key that lasts, or set {BASE_SETTING}."
    )


def ending_of(path: Path, name: str) -> str:
    """The ending that a file's bytes tell, or else its name's: the same bytes are the same file under every name.

    Args:
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

    Args:
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
    except (FileNotFoundError, PermissionError):  # a storage that may only be written to gets the file again
        return False
    return bool(info.get("type") == "file" and info.get("size") == size)

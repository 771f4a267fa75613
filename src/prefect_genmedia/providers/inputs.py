"""What several providers' requests share: field types, and the files that a request names.

A user names a file where it is: an http(s) URL, a path of this machine, or a storage URL such as `s3://bucket/key`.
The package `prefect_genmedia._inputs` turns the latter two into what a provider takes, just before they are sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import fsspec
from pydantic import AfterValidator, BaseModel, Field
from pydantic.fields import FieldInfo

from prefect_genmedia._transport import unsigned_text
from prefect_genmedia._transport.urls import identity_url
from prefect_genmedia.errors import FieldProblem, InvalidRequest

MAX_PICTURE_BYTES = 50 * 1024**2
"""The largest picture that is fetched to be looked into, in bytes."""

_SHOWN_NAME = 120
"""Characters of a missing file's name that an error repeats at most."""


def fetchable(url: str) -> str:
    """Let a URL through that a provider can fetch.

    Raises:
        ValueError: it is none; the sentence says why.
    """
    # The offending text is not repeated: it may be long, or hold a signature.
    if url != url.strip() or len(url.split()) > 1:
        raise ValueError("must not contain spaces or line breaks; escape them as %20")
    try:
        parts = urlsplit(url)
        _ = parts.port
        if "[" in parts.netloc:  # Python 3.10 lets anything in brackets through
            IPv6Address(parts.hostname or "")
    except ValueError:  # its text may repeat the URL
        raise ValueError("must be a URL that can be read") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must be a URL that begins with http:// or https://, which the provider can fetch")
    if not parts.hostname:
        raise ValueError("must be a URL that names a host")
    return url


def input_url(value: str) -> str:
    """Let a file through that can be brought to a provider: an http(s) URL, a path, or an fsspec URL.

    Blanks around it are left out: they come from tables and copied text.

    Raises:
        ValueError: it is none of these; the sentence says why.
    """
    value = value.strip()
    if not value:
        raise ValueError("must be a URL or a path, and is blank")
    if is_public(value):
        return fetchable(value)
    if value[:5].lower() == "data:":
        raise ValueError("must be a URL or a path; base64 text does not belong here")
    if local_path(value) is not None:
        return value  # whether the file exists is found out when the input is inspected
    try:
        parts = urlsplit(value)
        has_password = parts.password is not None
    except ValueError:
        raise ValueError("must be a URL that can be read") from None
    if "::" in value or parts.scheme not in fsspec.available_protocols():
        raise ValueError("must be an http(s) URL, a path, or a storage URL such as s3://bucket/key")
    if has_password:
        raise ValueError("must not contain a password; fsspec reads it from its configuration")
    if not parts.netloc + parts.path.strip("/"):
        raise ValueError("must be a URL that names a file")
    return value


def is_public(url: str) -> bool:
    """Whether the input is where a provider looks by itself."""
    return url[:8].lower().startswith(("http://", "https://"))


def local_path(value: str) -> Path | None:
    """The path of this machine that an input names; None if it is somewhere else.

    In a `file:` URL, escapes such as `%20` are decoded, and the host `localhost` is this machine (RFC 8089).
    """
    scheme, separator, rest = value.partition("://")
    if value[:6].lower() == "file:/" and value[6:7] != "/":
        scheme, separator, rest = "file", "://", value[5:]
    if not separator:
        rest = value
    elif scheme.lower() == "file":
        host, slash, path = rest.partition("/")
        rest = unquote(slash + path if host.lower() == "localhost" else rest, errors="surrogateescape") or "/"
    elif scheme != "local":
        return None
    try:
        return Path(rest).expanduser()
    except RuntimeError:  # there is no such user
        return Path(rest)


def absence(value: str) -> str | None:
    """Why a local input cannot be read because no file exists at its path; None if one does, or the input is remote."""
    path = local_path(value) if not is_public(value) else None
    try:
        if path is None or path.exists():
            return None
    except (OSError, ValueError):  # the name is too long, or holds NUL
        return "must be a URL, or the path of a file"
    return _absent(value, path)


def _absent(value: str, path: Path) -> str:
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    name = value if len(value) <= _SHOWN_NAME else f"{value[:_SHOWN_NAME]}…"
    return f"must be a URL that begins with http:// or https://, or a file: there is no {name!r}{where}"


PublicUrl = Annotated[
    str,
    Field(min_length=1, max_length=8192),
    AfterValidator(fetchable),
]
"""An http or https URL that the provider fetches by itself."""

InputUrl = Annotated[
    str,
    Field(min_length=1, max_length=8192),
    AfterValidator(input_url),
]
"""An input where the user has it: an http(s) URL, a path of this machine, or an fsspec URL."""


def is_input(field: FieldInfo) -> bool:
    """Whether a request's field holds an `InputUrl`, or several.

    Args:
        field: the field.
    """
    checks = (each for each in field.metadata if isinstance(each, AfterValidator))
    return any(each.func is input_url for each in checks) or "input_url" in repr(field.annotation)


Seed = Annotated[int, Field(ge=-1, le=2**31 - 1)]
"""A random seed: -1 lets the provider choose, any other fixes it."""


def absent_files(model: type[BaseModel], data: Any) -> Iterator[FieldProblem]:
    """The local files that refused data names and that do not exist: an error names all problems at once.

    Only an error reads the disk. Of a valid request, absent files are found when its inputs are inspected.

    Args:
        model: the request's class.
        data: what it was to be made from.
    """
    for name, value in data.items() if isinstance(data, Mapping) else ():
        field = model.model_fields.get(name)
        for url in value if isinstance(value, list | tuple) else (value,):
            if field is not None and isinstance(url, str) and url and is_input(field) and not url.startswith("data:"):
                problem = absence(url)
                if problem is not None:
                    yield FieldProblem(name, problem)


@dataclass(frozen=True)
class PictureLimits:
    """What a provider documents about the pictures it takes.

    Args:
        formats: names of the formats, as Pillow has them.
        max_bytes: the largest file, in bytes.
        max_side: the longest side, in pixels.
        min_side: the shortest side, in pixels.
        max_ratio: the long side divided by the short one, at most.
    """

    formats: tuple[str, ...]
    max_bytes: int
    max_side: int
    min_side: int
    max_ratio: float


MediaKind = Literal["picture", "recording", "video"]
"""What a field of a request takes: a picture; a recording, or a video whose sound is used; a video."""


@dataclass(frozen=True)
class RequestInput:
    """A file that a request names.

    Args:
        field: the request's field it stands in.
        url: where the user has it; a `data:` URI where the request holds the file itself.
        inline: whether the provider documents that the request may carry the file's bytes.
        picture: what is documented about it, where it is a picture.
        ratio_of: the field of the picture whose aspect ratio it must have.
        media: what the field takes; a local file of another kind is refused. None takes anything.
        is_renewed: whether the plug-in's `resolve` replaces it before it is sent, if it is too old.
    """

    field: str
    url: str
    inline: bool = False
    picture: PictureLimits | None = None
    ratio_of: str | None = None
    media: MediaKind | None = None
    is_renewed: bool = False


@dataclass(frozen=True)
class SentInput:
    """What the provider is sent in place of a user's own file: a URL, or the file as base64 text.

    Args:
        sha256: digest of the file's bytes, in hex: what stands for the file in a job's identity.
        url: where it was published; signed, and so a secret.
        base64: its bytes as text.
        media_type: its type, such as `image/png`.
    """

    sha256: str
    url: str | None = field(default=None, repr=False)
    base64: str | None = field(default=None, repr=False)
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class SentInputs:
    """What is sent in place of the user's own files.

    Args:
        by_url: what is sent, by the URL or path that the user gave.
        contents: digests of http(s) files whose URLs hold a credential, as pairs of URL and SHA-256 in hex.
    """

    by_url: Mapping[str, SentInput] = field(default_factory=dict)
    contents: tuple[tuple[str, str], ...] = ()

    def url(self, url: str) -> str:
        """The URL that the provider is sent for an input.

        Args:
            url: the URL or path that the user gave.

        Raises:
            InvalidRequest: the provider cannot fetch the input: the request was not prepared.
        """
        sent = self.by_url.get(url)
        if sent is not None and sent.url is not None:
            return sent.url
        if is_public(url):
            return url
        problem = "an input is not a URL that the provider can fetch; the request must be prepared first"
        raise InvalidRequest.of("The request", [FieldProblem("", problem)])

    def base64(self, url: str) -> SentInput | None:
        """The input as base64 text, if it is sent so; None if it is sent as a URL.

        Args:
            url: the URL or path that the user gave.
        """
        sent = self.by_url.get(url)
        return sent if sent is not None and sent.base64 is not None else None

    def identity(self, url: str) -> str:
        """The input as it counts in a job's identity: a user's own file by the digest of its content.

        Args:
            url: the URL or path that the user gave.
        """
        sent = self.by_url.get(url)
        if sent is not None:
            return f"sha256:{sent.sha256}"
        return self.public_identity(url) if is_public(url) else identity_of_own(url)

    def public_identity(self, url: str) -> str:
        """An http(s) URL as it counts in a job's identity.

        Args:
            url: the URL.

        Raises:
            ValueError: it is no URL that can be read.
        """
        return identity_url(url, dict(self.contents).get(url))

    def text_identity(self, text: str) -> str:
        """A text that may be, or hold, an http(s) URL, as it counts in a job's identity.

        Args:
            text: a value of `extra_body`.
        """
        try:
            return self.public_identity(text) if is_public(text) else unsigned_text(text, self.public_identity)
        except ValueError:  # no URL that anybody could read
            return text


AS_GIVEN = SentInputs()
"""Every input is sent as the user gave it."""


@dataclass(frozen=True)
class NotedInputs(SentInputs):
    """Notes the http(s) URLs that count in an identity, in their order.

    Args:
        inputs: URLs of the request's own fields.
        urls: all of them, with those in `extra_body`.
    """

    inputs: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def identity(self, url: str) -> str:
        """Note the URL of a field.

        Args:
            url: the URL or path that the user gave.
        """
        if is_public(url):
            self.inputs.append(url)
        return super().identity(url)

    def public_identity(self, url: str) -> str:
        """Note the URL.

        Args:
            url: the URL.
        """
        self.urls.append(url)
        return super().public_identity(url)


def identity_of_own(url: str) -> str:
    """A file that is on this machine, or in the request, as it counts in a job's identity: by the digest of its bytes.

    A file of another storage is not read for that: only the prepared request knows its digest.

    Args:
        url: a path, a storage's URL, or a `data:` URI.
    """
    if url.startswith("data:"):
        return identity_of_base64(url.partition(",")[2])
    path = local_path(url)
    try:
        status = path.stat() if path is not None else None
        return f"sha256:{_digest_of(path, status.st_mtime_ns, status.st_size)}" if path and status else url
    except (OSError, ValueError):
        return url


@lru_cache(maxsize=4096)
def _digest_of(path: Path, changed_at: int, size: int) -> str:
    """SHA-256 of a file as it is: whoever changes it changes its time or size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def identity_of_base64(text: str) -> str:
    """A file as a job's identity has it, from its base64 text: the same as of the file itself."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = text.encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

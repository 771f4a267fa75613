"""Inspecting inputs: how much of each has to be read, and what is found in it. The bytes are not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from prefect_genmedia._inputs.content import HEAD_BYTES, UNKNOWN, Content, Part, content_at, content_of
from prefect_genmedia._inputs.reading import (
    MAX_INPUT_BYTES,
    LocalCopy,
    Reading,
    Unusable,
    head_of,
    is_own,
    read_all,
    size_of,
)
from prefect_genmedia._media.decoding import DecodingFailed, pool
from prefect_genmedia._media.staging import temporary_folder
from prefect_genmedia._media.verify import Recording, examine_recording, examine_streams
from prefect_genmedia._transport import BodyBounds, FetchRules, body_of, fetch, shown_url
from prefect_genmedia._transport.urls import read_url
from prefect_genmedia.errors import GenMediaError, ProviderError, StorageError
from prefect_genmedia.providers.inputs import MAX_PICTURE_BYTES, NotedInputs
from prefect_genmedia.providers.protocol import GenerationRequest


@dataclass(frozen=True)
class Picture:
    """What a picture's header says. Sizes in pixels.

    Args:
        format: its format, as Pillow names it.
        turned: whether it is shown turned by a quarter.
        is_plain: whether it is upright, and of colours that every program reads: not CMYK, not more than eight bits.
    """

    format: str
    width: int
    height: int
    turned: bool = False
    is_plain: bool = True

    @property
    def ratios(self) -> tuple[float, ...]:
        """Its aspect ratios: as it is stored and as it is shown, since which of them a provider takes is not known."""
        ratio = self.width / self.height
        return (ratio, 1 / ratio) if self.turned else (ratio,)


@dataclass(frozen=True)
class Wanted:
    """What to inspect of an input.

    Args:
        max_bytes: how many bytes are read of it at most.
        as_picture: whether its format and size are documented.
        as_recording: whether the result is as long as it.
        as_media: whether it is found out what it is: a local file may be of another kind than its field takes.
    """

    max_bytes: int
    as_picture: bool = False
    as_recording: bool = False
    as_media: bool = False

    def __or__(self, other: Wanted) -> Wanted:
        """Returns one inspection that covers both."""
        return Wanted(
            max(self.max_bytes, other.max_bytes),
            self.as_picture or other.as_picture,
            self.as_recording or other.as_recording,
            self.as_media or other.as_media,
        )


@dataclass(frozen=True)
class Inspection:
    """What was found in an input.

    Args:
        size: bytes that were read of it; all of a user's own file.
        sha256: their digest, in hex; empty if only its size was read.
        picture: what its header says; None if it is no picture, or was not inspected as one.
        sound: whether there is sound in it; None if nothing plays, or it was not inspected as a recording.
        seconds: how long it plays; None as for `sound`.
        is_silent: whether its sound has no audible sample.
        is_exact: whether `seconds` has nothing in it that an encoder added.
        content: what it is; None if that was not inspected, or what was read does not decide it.
    """

    size: int
    sha256: str = ""
    picture: Picture | None = None
    sound: bool | None = None
    seconds: float | None = None
    content: Content | None = None
    is_silent: bool = False
    is_exact: bool = True


InspectionResult = Inspection | Unusable | GenMediaError
"""Result of inspecting an input: what was found, a problem that the user can correct, or a failure to read it."""


def inspections_wanted(request: GenerationRequest, preflight: bool, convert: bool = False) -> dict[str, Wanted]:
    """Returns what to inspect of a request's inputs, by URL; an input that need not be inspected is not fetched.

    Args:
        request: what is asked for.
        preflight: whether documented limits are checked.
        convert: whether the user's own pictures are converted to what the provider takes.
    """
    source = request.duration_source()
    # What these URLs give is part of the identity, which may not depend on `preflight`.
    wanted = {url: Wanted(MAX_INPUT_BYTES + 1) for url in urls_with_credentials(request)}
    for each in request.inputs():
        as_recording = source is not None and source.url == each.url
        as_picture = each.picture is not None and preflight
        if is_own(each.url):
            as_picture |= convert and each.media == "picture"
            as_media = each.media is not None and (preflight or convert)
            new = Wanted(MAX_INPUT_BYTES, as_picture, as_recording, as_media)
        elif as_recording:
            new = Wanted(MAX_INPUT_BYTES + 1, as_picture, as_recording)
        elif each.picture is not None and preflight:
            new = Wanted(each.picture.max_bytes + 1, as_picture)
        else:
            continue
        wanted[each.url] = wanted[each.url] | new if each.url in wanted else new
    return wanted


def urls_with_credentials(request: GenerationRequest) -> list[str]:
    """The http(s) inputs whose URL holds a credential: what they give counts in the identity, in place of it.

    Args:
        request: what is asked for.
    """
    noted = NotedInputs()
    request.identity(noted)
    return [url for url in noted.inputs if read_url(url).credentials]


def contents_of(request: GenerationRequest, results: Mapping[str, InspectionResult]) -> tuple[tuple[str, str], ...]:
    """The digests of those inputs, where all of a file was read.

    Args:
        request: what is asked for.
        results: what was found in its inputs, by URL.
    """
    found = ((url, results.get(url)) for url in urls_with_credentials(request))
    return tuple(
        (url, inspection.sha256)
        for url, inspection in found
        if isinstance(inspection, Inspection) and inspection.sha256 and inspection.size <= MAX_INPUT_BYTES
    )


async def inspect_url(url: str, wanted: Wanted, rules: FetchRules) -> InspectionResult:
    """Inspect one input and keep none of its bytes. Never raises.

    Of a user's own file that is neither a picture nor a recording, only the size and the first bytes are read.

    Args:
        url: its path or URL.
        wanted: what to inspect.
        rules: what a fetch may do.
    """
    if is_own(url) and not (wanted.as_picture or wanted.as_recording):
        return await to_thread.run_sync(_size_and_type, url, wanted)
    with temporary_folder() as folder:
        (reading,) = (await read_all({url: wanted.max_bytes}, rules, folder)).values()
        return await to_thread.run_sync(inspect_reading, reading, wanted)


def _size_and_type(url: str, wanted: Wanted) -> InspectionResult:
    """Size and type of a user's own file, without reading all of it."""
    size = size_of(url, wanted.max_bytes)
    if not isinstance(size, int):
        return size
    head = head_of(url, HEAD_BYTES) if wanted.as_media else b""
    if not isinstance(head, bytes):
        return head
    content = content_of(head) if head else None
    return Inspection(
        size, content=None if content is UNKNOWN else content
    )  # a decoder may know it, which needs all of it


def inspect_all(
    readings: Mapping[str, Reading], wanted: Mapping[str, Wanted], before: Mapping[str, InspectionResult]
) -> dict[str, InspectionResult]:
    """Inspect inputs that were read; returns the results by URL. Blocks: run it in a thread.

    Args:
        readings: what was read.
        wanted: what each was read for.
        before: earlier results for the same `wanted`: unchanged bytes are not inspected again.
    """
    return {url: inspect_reading(reading, wanted[url], before.get(url)) for url, reading in readings.items()}


def inspect_reading(reading: Reading, wanted: Wanted, before: InspectionResult | None = None) -> InspectionResult:
    """Inspect one input that was read. Blocks: run it in a thread.

    Args:
        reading: the result of reading it.
        wanted: what it was read for.
        before: an earlier result for the same `wanted`.
    """
    if not isinstance(reading, LocalCopy):
        return reading
    if isinstance(before, Inspection) and before.sha256 == reading.sha256:
        return before
    try:
        return _inspected(reading, wanted)
    except OSError as error:
        return StorageError(f"No decoder process could be started: {type(error).__name__}.", paid="nothing")


def _inspected(reading: LocalCopy, wanted: Wanted) -> Inspection:
    plays = wanted.as_recording and reading.size <= MAX_INPUT_BYTES
    recording = examine_recording(reading.path) if plays else None
    # Where a recording should be, a picture is nothing that plays; anything else may be a format not known here.
    unplayable = plays and recording is None
    picture = picture_at(reading.path) if wanted.as_picture or unplayable else None
    if unplayable and picture is not None:
        recording = Recording(sound=False, seconds=None)
    content = _content(reading, picture) if wanted.as_media else None
    return Inspection(
        reading.size,
        reading.sha256,
        picture=picture if wanted.as_picture else None,
        sound=None if recording is None else recording.sound,
        seconds=None if recording is None else recording.seconds,
        content=content,
        is_silent=recording is not None and recording.is_silent,
        is_exact=recording is None or recording.is_exact,
    )


def _content(reading: LocalCopy, picture: Picture | None) -> Content:
    """What a file is: by how it begins, and by what decoders find where that does not tell."""
    content = content_at(reading.path)
    if content is UNKNOWN and (picture := picture or picture_at(reading.path)) is not None:
        return Content(picture.format, frozenset({"picture"}))
    if content is not UNKNOWN and len(content.parts) < 2:
        return content
    streams = examine_streams(reading.path)
    if streams is None or not (streams.sound or streams.video):
        return content
    parts: set[Part] = {"sound"} if streams.sound else set()
    name = "a recording" if content is UNKNOWN else content.name
    if streams.video:
        return Content(name, frozenset(parts | {"video"}))
    return Content(f"{name} without a picture", frozenset(parts))


def picture_at(path: Path) -> Picture | None:
    """Read a picture's header, in a decoder process; the rest of the file may be missing. None where it is no picture.

    Args:
        path: the file.
    """
    try:
        return Picture(**pool().ask("picture", path))
    except DecodingFailed:
        return None


PICTURE_BOUNDS = BodyBounds(seconds=60.0, window=20.0, min_rate=1024.0)
"""How long the body of a portrait or mask may take."""


async def fetch_picture(url: str, rules: FetchRules, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """The bytes of a portrait or mask.

    Args:
        url: where it is.
        rules: what a fetch may do.
        max_bytes: a larger picture is refused.

    Raises:
        ProviderError: it cannot be fetched, is too slow, or is larger than `max_bytes`.
    """
    content = bytearray()
    async with fetch(url, rules) as response:
        if not response.is_success:
            raise ProviderError(
                f"The picture {shown_url(url)} answered {response.status_code}.",
                http_status=response.status_code,
            )
        async for piece in body_of(response, "Fetching a picture", PICTURE_BOUNDS):
            content += piece
            if len(content) > max_bytes:
                raise ProviderError(f"A picture is larger than {max_bytes} bytes.", retryable=False)
    return bytes(content)

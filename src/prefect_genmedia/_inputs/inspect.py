"""Looking at inputs: what has to be read of each, and what is seen in it; the bytes need not stay for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import av.error
from anyio import to_thread
from PIL import Image

from prefect_genmedia._inputs.reading import MAX_INPUT_BYTES, Held, Reading, Unusable, is_own, read_all, size_of
from prefect_genmedia._media.verify import media_seconds
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import GenerationRequest

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """What a picture's header says. Sizes in pixels.

    Parameters:
        format: its format, as Pillow names it.
        turned: whether it is shown turned by a quarter.
    """

    format: str
    width: int
    height: int
    turned: bool = False

    @property
    def ratios(self) -> tuple[float, ...]:
        """Its aspect ratios: as it is stored and as it is shown, since which of them a provider takes is not known."""
        ratio = self.width / self.height
        return (ratio, 1 / ratio) if self.turned else (ratio,)


@dataclass(frozen=True)
class Wanted:
    """What a look at an input is for.

    Parameters:
        max_bytes: how many bytes are read of it at most.
        as_picture: whether its format and size are documented.
        as_recording: whether the result is as long as it.
    """

    max_bytes: int
    as_picture: bool = False
    as_recording: bool = False

    def __or__(self, other: Wanted) -> Wanted:
        """One look that serves both."""
        return Wanted(
            max(self.max_bytes, other.max_bytes),
            self.as_picture or other.as_picture,
            self.as_recording or other.as_recording,
        )


@dataclass(frozen=True)
class Look:
    """What was seen in an input.

    Parameters:
        size: bytes that were read of it; all of a user's own file.
        sha256: their digest, in hex; empty where nothing but its size was looked at.
        picture: what its header says; None where it is no picture, or was not looked at as one.
        sound: whether there is sound in it; None where nothing plays, or it was not looked at as a recording.
        seconds: how long it plays; None as for `sound`.
    """

    size: int
    sha256: str = ""
    picture: Picture | None = None
    sound: bool | None = None
    seconds: float | None = None


Seen = Look | Unusable | GenMediaError
"""What came of looking at an input: what was seen, a problem of the user's, or a failure on the way."""


def looks_wanted(request: GenerationRequest, preflight: bool) -> dict[str, Wanted]:
    """What has to be looked at of a request's inputs, by URL; what need not be looked at is not fetched.

    Parameters:
        request: what is asked for.
        preflight: whether documented limits are checked.
    """
    source = request.duration_source()
    wanted: dict[str, Wanted] = {}
    for each in request.inputs():
        as_recording = source is not None and source.url == each.url
        as_picture = each.picture is not None and preflight
        if is_own(each.url):
            look = Wanted(MAX_INPUT_BYTES, as_picture, as_recording)
        elif as_recording:
            look = Wanted(MAX_INPUT_BYTES + 1, as_picture, as_recording)
        elif each.picture is not None and preflight:
            look = Wanted(each.picture.max_bytes + 1, as_picture)
        else:
            continue
        wanted[each.url] = wanted[each.url] | look if each.url in wanted else look
    return wanted


async def look_at(url: str, wanted: Wanted, rules: FetchRules) -> Seen:
    """Look at one input, and keep none of its bytes; nothing is raised.

    Of a user's own file in which nothing is to be seen, only the size is asked for.

    Parameters:
        url: where the user has it.
        wanted: what the look is for.
        rules: what a fetch may do.
    """
    if is_own(url) and not (wanted.as_picture or wanted.as_recording):
        size = await to_thread.run_sync(size_of, url, wanted.max_bytes)
        return Look(size) if isinstance(size, int) else size
    with TemporaryDirectory(prefix="genmedia-") as folder:
        (reading,) = (await read_all({url: wanted.max_bytes}, rules, Path(folder))).values()
        return await to_thread.run_sync(seen_in, reading, wanted)


def seen_in_all(
    readings: Mapping[str, Reading], wanted: Mapping[str, Wanted], before: Mapping[str, Seen]
) -> dict[str, Seen]:
    """What is seen in inputs that were read, by URL. Blocks; run it in a thread.

    Parameters:
        readings: what was read.
        wanted: what each was read for.
        before: what was seen in earlier looks for the same: bytes that are still the same are not looked at again.
    """
    return {url: seen_in(reading, wanted[url], before.get(url)) for url, reading in readings.items()}


def seen_in(reading: Reading, wanted: Wanted, before: Seen | None = None) -> Seen:
    """What is seen in one input that was read. Blocks; run it in a thread.

    Parameters:
        reading: what came of reading it.
        wanted: what it was read for.
        before: what was seen in an earlier look for the same.
    """
    if not isinstance(reading, Held):
        return reading
    if isinstance(before, Look) and before.sha256 == reading.sha256:
        return before
    plays = wanted.as_recording and reading.size <= MAX_INPUT_BYTES
    return Look(
        reading.size,
        reading.sha256,
        picture=picture_at(reading.path) if wanted.as_picture else None,
        sound=has_sound(reading.path) if plays else None,
        seconds=media_seconds(reading.path) if plays else None,
    )


def picture_at(path: Path) -> Picture | None:
    """Read a picture's header; the rest of the file may be missing. None where it is no picture."""
    try:
        with Image.open(path) as picture:
            # Telephones write JPEG files with a preview behind the picture, which Pillow names MPO.
            kind = "JPEG" if picture.format == "MPO" else picture.format or ""
            turned = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
            return Picture(kind, picture.width, picture.height, turned)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def has_sound(path: Path) -> bool | None:
    """Whether there is sound in a file; None where it is no recording or video at all."""
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.audio)
    except (av.error.FFmpegError, ValueError):
        return None

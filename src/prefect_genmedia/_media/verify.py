"""What is in a media file, as a decoder process finds it; and whether a result is what was asked for."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

from prefect_genmedia._media.decoding import DecodeLimits, Decoding, DecodingFailed, Level, pool
from prefect_genmedia.errors import ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import MediaExpectation

UNKNOWN_SECONDS = 120.0
"""How long a result may be for which nothing says how long it must be, in seconds. No provider makes longer ones."""

BYTES_PER_SECOND = 10 * 1024**2
"""A generous bit rate: 80 Mbit/s. 1080p of the providers has less than 20."""

FLOOR_BYTES = 64 * 1024**2
"""What a result of any duration may have."""

MAX_BYTES = 4 * 1024**3
"""The largest file that is taken, in bytes, whatever is expected."""

_NO_PROCESS = (
    "let this machine start processes, then retry this run: the same job's file is fetched, before it expires."
)


@dataclass(frozen=True)
class MediaFacts:
    """What a verified video is like, and at which level it was verified. Durations in seconds, sizes in pixels."""

    seconds: float
    width: int
    height: int
    codec: str
    frames: int
    has_audio: bool
    audio_seconds: float
    poster: bytes
    verified: Level = "full"


@dataclass(frozen=True)
class Recording:
    """What plays in an input.

    Args:
        sound: whether there is sound in it.
        seconds: how long it plays; None where nothing does.
        is_silent: whether nothing is to be heard in its sound.
        is_exact: whether its codec keeps each sample. Others add some: the recording was a little shorter.
    """

    sound: bool
    seconds: float | None
    is_silent: bool = False
    is_exact: bool = True


@dataclass(frozen=True)
class Streams:
    """What there is in an input that plays: sound, a picture, or both."""

    sound: bool
    video: bool


def byte_limit(expected: MediaExpectation) -> int:
    """How many bytes a result may have: its seconds at a generous bit rate, and a floor.

    Args:
        expected: what is known of it.
    """
    return min(int(_seconds_of(expected) * BYTES_PER_SECOND) + FLOOR_BYTES, MAX_BYTES)


def decode_limits(expected: MediaExpectation) -> DecodeLimits:
    """What verifying a result may take. A result that is somewhat longer than expected is decoded to say so.

    Args:
        expected: what is known of it.
    """
    seconds = _seconds_of(expected)
    return DecodeLimits(
        frames=int((2 * seconds + 10) * 120),
        seconds=2 * seconds + 60,
        cpu_seconds=30 + 4 * seconds,
        wall_seconds=min(60 + 8 * seconds, 900),
    )


def _seconds_of(expected: MediaExpectation) -> float:
    return UNKNOWN_SECONDS if expected.seconds is None else expected.seconds


def examine_video(
    path: Path,
    expected: MediaExpectation | None = None,
    decoding: Decoding | None = None,
    level: Level = "full",
) -> MediaFacts:
    """Verify an mp4 or mov file, in a decoder process. Blocks; run it in a thread.

    "full" walks through its container, and decodes every frame and its sound. "structure" decodes the sound and key
    frames; where the walk cannot decide, such as about AV1, it does as "full". "none" believes what the file says.

    Args:
        path: the file. It is opened as mp4 or mov and as nothing else, and opens no other file.
        expected: what is known of it; decides what decoding may take.
        decoding: lets another thread end it.
        level: how it is verified.

    Returns:
        Its facts, with a poster frame (JPEG): from a third into it, or the key frame before.

    Raises:
        ResultInvalid: it is no such file, is damaged, does not decode, has no picture, or the decoder crashed or was
            ended.
        StorageError: no decoder process could be started; retryable.
    """
    try:
        limits = decode_limits(expected or MediaExpectation())
        found = pool().ask("video", path, limits, decoding, {"verify": level})
    except DecodingFailed as error:
        reason = f"The file does not verify: {error}."
    except OSError as error:
        problem = f"No decoder process could be started to verify the file: {type(error).__name__}."
        raise StorageError(problem, next_step=_NO_PROCESS) from None
    else:
        return MediaFacts(**{**found, "poster": base64.b64decode(found["poster"])})
    raise ResultInvalid(reason)


def frames_of(path: Path, count: int, width: int) -> list[bytes]:
    """Small pictures of a result from beginning to end, as JPEG, in a decoder process. Blocks; run it in a thread.

    Args:
        path: the file. It is opened as mp4 or mov and as nothing else.
        count: how many.
        width: pixels of each; it is twice as high at most.

    Returns:
        The pictures; fewer, or none, where the file does not decode.
    """
    try:
        found = pool().ask("frames", path, decode_limits(MediaExpectation()), options={"count": count, "width": width})
    except (DecodingFailed, OSError):
        return []
    return [base64.b64decode(each) for each in found["frames"]]


def examine_recording(path: Path) -> Recording | None:
    """What plays in an input, in a decoder process. Blocks; run it in a thread.

    Args:
        path: the file. It is opened as a recording or video, and never as a playlist.

    Returns:
        None where it is neither, or cannot be inspected.
    """
    try:
        found = pool().ask("recording", path)
    except DecodingFailed:
        return None
    found.pop("problem", None)
    return Recording(**found)


def examine_streams(path: Path) -> Streams | None:
    """What there is in an input that plays, without decoding it, in a decoder process. Blocks; run it in a thread.

    Args:
        path: the file. It is opened as a recording or video, and never as a playlist.

    Returns:
        None where it is neither, or cannot be inspected.
    """
    try:
        return Streams(**pool().ask("streams", path))
    except DecodingFailed:
        return None


def media_seconds(path: Path) -> float | None:
    """How long a recording or video plays, decoded rather than believed; None where nothing in it plays.

    Args:
        path: the file.
    """
    recording = examine_recording(path)
    return None if recording is None else recording.seconds


def mismatches(facts: MediaFacts, expected: MediaExpectation) -> list[str]:
    """In what a file is not what was asked for, in words; empty if it is.

    Args:
        facts: what the file is.
        expected: what it must be.
    """
    problems = []
    if expected.seconds is not None:
        tolerance = max(0.5, expected.seconds * 0.05)
        if abs(facts.seconds - expected.seconds) > tolerance:
            problems.append(f"it plays {facts.seconds:.2f} s, not {expected.seconds:.2f} s")
        if facts.has_audio and facts.audio_seconds < facts.seconds - tolerance:
            problems.append(f"its sound ends after {facts.audio_seconds:.2f} of {facts.seconds:.2f} s")
    if expected.resolution_class is not None and not _in_class(facts, expected.resolution_class):
        problems.append(f"it is {facts.width}×{facts.height}, not {expected.resolution_class}p")
    if expected.aspect_ratio is not None:
        ratio = facts.width / facts.height
        if abs(math.log(ratio / expected.aspect_ratio)) > 0.08:
            problems.append(f"its aspect ratio is {ratio:.2f}, not {expected.aspect_ratio:.2f}")
    if expected.has_audio is not None and facts.has_audio != expected.has_audio:
        problems.append("it has no sound" if expected.has_audio else "it has sound")
    return problems


def _in_class(facts: MediaFacts, asked: int) -> bool:
    """Whether the short side, or the number of pixels, is nearest to the asked class."""
    classes = (480, 720, 1080)
    short = min(facts.width, facts.height)
    by_side = min(classes, key=lambda size: abs(math.log(short / size)))
    pixels = facts.width * facts.height
    by_area = min(classes, key=lambda size: abs(math.log(pixels / (size * size * 16 / 9))))
    return asked in (by_side, by_area)

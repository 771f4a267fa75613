"""Looking into media files with PyAV: does it decode, what is in it, is it what was asked for, one frame of it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
from av.video.reformatter import Interpolation
from PIL import Image

from prefect_genmedia.errors import ResultInvalid
from prefect_genmedia.providers.protocol import MediaExpectation

POSTER_WIDTH = 480
"""Pixels; wide enough to recognize a face, small enough for a card in the UI."""

FEW_FRAMES = 48
"""Up to so many frames, starting decoder threads takes longer than what they save."""


@dataclass(frozen=True)
class MediaFacts:
    """What a decoded video is like. Durations in seconds, sizes in pixels."""

    seconds: float
    width: int
    height: int
    codec: str
    frames: int
    has_audio: bool
    audio_seconds: float
    poster: bytes


def examine_video(path: Path) -> MediaFacts:
    """Decode every frame of a video and its sound.

    Returns:
        Its facts, with a poster frame (JPEG) from a third into it.

    Raises:
        ResultInvalid: it does not decode from beginning to end, or there is no picture in it.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ResultInvalid("The file has no video stream.")
            return _decode(container)
    except av.error.FFmpegError as error:
        reason = f"The file does not decode: {error.strerror or error}."
    except (UnicodeDecodeError, ValueError) as error:
        reason = f"The file does not decode: {error}."
    raise ResultInvalid(reason)


def _decode(container: av.container.InputContainer) -> MediaFacts:
    video = container.streams.video[0]
    if 0 < video.frames <= FEW_FRAMES:
        video.codec_context.thread_count = 1
    else:
        video.thread_type = "AUTO"
    sound = container.streams.audio[0] if container.streams.audio else None
    promised = float(container.duration / av.time_base) if container.duration else 0.0
    poster_at = promised / 3
    frames, end, heard = 0, 0.0, 0.0
    poster: bytes | None = None
    streams = [video] if sound is None else [video, sound]
    for frame in container.decode(streams):
        if isinstance(frame, av.VideoFrame):
            frames += 1
            at = frame.time or 0.0
            end = max(end, at)
            if poster is None and at >= poster_at:
                poster = _jpeg(frame)
        elif isinstance(frame, av.AudioFrame) and frame.sample_rate:
            heard += frame.samples / frame.sample_rate
    if frames == 0:
        raise ResultInvalid("The file has no picture that decodes.")
    rate = float(video.average_rate) if video.average_rate else 25.0
    seconds = end + 1 / rate
    if video.frames and frames < video.frames:
        raise ResultInvalid(f"The file promises {video.frames} frames, but only {frames} decode.")
    if poster is None:  # the container promised more than it has
        raise ResultInvalid(f"The file promises {promised:.1f} s, but ends after {seconds:.1f} s.")
    context = video.codec_context
    return MediaFacts(
        seconds=round(seconds, 3),
        width=context.width,
        height=context.height,
        codec=context.name,
        frames=frames,
        has_audio=sound is not None and heard > 0,
        audio_seconds=round(heard, 3),
        poster=poster,
    )


def _jpeg(frame: av.VideoFrame) -> bytes:
    # Shrunk before it is converted: converting every pixel of a large frame takes ten times as long.
    shrink = min(1.0, POSTER_WIDTH / frame.width, 2 * POSTER_WIDTH / frame.height)
    width, height = (max(round(side * shrink), 1) for side in (frame.width, frame.height))
    small = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA)
    picture: Image.Image = small.to_image()  # type: ignore[no-untyped-call] # PyAV leaves it untyped
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=80)
    return output.getvalue()


def media_seconds(path: Path) -> float | None:
    """How long a recording or video plays, decoded rather than believed; None where nothing in it plays."""
    try:
        with av.open(str(path)) as container:
            streams = [*container.streams.audio, *container.streams.video]
            if not streams:
                return None
            end = 0.0
            for frame in container.decode(streams[0]):
                length = frame.samples / frame.sample_rate if isinstance(frame, av.AudioFrame) else 0.0
                end = max(end, (frame.time or 0.0) + length)
            return round(end, 3)
    except (av.error.FFmpegError, ValueError):
        return None


def mismatches(facts: MediaFacts, expected: MediaExpectation) -> list[str]:
    """In what a file is not what was asked for, in words; empty if it is.

    Parameters:
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

"""What a decoder measures in the streams of a file: how long they are presented, and whether anything is heard.

Imported by `decoder.py` in its process: nothing of this package may be imported here.
"""

from __future__ import annotations

import io
import math
from typing import Any

import av
from av.video.reformatter import Interpolation
from PIL import Image

MAX_FRAME_SECONDS = 2.0
"""A file that shows each frame for longer than this on average is no video."""

SILENCE = 32
"""The loudest sample of a silent recording, of 32768: -60 dB, which is less than the noise of a microphone."""


class Refused(Exception):
    """The file is not what it must be, or exceeds a limit; the text says in what."""


class Track:
    """What was read and decoded of one stream, and from when to when it is presented, in seconds."""

    def __init__(self) -> None:
        self.packets = 0
        self.kept = 0
        self.frames = 0
        self.start, self.last, self.end = math.inf, -math.inf, -math.inf
        self._lengths: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """How long it is presented: the end of its last frame minus the start of its first."""
        return self.end - self.start if self.frames else 0.0

    def read(self, packet: Any) -> None:
        """Count a packet before it is decoded. An edit list leaves frames out by a mark at their packets."""
        if not packet.size:
            return
        self.packets += 1
        self.kept += not packet.is_discard
        if packet.pts is not None and packet.duration and packet.time_base:
            self._lengths[packet.pts] = float(packet.duration * packet.time_base)

    def add(self, frame: Any) -> None:
        """Count a decoded frame. A frame without a timestamp follows the one before it."""
        at = frame.time if frame.time is not None else max(self.end, 0.0)
        length = self._lengths.pop(frame.pts, 0.04)  # else that of one frame at 25 a second
        if isinstance(frame, av.AudioFrame):
            length = frame.samples / frame.sample_rate if frame.sample_rate else 0.0
        self._place(at, length)

    def take(self, packet: Any) -> None:
        """Count a packet whose frame is not decoded. What an edit list leaves out is not presented.

        Args:
            packet: the sample.
        """
        self.packets += 1
        self.kept += not packet.is_discard
        if not packet.is_discard and packet.pts is not None:
            self._place(float(packet.pts * packet.time_base), float((packet.duration or 0) * packet.time_base))

    def _place(self, at: float, length: float) -> None:
        self.frames += 1
        self.start, self.last, self.end = min(self.start, at), max(self.last, at), max(self.end, at + length)


def presented(picture: Track, sound: Track, promised: float) -> float:
    """How long a video plays, from the first that is presented of it until its last frame ends.

    Args:
        picture: what was decoded of its picture.
        sound: what was decoded of its sound.
        promised: how long it plays by its own words, in seconds.

    Raises:
        Refused: it is not the file that it promises to be.
    """
    if picture.frames < picture.kept:
        raise Refused(f"it has {picture.kept} frames, but only {picture.frames} decode")
    seconds = picture.end - min(picture.start, sound.start)
    if seconds < promised / 3:
        raise Refused(f"it promises {promised:.1f} s, but ends after {seconds:.1f} s")
    if seconds > picture.frames * MAX_FRAME_SECONDS:
        raise Refused(f"it has {picture.frames} frames for {seconds:.1f} s")
    return seconds


def shown_size(frame: av.VideoFrame, stream: Any) -> tuple[int, int]:
    """Width and height as a player shows them: with the shape of the pixels, and turned as the file says.

    Args:
        frame: a decoded frame.
        stream: the stream that it is in.
    """
    width, height = frame.width, frame.height
    shape = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if shape:
        width = max(round(width * float(shape)), 1)
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)


class Loudness:
    """Whether anything in a recording is louder than `SILENCE`."""

    def __init__(self) -> None:
        self.is_heard = False
        self._resampler = av.AudioResampler(format="s16")

    def add(self, frame: av.AudioFrame) -> None:
        """Look at a frame; the first one that is loud enough decides."""
        if self.is_heard:
            return
        for piece in self._resampler.resample(frame):
            channels = len(piece.layout.channels)
            samples = memoryview(bytes(piece.planes[0])[: piece.samples * channels * 2]).cast("h")
            if samples and max(max(samples), -min(samples)) > SILENCE:
                self.is_heard = True


def jpeg_of(frame: av.VideoFrame, most: int) -> bytes:
    """A small picture of a frame, as JPEG.

    Args:
        frame: the frame.
        most: its width in pixels; it is twice as high at most.
    """
    # Shrunk before it is converted: converting every pixel of a large frame takes ten times as long.
    shrink = min(1.0, most / frame.width, 2 * most / frame.height)
    width, height = (max(round(side * shrink), 1) for side in (frame.width, frame.height))
    small = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA)
    picture: Image.Image = small.to_image()  # type: ignore[no-untyped-call] # PyAV leaves it untyped
    if frame.rotation:
        picture = picture.rotate(frame.rotation, expand=True)
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=80)
    return output.getvalue()

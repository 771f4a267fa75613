"""What a decoder process measures in a verified result: how long it is black or still, its first frame, its sound.

Imported by `decoder.py` in its process: nothing of this package may be imported here. It decodes a few key frames; and
all frames only where these leave a doubt, where the clip is small, or where it has too few key frames.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.video.reformatter import Interpolation
from PIL import Image, ImageChops

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_files import check_is_video_file, opened
    from prefect_genmedia._media.decoder_sound import SoundLevels
    from prefect_genmedia._media.decoder_tracks import Refused, Track, jpeg_of, presented, shown_size
    from prefect_genmedia._media.decoder_video import CODECS, UNPROBED, picture_of
else:
    from decoder_files import check_is_video_file, opened
    from decoder_sound import SoundLevels
    from decoder_tracks import Refused, Track, jpeg_of, presented, shown_size
    from decoder_video import CODECS, UNPROBED, picture_of

LEAST_CHANGE = 4
"""Change of a cell's mean brightness (0 to 255) that is motion in a clip without noise."""

MOST_CHANGE = 10
"""Change that is motion in any clip."""

FAINT = 40
"""Below this difference between its dark and bright cells, what moves in a picture changes half as much."""

CELL = 8
"""The shortest side of a cell in pixels: the mean of 64 pixels hides noise that the eye does not see either."""

MOST_CELLS = 80
"""Cells in a row or column at most: a mouth in a picture of 1280 pixels is larger than one."""

SMALL_PIXELS = 30_000_000
"""A clip with fewer pixels in all of its frames is decoded whole: a tenth of a second."""

DENSE_SECONDS = 0.1
"""Time between two samples of a clip that is decoded whole, in seconds."""

DENSE_SHARE = 1 / 24
"""The same for a short clip, as a share of its duration."""

START_SECONDS = 1.5
"""Of the beginning each frame is measured: a fade-in takes about a second."""

FADE_SHARE = 0.6
"""A picture that appears after a flat frame with less than this share of its contrast is faded in, not cut to."""


class Sample:
    """The picture at one moment, as a grid of means.

    Args:
        at: when it is presented, in seconds from the beginning.
        frame: the decoded frame.
        limits: as for `measured_quality`.
    """

    def __init__(self, at: float, frame: av.VideoFrame, limits: dict[str, Any]) -> None:
        self.at = at
        self._grey = _grid(frame, "gray")
        darkest, brightest = _range(self._grey)
        self.contrast = brightest - darkest
        self.is_black = self.is_flat = False
        is_dark, is_even = brightest < 2 * limits["black_level"], self.contrast <= limits["flat_contrast"]
        if is_dark or is_even:  # colours take as long again, and could only be brighter, or differ more
            self._take_colours(_grid(frame, "rgb24"), limits)

    def _take_colours(self, colours: Image.Image, limits: dict[str, Any]) -> None:
        darkest, brightest = _range(_strongest(colours))
        is_empty = brightest - darkest <= limits["black_contrast"]
        self.contrast = max(high - low for low, high in map(_range, colours.split()))
        self.is_black = brightest < limits["black_level"] * (2 if is_empty else 1)
        self.is_flat = self.contrast <= limits["flat_contrast"]

    def moved(self, other: Sample) -> bool:
        """Whether something in the picture is at another place than in the other sample.

        Noise and compression change many cells a little; motion changes at least one cell more than that. The limit
        grows with the change that a tenth of the cells exceeds, up to where no noise reaches.
        """
        change = ImageChops.difference(self._grey, other._grey)
        usual, is_faint = _level(change, 0.9), max(self.contrast, other.contrast) < FAINT
        limit = LEAST_CHANGE // 2 + usual if is_faint else LEAST_CHANGE + 2 * usual
        return _level(change, 1.0) >= min(limit, MOST_CHANGE)


def _grid(frame: av.VideoFrame, kind: str) -> Image.Image:
    columns, rows = (max(min(side // CELL, MOST_CELLS), 2) for side in (frame.width, frame.height))
    small = frame.reformat(columns, rows, kind, interpolation=Interpolation.AREA)
    picture: Image.Image = small.to_image()  # type: ignore[no-untyped-call] # PyAV leaves it untyped
    return picture if kind == "rgb24" else picture.convert("L")


def _strongest(cells: Image.Image) -> Image.Image:
    """The largest of the three channels: a dark blue picture is not black."""
    red, green, blue = cells.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _range(channel: Image.Image) -> tuple[int, int]:
    """The level that 1 % of the cells are below, and the one that 1 % are above."""
    return _level(channel, 0.01), _level(channel, 0.99)


def _level(channel: Image.Image, share: float) -> int:
    """The level that this share of the cells does not exceed."""
    histogram = channel.histogram()
    left = math.ceil(share * sum(histogram))
    for level, count in enumerate(histogram):
        left -= count
        if left <= 0:
            return level
    return 255


def measured_quality(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Measure a result; see the module.

    Args:
        path: the file.
        limits: what decoding it may take; `black_level`, `black_contrast` and `flat_contrast` of a picture,
            `black_seconds`, `black_share`, `still_seconds` and `still_share` that are reported, `heard_level` of sound,
            `checks`, and `faces`: how many pictures to return for the search for faces, of `face_width` pixels.

    Raises:
        Refused: it is no video.
    """
    check_is_video_file(path)
    found: dict[str, Any] = {}
    with opened(path, limits, UNPROBED, "mov") as container:
        stream = picture_of(container, limits)
        if any(each.codec_context.name not in CODECS for each in (stream, *container.streams.audio[:1])):
            raise Refused("it has a stream that no decoder here reads")
        stream.codec_context.thread_count = 1
        picture, sound, levels = Index(), Track(), SoundLevels(limits["heard_level"])
        for packet in container.demux([stream, *container.streams.audio[:1]]):
            if packet.stream.type == "audio":
                sound.read(packet)
                for heard in packet.decode():
                    sound.add(heard)
                    if isinstance(heard, av.AudioFrame):
                        levels.add(heard)
            elif packet.size and packet.pts is not None:
                picture.read(packet)
        seconds = presented(picture.track, sound, 0.0)
        found |= {"seconds": round(seconds, 3), "has_audio": sound.seconds > 0} | levels.found()
        found["audio_seconds"] = round(max(sound.end - picture.track.end + seconds, 0.0), 3) if sound.frames else 0.0
        watch = Watch(container, stream, picture, limits)
        found |= watch.found()
    return found


class Index:
    """The frames of a clip without their content: when they are presented, and which are key frames."""

    def __init__(self) -> None:
        self.track = Track()
        self.keys: list[int] = []

    def read(self, packet: Any) -> None:
        """Count a packet."""
        self.track.take(packet)
        if packet.is_keyframe and not packet.is_discard:
            self.keys.append(packet.pts)


class Watch:
    """The samples of a clip: few, if these leave no doubt, or of the whole of it.

    Args:
        container: the clip.
        stream: the stream of its picture.
        index: its frames.
        limits: as for `measured_quality`.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: Any, index: Index, limits: dict[str, Any]
    ) -> None:
        self._container, self._stream, self._index, self._limits = container, stream, index, limits
        self._start, self.seconds = index.track.start, max(index.track.seconds, 1e-3)
        self._still = min(limits["still_share"] * self.seconds, limits["still_seconds"])
        self._black = min(limits["black_share"] * self.seconds, limits["black_seconds"])
        self.decoded = 0
        self.shape = (0, 0)
        self.faces: list[str] = []

    def found(self) -> dict[str, Any]:
        """The measurements."""
        samples = self._sparse()
        if samples is None or self._is_doubtful(samples):
            samples = list(self._dense())
        black, still = self._stretches(samples)
        width, height = self.shape
        return {
            "width": width,
            "height": height,
            "black_seconds": round(black, 3),
            "black_limit": round(self._black, 3),
            "still_seconds": round(still, 3),
            "still_limit": round(self._still, 3),
            "flat_first_frame": self._begins_flat(samples),
            "first_contrast": samples[0].contrast if samples else 0,
            "decoded_frames": self.decoded,
            "frames": self._index.track.frames,
            "faces": self.faces,
        }

    def _sparse(self) -> list[Sample] | None:
        """Samples so close that no stretch to report lies between them; None if only the whole clip can tell."""
        size = self._stream.codec_context.width * self._stream.codec_context.height
        if self._index.track.frames * size <= SMALL_PIXELS or self._limits["faces"]:
            return None
        step = min(self._still / 2, self._black)
        chosen = _spaced(self._index.keys, step / float(self._stream.time_base))
        ends = [*chosen, (self._start + self.seconds) / float(self._stream.time_base)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
        if max(gaps, default=math.inf) * float(self._stream.time_base) <= step:
            self.decoded += len(chosen)
            return list(self._key_frames(chosen))
        return None

    def _is_doubtful(self, samples: list[Sample]) -> bool:
        is_empty = not samples or samples[0].is_flat or any(sample.is_black for sample in samples)
        return is_empty or not all(one.moved(later) for one, later in itertools.pairwise(samples))

    def _key_frames(self, times: list[int]) -> Iterator[Sample]:
        """Samples of key frames, each decoded alone: no frame after it has to be read."""
        context = self._stream.codec_context
        for pts in times:
            self._container.seek(pts, stream=self._stream)
            packet = next(each for each in self._container.demux(self._stream) if each.size)
            frames = [*context.decode(packet), *context.decode(None)]
            context.flush_buffers()
            for frame in frames[:1]:
                yield self._sample(frame)

    def _dense(self) -> Iterator[Sample]:
        """Samples of the whole clip: each frame until something is seen, then one at each step."""
        step, due = min(DENSE_SECONDS, DENSE_SHARE * self.seconds), -math.inf
        part, faces, has_begun = self.seconds / max(self._limits["faces"], 1), self._limits["faces"], False
        for frame in self._all_frames():
            at = self._time(frame)
            if len(self.faces) < faces and at >= part * (len(self.faces) + 0.5):
                self.faces.append(base64.b64encode(jpeg_of(frame, self._limits["face_width"])).decode())
            if at >= due - 1e-6 or not has_begun:
                due, sample = at + step, self._sample(frame)
                has_begun = has_begun or not sample.is_flat or at > START_SECONDS
                yield sample
            if self.decoded > self._limits["frames"]:
                break

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        self._stream.codec_context.flush_buffers()
        self._container.seek(self._index.keys[0] if self._index.keys else 0, stream=self._stream)
        for frame in self._container.decode(self._stream):
            self.decoded += 1
            yield frame

    def _sample(self, frame: av.VideoFrame) -> Sample:
        self.shape = shown_size(frame, self._stream)
        return Sample(self._time(frame), frame, self._limits)

    def _time(self, frame: av.VideoFrame) -> float:
        return (frame.time if frame.time is not None else self._start) - self._start

    def _stretches(self, samples: list[Sample]) -> tuple[float, float]:
        """The longest time in seconds in which the picture is black, and in which it is the same one and not black."""
        black = still = 0.0
        since: Sample | None = None
        begun: Sample | None = None
        for sample, until in zip(samples, [*(each.at for each in samples[1:]), self.seconds], strict=True):
            if sample.is_black:
                since = since or sample
                black, begun = max(black, until - since.at), None
                continue
            since = None
            begun = begun if begun is not None and not begun.moved(sample) else sample
            if begun is not sample:
                still = max(still, until - begun.at)
        return black, still

    def _begins_flat(self, samples: list[Sample]) -> bool:
        """Whether the first frame shows nothing, and the picture is then cut to; a fade-in is meant to be seen."""
        start = [sample for sample in samples if sample.at <= START_SECONDS]
        if not start or not start[0].is_flat:
            return False
        shown = next((sample for sample in start if not sample.is_flat), None)
        return shown is None or shown.contrast >= FADE_SHARE * max(sample.contrast for sample in start)


def _spaced(keys: list[int], step: float) -> list[int]:
    """As few of the key frames as lie no farther apart than a step, where the clip has such ones."""
    chosen: list[int] = []
    for key, later in zip(sorted(keys), [*sorted(keys)[1:], math.inf], strict=True):
        if not chosen or later - chosen[-1] > step:
            chosen.append(key)
    return chosen

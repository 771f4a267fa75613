"""The clips that the benchmark's simulator hands out: 5 s at 24 frames a second, of three sizes, made once by PyAV.

- flat: 720p, a plain picture with a bar that moves: some 0.2 MB. The smallest that a provider delivers.
- ordinary: 720p, textures that move at some 5 Mbit/s: 3 MB, as most results are.
- rich: 1080p, textures and grain at some 32 Mbit/s: 20 MB.

Each has sound, and lies under build/clips/ for the next run.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageChops, ImageDraw

SECONDS = 5
RATE = 24
FRAMES = SECONDS * RATE + 1  # as the providers make them
SAMPLE_RATE = 48_000
FOLDER = Path(__file__).resolve().parents[1] / "build" / "clips"


@dataclass(frozen=True)
class Clip:
    """One kind of clip.

    Args:
        name: how it is called in tables.
        size: width and height in pixels.
        megabits: megabits a second of its picture.
        grain: how strong its noise is, from 0 to 255; 0 shows a plain picture.
        model: the model that is asked for it.
        share: the share of a benchmark's jobs that it is measured with: a thousand rich files take 20 GB.
    """

    name: str
    size: tuple[int, int]
    megabits: float
    grain: int
    model: str
    share: float = 1.0

    @property
    def title(self) -> str:
        """The kind in words: what it is and how many bytes it has."""
        return f"{self.name}: {SECONDS} s, {self.size[1]}p, {RATE} frames a second, {self.bytes / 1e6:.1f} MB"

    @property
    def path(self) -> Path:
        """Where the file is; it is made where it is not there."""
        path = FOLDER / f"{self.name}-1.mp4"
        if not path.exists():
            FOLDER.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            _encode(self, part)
            part.replace(path)
        return path

    @property
    def bytes(self) -> int:
        """The file's size."""
        return self.path.stat().st_size


CLIPS = {
    clip.name: clip
    for clip in (
        Clip("flat", (1280, 720), 0.25, 0, "jimeng-video-3.0-720P"),
        Clip("ordinary", (1280, 720), 4.8, 24, "jimeng-video-3.0-720P"),
        Clip("rich", (1920, 1080), 32.0, 60, "jimeng-video-3.0-1080P", 0.2),
    )
}


def _encode(clip: Clip, path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height = clip.size
        video.pix_fmt = "yuv420p"
        video.bit_rate = int(clip.megabits * 1e6)
        limit = str(int(clip.megabits * 1.5e6))
        preset = "veryfast" if clip.grain else "ultrafast"
        video.options = {"preset": preset, "maxrate": limit, "bufsize": limit, "g": str(2 * RATE)}
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        for index, frame in enumerate(_frames(clip)):
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for piece in _tone():
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))


def _frames(clip: Clip) -> Iterator[av.VideoFrame]:
    """A texture that drifts, with grain of its own in each frame; a plain picture where there is no grain."""
    random.seed(clip.name)
    width, height = clip.size
    texture = _texture((width + 2 * FRAMES, height)) if clip.grain else None
    grains = [Image.effect_noise(clip.size, clip.grain) for _ in range(8)] if clip.grain else []
    for index in range(FRAMES):
        if texture is None:
            picture = Image.new("RGB", clip.size, (70, 90, 120))
        else:
            drifted = texture.crop((2 * index, 0, 2 * index + width, height))
            grain = ImageChops.offset(grains[index % 8], 37 * index, 53 * index)
            picture = Image.merge("RGB", [ImageChops.add(band, grain, 1, -128) for band in drifted.split()])
        bar = int(width * (index + 1) / FRAMES)
        ImageDraw.Draw(picture).rectangle((0, height - height // 60, bar, height), fill=(255, 255, 255))
        yield av.VideoFrame.from_image(picture)


def _texture(size: tuple[int, int]) -> Image.Image:
    """Clouds of three scales, in colour."""
    bands = []
    for _ in range(3):
        band = Image.new("L", size, 128)
        for scale in (8, 32, 128):
            coarse = Image.effect_noise((size[0] // scale + 1, size[1] // scale + 1), 90)
            band = ImageChops.blend(band, coarse.resize(size, Image.Resampling.BICUBIC), 0.4)
        bands.append(band)
    return Image.merge("RGB", bands)


def _tone() -> Iterator[av.AudioFrame]:
    """A chord, in frames of 1024 samples."""
    for index, begin in enumerate(range(0, SECONDS * SAMPLE_RATE, 1024)):
        samples = bytearray()
        for number in range(begin, begin + 1024):
            value = int(6000 * sum(math.sin(math.tau * number * pitch / SAMPLE_RATE) for pitch in (220, 277, 330)))
            samples += max(min(value, 32767), -32768).to_bytes(2, "little", signed=True) * 2
        frame = av.AudioFrame(format="s16", layout="stereo", samples=1024)
        frame.planes[0].update(bytes(samples))
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, index * 1024, Fraction(1, SAMPLE_RATE)
        yield frame


if __name__ == "__main__":
    for each in CLIPS.values():
        print(each.title, each.path, flush=True)

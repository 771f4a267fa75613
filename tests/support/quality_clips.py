"""Small clips, good and bad, for the tests of quality checks: drawn and encoded here, from a seed."""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from prefect_genmedia.providers.protocol import MediaExpectation

RATE = 15
SOUND_RATE = 16_000
SECONDS = 2.0
WIDE, TALL = (160, 90), (90, 160)

Frames = Callable[[], Iterator[Image.Image]]
Sound = Sequence[Sequence[float]]
"""Channels of samples from -1 to 1."""


@dataclass(frozen=True)
class Clip:
    """A clip, and the check that must flag it; None for a good one."""

    name: str
    frames: Frames
    sound: Sound | None = None
    flaw: str | None = None
    expected: MediaExpectation = field(default_factory=MediaExpectation)
    turned: bool = False
    codec: tuple[tuple[str, str], ...] = (("preset", "ultrafast"), ("crf", "23"))

    def write(self, path: Path) -> Path:
        """Encode it."""
        encode(path, self.frames(), self.sound, dict(self.codec))
        if self.turned:
            turn(path)
        return path


def encode(path: Path, frames: Iterator[Image.Image], sound: Sound | None, codec: dict[str, str]) -> None:
    """Write an mp4 file with H.264, and AAC where there is sound."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        first = next(frames)
        video = container.add_stream("libx264", rate=RATE, options=codec)
        video.width, video.height, video.pix_fmt = *first.size, "yuv420p"
        layout = "stereo" if sound is not None and len(sound) == 2 else "mono"
        track = container.add_stream("aac", rate=SOUND_RATE, layout=layout) if sound is not None else None
        for index, picture in enumerate(itertools.chain([first], frames)):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None and sound is not None:
            samples = array("h", (round(32767 * max(-1.0, min(each, 1.0))) for each in interleaved(sound)))
            size = 1024 * len(sound)
            for begin in range(0, len(samples), size):
                piece = samples[begin : begin + size]
                part = av.AudioFrame(format="s16", layout=layout, samples=len(piece) // len(sound))
                part.planes[0].update(piece.tobytes())
                part.sample_rate, part.pts = SOUND_RATE, begin // len(sound)
                part.time_base = Fraction(1, SOUND_RATE)
                container.mux(track.encode(part))
            container.mux(track.encode(None))


def interleaved(sound: Sound) -> Iterator[float]:
    return itertools.chain.from_iterable(zip(*sound, strict=True))


def turn(path: Path) -> None:
    """Say in the file's header that players show it turned by a quarter."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, volume: then the matrix
    numbers = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)


@lru_cache(maxsize=64)
def scene(seed: int, size: tuple[int, int] = WIDE, scale: float = 1.0) -> Image.Image:
    """A picture with areas and shapes of different colours."""
    draw_from = random.Random(seed)
    picture = Image.new("RGB", size, tuple(draw_from.randrange(40, 200) for _ in range(3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y = draw_from.randrange(-20, size[0]), draw_from.randrange(-20, size[1])
        box = (x, y, x + draw_from.randrange(10, 70), y + draw_from.randrange(10, 70))
        shape = draw.ellipse if draw_from.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(draw_from.randrange(20, 250) for _ in range(3)))
    return ImageEnhance.Brightness(picture.filter(ImageFilter.GaussianBlur(0.7))).enhance(scale)


def noisy(picture: Image.Image, sigma: float, seed: int) -> Image.Image:
    """The picture with noise of this strength. Pillow's own noise has no seed: it is rolled by one."""
    noise = grain(picture.size, sigma)
    noise = ImageChops.offset(noise, (seed * 37) % picture.width, (seed * 23) % picture.height)
    return ImageChops.add(picture, Image.merge("RGB", [noise] * 3), 1.0, -128)


@lru_cache(maxsize=16)
def grain(size: tuple[int, int], sigma: float) -> Image.Image:
    draw_from = random.Random(f"{size}{sigma}")
    levels = bytes(max(0, min(255, round(draw_from.gauss(128, sigma)))) for _ in range(size[0] * size[1]))
    return Image.frombytes("L", size, levels)


def frame_count(seconds: float = SECONDS) -> int:
    return round(seconds * RATE)


def talking(
    seed: int, size: tuple[int, int] = WIDE, mouth: int = 8, noise: float = 0.0, seconds: float = SECONDS
) -> Frames:
    """A head before a background that stands still: its mouth opens and closes."""

    def frames() -> Iterator[Image.Image]:
        width, height = size
        x, y = width // 2, height // 2
        for index in range(frame_count(seconds)):
            picture = scene(seed, size).copy()
            draw = ImageDraw.Draw(picture)
            draw.ellipse((x - 20, y - 28, x + 20, y + 28), fill=(220, 180, 150))
            opened = mouth * abs(math.sin(0.9 * index + seed))
            draw.ellipse((x - mouth, y + 10, x + mouth, y + 11 + opened), fill=(70, 20, 30))
            yield noisy(picture, noise, index) if noise else picture

    return frames


def swaying(seed: int, size: tuple[int, int] = WIDE, pixels: float = 1.0) -> Frames:
    """A head that hardly moves: by a pixel from side to side, and it blinks."""

    def frames() -> Iterator[Image.Image]:
        x, y = size[0] // 2, size[1] // 2
        for index in range(frame_count()):
            picture = scene(seed, size).copy()
            draw = ImageDraw.Draw(picture)
            shift = pixels * math.sin(2 * math.pi * index / RATE)
            draw.ellipse((x - 20 + shift, y - 28, x + 20 + shift, y + 28), fill=(220, 180, 150))
            if index % RATE > 1:
                for eye in (-8, 8):
                    draw.ellipse((x + eye - 3 + shift, y - 8, x + eye + 3 + shift, y - 4), fill=(20, 20, 40))
            yield picture

    return frames


def panning(
    seed: int, size: tuple[int, int] = WIDE, speed: float = 0.5, scale: float = 1.0, until: float = 1.0
) -> Frames:
    """A view that moves along a large picture, until a part of the time has passed."""

    def frames() -> Iterator[Image.Image]:
        count = frame_count()
        large = scene(seed, (size[0] * 2, size[1]), scale)
        for index in range(count):
            x = speed * min(index, until * count)
            yield large.transform(size, Image.Transform.AFFINE, (1, 0, x, 0, 1, 0), Image.Resampling.BILINEAR)

    return frames


def letterboxed(inner: Frames, bar: int = 14) -> Frames:
    def frames() -> Iterator[Image.Image]:
        for picture in inner():
            draw = ImageDraw.Draw(picture)
            draw.rectangle((0, 0, picture.width, bar), fill=0)
            draw.rectangle((0, picture.height - bar, picture.width, picture.height), fill=0)
            yield picture

    return frames


def faded(inner: Frames, colour: int, begin: int, end: int = 0) -> Frames:
    """The frames, faded in over so many frames, and out over so many."""

    def frames() -> Iterator[Image.Image]:
        pictures = list(inner())
        for index, picture in enumerate(pictures):
            left = len(pictures) - 1 - index
            share = min(index / begin if begin else 1.0, left / end if end else 1.0, 1.0)
            yield Image.blend(Image.new("RGB", picture.size, (colour,) * 3), picture, share)

    return frames


def replaced(inner: Frames, which: Callable[[int], bool], by: Callable[[tuple[int, int], int], Image.Image]) -> Frames:
    """The frames, some of them replaced."""

    def frames() -> Iterator[Image.Image]:
        for index, picture in enumerate(inner()):
            yield by(picture.size, index) if which(index) else picture

    return frames


def plain(colour: tuple[int, int, int], noise: float = 0.0) -> Callable[[tuple[int, int], int], Image.Image]:
    def made(size: tuple[int, int], index: int) -> Image.Image:
        picture = Image.new("RGB", size, colour)
        return noisy(picture, noise, index) if noise else picture

    return made


def still(seed: int, size: tuple[int, int] = WIDE, noise: float = 0.0) -> Frames:
    """A picture that stands still, with or without noise."""

    def frames() -> Iterator[Image.Image]:
        for index in range(frame_count()):
            yield noisy(scene(seed, size), noise, index) if noise else scene(seed, size)

    return frames


@lru_cache(maxsize=16)
def speech(seed: int = 0, seconds: float = SECONDS) -> tuple[float, ...]:
    """Something like speech: a voice of changing pitch in syllables with pauses; its loudest sample is 1."""
    draw_from = random.Random(seed)
    phase, samples = 0.0, []
    pitch, loudness = 120.0, 0.0
    for index in range(int(seconds * SOUND_RATE)):
        if index % 2000 == 0:
            pitch, loudness = draw_from.uniform(90, 220), draw_from.choice((0.0, 0.4, 0.7, 1.0))
        phase += 2 * math.pi * pitch / SOUND_RATE
        envelope = loudness * math.sin(math.pi * (index % 2000) / 2000)
        samples.append(envelope * (math.sin(phase) + 0.5 * math.sin(2 * phase + 1) + 0.3 * math.sin(5 * phase)))
    most = max(map(abs, samples))
    return tuple(sample / most for sample in samples)


@lru_cache(maxsize=16)
def music(seed: int = 0, seconds: float = SECONDS) -> tuple[float, ...]:
    """Chords and a drum; the loudest sample is 1."""
    draw_from = random.Random(seed)
    tones = [draw_from.uniform(100, 2000) for _ in range(6)]
    samples = []
    for index in range(int(seconds * SOUND_RATE)):
        at = index / SOUND_RATE
        drum = math.exp(-20 * (at % 0.5)) * draw_from.gauss(0, 1)
        samples.append(sum(math.sin(2 * math.pi * tone * at) for tone in tones) + drum)
    most = max(map(abs, samples))
    return tuple(sample / most for sample in samples)


def tone(hertz: float, seconds: float = SECONDS) -> tuple[float, ...]:
    return tuple(math.sin(2 * math.pi * hertz * index / SOUND_RATE) for index in range(int(seconds * SOUND_RATE)))


def hiss(sigma: float, seed: int = 0, seconds: float = SECONDS) -> tuple[float, ...]:
    draw_from = random.Random(seed)
    return tuple(draw_from.gauss(0, sigma) for _ in range(int(seconds * SOUND_RATE)))


def louder(samples: Sequence[float], gain: float) -> tuple[float, ...]:
    """The samples times a gain; what exceeds full scale is clipped when it is written."""
    return tuple(gain * sample for sample in samples)


def late(samples: Sequence[float], seconds: float) -> tuple[float, ...]:
    silence = (0.0,) * int(seconds * SOUND_RATE)
    return (*silence, *samples)[: len(samples)]


def silence(seconds: float = SECONDS) -> tuple[float, ...]:
    return (0.0,) * int(seconds * SOUND_RATE)


def good_clips() -> Iterator[Clip]:
    """A hundred clips with nothing wrong."""
    return itertools.chain(_people(), _views(), _sounds(), _as_asked())


def _people() -> Iterator[Clip]:
    for seed in range(12):
        size = (WIDE, TALL, (128, 96), (64, 64))[seed % 4]
        yield Clip(f"talking-{seed}", talking(seed, size, mouth=6 + seed % 4), (louder(speech(seed % 3), 0.6),))
    for seed in range(8):
        codec = (("preset", "veryfast"), ("crf", str(20 + 2 * seed)), ("g", "8"))
        yield Clip(f"talking-noise-{seed}", talking(seed, noise=1.5 + seed % 3), (louder(speech(1), 0.5),), codec=codec)
    for seed in range(10):
        yield Clip(f"hardly-moves-{seed}", swaying(seed, pixels=1 + seed % 2), (louder(speech(2), 0.3),))


def _views() -> Iterator[Clip]:
    for seed in range(14):
        yield Clip(f"pan-{seed}", panning(seed, (WIDE, TALL)[seed % 2], speed=0.3 + 0.1 * seed))
    for seed in range(10):
        yield Clip(f"dark-{seed}", panning(seed, speed=0.6, scale=0.1 + 0.02 * seed))
    for seed in range(6):
        yield Clip(f"dark-letterboxed-{seed}", letterboxed(panning(seed, speed=1, scale=0.12 + 0.02 * seed)))
    for seed in range(12):
        inner = panning(seed, speed=0.8) if seed % 2 else talking(seed)
        yield Clip(f"fade-{seed}", faded(inner, (0, 255)[seed // 2 % 2], 4 + seed // 2, (0, 6)[seed % 2]))


def _sounds() -> Iterator[Clip]:
    for seed in range(8):
        yield Clip(f"quiet-{seed}", talking(seed), (louder(speech(seed % 3), 0.01 * (1 + seed % 4)),))
    for seed in range(8):
        yield Clip(f"loud-{seed}", panning(seed), (louder(music(seed % 4), 0.9 + 0.012 * seed),) * (1 + seed % 2))
    for seed in range(4):
        quiet, heard = silence(), louder(speech(seed % 3), 0.4)
        yield Clip(f"one-channel-{seed}", talking(seed), (quiet, heard) if seed % 2 else (heard, quiet))
    for seed in range(4):
        yield Clip(f"late-{seed}", talking(seed), (late(louder(speech(0), 0.5), 0.4 * (seed + 1)),))


def _as_asked() -> Iterator[Clip]:
    for seed in range(4):
        turned, ratio = seed % 2 == 1, 9 / 16 if seed % 2 else 16 / 9
        asked = MediaExpectation(aspect_ratio=ratio, seconds=SECONDS + (0.2, -0.3)[seed // 2])
        yield Clip(f"as-asked-{seed}", panning(seed, speed=1), expected=asked, turned=turned)


def bad_clips() -> Iterator[Clip]:
    """A hundred clips with one thing wrong."""
    return itertools.chain(_black(), _frozen(), _silent(), _clipped(), _other_flaws())


def _black() -> Iterator[Clip]:
    for seed in range(6):
        yield Clip(
            f"black-{seed}", replaced(still(0), bool_of(True), plain((seed, seed, seed), seed * 0.8)), flaw="black"
        )
    for seed in range(4):
        nearly = plain((14 + seed, 14, 16), 2.0)
        yield Clip(f"nearly-black-{seed}", replaced(still(0), bool_of(True), nearly), flaw="black")
    for seed in range(6):
        later = replaced(panning(seed, speed=1), lambda index: index >= 15, plain((0, 0, 0)))
        yield Clip(f"black-half-{seed}", later, (louder(speech(1), 0.4),), flaw="black")


def _frozen() -> Iterator[Clip]:
    for seed in range(8):
        yield Clip(f"frozen-{seed}", still(seed, (WIDE, TALL)[seed % 2]), (louder(speech(0), 0.4),), flaw="frozen")
    for seed in range(8):
        codec = (("preset", "veryfast"), ("crf", str(14 + 3 * seed)), ("g", ("8", "250")[seed % 2]))
        yield Clip(f"frozen-noise-{seed}", still(seed, noise=1 + seed % 3), flaw="frozen", codec=codec)
    for seed in range(8):
        yield Clip(f"frozen-half-{seed}", panning(seed, speed=1 + 0.2 * seed, until=0.5), flaw="frozen")


def _silent() -> Iterator[Clip]:
    for seed in range(5):
        yield Clip(f"silent-{seed}", talking(seed), (silence(),) * (1 + seed % 2), flaw="silent")
    for seed in range(5):
        yield Clip(f"hiss-{seed}", talking(seed), (hiss(0.0002 * (1 + seed)),), flaw="silent")
    for seed in range(2):
        yield Clip(f"no-sound-{seed}", talking(seed), flaw="silent", expected=MediaExpectation(has_audio=True))


def _clipped() -> Iterator[Clip]:
    for seed in range(5):
        yield Clip(f"clipped-speech-{seed}", talking(seed), (louder(speech(seed % 3), 2 + seed),), flaw="clipped")
    for seed in range(6):
        sound = louder(music(seed % 4), 2 + 0.5 * seed)
        yield Clip(f"clipped-music-{seed}", panning(seed), (sound,) * (1 + seed % 2), flaw="clipped")
    for seed in range(3):
        yield Clip(f"clipped-tone-{seed}", panning(seed), (louder(tone(220 * (seed + 1)), 1.5),), flaw="clipped")


def _other_flaws() -> Iterator[Clip]:
    for seed in range(10):
        is_wide, turned = seed % 2 == 0, seed >= 5
        asked = MediaExpectation(orientation_ratio=9 / 16 if is_wide != turned else 16 / 9)
        frames = panning(seed, WIDE if is_wide else TALL, speed=1)
        yield Clip(f"orientation-{seed}", frames, flaw="orientation", expected=asked, turned=turned)
    for seed in range(14):
        colour = ((255, 255, 255), (0, 0, 0), (40, 90, 200), (128, 128, 128))[seed % 4]
        shown = replaced(panning(seed, speed=1), lambda index, count=1 + seed // 5: index < count, plain(colour))
        yield Clip(f"flat-{seed}", shown, flaw="flat_first_frame")
    for seed in range(6):
        asked = MediaExpectation(seconds=SECONDS + (0.6, 1.0, 3.0, -0.6, -0.8, -1.0)[seed])
        yield Clip(f"duration-{seed}", panning(seed, speed=1), flaw="duration", expected=asked)
    for seed in range(4):
        sound = louder(speech(0), 0.5)[: int(SOUND_RATE * (0.5 + 0.2 * seed))]
        yield Clip(f"sound-ends-{seed}", talking(seed), (sound,), flaw="duration")


def bool_of(answer: bool) -> Callable[[int], bool]:
    return lambda index: answer

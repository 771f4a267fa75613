"""Real media: inputs are fetched and read, masks are drawn, videos are encoded from them."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

import av
import httpx
from PIL import Image, ImageDraw

ASSETS = Path(__file__).parent / "assets"
SAMPLE_RATE = 48_000

_RESERVED_HOSTS = ("example.com", "example.org", "example.net")
_RESERVED_ENDINGS = (".example", ".test", ".invalid", ".example.com")

CLIP = "clip.mp4"
"""The sample video: it is rendered when it is first asked for, not shipped."""


class UnusableInput(Exception):
    """An input cannot be fetched or read."""


@functools.lru_cache(maxsize=64)
def asset(name: str) -> bytes:
    """A file that ships with the simulator, or the sample video."""
    if name == CLIP:
        return render(Recipe(asset("portrait.jpg"), asset("speech.mp3"), seconds=3.0, short_side=360))
    return (ASSETS / name).read_bytes()


def fetch_input(url: str, stand_in: str, sample_hosts: tuple[str, ...] = ()) -> bytes:
    """The bytes behind an input's URL.

    Hosts that exist only in documentation (`example.com` and the like) answer with the shipped file `stand_in`, so
    that the providers' own examples run.

    Args:
        url: an http(s) URL, or a `data:` URI.
        stand_in: the shipped file.
        sample_hosts: the hosts of a provider's own examples.

    Raises:
        UnusableInput: nothing can be fetched.
    """
    if url.startswith("data:"):
        try:
            return base64.b64decode(url.partition(",")[2], validate=True)
        except ValueError:
            raise UnusableInput("the base64 text cannot be decoded") from None
    if is_reserved(url, sample_hosts):
        return asset(stand_in)
    return _fetched(url)


def is_reserved(url: str, sample_hosts: tuple[str, ...] = ()) -> bool:
    """Whether a URL's host exists only in documentation.

    Args:
        url: the URL.
        sample_hosts: further such hosts, with all below them.
    """
    host = urlsplit(url).hostname or ""
    endings = (*_RESERVED_ENDINGS, *(f".{sample}" for sample in sample_hosts))
    return host in (*_RESERVED_HOSTS, *sample_hosts) or host.endswith(endings)


@functools.lru_cache(maxsize=128)
def _fetched(url: str) -> bytes:
    try:
        answer = httpx.get(url, timeout=60.0, follow_redirects=True)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise UnusableInput(f"{url} cannot be fetched: {error}") from None
    return answer.content


def read_picture(content: bytes) -> Image.Image:
    """An input picture.

    Raises:
        UnusableInput: it is none.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            converted: Image.Image = picture.convert("RGB")
            return converted
    except (OSError, ValueError):
        raise UnusableInput("the picture cannot be read") from None


def draw_masks(content: bytes, count: int | None) -> list[bytes]:
    """One PNG a subject, white on black, the largest area first.

    Args:
        content: the picture's bytes.
        count: how many subjects to find; None for the true number in the shipped portrait, else one.
    """
    picture = read_picture(content)
    shapes = _known_shapes(content) if count is None else None
    masks = []
    for shape in shapes or _ovals(picture.size, count if count is not None else 1):
        mask = Image.new("L", picture.size, 0)
        ImageDraw.Draw(mask).polygon(shape, fill=255)
        masks.append(mask)
    masks.sort(key=lambda mask: -mask.histogram()[255])
    return [png(mask) for mask in masks]


def _known_shapes(content: bytes) -> list[list[tuple[float, float]]] | None:
    if content != asset("portrait.jpg"):
        return None
    subjects = json.loads(asset("subjects.json"))["subjects"]
    return [[(float(x), float(y)) for x, y in subject["polygon"]] for subject in subjects]


def _ovals(size: tuple[int, int], count: int) -> list[list[tuple[float, float]]]:
    """Ovals side by side, each a little smaller than the one to its left."""
    width, height = size
    ovals = []
    for index in range(count):
        center = (index + 0.5) * width / count
        across, down = 0.4 * width / count * 0.93**index, 0.45 * height * 0.93**index
        ovals.append(
            [(center + across * math.cos(angle / 10), height / 2 + down * math.sin(angle / 10)) for angle in range(63)]
        )
    return ovals


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    output = io.BytesIO()
    picture.save(output, "PNG")
    return output.getvalue()


@functools.lru_cache(maxsize=16)
def first_frame(content: bytes) -> tuple[Image.Image, float, bool]:
    """A video's first picture, its length in seconds, and whether it has sound.

    Raises:
        UnusableInput: there is no picture in it that decodes.
    """
    try:
        with av.open(io.BytesIO(content)) as container:
            seconds = float(container.duration / av.time_base) if container.duration else 0.0
            frame = next(container.decode(video=0))
            picture: Image.Image = frame.to_image()
            return picture, seconds, bool(container.streams.audio)
    except (av.error.FFmpegError, IndexError, StopIteration, ValueError):
        raise UnusableInput("the video cannot be read") from None


def sound_seconds(content: bytes) -> float:
    """How long a recording plays.

    Raises:
        UnusableInput: nothing in it plays.
    """
    return len(_decoded_sound(content)) / SAMPLE_RATE / 4


@functools.lru_cache(maxsize=16)
def _decoded_sound(content: bytes) -> bytes:
    """The recording as 16-bit stereo samples at `SAMPLE_RATE`."""
    resampler = av.AudioResampler(format="s16", layout="stereo", rate=SAMPLE_RATE)
    samples = bytearray()
    try:
        with av.open(io.BytesIO(content)) as container:
            for frame in itertools.chain(container.decode(audio=0), [None]):
                for piece in resampler.resample(frame):
                    samples += bytes(piece.planes[0])[: piece.samples * 4]
    except (av.error.FFmpegError, IndexError, ValueError):
        raise UnusableInput("the recording cannot be read") from None
    if not samples:
        raise UnusableInput("the recording is empty")
    return bytes(samples)


@dataclass(frozen=True)
class Recipe:
    """What a video is made of.

    Args:
        picture: bytes of the picture it shows, or None for a plain one.
        sound: bytes of the recording it carries, or None.
        seconds: its length; None for the recording's.
        short_side: pixels of the shorter side.
        ratio: width divided by height; None for the picture's.
        rate: frames per second.
        frames: exact number of frames, in place of `seconds`.
        tint: a number that colours a plain picture.
    """

    picture: bytes | None
    sound: bytes | None = None
    seconds: float | None = None
    short_side: int = 1080
    ratio: float | None = None
    rate: int = 25
    frames: int | None = None
    tint: int = 0

    @property
    def digest(self) -> str:
        """Tells recipes apart."""
        parts = [self.picture or b"", self.sound or b"", repr((self.seconds, self.short_side, self.ratio)).encode()]
        parts.append(repr((self.rate, self.frames, self.tint)).encode())
        return hashlib.sha256(b"|".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def render(recipe: Recipe) -> bytes:
    """Encode the video: H.264 and AAC in mp4, the picture with a bar that runs along as time passes.

    Raises:
        UnusableInput: an input cannot be read.
    """
    picture = read_picture(recipe.picture) if recipe.picture else None
    sound = _decoded_sound(recipe.sound) if recipe.sound else None
    seconds = recipe.seconds
    if seconds is None:
        seconds = len(sound) / 4 / SAMPLE_RATE if sound else 5.0
    count = recipe.frames or max(round(seconds * recipe.rate), 1)
    ratio = recipe.ratio or (picture.width / picture.height if picture else 16 / 9)
    size = _size(recipe.short_side, ratio)
    wanted = sound[: int(count / recipe.rate * SAMPLE_RATE) * 4] if sound is not None else None
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        path = Path(folder) / "video.mp4"
        _encode(path, _frames(_canvas(picture, size, recipe.tint), count), wanted, recipe.rate)
        return path.read_bytes()


def _encode(path: Path, frames: Iterator[av.VideoFrame], sound: bytes | None, rate: int) -> None:
    # The index stands first, as in files made for the web: half of such a file looks whole until it is decoded.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        first = next(frames)
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height = first.width, first.height
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "28", "tune": "stillimage"}
        track = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo") if sound is not None else None
        for index, frame in enumerate(itertools.chain([first], frames)):
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None and sound is not None:
            for piece in _sound_frames(sound):
                container.mux(track.encode(piece))
            container.mux(track.encode(None))


def _size(short_side: int, ratio: float) -> tuple[int, int]:
    long_side = round(short_side * max(ratio, 1 / ratio) / 2) * 2
    return (long_side, short_side) if ratio >= 1 else (short_side, long_side)


def _canvas(picture: Image.Image | None, size: tuple[int, int], tint: int) -> Image.Image:
    if picture is not None:
        return picture.resize(size, Image.Resampling.BILINEAR)
    colour = (60 + tint % 150, 60 + tint // 150 % 150, 120)
    plain = Image.new("RGB", size, colour)
    ImageDraw.Draw(plain).ellipse((size[0] * 0.35, size[1] * 0.3, size[0] * 0.65, size[1] * 0.7), fill=(230, 200, 120))
    return plain


def _frames(canvas: Image.Image, count: int) -> Iterator[av.VideoFrame]:
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for index in range(count):
        x = int(width * (index + 1) / count)
        draw.rectangle((0, height - height // 60, x, height), fill=(255, 255, 255))
        yield av.VideoFrame.from_image(canvas)  # type: ignore[no-untyped-call] # PyAV leaves it untyped


def _sound_frames(samples: bytes) -> Iterator[av.AudioFrame]:
    size = 1024 * 4
    for index, start in enumerate(range(0, len(samples), size)):
        piece = samples[start : start + size]
        frame = av.AudioFrame(format="s16", layout="stereo", samples=len(piece) // 4)
        frame.planes[0].update(piece)
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, index * 1024, Fraction(1, SAMPLE_RATE)
        yield frame

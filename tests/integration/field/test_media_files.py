"""Real files as recorders, phones and editors write them: how long they play, how they are shown, and what they are."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from prefect_genmedia import JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe, render
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server")

RATE = 44_100


def encoded(
    kind: str,
    codec: str,
    seconds: float,
    offset: float = 0,
    volume: float = 0.3,
    rate: int = RATE,
    options: dict[str, str] | None = None,
) -> bytes:
    """A tone in a file whose timestamps begin at `offset` seconds."""
    output = io.BytesIO()
    with av.open(output, "w", format=kind, options=options or {}) as container:
        rate = 48_000 if codec == "libopus" else rate
        stream = container.add_stream(codec, rate=rate, layout="mono")
        shift, count = round(offset * rate), round(seconds * rate)
        resampler = av.AudioResampler(stream.format.name, "mono", rate, stream.frame_size or 1024)
        tone = [round(32_000 * volume * math.sin(2 * math.pi * 440 * at / rate)) for at in range(rate)]
        for start in range(0, count, rate):
            size = min(rate, count - start)
            frame = av.AudioFrame(format="s16", layout="mono", samples=size)
            frame.planes[0].update(struct.pack(f"<{size}h", *tone[:size]))
            frame.sample_rate, frame.pts, frame.time_base = rate, start + shift, Fraction(1, rate)
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return output.getvalue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], str]]:
    """Puts a recording behind a URL."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_PRIVATE_HOSTS", "true")
    files: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[-1])))
            self.end_headers()
            self.wfile.write(files[-1])

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()

    def put(content: bytes) -> str:
        files.append(content)
        return f"http://127.0.0.1:{server.server_port}/{len(files)}"

    yield put
    server.shutdown()
    server.server_close()


@pytest.fixture
def account(simulator: RunningSimulator) -> JeniusCredentials:
    return JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)


@pytest.fixture
def speak(simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `omnihuman_video`; the video has few frames."""
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, replace(recipe, rate=1))

    monkeypatch.setattr(World, "_rendered", few_frames)

    async def run(audio_url: str, image_url: str | None = None) -> Any:
        image = image_url or simulator.portrait_url
        return await omnihuman_video(image, audio_url, credentials=credentials, output_resolution=720)

    return run


RECORDINGS = {
    "ogg": ("ogg", "libopus", None),
    "webm": ("webm", "libopus", None),
    "ts": ("mpegts", "aac", None),
    "m4a": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "mka": ("matroska", "aac", None),
}


@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_recording_that_begins_at_100_seconds_is_as_long_as_it_plays(
    name: str, speak: Any, served: Callable[[bytes], str]
) -> None:
    kind, codec, options = RECORDINGS[name]
    delivery = await speak(served(encoded(kind, codec, 5, 100, options=options)))
    assert delivery.seconds == pytest.approx(5, abs=1)


@pytest.mark.parametrize("name", ["mp3", "m4a"])
async def test_what_an_encoder_adds_to_a_recording_leaves_the_limit_to_the_provider(
    name: str, speak: Any, served: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    codec = {"mp3": "libmp3lame", "m4a": "aac"}[name]
    kind = {"mp3": "mp3", "m4a": "adts"}[name]  # ADTS says nothing of what to leave out
    options = {"write_xing": "0"} if name == "mp3" else None
    with pytest.raises(errors.InputRefused, match="The provider reports"):
        await speak(served(encoded(kind, codec, 59.98, options=options)))
    assert "is for the provider to decide" in caplog.text


async def test_a_recording_that_is_longer_by_more_than_an_encoder_adds_is_refused(
    speak: Any, served: Callable[[bytes], str], simulator: RunningSimulator
) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"plays 60\.\d s and must be shorter than 60 s"):
        await speak(served(encoded("mp3", "libmp3lame", 60.4)))
    assert simulator.accepted == 0


async def test_a_wav_file_of_nothing_but_a_header_has_no_sound(
    speak: Any, served: Callable[[bytes], str], simulator: RunningSimulator
) -> None:
    header = io.BytesIO()
    with wave.open(header, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
    with pytest.raises(errors.InvalidRequest, match="audio_url: has no sound in it"):
        await speak(served(header.getvalue()))
    assert simulator.accepted == 0


async def test_a_silent_recording_is_reported_and_sent(
    speak: Any, served: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    await speak(served(encoded("mp3", "libmp3lame", 3, volume=0)))
    assert "audio_url is silent" in caplog.text


# --- Results ---


def remuxed(content: bytes, keep: Callable[[Any], bool] = lambda packet: True, offset: float = 0, **how: str) -> bytes:
    """The same video, with its timestamps moved by `offset` seconds; the packets that `keep` refuses are left out."""
    output = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(output, "w", format="mp4", options=how) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None or not keep(packet):
                continue
            packet.pts += round(offset / stream.time_base)
            packet.dts += round(offset / stream.time_base)
            packet.stream = copy
            target.mux(packet)
    return output.getvalue()


def clip(seconds: int, rate: int = 2, ratio: float = 16 / 9) -> bytes:
    return render(Recipe(None, short_side=720, ratio=ratio, rate=rate, frames=seconds * rate))


def with_box(content: bytes, name: bytes, body: bytes) -> bytes:
    """The file with the first box of this name replaced by one of the same length."""
    at = content.index(name)
    size = int.from_bytes(content[at - 4 : at], "big")
    assert size == len(body) + 8
    return content[: at + 4] + body + content[at - 4 + size :]


def cut(content: bytes) -> bytes:
    """A lossless cut of the second half: an edit list leaves the first half out, which stays in the file."""
    at = content.index(b"elst")
    size = int.from_bytes(content[at - 4 : at], "big")
    body = bytearray(content[at + 4 : at - 4 + size])
    length = int.from_bytes(body[8:12], "big") // 2
    with av.open(io.BytesIO(content)) as container:
        middle = round(container.duration / 2 / av.time_base / container.streams.video[0].time_base)
    first = int.from_bytes(body[12:16], "big")
    body[8:16] = struct.pack(">II", length, first + middle)
    return with_box(content, b"elst", bytes(body))


def turned(content: bytes) -> bytes:
    """The file with a display matrix that turns it by a quarter, as phones write it."""
    at = content.index(b"tkhd") + 4 + 40
    return content[:at] + struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30) + content[at + 36 :]


def long_last_frame() -> bytes:
    """Two seconds of frames, and a last one that stays for three."""
    output = io.BytesIO()
    with av.open(io.BytesIO(clip(2, rate=5))) as source, av.open(output, "w", format="mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        packets[-1].duration = round(3.2 / stream.time_base)
        for packet in packets:
            packet.stream = copy
            target.mux(packet)
    return output.getvalue()


RESULTS: dict[str, Callable[[], bytes]] = {
    "begins at 10 s": lambda: remuxed(clip(5), offset=10, movflags="frag_keyframe+empty_moov+delay_moov"),
    "edit list": lambda: cut(clip(10)),
    "rotation": lambda: turned(clip(5, ratio=9 / 16)),
    "long last frame": long_last_frame,
    "variable rate": lambda: remuxed(clip(5, rate=10), lambda each: each.is_keyframe or each.pts * each.time_base < 2),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_a_good_result_is_delivered_whatever_wrote_it(
    name: str, account: JeniusCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = RESULTS[name]()

    async def given(world: World, recipe: Recipe) -> bytes:
        return content

    monkeypatch.setattr(World, "_rendered", given)
    delivery = await live_poster("https://example.com/a.jpg", "firework", account)
    assert Path(delivery.uri).read_bytes() == content
    assert delivery.seconds == pytest.approx(SECONDS.get(name, 5), abs=0.21)
    assert (delivery.width, delivery.height) == (1280, 720)


SECONDS = {"variable rate": 2.1}


async def test_an_edit_list_does_not_hide_that_the_file_is_cut_off(
    account: JeniusCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = cut(clip(10))

    async def given(world: World, recipe: Recipe) -> bytes:
        return content[: len(content) * 9 // 10]

    monkeypatch.setattr(World, "_rendered", given)
    with pytest.raises(errors.ResultInvalid, match="does not verify"):
        await live_poster("https://example.com/a.jpg", "firework", account)


# --- Types ---


class SignedFolder(LocalFileSystem):
    """A folder that signs URLs. They are of a host of documentation, for which the simulator has files of its own."""

    protocol = "signedfolder"

    def sign(self, path: str, expiration: int = 100, **options: Any) -> str:
        return f"https://example.com/{Path(path).name}"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fsspec.register_implementation("signedfolder", SignedFolder, clobber=True)
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL", f"signedfolder://{folder}")
    return folder


def avif() -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (64, 64)).save(output, "AVIF")
    return output.getvalue()


HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64)
MIF1_AVIF = b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(64)
BARE = {"write_xing": "0", "id3v2_version": "0"}
MP3 = encoded("mp3", "libmp3lame", 1, options=BARE)
AAC = encoded("adts", "aac", 1)
TAG = b"ID3\4\0\0\0\0\x40\0" + bytes(0x2000)  # larger than what is read of a file's beginning

TYPES = {
    "heic": (HEIC, ".heic"),
    "avif": (avif(), ".avif"),
    "avif-of-brand-mif1": (MIF1_AVIF, ".avif"),
    "m4a": (encoded("ipod", "aac", 1), ".m4a"),
    "m4a-of-brand-isom": (encoded("mp4", "aac", 1), ".m4a"),
    "aac": (AAC, ".aac"),
    "aac-with-tag": (TAG + AAC, ".aac"),
    "mp3-with-tag": (TAG + MP3, ".mp3"),
    "mp3-with-crc": (bytes([0xFF, 0xFA]) + MP3[2:], ".mp3"),
    "mp3-of-mpeg-2.5": (
        encoded("mp3", "libmp3lame", 1, rate=8000, options={"id3v2_version": "0", "write_xing": "0"}),
        ".mp3",
    ),
    "webm": (encoded("webm", "libopus", 1), ".webm"),
}


@pytest.mark.parametrize("name", TYPES)
async def test_a_file_is_published_as_what_it_is_and_not_as_it_is_called(
    name: str, account: JeniusCredentials, published: Path, tmp_path: Path, speak: Any
) -> None:
    content, ending = TYPES[name]
    file = tmp_path / "own.bin"
    file.write_bytes(content)
    if ending in (".heic", ".avif"):
        await live_poster(str(file), "firework", account)
    else:
        with pytest.raises(errors.ResultInvalid):  # the simulator speaks a recording of its own, which is longer
            await speak(str(file), "https://example.com/portrait.jpg")
    assert [each.suffix for each in published.iterdir()] == [ending]


async def test_a_picture_of_20000_by_12000_pixels_is_reported_by_its_size(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("1", (20_000, 12_000)).save(tmp_path / "map.png")
    with pytest.raises(errors.InvalidRequest, match="is 20000×12000 pixels, more than 4096×4096"):
        await jimeng_video("waves", credentials=credentials, image_urls=[str(tmp_path / "map.png")])
    assert "DecompressionBomb" not in capfd.readouterr().err


# --- Paths ---

NAMES = {
    "escaped": ("my photo.jpg", lambda path: f"file://{path}".replace(" ", "%20")),
    "localhost": ("photo.jpg", lambda path: f"file://localhost{path}"),
    "one slash": ("photo.jpg", lambda path: f"file:{path}"),
    "upper case": ("photo.jpg", lambda path: f"FILE://{path}"),
    "blank before": ("photo.jpg", lambda path: f" {path}"),
    "line break behind": ("photo.jpg", lambda path: f"{path}\n"),
    "hash": ("a#1.jpg", str),
    "question mark": ("who?.jpg", str),
    "percent sign in a path": ("100%25.jpg", str),
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_local_file_is_found_however_its_path_is_written(
    name: str, account: JeniusCredentials, published: Path, simulator: RunningSimulator, tmp_path: Path
) -> None:
    file, written = NAMES[name]
    Image.new("RGB", (640, 640)).save(tmp_path / file)
    await live_poster(written(tmp_path / file), "firework", account)
    assert simulator.accepted == 1


def test_a_label_keeps_the_hash_and_the_question_mark_of_a_local_name() -> None:
    assert label_of("/srv/a#1?.jpg") == "a#1?.jpg"
    assert label_of("https://example.com/a.jpg?signature=secret#page") == "a.jpg"
    assert label_of("file:///srv/my%20photo.jpg") == "my photo.jpg"

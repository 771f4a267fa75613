"""Files that a hostile provider, a broken gateway or a careless user gives us: opened as one thing, within bounds."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_final_names import Deliver, deliver_new_job, video  # noqa: F401 - a fixture

from prefect_genmedia._core import Ledger
from prefect_genmedia._inputs.inspect import picture_at
from prefect_genmedia._media import decoding, staging
from prefect_genmedia._media.decoding import DecodeLimits, DecoderPool, Decoding, DecodingFailed, pool
from prefect_genmedia._media.storage import LocalFolder, Target
from prefect_genmedia._media.verify import byte_limit, examine_recording, examine_video
from prefect_genmedia.errors import ResultInvalid
from prefect_genmedia.providers.protocol import MediaExpectation
from prefect_genmedia.simulator import RunningSimulator, hostile

BOUND_MB = 300


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def encoded(kind: str, **options: object) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (64, 64)).save(output, kind, **options)
    return output.getvalue()


def referring_to(name: str) -> bytes:
    """The video with its track's data in another file of its folder, as a QuickTime alias names it."""
    content, path = video(), name.encode() + bytes(len(name) % 2)
    alias = bytes(10) + bytes(28) + bytes(12) + bytes([len(name)]) + name.encode().ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(path)) + path + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = content.index(b"url \x00\x00\x00\x01") - 4
    changed = bytearray(content[:at] + entry + content[at + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = changed.index(box) - 4
        size = int.from_bytes(changed[start : start + 4], "big") + len(entry) - 12
        changed[start : start + 4] = size.to_bytes(4, "big")
    return bytes(changed)


NOT_VIDEOS = {
    "ffconcat": b"ffconcat version 1.0\nfile victim.mp4\n",
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nvictim.mp4\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "srt": b"1\n00:00:00,000 --> 00:00:05,000\nhello\n",
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG"),
    "GIF": encoded("GIF"),
    "BMP": encoded("BMP"),
    "AVIF": encoded("AVIF"),
    "ftyp after garbage": bytes(64) + video(),
    "ftyp of HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1isom" + video()[32:],
    "ftyp only": video()[:32],
    "text behind ftyp": video()[:32] + b"ffconcat version 1.0\nfile victim.mp4\n",
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_what_is_no_mp4_is_not_opened_as_anything_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim.mp4").write_bytes(video())
    (tmp_path / "result").write_bytes(NOT_VIDEOS[name])
    with pytest.raises(ResultInvalid):
        examine_video(tmp_path / "result")


async def test_a_playlist_gets_neither_a_final_name_nor_a_frame_of_another_file(
    delivered: Deliver,
    tmp_path: Path,
) -> None:
    (tmp_path / "victim.mp4").write_bytes(video())
    with pytest.raises(ResultInvalid, match="ftyp"):
        await delivered(Target(LocalFolder(tmp_path), "a.mp4"), NOT_VIDEOS["ffconcat"])
    assert not list(tmp_path.glob("a.mp4*"))


def test_a_track_whose_data_is_in_another_file_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "victim.mp4").write_bytes(video())
    (tmp_path / "result").write_bytes(referring_to("victim.mp4"))
    with pytest.raises(ResultInvalid):
        examine_video(tmp_path / "result")


@pytest.mark.parametrize("name", ["ffconcat", "m3u8", "dash", "sdp", "srt", "PNG"])
def test_an_input_is_never_read_as_a_playlist(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim.mp4").write_bytes(video())
    (tmp_path / "input").write_bytes(NOT_VIDEOS[name])
    assert examine_recording(tmp_path / "input") is None


def test_recordings_and_videos_of_usual_formats_are_measured(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(video())
    found = examine_recording(tmp_path / "input")
    assert found is not None
    assert (found.sound, found.seconds) == (False, 3.0)  # three frames, one a second


@pytest.mark.parametrize(
    "content", [png(30_000, 30_000), png(65_535, 65_535), encoded("GIF") * 1000], ids=["900 MP", "4 GP", "many frames"]
)
def test_a_picture_bomb_is_reported_by_its_header_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(content)
    found = picture_at(tmp_path / "input")
    assert found is not None
    assert found.width in (30_000, 65_535, 64)


@pytest.mark.parametrize(
    "fault",
    ["content_bomb", "content_frames", "content_gzip", "content_oversized", "content_playlist", "content_picture"],
)
def test_no_bomb_takes_more_than_300_mb_and_none_is_delivered(
    fault: str,
    simulator: RunningSimulator,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    simulator.order(fault)
    child = Path(__file__).parents[2] / "support" / "hostile_child.py"
    command = [sys.executable, str(child), simulator.tokenops_url, simulator.key, str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=500)
    reported = json.loads(done.stdout)
    record_property(f"peak MB, {fault}", f"{reported['worker']:.0f} worker, {reported['decoder']:.0f} decoder")
    assert reported["met"].startswith("ProviderError" if fault == "content_gzip" else "ResultInvalid"), reported["met"]
    assert max(reported["worker"], reported["decoder"]) < BOUND_MB
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_large_frames_within_the_memory_bound_are_refused_by_that_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were there no bound on pixels, the one on memory would hold."""
    (tmp_path / "result").write_bytes(hostile.pixel_bomb())
    monkeypatch.setattr(decoding, "MEMORY_BYTES", 96 * 1024**2)
    with pytest.raises(DecodingFailed, match=r"more memory than is allowed|does not decode"):
        DecoderPool().ask("video", tmp_path / "result", DecodeLimits(pixels=10**9))


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder that does what the file's text says."""
    script = tmp_path / "decoder.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    word = open(json.loads(line)['path']).read()\n"
        "    if word == 'crash': os.kill(os.getpid(), 11)\n"
        "    if word == 'hang': time.sleep(1000)\n"
        "    if word == 'garbage': print('{', flush=True)\n"
        "    if word == 'fine': print(json.dumps({'found': {'pid': os.getpid()}}), flush=True)\n"
    )
    monkeypatch.setattr(decoding, "SCRIPT", script)
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("word", "said"), [("crash", "crashed with code -11"), ("hang", "took longer than 0.3 s"), ("garbage", "crashed")]
)
def test_a_decoder_that_crashes_or_hangs_is_the_end_of_its_file_only(word: str, said: str, misbehaving: Path) -> None:
    decoders, limits = DecoderPool(), DecodeLimits(wall_seconds=0.3)
    misbehaving.write_text(word)
    with pytest.raises(DecodingFailed, match=said):
        decoders.ask("video", misbehaving, limits)
    misbehaving.write_text("fine")
    assert decoders.ask("video", misbehaving)["pid"]
    decoders.close()


def test_a_decoder_is_reused_and_one_that_ended_meanwhile_is_replaced(misbehaving: Path) -> None:
    decoders = DecoderPool()
    misbehaving.write_text("fine")
    first = decoders.ask("video", misbehaving)["pid"]
    assert decoders.ask("video", misbehaving)["pid"] == first
    os.kill(first, signal.SIGKILL)
    assert decoders.ask("video", misbehaving)["pid"] != first
    decoders.close()


def test_a_cancelled_download_ends_its_decoder(misbehaving: Path) -> None:
    misbehaving.write_text("hang")
    token = Decoding()
    threading.Timer(0.05, token.stop).start()
    with pytest.raises(DecodingFailed, match="cancelled"):
        DecoderPool().ask("video", misbehaving, decoding=token)


def test_a_decoder_knows_no_secret_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert "hunter2" not in decoding._bare_environment().values()


@pytest.mark.parametrize(
    ("seconds", "limit"), [(5.0, 64 * 1024**2 + 50 * 1024**2), (None, 1264 * 1024**2), (10_000.0, 4 * 1024**3)]
)
def test_a_download_is_bounded_by_what_is_expected_of_it(seconds: float | None, limit: int) -> None:
    assert byte_limit(MediaExpectation(seconds=seconds)) == limit


async def test_a_full_quarantine_keeps_what_it_has_and_tells_the_digest_of_what_it_drops(
    delivered: Deliver,
    tmp_path: Path,
) -> None:
    target = Target(LocalFolder(tmp_path), "a.mp4", quarantine_bytes=60)
    with pytest.raises(ResultInvalid, match="It is kept as"):
        await delivered(target, b"x" * 50)
    with pytest.raises(ResultInvalid, match=r"not kept.* 60 bytes and holds 50.* 20 bytes, SHA-256 [0-9a-f]{64}"):
        await delivered(target, b"y" * 20)
    assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [b"x" * 50]


@pytest.mark.parametrize("ending", ["json", "jpg"])
async def test_a_user_s_own_file_under_a_sidecar_s_or_poster_s_name_stays(
    ending: str,
    delivered: Deliver,
    tmp_path: Path,
) -> None:
    (tmp_path / f"anna.mp4.{ending}").write_bytes(b'{"mine": true}')
    job = await delivered(str(tmp_path / "anna.mp4"))
    assert (tmp_path / f"anna.mp4.{ending}").read_bytes() == b'{"mine": true}'
    assert Path(job.delivery.uri).name == f"anna-{job.key}.mp4"


async def test_a_poster_that_the_user_has_replaced_stays(delivered: Deliver, tmp_path: Path) -> None:
    await delivered(str(tmp_path / "anna.mp4"))
    (tmp_path / "anna.mp4.jpg").write_bytes(b"mine")
    job = await delivered(str(tmp_path / "anna.mp4"), video(4))
    assert (tmp_path / "anna.mp4.jpg").read_bytes() == b"mine"
    assert Path(job.delivery.uri).name == f"anna-{job.key}.mp4"


def test_staged_files_are_private_and_go_when_their_process_is_gone_and_not_before(tmp_path: Path) -> None:
    later = time.time() + 2 * staging.STALE_SECONDS
    with LocalFolder(tmp_path).staging() as staged:
        staged.write_bytes(b"half")
        assert stat.S_IMODE(staged.parent.stat().st_mode) == 0o700
        assert staging.remove_stale(tmp_path, later) == 0
    code = (
        "import os, sys; from pathlib import Path; from prefect_genmedia._media.staging import private_folder\n"
        "held = private_folder(Path(sys.argv[1]))\n"
        "(held.__enter__() / 'staged').write_bytes(b'half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (tmp_path / "anna.mp4").write_bytes(b"delivered")
    assert staging.remove_stale(tmp_path) == 0  # young: it may have just begun
    assert staging.remove_stale(tmp_path, later) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["anna.mp4"]


async def test_the_ledger_is_private_and_media_honour_the_umask(
    delivered: Deliver,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("ledger.db*")} == {0o600}
    before = os.umask(0o027)
    try:
        await delivered(str(tmp_path / "out" / "anna.mp4"))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(("anna.mp4", "anna.mp4.jpg", "anna.mp4.json"), 0o640)
    pool().close()

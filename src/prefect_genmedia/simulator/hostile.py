"""Answers and files that harm whoever reads them: too slow, too large, larger once decoded, or not what they say."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image
from starlette.responses import Response, StreamingResponse

from prefect_genmedia.simulator.media import Recipe, render

MIB = 1 << 20


async def hostile_answer(name: str, options: Mapping[str, float], media_type: str) -> Response | None:
    """The answer of a fault whose name ends in what is wrong with it; None for any other fault.

    Args:
        name: the fault.
        options: its numbers: `seconds` between pieces, `mib` that a bomb decodes to.
        media_type: the Content-Type.
    """
    if name.endswith("_drip"):
        return StreamingResponse(_without_end(b" ", options.get("seconds", 1.0)), media_type=media_type)
    if name.endswith("_endless"):
        pieces = _without_end(b" " * (MIB // 16), options.get("seconds", 0.0))
        return StreamingResponse(pieces, media_type=media_type)
    if name.endswith("_gzip_bomb"):
        bomb = await asyncio.to_thread(gzip_bomb, int(options.get("mib", 512)))
        return Response(bomb, media_type=media_type, headers={"Content-Encoding": "gzip"})
    if name.endswith("_encoded_twice"):
        content = gzip.compress(gzip.compress(b"{}"))
        return Response(content, media_type=media_type, headers={"Content-Encoding": "gzip, gzip"})
    if name.endswith("_nested"):
        return Response(b'{"status": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", media_type=media_type)
    return None


@functools.lru_cache(maxsize=4)
def gzip_bomb(mib: int) -> bytes:
    """Spaces, a thousand times smaller than what they decode to.

    Args:
        mib: the decoded size.
    """
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    return b"".join([*(packer.compress(b" " * MIB) for _ in range(mib)), packer.flush()])


@functools.lru_cache(maxsize=1)
def picture_bomb() -> bytes:
    """A small PNG that says, and is, 30,000 pixels high and wide."""
    side = 30_000
    header = side.to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))  # one bit a pixel
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    pixels = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


async def _without_end(piece: bytes, seconds: float) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(seconds)


def playlist() -> bytes:
    """A script of ffmpeg's concat demuxer: it names another file of the folder that it is in."""
    return b"ffconcat version 1.0\nfile victim.mp4\n"


def picture() -> bytes:
    """A PNG picture of the usual size."""
    output = io.BytesIO()
    Image.new("RGB", (1280, 720), (60, 90, 120)).save(output, "PNG")
    return output.getvalue()


@functools.lru_cache(maxsize=4)
def pixel_bomb(side: int = 8192) -> bytes:
    """An H.264 video with one plain frame: some kilobytes that are 100 MB when they are decoded."""
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=1)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            stream.options = {"preset": "ultrafast", "threads": "1", "rc-lookahead": "0"}
            frame = av.VideoFrame(side, side, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = 0, Fraction(1, 1)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


@functools.lru_cache(maxsize=1)
def frame_bomb() -> bytes:
    """An mp4 whose sample table says that there are 4 billion samples of one byte: the index takes no room for that."""
    content = bytearray(render(Recipe(None, short_side=64, ratio=1.0, rate=5, frames=5)))
    at = content.index(b"stsz") + 8  # after the box's type, version and flags: sample size, sample count
    content[at : at + 8] = (1).to_bytes(4, "big") + (0xFFFFFFF0).to_bytes(4, "big")
    for kind, count_at in ((b"stts", 12), (b"stsc", 16)):  # one run of samples, all in one chunk
        at = content.index(kind) + count_at
        content[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "big")
    return bytes(content)


FILES: dict[str, Callable[[], bytes]] = {
    "content_playlist": playlist,
    "content_picture": picture,
    "content_bomb": pixel_bomb,
    "content_frames": frame_bomb,
}
"""What is sent, by the name of the fault."""


async def compressed(content: bytes, zeros: int) -> AsyncIterator[bytes]:
    """The content and so many zeros after it, compressed with gzip."""
    packer = zlib.compressobj(wbits=31)
    yield packer.compress(content)
    piece = bytes(1 << 20)
    for _ in range(0, zeros, len(piece)):
        yield packer.compress(piece)
        await asyncio.sleep(0)
    yield packer.flush()


async def endless() -> AsyncIterator[bytes]:
    """Bytes until nobody reads them any more."""
    piece = bytes(1 << 16)
    while True:
        yield piece
        await asyncio.sleep(0.001)  # nothing else waits here once the connection is closed

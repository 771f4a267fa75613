"""Answers that are meant to harm whoever reads them: too slow, too large, or larger once they are decoded."""

from __future__ import annotations

import asyncio
import functools
import gzip
import zlib
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse

MIB = 1 << 20


async def hostile_answer(name: str, options: Mapping[str, float], media_type: str) -> Response | None:
    """The answer of a fault whose name ends in what is wrong with it; None for any other fault.

    Parameters:
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

    Parameters:
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

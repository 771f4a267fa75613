"""Reading bodies within bounds: compressed ones are decoded piece by piece, and nothing is read to an unknown end."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

import httpx

MAX_ANSWER_BYTES = 1 << 20
"""The largest answer of an API that is read, in bytes, before and after decoding."""

ACCEPTED_CODINGS = "gzip, deflate"
"""What API requests accept as Content-Encoding. Media files are asked for as they are (`identity`)."""

_STEP = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
# What an error body may be written in. Any other codec that Python knows may decompress (zlib, bz2), or take minutes.
_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252", "gbk", "gb2312", "gb18030", "big5"})


@dataclass(frozen=True)
class BodyBounds:
    """How long a body may take.

    Args:
        seconds: the longest the whole body may take.
        window: seconds over which the rate is measured; no piece may take longer either.
        min_rate: bytes per second, on average over each window.
    """

    seconds: float = 1800.0
    window: float = 60.0
    min_rate: float = 8 * 1024.0


DOWNLOAD_BOUNDS = BodyBounds()
"""What holds for every body unless its reader says otherwise."""


class UnreadableBody(Exception):
    """A body that is too large, cut short, or encoded in a way that was not asked for; the text says which."""


class BodyDecoder:
    """Undoes a body's Content-Encoding, in pieces of bounded size.

    Args:
        coding: the header's value; empty for none.

    Raises:
        UnreadableBody: the body is encoded more than once, or in another way than gzip and deflate.
    """

    def __init__(self, coding: str) -> None:
        """Read nothing yet."""
        names = [name for part in coding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
        if len(names) > 1 or any(name not in ("gzip", "x-gzip", "deflate") for name in names):
            raise UnreadableBody(f"the Content-Encoding {coding[:100]!r} is not supported")
        self._may_be_raw = names == ["deflate"]
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS if self._may_be_raw else _GZIP) if names else None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What these bytes decode to, in pieces of one MiB at most.

        Args:
            data: the next bytes of the body.

        Raises:
            UnreadableBody: they are not what the header says.
        """
        if self._inflate is None:
            yield data
            return
        full = False
        while data or full:
            piece = self._inflated(data)
            data = self._inflate.unconsumed_tail
            # A full piece may leave output inside of zlib although all input was taken.
            full = len(piece) == _STEP
            if piece:
                yield piece

    def finish(self) -> None:
        """Make sure that nothing is missing at the end.

        Raises:
            UnreadableBody: the compressed data is cut short.
        """
        if self._inflate is not None and not self._inflate.eof:
            raise UnreadableBody("the compressed body is cut short")

    def _inflated(self, data: bytes) -> bytes:
        assert self._inflate is not None  # only called for compressed bodies
        try:
            piece = self._inflate.decompress(data, _STEP)
        except zlib.error as error:
            if not self._may_be_raw:
                raise UnreadableBody(f"the compressed body cannot be decoded: {error}") from None
            # Some servers send deflate without the zlib header that the name stands for.
            self._may_be_raw = False
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflated(data)
        self._may_be_raw = False
        return piece


def decoder_of(response: httpx.Response) -> BodyDecoder:
    """The decoder for a body's Content-Encoding.

    Args:
        response: an answer whose body is not read yet.

    Raises:
        UnreadableBody: the encoding is not supported.
    """
    # A transport that hands over a whole answer (in tests) has it decoded by httpx.
    return BodyDecoder("" if response.is_stream_consumed else response.headers.get("content-encoding", ""))


async def wire_pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it arrives, still encoded.

    Args:
        response: an answer whose body is not read yet.
    """
    if response.is_stream_consumed:
        yield response.content
        return
    async for piece in response.aiter_raw():
        yield piece


async def read_answer(response: httpx.Response, max_bytes: int = MAX_ANSWER_BYTES) -> httpx.Response:
    """Read the whole body of a streamed answer, and return the answer with it.

    Args:
        response: an answer whose body is not read yet.
        max_bytes: the largest body that is read, before and after decoding.

    Raises:
        UnreadableBody: the body is larger, or cannot be decoded.
        httpx.HTTPError: the connection broke.
    """
    decoder, body, received = decoder_of(response), bytearray(), 0
    async with aclosing(wire_pieces(response)) as pieces:
        async for piece in pieces:
            received += len(piece)
            for decoded in decoder.decode(piece):
                body += decoded
                if max(received, len(body)) > max_bytes:
                    raise UnreadableBody(f"the body is larger than {max_bytes} bytes")
            if received > max_bytes:
                raise UnreadableBody(f"the body is larger than {max_bytes} bytes")
    decoder.finish()
    return _with_body(response, bytes(body))


def _with_body(response: httpx.Response, body: bytes) -> httpx.Response:
    about_the_body = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in about_the_body]
    whole = httpx.Response(response.status_code, headers=headers, content=body, request=response.request)
    whole.encoding = _charset(response.charset_encoding)
    return whole


def _charset(name: str | None) -> str:
    try:
        found = codecs.lookup(name or "utf-8").name
    except (LookupError, ValueError):
        return "utf-8"
    return found if found in _CHARSETS else "utf-8"

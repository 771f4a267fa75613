"""How a decoder process opens a file that somebody else made: as what it must be, and nothing but this file.

Imported by `decoder.py` in its process: nothing of this package may be imported here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_tracks import Refused
else:
    from decoder_tracks import Refused

VIDEO_BRANDS = frozenset(
    "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 isoa isob isoc mp41 mp42 mp71 avc1 hvc1 hev1 av01 dash cmfc cmf2 "
    "MSNV 3gp4 3gp5 3gp6 3gp7 3gp8 3gp9 3gg6 3g2a 3g2b 3g2c M4V M4VH M4VP f4v qt".split()
)
"""Brands of the `ftyp` box that mp4 and mov files have (blanks at the end are left out)."""

PICTURE_BRANDS = frozenset("heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf avif avis crx jp2 jpx".split())
"""Brands of pictures and bursts of pictures: a file whose major brand is one of these is no video."""


def check_is_video_file(path: str) -> None:
    """Check the `ftyp` box, which an mp4 or mov file begins with.

    Args:
        path: the file.

    Raises:
        Refused: there is none, or it is one of another kind of file.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not imported here
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if kind != b"ftyp" or not 16 <= size <= 4096 or size % 4:
            raise Refused("it is not an mp4 or mov file: it does not begin with an ftyp box")
        body = file.read(size - 8).decode("latin-1")
    brands = [body[at : at + 4].rstrip() for at in range(0, len(body), 4) if at != 4]
    if len(body) != size - 8 or brands[0] in PICTURE_BRANDS or not VIDEO_BRANDS.intersection(brands):
        raise Refused(f"it is not an mp4 or mov file: its brand is {brands[0]!r}")


@contextlib.contextmanager
def opened(
    path: str, limits: dict[str, Any], options: dict[str, str], kind: str | None = None
) -> Iterator[av.container.InputContainer]:
    """Open a file, and nothing but this file, with the demuxers that the options allow.

    Args:
        path: the file.
        limits: what decoding it may take.
        options: FFmpeg's options.
        kind: the only demuxer; None for those of the options.
    """
    common = {"protocol_whitelist": "file", "max_streams": "16", "max_pixels": str(limits["pixels"])}
    # `file:` keeps a path from being read as a URL of another protocol.
    with av.open(f"file:{path}", format=kind, options=common | options) as container:
        for stream in container.streams:
            if stream.codec_context is not None:  # a data stream has none
                stream.codec_context.options = {"max_pixels": str(limits["pixels"])}
        yield container


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a cover picture: that plays no time.

    Args:
        stream: the stream.
    """
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_size(stream: Any, limits: dict[str, Any]) -> None:
    """Check what the file promises, before anything is decoded.

    Args:
        stream: the stream of the picture.
        limits: what decoding it may take.

    Raises:
        Refused: it promises more.
    """
    context = stream.codec_context
    if context is None:
        raise Refused("it has a video stream that no decoder here reads")
    if context.width * context.height > limits["pixels"]:
        raise Refused(f"its frames have {context.width}×{context.height} pixels, more than {limits['pixels']} in all")
    if stream.frames > limits["frames"]:
        raise Refused(f"it promises {stream.frames} frames, more than {limits['frames']}")

"""What a local file is by its content, and which fields of a request take it."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect_genmedia.providers.inputs import MediaKind

HEAD_BYTES = 4096
"""How much of a file's beginning is read to tell what it is."""

ID3_HEADER_BYTES = 10
"""Bytes of an ID3 tag before its content; the last four are its size, in seven bits each."""

Part = Literal["picture", "sound", "video"]
"""What there may be in a file."""

TAKES: Mapping[MediaKind, frozenset[Part]] = {
    "picture": frozenset({"picture"}),
    "recording": frozenset({"sound", "video"}),
    "video": frozenset({"video"}),
}
"""What a file must have in it for each kind of field; one of the named is enough."""

WANTED: Mapping[MediaKind, str] = {"picture": "a picture", "recording": "a recording", "video": "a video"}


@dataclass(frozen=True)
class Content:
    """What a file is.

    Args:
        name: its type in words, such as `MP3`.
        parts: what there may be in it; a container such as mp4 may have several. Empty where nothing is to be seen or
            heard in it.
    """

    name: str
    parts: frozenset[Part] = frozenset()

    def suits(self, media: MediaKind) -> bool:
        """Whether a field of this kind may take the file."""
        return bool(self.parts & TAKES[media])


UNKNOWN = Content("of no type that is known here")

_PICTURE, _SOUND, _VIDEO = (frozenset[Part]({part}) for part in ("picture", "sound", "video"))
_PLAYS = _SOUND | _VIDEO
_NOTHING = frozenset[Part]()

_SIGNATURES: tuple[tuple[int, bytes, str, frozenset[Part]], ...] = (
    (0, b"\xff\xd8\xff", "JPEG", _PICTURE),
    (0, b"\x89PNG\r\n\x1a\n", "PNG", _PICTURE),
    (0, b"GIF8", "GIF", _PICTURE),
    (8, b"WEBP", "WebP", _PICTURE),
    (0, b"II*\0", "TIFF", _PICTURE),
    (0, b"MM\0*", "TIFF", _PICTURE),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000", _PICTURE),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _PICTURE),
    (0, b"\xff\x0a", "JPEG XL", _PICTURE),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", _PICTURE),
    (0, b"8BPS", "PSD", _PICTURE),
    (0, b"\0\0\1\0", "an icon", _PICTURE),
    (0, b"v/1\x01", "OpenEXR", _PICTURE),
    (0, b"qoif", "QOI", _PICTURE),
    (0, b"DDS ", "DDS", _PICTURE),
    (8, b"WAVE", "WAV", _SOUND),
    (0, b"fLaC", "FLAC", _SOUND),
    (0, b"#!AMR", "AMR", _SOUND),
    (0, b"ADIF", "AAC", _SOUND),
    (0, b"caff", "CAF", _SOUND),
    (0, b"wvpk", "WavPack", _SOUND),
    (0, b"MAC ", "Monkey's Audio", _SOUND),
    (0, b".snd", "AU", _SOUND),
    (8, b"AIFF", "AIFF", _SOUND),
    (8, b"AIFC", "AIFF", _SOUND),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64", _SOUND),
    (8, b"AVI ", "AVI", _PLAYS),
    (0, b"OggS", "Ogg", _PLAYS),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF", _PLAYS),
    (0, b"FLV\x01", "FLV", _PLAYS),
    (0, b"\0\0\1\xba", "MPEG", _PLAYS),
    (0, b"\0\0\1\xb3", "MPEG", _VIDEO),
    (0, b"\x06\x0e\x2b\x34", "MXF", _PLAYS),
    (0, b".RMF", "RealMedia", _PLAYS),
    (0, b"YUV4MPEG2", "YUV4MPEG2", _VIDEO),
    (0, b"%PDF", "PDF", _NOTHING),
    (0, b"%!PS", "PostScript", _NOTHING),
    (0, b"MThd", "MIDI", _NOTHING),
    (0, b"PK\x03\x04", "a ZIP archive or an Office document", _NOTHING),
    (0, b"PK\x05\x06", "a ZIP archive", _NOTHING),
    (0, b"\xd0\xcf\x11\xe0", "an Office document", _NOTHING),
    (0, b"\x1f\x8b", "gzip", _NOTHING),
    (0, b"BZh", "bzip2", _NOTHING),
    (0, b"\xfd7zXZ\0", "xz", _NOTHING),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard", _NOTHING),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _NOTHING),
    (0, b"Rar!", "a RAR archive", _NOTHING),
    (257, b"ustar", "a tar archive", _NOTHING),
    (0, b"\x7fELF", "a program", _NOTHING),
    (0, b"MZ\x90", "a program", _NOTHING),
    (0, b"SQLite format 3\0", "SQLite", _NOTHING),
    (0, b"PAR1", "Parquet", _NOTHING),
    (0, b"\xff\xfe", "text", _NOTHING),
    (0, b"\xfe\xff", "text", _NOTHING),
)
"""How files begin: offset, bytes, type, and what may be in it."""

FILE_TYPES: Mapping[str, tuple[str, str]] = {
    "JPEG": (".jpg", "image/jpeg"),
    "PNG": (".png", "image/png"),
    "GIF": (".gif", "image/gif"),
    "WebP": (".webp", "image/webp"),
    "TIFF": (".tiff", "image/tiff"),
    "BMP": (".bmp", "image/bmp"),
    "JPEG 2000": (".jp2", "image/jp2"),
    "JPEG XL": (".jxl", "image/jxl"),
    "HEIC": (".heic", "image/heic"),
    "AVIF": (".avif", "image/avif"),
    "SVG": (".svg", "image/svg+xml"),
    "WAV": (".wav", "audio/wav"),
    "FLAC": (".flac", "audio/flac"),
    "AMR": (".amr", "audio/amr"),
    "AIFF": (".aiff", "audio/aiff"),
    "CAF": (".caf", "audio/x-caf"),
    "MP3": (".mp3", "audio/mpeg"),
    "AAC": (".aac", "audio/aac"),
    "M4A": (".m4a", "audio/mp4"),
    "Ogg": (".ogg", "audio/ogg"),
    "mp4": (".mp4", "video/mp4"),
    "QuickTime": (".mov", "video/quicktime"),
    "WebM": (".webm", "video/webm"),
    "Matroska": (".mkv", "video/x-matroska"),
    "AVI": (".avi", "video/x-msvideo"),
    "ASF": (".wmv", "video/x-ms-wmv"),
    "FLV": (".flv", "video/x-flv"),
    "MPEG": (".mpg", "video/mpeg"),
    "MPEG-TS": (".ts", "video/mp2t"),
}
"""File name ending and media type by the type's name."""

for _ending, _media_type in FILE_TYPES.values():
    mimetypes.add_type(_media_type, _ending)  # storages read the Content-Type off the ending; systems differ in it

_PICTURE_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"miaf", b"avif", b"avis")
)
_SOUND_BRANDS = frozenset((b"M4A ", b"M4B ", b"M4P "))
_QUICKTIME_ATOMS = frozenset((b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"))
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x1b")


def content_of(head: bytes) -> Content:
    """What a file is by how it begins.

    Args:
        head: its first `HEAD_BYTES`, or all of it.
    """
    for at, signature, name, parts in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return Content(name, parts)
    return _mp4(head) or _matroska(head) or _bitmap(head) or _frames(head) or _text(head) or UNKNOWN


def content_at(path: Path) -> Content:
    """What a file is by how it begins. What follows an ID3 tag decides, since AAC and FLAC have such tags as MP3 has.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head[:3] == b"ID3" and len(head) >= ID3_HEADER_BYTES:
            size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(head[6:ID3_HEADER_BYTES])))
            file.seek(ID3_HEADER_BYTES + size)
            behind = content_of(file.read(HEAD_BYTES))
            return behind if behind.parts == _SOUND else content_of(head)
    return content_of(head)


def _matroska(head: bytes) -> Content | None:
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    return Content("WebM" if b"webm" in head[:64] else "Matroska", _PLAYS)


def _mp4(head: bytes) -> Content | None:
    kind, brand = head[4:8], head[8:12]
    if kind == b"ftyp":
        if brand in _PICTURE_BRANDS:
            end = min(int.from_bytes(head[:4], "big"), len(head))
            brands = {brand, *(head[at : at + 4] for at in range(16, end, 4))}
            return Content("AVIF" if brands & {b"avif", b"avis"} else "HEIC", _PICTURE)
        return Content("M4A", _SOUND) if brand in _SOUND_BRANDS else Content("mp4", _PLAYS)
    return Content("QuickTime", _PLAYS) if kind in _QUICKTIME_ATOMS else None


def _bitmap(head: bytes) -> Content | None:
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    is_pnm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return Content("BMP" if is_bmp else "PNM", _PICTURE) if is_bmp or is_pnm else None


def _frames(head: bytes) -> Content | None:
    """Formats that are a row of frames, each with a mark of a few bits at its beginning."""
    if head[:3] == b"ID3" and head[3:4] < b"\x10":
        return Content("MP3", _SOUND)
    if len(head) > 2 and head[0] == 0x56 and head[1] & 0xE0 == 0xE0:
        return Content("AAC", _SOUND)  # LATM
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        if head[1] & 0xF6 == 0xF0:
            return Content("AAC", _SOUND)
        if head[1] & 0x06 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C:
            return Content("MP3", _SOUND)
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] in (b"G", b""):
        return Content("MPEG-TS", _PLAYS)
    return None


def _text(head: bytes) -> Content | None:
    if not head or any(byte < 32 and byte not in _TEXT_CONTROLS for byte in head):
        return None
    return Content("SVG", _PICTURE) if b"<svg" in head[:1024] else Content("text")

"""The walk through a result's container: what can be known of its bytes without decoding the picture.

Imported by `decoder.py` in its process: nothing of this package may be imported here. FFmpeg's demuxer reads the
tables of samples and fragments; this module checks that what they name is there, whole and consistent.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_tracks import Refused
else:
    from decoder_tracks import Refused

MAX_BOXES = 20_000
"""Boxes of the outermost level that are read: a fragment has two."""

KNOWN_BOXES = frozenset(
    b"ftyp moov mdat free skip wide uuid udta meta moof mfra sidx ssix styp emsg prft pdin pnot".split()
)
"""Boxes that mp4 and mov files have on the outermost level."""

EMULATED = re.compile(rb"\x00\x00[\x00-\x02]")
"""Three bytes that no NAL unit contains: an encoder puts a 3 before the last one."""

ZERO_RUN = bytes(64)
"""So many zero bytes in a row stand in the tiles of an AV1 picture only as padding, behind them."""

SHORT_ZERO_RUN = bytes(16)
"""In samples of AV1 or AAC so many are the padding of many samples, and never chance: in one alone they are damage."""

EDGE_SAMPLES = 3
"""Samples at the beginning and end of the sound, which may be padded although the others are not."""

PARENTS = frozenset(b"moov trak mdia minf stbl edts dinf mvex".split())
"""Boxes that consist of boxes."""

MAX_MOOV = 32 << 20
"""A `moov` box that is larger is left to the demuxer."""

MAX_PADDING = 3
"""Zero bytes behind a NAL unit that may come from the start code of the next one."""

H264_UNITS = frozenset({1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 19})
"""Types of NAL units that encoders write: slices, parameter sets, messages, delimiters, ends and filler."""

HEVC_UNITS = frozenset({*range(10), *range(16, 22), *range(32, 41)})
"""The same for HEVC."""

AV1_FRAMES = (4, 6)
"""Types of OBUs that hold tiles: a tile group, and a frame."""

_NOT_ADDED_UP = "the lengths of the parts of a frame do not add up"


class Unusual(Exception):
    """The walk cannot decide about a file: only decoding it can. The text says why."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of the outermost level.

    Args:
        media: begin and end of what is in the `mdat` boxes that are not empty.
        is_fragmented: whether there are fragments.
        unusual: what mp4 and mov files do not have there; empty if there is nothing of the kind.
    """

    media: tuple[tuple[int, int], ...]
    is_fragmented: bool
    unusual: str


def read_boxes(path: str) -> Boxes:
    """Read the boxes of the outermost level.

    Args:
        path: the file.

    Raises:
        Refused: the file ends inside of one, or between them is what is none.
    """
    end, at, media, kinds, unusual = os.stat(path).st_size, 0, [], set(), ""  # noqa: PTH116 - no pathlib here
    with open(path, "rb") as file:  # noqa: PTH123
        while at < end:
            file.seek(at)
            head = file.read(16)
            size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1:
                size, start = int.from_bytes(head[8:16], "big"), 16
            if size == 0 and kind == b"mdat":  # it goes on to the end of the file, wherever that is
                size, unusual = end - at, "its mdat box has no length"
            if size < start or len(head) < 8 or at + size > end:
                raise Refused(f"it ends, or is damaged, inside of the box that begins at byte {at}")
            if kind not in KNOWN_BOXES:
                unusual = "it has a box of an unusual type"
            if kind == b"mdat" and size > start:
                media.append((at + start, at + size))
            if kind == b"moov" and size <= MAX_MOOV:
                file.seek(at)
                _check_nested(file.read(size), start, size)
            kinds.add(kind)
            at += size
            if len(media) > MAX_BOXES:
                raise Refused(f"it has more than {MAX_BOXES} mdat boxes")
    return Boxes(tuple(media), b"moof" in kinds, unusual)


def _check_nested(data: bytes, at: int, end: int) -> None:
    """Check that a box consists of boxes, at every level: the demuxer skips what is none, and a track with it."""
    while at < end:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1 or (end - at < 8 and not any(data[at:end])):
            return  # a long box, or the end of a list, as QuickTime writes them
        if size < 8 or at + size > end or kind == bytes(4):
            raise Refused("its tables are damaged")
        if kind in PARENTS:
            _check_nested(data, at + 8, at + size)
        at += size


class Walk:
    """Checks each sample of a file as it is read, and in the end that they fill its `mdat` boxes.

    Args:
        stream: the stream of the picture.

    Raises:
        Refused: its parameter sets are damaged.
    """

    def __init__(self, stream: Any) -> None:
        self.unusual = ""
        """Why only decoding can decide; empty where the walk can."""
        self._stream = stream
        name, extra = stream.codec_context.name, stream.codec_context.extradata or b""
        self._codec = "av1" if name == "libdav1d" else str(name)
        self._prefix = 0
        self._ranges: list[tuple[int, int]] = []
        self._last: dict[int, int] = {}
        self._padded = 0
        self._longest_padding = 0
        self._sounds = 0
        self._zeroed: list[tuple[bool, int]] = []
        if self._codec in ("h264", "hevc"):
            self._read_parameter_sets(extra)
        else:  # in AV1, a wrong byte moves nothing that the walk could see
            self._doubt(f"its picture is {self._codec}")

    def read(self, packet: Any) -> None:
        """Check one sample.

        Args:
            packet: the sample.

        Raises:
            Refused: it is damaged.
        """
        if not packet.size:
            return
        if packet.pos is None or packet.pos < 0:
            self._doubt("a sample of it has no place in the file")
        else:
            self._ranges.append((packet.pos, packet.pos + packet.size))
        if packet.stream.type in ("video", "audio"):
            self._read_times(packet)
        if packet.stream.type == "audio" and packet.stream.codec_context.name == "aac":
            self._sounds += 1
            if bytes(packet).find(SHORT_ZERO_RUN) >= 0:
                self._zeroed.append((True, self._sounds))
        if packet.stream.index == self._stream.index:
            if packet.has_sidedata("new_extradata"):
                self._doubt("its parameter sets change")
                self._prefix = 0
            self._read_picture(memoryview(packet))

    def finish(self, boxes: Boxes) -> None:
        """Check that each byte of the `mdat` boxes belongs to one sample.

        Args:
            boxes: the file's boxes.

        Raises:
            Refused: a fragment has lost samples, or zero bytes stand where a frame ended.
        """
        if self._padded == 1 and self._longest_padding > MAX_PADDING:  # an encoder that pads does so more than once
            raise Refused(f"a frame of it ends in {self._longest_padding} zero bytes")
        if len(self._zeroed) == 1:
            is_sound, number = self._zeroed[0]
            if not is_sound or EDGE_SAMPLES < number <= self._sounds - EDGE_SAMPLES:
                raise Refused("one sample of it has zero bytes where the others have none")
        if boxes.unusual:
            self._doubt(boxes.unusual)
        gap = _gap(sorted(self._ranges), boxes.media)
        if gap and boxes.is_fragmented:
            raise Refused(f"its samples do not fill its fragments: {gap}")
        if gap:
            self._doubt(gap)

    def _doubt(self, why: str) -> None:
        self.unusual = self.unusual or why

    def _read_times(self, packet: Any) -> None:
        at, index = packet.dts, packet.stream.index
        if at is None or packet.pts is None or not packet.duration or at <= self._last.get(index, -sys.maxsize):
            self._doubt("its timestamps do not rise")
        self._last[index] = 0 if at is None else at

    def _read_parameter_sets(self, extra: bytes) -> None:
        """Read the box `avcC` or `hvcC`, which has the size of length fields, too."""
        is_h264 = self._codec == "h264"
        if len(extra) < (7 if is_h264 else 23) or extra[0] != 1:
            self._doubt("its parameter sets are not where mp4 files have them")
            return
        self._prefix = (extra[4 if is_h264 else 21] & 3) + 1
        for unit in _avcc_units(extra) if is_h264 else _hvcc_units(extra):
            if unit:
                self._check_unit(memoryview(unit))
            else:
                self._doubt("its parameter sets are unusual")

    def _read_picture(self, sample: memoryview) -> None:
        if self._codec == "av1":
            if _check_tiles(sample):
                self._zeroed.append((False, 0))
        elif self._prefix:
            self._read_units(sample)

    def _read_units(self, sample: memoryview) -> None:
        at, size, prefix = 0, len(sample), self._prefix
        is_h264 = self._codec == "h264"
        while at < size:
            start = at + prefix
            at = start + int.from_bytes(sample[at:start], "big")
            if at > size or at < start + (1 if is_h264 else 2):
                raise Refused(_NOT_ADDED_UP)
            head = sample[start]
            if head & 0x80:
                raise Refused("a frame has a damaged NAL unit")
            if (head & 0x1F) not in H264_UNITS if is_h264 else (head >> 1) not in HEVC_UNITS:
                self._doubt("it has NAL units of an unusual type")
            self._check_unit(sample[start:at])

    def _check_unit(self, unit: memoryview) -> None:
        if not unit[-1]:
            padding = len(unit) - len(bytes(unit).rstrip(b"\0"))
            self._padded += 1
            self._longest_padding = max(self._longest_padding, padding)
            self._doubt("it has zero bytes behind a NAL unit")
            unit = unit[: len(unit) - padding]
        if EMULATED.search(unit):
            raise Refused("a frame has zero bytes where its codec writes none")


def _gap(samples: list[tuple[int, int]], media: tuple[tuple[int, int], ...]) -> str:
    """Where samples and `mdat` boxes do not match, in words; empty if they do."""
    boxes = iter(media)
    at, end = next(boxes, (0, 0))
    for first, last in samples:
        if at == end:
            at, end = next(boxes, (end, end))
        if first != at or last > end:
            return f"byte {at} belongs to none or to several" if first != at else f"one goes beyond byte {end}"
        at = last
    return "" if at == end and next(boxes, None) is None else f"byte {at} belongs to none"


def _avcc_units(extra: bytes) -> Iterator[bytes]:
    """The parameter sets of an `avcC` box; an empty one where it is cut off."""
    at = 5
    for mask in (0x1F, 0xFF):
        number, at = extra[at] & mask if at < len(extra) else 0, at + 1
        for _ in range(number):
            size, at = int.from_bytes(extra[at : at + 2], "big"), at + 2
            yield extra[at : at + size] if at + size <= len(extra) else b""
            at += size


def _hvcc_units(extra: bytes) -> Iterator[bytes]:
    """The parameter sets of an `hvcC` box; an empty one where it is cut off."""
    at = 23
    for _ in range(extra[22]):
        number, at = int.from_bytes(extra[at + 1 : at + 3], "big"), at + 3
        for _ in range(min(number, 64)):
            size, at = int.from_bytes(extra[at : at + 2], "big"), at + 2
            yield extra[at : at + size] if at + size <= len(extra) else b""
            at += size


def _check_tiles(sample: memoryview) -> bool:
    """Whether an AV1 picture has a short run of zeros; a long one is damage that the decoder may not notice.

    Raises:
        Refused: it did.
    """
    has_short_run = False
    for kind, unit in _obus(sample):
        content = bytes(unit).rstrip(b"\0") if kind in AV1_FRAMES else b""
        if content.find(ZERO_RUN) >= 0:
            raise Refused("a frame has zero bytes where its codec writes none")
        has_short_run = has_short_run or content.find(SHORT_ZERO_RUN) >= 0
    return has_short_run


def _obus(sample: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of the OBUs of a sample, as far as they can be told apart: the decoder judges the rest."""
    at, size = 0, len(sample)
    while at < size:
        head, length, shift = sample[at], 0, 0
        at += 2 if head & 4 else 1
        while head & 2:
            if at >= size or shift > 28:
                return
            byte, at = sample[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        end = min(at + length, size) if head & 2 else size
        yield (head >> 3) & 15, sample[at:end]
        at = end

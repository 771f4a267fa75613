"""What a decoder process measures in a sound track: whether anything is heard, and whether it is clipped.

Imported by `decoder.py` in its process: nothing of this package may be imported here. It counts bytes instead of
samples: that takes a hundredth of the time, and no library for numbers.
"""

from __future__ import annotations

from operator import mul
from typing import Any

import av

HEARD_PIECES = 2
"""Pieces of about 20 ms that must be loud enough: one alone is a click."""

LEVELS = 128
"""Levels from silence to full scale that samples are counted by."""

LOWEST_TOP = 109
"""The level, 85 % of full scale, from which a wave may be clipped: encoders lower its top a little."""

REACHES = (1, 3)
"""Levels around the top that its samples are spread over: encoders round it off, the more the more is cut off."""

COUNTED_BYTES = 1 << 16
"""So many samples are counted at once."""


class SoundLevels:
    """The levels of a sound track.

    Parameters:
        heard: the loudness from which a piece is heard, as a share of full scale.
    """

    def __init__(self, heard: float) -> None:
        self._heard = heard * 32768
        self._pieces = 0
        self._loudest = 0.0
        self._counts = [0] * LEVELS
        self._high = bytearray()
        self._resampler = av.AudioResampler(format="s16")

    def add(self, frame: av.AudioFrame) -> None:
        """Measure a decoded piece, all of its channels."""
        for piece in self._resampler.resample(frame):
            content = bytes(piece.planes[0])[: piece.samples * len(piece.layout.channels) * 2]
            if not content:
                continue
            if self._pieces < HEARD_PIECES:
                samples = memoryview(content).cast("h")
                loudness = (sum(map(mul, samples, samples)) / len(samples)) ** 0.5
                self._pieces += loudness >= self._heard
                self._loudest = max(self._loudest, loudness)
            self._high += content[1::2]  # the high bytes of little-endian samples
            if len(self._high) >= COUNTED_BYTES:
                self._count()

    def found(self) -> dict[str, Any]:
        """The measurements: loudness as a share of full scale, and the samples at the top of a wave that is cut off."""
        self._count()
        tops = (self._top(level, reach) for level in range(LOWEST_TOP, LEVELS) for reach in REACHES)
        ratio, share = max(tops, key=lambda top: top[0] * min(top[1], 0.002))
        return {
            "is_heard": self._pieces >= HEARD_PIECES,
            "loudness": round(self._loudest / 32768, 6),
            "clipped_share": round(share, 6),
            "clipped_ratio": round(ratio, 3),
        }

    def _count(self) -> None:
        for level in range(LEVELS):
            self._counts[level] += self._high.count(level) + self._high.count(255 - level)  # of both signs
        self._high.clear()

    def _top(self, level: int, reach: int) -> tuple[float, float]:
        """How many times more samples are around a level than below it, and their share; nothing if more are above."""
        total, at = max(sum(self._counts), 1), self._counts[level - reach : level + reach + 1]
        below = self._counts[level - 2 * reach - 10 : level - 2 * reach - 1]
        above = self._counts[level + 3 * reach + 1 :]
        if 2 * sum(above) > sum(at):
            return 0.0, 0.0
        return (sum(at) / len(at)) / max(sum(below) / len(below), 1.0), sum(at) / total

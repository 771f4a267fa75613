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

TOP = (0x7F, 0x80)
"""High bytes of 16-bit samples from 99.2 % of full scale on, of both signs."""

BELOW = (*range(0x77, 0x7F), *range(0x81, 0x89))
"""High bytes of samples from 93 % to 99.2 % of full scale, of both signs."""


class SoundLevels:
    """The levels of a sound track.

    Parameters:
        heard: the loudness from which a piece is heard, as a share of full scale.
    """

    def __init__(self, heard: float) -> None:
        self._heard = heard * 32768
        self._pieces = 0
        self._loudest = 0.0
        self._samples = self._top = self._below = 0
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
            high = content[1::2]
            self._samples += len(high)
            self._top += sum(map(high.count, TOP))
            self._below += sum(map(high.count, BELOW))

    def found(self) -> dict[str, Any]:
        """The measurements: shares of full scale, and of the samples. A clipped wave has many samples at its top."""
        samples = max(self._samples, 1)
        return {
            "is_heard": self._pieces >= HEARD_PIECES,
            "loudness": round(self._loudest / 32768, 6),
            "clipped_share": round(self._top / samples, 6),
            "clipped_ratio": round(self._top / max(self._below / (len(BELOW) // 2), 1.0), 3),
        }

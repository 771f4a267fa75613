"""Deadlines of seconds in place of minutes, for the faults that only a deadline ends."""

from __future__ import annotations

import pytest

from prefect_genmedia._transport import BodyBounds

ENDED_BY_DEADLINES = ("_drip", "content_endless")
"""How the names of these faults end."""


def shorten_deadlines(monkeypatch: pytest.MonkeyPatch, fault: str, seconds: float = 3.0) -> None:
    """Shorten the deadlines that end this fault; the other ones stay, a busy machine is slow at times.

    Parameters:
        monkeypatch: the test's fixture; it puts the deadlines back.
        fault: the simulator's name of the fault.
        seconds: the deadline for an answer, in seconds.
    """
    if fault.endswith("_drip"):
        monkeypatch.setattr("prefect_genmedia._transport.api.API_SECONDS", seconds)
        monkeypatch.setattr("prefect_genmedia._transport.api.SUBMIT_SECONDS", seconds)
    bounds = BodyBounds(seconds=seconds + 1, window=seconds / 2, min_rate=1000.0)
    if fault in ("content_drip", "content_endless"):
        monkeypatch.setattr("prefect_genmedia._transport.bodies.DOWNLOAD_BOUNDS", bounds)
    if fault.startswith("mask_"):
        monkeypatch.setattr("prefect_genmedia._inputs.pictures.PICTURE_BOUNDS", bounds)

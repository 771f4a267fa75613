"""A clock for tests in which waiting takes no time."""

from __future__ import annotations

import asyncio

from prefect_genmedia._core.clock import Clock


class QuickClock(Clock):
    """Stands at the moment when it was made; only sleeping moves it, and takes no time."""

    def __init__(self) -> None:
        self.begun = super().now()
        self.passed = 0.0

    def now(self) -> float:
        return self.begun + self.passed

    def monotonic(self) -> float:
        return self.passed

    def boottime(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += max(seconds, 0.0)
        await asyncio.sleep(0)

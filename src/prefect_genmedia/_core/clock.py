"""An injectable time source."""

from __future__ import annotations

import asyncio
import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock:
    """The system's clocks; tests subclass it."""

    def now(self) -> float:
        """Seconds since 1970, UTC: for times that are stored and read by other processes."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump: for deadlines within one process."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds including the time that the machine was suspended, if the system counts it."""
        if _BOOTTIME is None:
            return time.monotonic()
        return time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(max(seconds, 0.0))


SYSTEM_CLOCK = Clock()

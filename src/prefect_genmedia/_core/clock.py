"""Time, as something that tests can hand over."""

from __future__ import annotations

import asyncio
import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock:
    """The real time; tests subclass it."""

    def now(self) -> float:
        """Seconds since 1970, UTC: for what is written down and read by other processes."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump: for deadlines within one process."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds that go on while the machine is suspended, where the system counts them."""
        if _BOOTTIME is None:
            return time.monotonic()
        return time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await asyncio.sleep(max(seconds, 0.0))


SYSTEM_CLOCK = Clock()

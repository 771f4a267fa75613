"""The simulator as a process, with jobs of 5 s that all have the same clip; prints its address."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

from clips import CLIPS

from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.server import serve
from prefect_genmedia.simulator.world import Settings, World


class SameClip(World):
    """Gives every job one clip that is encoded already, so that nothing but the programs is measured.

    Args:
        content: the clip's bytes.
        settings: how long jobs take.
    """

    def __init__(self, content: bytes, settings: Settings) -> None:
        super().__init__(settings)
        self._content = content

    async def _rendered(self, recipe: Recipe) -> bytes:
        return self._content

    def report(self) -> dict[str, Any]:
        """The report, with the CPU time that this process has used."""
        return {**super().report(), "jobs": [], "cpu_seconds": time.process_time()}


def main(clip: str, seconds: float) -> None:
    world = SameClip(CLIPS[clip].path.read_bytes(), Settings(queue_seconds=seconds / 5, run_seconds=seconds * 4 / 5))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        asyncio.run(serve(world, bound, lambda url: print(url, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""The simulator as a process, with jobs of 5 s and videos of few frames; prints its address."""

from __future__ import annotations

import asyncio

from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.server import serve
from prefect_genmedia.simulator.world import Settings, World


class FewFrames(World):
    """Renders every video with one frame a second, so that the benchmark measures the batch and not the decoder."""

    async def _rendered(self, recipe: Recipe) -> bytes:
        return await super()._rendered(Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))


if __name__ == "__main__":
    world = FewFrames(Settings(queue_seconds=1.0, run_seconds=4.0))
    asyncio.run(serve(world, "127.0.0.1", 0, lambda url: print(url, flush=True)))

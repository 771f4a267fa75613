"""A script with asyncio and httpx: no Prefect, no record of what was paid, no verification."""

from __future__ import annotations

import asyncio

from calls import calls, run


def bare(jobs: int, gate: int) -> None:
    async def everything() -> None:
        async with calls(gate) as script:
            await asyncio.gather(*(script.one(number) for number in range(jobs)))

    asyncio.run(everything())


if __name__ == "__main__":
    run(bare)

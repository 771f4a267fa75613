"""The bare script's calls, each job inside one Prefect task run, and nothing else: what Prefect itself costs."""

from __future__ import annotations

import asyncio

from calls import calls, run
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


def traced(jobs: int, gate: int) -> None:
    @flow
    async def everything() -> None:
        async with calls(gate) as script:

            @task(cache_policy=NO_CACHE, persist_result=False)
            async def one(number: int) -> None:
                await script.one(number)

            await asyncio.gather(*(one(number) for number in range(jobs)))

    asyncio.run(everything())


if __name__ == "__main__":
    run(traced)

"""DBOS: a workflow of three durable steps a job, recorded in SQLite; no verification. Has an environment of its own."""

from __future__ import annotations

import asyncio

from calls import FOLDER, Calls, calls, run
from dbos import DBOS

SCRIPT: list[Calls] = []


@DBOS.step()
async def submit() -> str:
    return await SCRIPT[0].submit()


@DBOS.step()
async def wait(job: str) -> None:
    await SCRIPT[0].wait(job)


@DBOS.step()
async def download(job: str, number: int) -> None:
    await SCRIPT[0].download(job, number)


@DBOS.workflow()
async def generate(number: int) -> None:
    async with SCRIPT[0].in_flight:
        job = await submit()
        await wait(job)
    await download(job, number)


def durable(jobs: int, gate: int) -> None:
    async def everything() -> None:
        async with calls(gate) as script:
            SCRIPT.append(script)
            handles = [await DBOS.start_workflow_async(generate, number) for number in range(jobs)]
            await asyncio.gather(*(handle.get_result() for handle in handles))

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{FOLDER}/dbos.sqlite", "log_level": "ERROR"})
    DBOS.launch()
    try:
        asyncio.run(everything())
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    run(durable)

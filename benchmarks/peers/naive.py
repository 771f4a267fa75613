"""A Prefect flow as its tutorials write it: four awaited task runs a job, no gate, no record of what was paid."""

from __future__ import annotations

import asyncio

import httpx
from calls import BASE, BODY, FOLDER, run
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(cache_policy=NO_CACHE)
async def prepare(number: int) -> dict[str, str]:
    return BODY


@task(cache_policy=NO_CACHE)
async def submit(client: httpx.AsyncClient, body: dict[str, str]) -> str:
    return str((await client.post("/videos", json=body)).raise_for_status().json()["id"])


@task(cache_policy=NO_CACHE)
async def wait(client: httpx.AsyncClient, job: str) -> str:
    async def status() -> str:
        return str((await client.get(f"/videos/{job}")).raise_for_status().json()["status"])

    while await status() != "completed":  # noqa: ASYNC110 - polling is what such a flow does
        await asyncio.sleep(1)
    return job


@task(cache_policy=NO_CACHE)
async def download(client: httpx.AsyncClient, job: str, number: int) -> None:
    video = (await client.get(f"/videos/{job}/content")).raise_for_status().content
    (FOLDER / f"{number}.mp4").write_bytes(video)


def naive(jobs: int, gate: int) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> None:
        job = await submit(client, await prepare(number))
        await download(client, await wait(client, job), number)

    @flow
    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=100)
        headers = {"Authorization": "Bearer sk-simulator"}
        async with httpx.AsyncClient(base_url=BASE, headers=headers, timeout=600, limits=limits) as client:
            await asyncio.gather(*(one(client, number) for number in range(jobs)))

    asyncio.run(all_of_them())


if __name__ == "__main__":
    run(naive)

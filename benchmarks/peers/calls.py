"""The HTTP calls that every peer makes, and what each prints at its end. Needs httpx and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
BASE = os.environ.get("BENCH_URL", "") + "/tokenops/v1"
MODEL = os.environ.get("BENCH_MODEL", "jimeng-video-3.0-720P")
BODY = {
    "model": MODEL,
    "prompt": "a lake at dawn",
    "req_key": "jimeng_t2v_v30" + ("_1080p" if MODEL.endswith("1080P") else ""),
}
CONNECTIONS = 8
"""Requests of a script at once: what serves it best."""


@dataclass
class Calls:
    """The steps of a job, and the gate: so many jobs at the provider at once."""

    client: httpx.AsyncClient
    in_flight: asyncio.Semaphore
    requests: asyncio.Semaphore

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        async with self.requests:
            return (await self.client.request(method, path, json=body)).raise_for_status()

    async def submit(self) -> str:
        """Submit; returns the job's id."""
        return str((await self._ask("POST", "/videos", BODY)).json()["id"])

    async def wait(self, job: str) -> None:
        """Ask once a second until the job is done."""
        status = "queued"
        while status != "completed":
            await asyncio.sleep(1)
            status = (await self._ask("GET", f"/videos/{job}")).json()["status"]

    async def download(self, job: str, number: int) -> None:
        """Write the file."""
        video = await self._ask("GET", f"/videos/{job}/content")
        (FOLDER / f"{number}.mp4").write_bytes(video.content)

    async def one(self, number: int) -> None:
        """One job from the beginning to its file."""
        async with self.in_flight:
            job = await self.submit()
            await self.wait(job)
        await self.download(job, number)


@asynccontextmanager
async def calls(gate: int) -> AsyncIterator[Calls]:
    """A client with what its jobs share.

    Args:
        gate: jobs at the provider at once.
    """
    headers = {"Authorization": "Bearer sk-simulator"}
    async with httpx.AsyncClient(base_url=BASE, headers=headers, timeout=600) as client:
        yield Calls(client, asyncio.Semaphore(gate), asyncio.Semaphore(CONNECTIONS))


def peak_bytes() -> int:
    """The most memory that this process had; a process inherits `ru_maxrss` of the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])  # type: ignore[index]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(peer: Callable[[int, int], dict[str, Any] | None]) -> None:
    """Run a peer as a program: `peer.py JOBS GATE`. The last line that it prints has its figures.

    Args:
        peer: does the jobs; returns further figures.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=int)
    parser.add_argument("gate", type=int)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    facts = peer(options.jobs, options.gate) or {}
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts |= {"memory_mb": round(peak_bytes() / 1e6), "own_cpu_seconds": round(used.ru_utime + used.ru_stime, 2)}
    print(json.dumps(facts))

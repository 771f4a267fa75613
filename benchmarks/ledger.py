"""What the ledger costs a job: five writes (reserve, sending, submitted, succeeded, delivered), each on the disk.

One after the other, as in a single flow, and a hundred jobs at once, as in a batch. Run with `make bench BENCH=ledger`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from prefect_genmedia._core import Delivery, Job, JobState, Ledger, open_ledger

JOBS = 300
FILE = Delivery(
    uri="x.mp4", sha256="0" * 64, bytes=1, seconds=5.0, width=1280, height=720, codec="h264", has_audio=True
)


async def live(ledger: Ledger, number: int) -> float:
    """The writes of one job; returns the seconds they took."""
    begun = time.perf_counter()
    job = await ledger.reserve(Job(key="", identity=f"{number:064d}", provider="tokenops", model="m"))
    for state, facts in (
        (JobState.SENDING, {}),
        (JobState.SUBMITTED, {"provider_job_id": str(number)}),
        (JobState.SUCCEEDED, {}),
        (JobState.DELIVERED, {"delivery": FILE}),
    ):
        moved = await ledger.move(job, state, **facts)
        assert moved is not None
        job = moved
    return time.perf_counter() - begun


async def measure(url: str) -> None:
    async with open_ledger(url) as ledger:
        alone = [await live(ledger, number) for number in range(JOBS)]
        begun = time.perf_counter()
        for start in range(JOBS, 2 * JOBS, 100):
            await asyncio.gather(*(live(ledger, number) for number in range(start, start + 100)))
        together = (time.perf_counter() - begun) / JOBS
    print(f"one after the other: median {statistics.median(alone) * 1000:.2f} ms a job (five writes)")
    print(f"a hundred at once:   {together * 1000:.2f} ms a job")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(f"sqlite:///{Path(folder) / 'ledger.db'}"))

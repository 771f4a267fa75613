"""How late news of a result is, and how many looks it takes, against a fixed interval.

Run with `make bench BENCH=polling`. Time is simulated, so the figures are the same on every machine. Jobs come one
after the other, as in a schedule, each as long as a model's usually are, give or take a quarter; the first ones teach
what is typical. The providers' examples look every 15 s at jobs of about two minutes: here that interval is scaled to
each length.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from pathlib import Path

from prefect_genmedia._core import Job, JobState, Ledger, PollPolicy, open_ledger, wait_for_job
from prefect_genmedia._core.clock import Clock
from prefect_genmedia.providers.protocol import Observation, Phase

JOBS = 100
TYPICAL_SECONDS = (5.0, 30.0, 120.0, 600.0)
FIXED_INTERVAL = 15.0 / 120.0
"""The interval of the providers' examples, as a share of the job's length."""


class SimulatedClock(Clock):
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 1e9

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += max(seconds, 0.0)


class OneJob:
    """A provider whose job is done at a given time."""

    def __init__(self, clock: Clock, done_at: float) -> None:
        self.clock = clock
        self.done_at = done_at
        self.looks = 0

    async def poll(self, provider_job_id: str) -> Observation:
        self.looks += 1
        if self.clock.now() < self.done_at:
            return Observation(phase=Phase.RUNNING, status="processing")
        return Observation(phase=Phase.SUCCEEDED, status="completed")


async def ours(ledger: Ledger, clock: SimulatedClock, model: str, number: int, length: float) -> tuple[int, float]:
    """Wait for one job with the package's policy; returns the looks and how late the news was, as a share."""
    job = await ledger.reserve(Job(key="", identity=f"{model}-{number}", provider="tokenops", model=model))
    for state in (JobState.SENDING, JobState.SUBMITTED):
        job = await ledger.move(job, state, provider_job_id=str(number)) or job
    provider = OneJob(clock, clock.now() + length)
    await wait_for_job(ledger, provider, job, 7200.0, PollPolicy(), clock=clock)
    return provider.looks, (clock.now() - provider.done_at) / length


async def at_fixed_intervals(length: float, interval: float) -> tuple[int, float]:
    """The same with a fixed interval."""
    looks = int(length // interval) + 1
    return looks, (looks * interval - length) / length


def means(rows: list[tuple[int, float]]) -> str:
    looks, late = zip(*rows, strict=True)
    return f"{statistics.mean(looks):.1f} | {statistics.mean(late):.1%}"


async def main() -> None:
    random.seed(1)
    print("| typical job | looks a job | news late by | fixed interval: looks | news late by |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        clock = SimulatedClock()
        async with open_ledger(f"sqlite:///{Path(folder) / 'ledger.db'}", clock) as ledger:
            for typical in TYPICAL_SECONDS:
                lengths = [typical * random.uniform(0.75, 1.25) for _ in range(JOBS)]
                own = [await ours(ledger, clock, f"m{typical}", n, length) for n, length in enumerate(lengths)]
                fixed = [await at_fixed_intervals(length, typical * FIXED_INTERVAL) for length in lengths]
                print(f"| {typical:.0f} s | {means(own)} | {means(fixed)} |")


if __name__ == "__main__":
    asyncio.run(main())

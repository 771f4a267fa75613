"""Two processes ask for the same at the same instant: one of them submits, the other joins its job."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from jobs import submit_once

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import open_ledger
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator

TIMES = 200


def submit_all(url: str, base_url: str, key: str, barrier: object, answers: str) -> None:
    """One process: at each barrier, submit the next request."""

    async def work() -> list[str]:
        credentials = TokenOpsCredentials(api_key=key, base_url=base_url)
        found = []
        async with open_ledger(url) as ledger, credentials.client() as client:
            for number in range(TIMES):
                request = OmniHumanVideo(
                    image_url="https://example.com/portrait.jpg",
                    audio_url="https://example.com/speech.mp3",
                    prompt=f"number {number}",
                )
                barrier.wait()
                job = await submit_once(ledger, client, request, scope="key:same")
                found.append(f"{job.key} {job.provider_job_id}")
        return found

    try:
        Path(answers).write_text(json.dumps(asyncio.run(work())))
    except BaseException:
        barrier.abort()  # nobody waits for the dead
        raise


@pytest.mark.timeout(1200)
def test_two_processes_at_the_same_instant_post_once_each_time(
    shared_ledger: str, simulator: RunningSimulator, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    files = [str(tmp_path / f"answers {number}") for number in range(2)]
    processes = [
        context.Process(
            target=submit_all,
            args=(shared_ledger, simulator.tokenops_url, simulator.key, barrier, file),
            daemon=True,  # where the test is interrupted, they end with it
        )
        for file in files
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    first, second = (json.loads(Path(file).read_text()) for file in files)
    assert first == second
    assert len(set(first)) == TIMES
    assert simulator.accepted == TIMES
    assert simulator.world.requests["tokenops.submit"] == TIMES
    assert os.getpid() not in {process.pid for process in processes}

"""A batch whose process is killed at random moments and run again until it is done: paid once, and a true table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_genmedia._core import Job, JobState, open_ledger
from prefect_genmedia._media.storage import sha256_of
from prefect_genmedia.batch.table import read_table
from prefect_genmedia.cli.local_server import local_server
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.faults import STAGES
from prefect_genmedia.simulator.media import FLAWS, Recipe
from prefect_genmedia.simulator.world import World
from prefect_genmedia.testing.cases import ENDED_BY_DEADLINES
from prefect_genmedia.text import escaped

ROWS = 200
AT_ONCE = 8
SEED = int(os.environ.get("GENMEDIA_SEED", str(random.randrange(10**6))))
NOT_HERE = {"stuck", "silent_video", "short_video", "small_video", *FLAWS}
"""A job that never ends ends no batch, and the tiny videos of this test are always as they should be.

Nor are there faults that only a deadline of minutes ends."""
FAULTS = [(name, stage) for stage in ("submit", "job", "poll", "content") for name in STAGES[stage]]
"""Every kind, for every sixth row or so. Failing jobs are more than one of each: those whose submission has no certain
answer are never looked at."""
MOST_KILLS = 6
MOST_RUNS = 30


@pytest.mark.server
@pytest.mark.timeout(1200)
def test_a_batch_that_is_killed_until_it_is_done_pays_each_row_once(
    simulator: RunningSimulator, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.stdout.write(f"\nseed {SEED}\n")
    chance = random.Random(SEED)
    few_frames(monkeypatch)
    ordered = [
        simulator.order(name, times=3 if stage == "job" else 1, retry_after=0.1, seconds=0.5, mib=8)
        for name, stage in chance.sample(FAULTS, len(FAULTS))
        if name not in NOT_HERE and not name.endswith(ENDED_BY_DEADLINES)
    ]
    rows = [{"id": f"r{number}", "prompt": f"lake {number}"} for number in range(ROWS)]
    parameters = {
        "table": [{**row, "model": "jimeng-video-3.0-720P"} for row in rows],
        "kind": "jimeng",
        "credentials": "killed",
        "batch_id": "killed",
        "output": str(tmp_path / "out"),
        "results": str(tmp_path / "results.jsonl"),
        "max_in_flight": AT_ONCE,
        "breaker": 0,
        "max_jobs": ROWS,
    }
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_INTEGRATIONS_GENMEDIA")}
    with local_server(tmp_path / "prefect", settings) as server:
        create = (
            "from prefect_genmedia import TokenOpsCredentials as T; "
            f"T(api_key={simulator.key!r}, base_url={simulator.tokenops_url!r}).save('killed')"
        )
        subprocess.run([sys.executable, "-c", create], env=dict(server.env), check=True)
        kills, runs = until_done(parameters, dict(server.env), chance, simulator, tmp_path)
    jobs = asyncio.run(all_jobs(ledger_url))
    states = dict(Counter(job.state.value for job in jobs))
    sys.stdout.write(f"{kills} kills in {runs} runs; jobs: {states}\n")
    assert kills >= 1
    assert not [fault.name for fault in ordered if fault.times], "a fault has not struck"
    check_payments(simulator, jobs)
    check_table(tmp_path, jobs, simulator)


def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = World._rendered

    async def tiny(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", tiny)


def until_done(
    parameters: dict[str, Any],
    env: dict[str, str],
    chance: random.Random,
    simulator: RunningSimulator,
    folder: Path,
    most_kills: int = MOST_KILLS,
    most_requests: int = ROWS,
) -> tuple[int, int]:
    """Start the batch, kill it at a random moment, and again, until a run ends with nothing left to do."""
    kills = 0
    command = [sys.executable, str(Path(__file__).parents[2] / "support" / "batch_fork_server.py")]
    with (
        (folder / "runs.log").open("w") as log,
        subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as fork_server,
    ):
        assert fork_server.stdin
        assert fork_server.stdout

        def ask(line: str) -> dict[str, int]:
            fork_server.stdin.write(line + "\n")
            fork_server.stdin.flush()
            answer: dict[str, int] = json.loads(fork_server.stdout.readline())
            return answer

        for run in range(1, MOST_RUNS + 1):
            task_runs = {"row_task_runs": "on" if run % 2 else "off"}  # one takes up what the other has left
            pid = ask(json.dumps(parameters | task_runs))["pid"]
            if kills < most_kills:
                with killing(pid, simulator, chance.randrange(most_requests), chance.uniform(0.0, 0.3)):
                    code = ask(f"wait {pid}")["code"]
            else:
                code = ask(f"wait {pid}")["code"]
            if code == -signal.SIGKILL:
                kills += 1
                time.sleep(0.5)  # what it was sending is stale from then on
                continue
            if code == 0 or (code == 3 and all(map(is_settled, read_table(parameters["results"])))):
                fork_server.stdin.close()
                return kills, run
            assert code == 3, (folder / "runs.log").read_text()[-4000:]
        fork_server.stdin.close()
    raise AssertionError(f"not done after {MOST_RUNS} runs")


def is_settled(row: dict[str, Any]) -> bool:
    """Whether another run would change nothing: a refused input is refused again, and an unknown row needs a person."""
    return row["state"] in ("delivered", "unknown") or row["error_kind"] == "InputRefused"


@contextlib.contextmanager
def killing(pid: int, simulator: RunningSimulator, requests: int, seconds: float) -> Iterator[None]:
    """Kill it so many seconds after so many requests, unless it has ended by then; how fast it is does not matter."""
    ended = threading.Event()
    enough = simulator.world.requests.total() + requests

    def kill() -> None:
        while simulator.world.requests.total() < enough:
            if ended.wait(0.002):
                return
        if not ended.wait(seconds):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        ended.set()
        killer.join()


def check_payments(simulator: RunningSimulator, jobs: list[Job]) -> None:
    failed = {job.provider_job_id for job in jobs if job.state is JobState.FAILED}
    paid = Counter(job.body["prompt"] for job in simulator.world.jobs.values() if job.id not in failed)
    assert max(paid.values()) == 1, [prompt for prompt, count in paid.items() if count > 1]
    known = {job.provider_job_id for job in jobs if job.provider_job_id}
    assert known <= set(simulator.world.jobs)
    unknown = [job for job in jobs if job.state is JobState.UNKNOWN]
    assert len(simulator.world.jobs) - len(known) <= len(unknown)


def check_table(folder: Path, jobs: list[Job], simulator: RunningSimulator) -> None:
    table = read_table(str(folder / "results.jsonl"))
    assert [row["id"] for row in table] == [f"r{number}" for number in range(ROWS)]
    newest: dict[str, Job] = {}
    for job in jobs:
        if job.label not in newest or job.attempt > newest[job.label].attempt:
            newest[job.label] = job
    prompts = {escaped(job_id): job.body["prompt"] for job_id, job in simulator.world.jobs.items()}
    for row in table:
        job = newest[row["id"]]
        assert (row["state"], row["job_key"], row["attempts"]) == (job.state.value, job.key, job.attempt)
        if row["state"] == "delivered":
            with Path(row["path"]).open("rb") as file:
                assert sha256_of(file) == row["sha256"]
            assert prompts[row["provider_job_id"]] == f"lake {row['id'][1:]}"
    # Nobody knows of what was being sent at a kill, and each fault may cost a row; all else is delivered.
    delivered = sum(row["state"] == "delivered" for row in table)
    assert delivered >= ROWS - MOST_KILLS * AT_ONCE - sum(3 if stage == "job" else 1 for _, stage in FAULTS)
    files = {path.name for path in (folder / "out").iterdir() if path.suffix == ".mp4"}
    assert files == {f"{row['id']}.mp4" for row in table if row["state"] == "delivered"}


async def all_jobs(url: str) -> list[Job]:
    async with open_ledger(url) as ledger:
        return await ledger.jobs()

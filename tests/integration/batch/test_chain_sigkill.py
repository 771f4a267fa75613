"""Chains whose process is killed at random moments and run again until they are done: each step is paid once."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_batch_sigkill import SEED, all_jobs, few_frames, until_done

from prefect_genmedia._core import JobState
from prefect_genmedia._media.storage import sha256_of
from prefect_genmedia.batch.result import read_steps
from prefect_genmedia.batch.table import read_table
from prefect_genmedia.cli.local_server import local_server
from prefect_genmedia.simulator import RunningSimulator

ROWS = 6
KILLS = 3


@pytest.mark.server
@pytest.mark.timeout(1200)
def test_chains_that_are_killed_until_they_are_done_pay_each_step_once(
    simulator: RunningSimulator, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.stdout.write(f"\nseed {SEED}\n")
    few_frames(monkeypatch)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL", simulator.inbox_url)
    first = {"model": "jimeng-video-3.0-720P"}
    steps = [{"kind": "stylize", "prompt": f"step {number}"} for number in (2, 3)]
    parameters = {
        "table": [{"id": f"r{number}", "prompt": f"lake {number}", "then": steps, **first} for number in range(ROWS)],
        "kind": "jimeng",
        "credentials": "killed",
        "batch_id": "killed",
        "output": str(tmp_path / "out"),
        "results": str(tmp_path / "results.jsonl"),
        "max_in_flight": 4,
        "breaker": 0,
        "max_jobs": 3 * ROWS,
    }
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_INTEGRATIONS_GENMEDIA")}
    with local_server(tmp_path / "prefect", settings) as server:
        create = (
            "from prefect_genmedia import HiDreamCredentials as H, TokenOpsCredentials as T; "
            f"key = {simulator.key!r}; T(api_key=key, base_url={simulator.tokenops_url!r}).save('killed'); "
            f"H(token=key, base_url={simulator.hidream_url!r}, submissions_per_minute=None).save('killed')"
        )
        subprocess.run([sys.executable, "-c", create], env=dict(server.env), check=True)
        chance = random.Random(SEED)
        kills, runs = until_done(parameters, dict(server.env), chance, simulator, tmp_path, KILLS, 10 * ROWS)
    sys.stdout.write(f"{kills} kills in {runs} runs\n")
    jobs = asyncio.run(all_jobs(ledger_url))
    unknown = sum(job.state is JobState.UNKNOWN for job in jobs)
    ids = Counter(job.provider_job_id for job in jobs if job.provider_job_id)
    assert kills >= 1
    assert max(ids.values()) == 1
    assert len(simulator.world.jobs) - len(ids) <= unknown  # of these a person decides
    steps_paid = Counter((job.label, job.scope) for job in jobs if job.provider_job_id or job.state is JobState.UNKNOWN)
    assert max(steps_paid.values()) == 1
    for row in read_table(str(tmp_path / "results.jsonl")):
        its = read_steps(row["steps"])
        assert [each["state"] for each in its] == ["delivered"] * 3 or row["state"] in ("unknown", "not_sent")
        for each in its:
            if each["state"] == "delivered":
                with Path(each["path"]).open("rb") as file:
                    assert sha256_of(file) == each["sha256"]

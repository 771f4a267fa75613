"""A run's process is killed at random moments and the run is retried: paid once, delivered, or honestly unknown.

The number of kills and the seed come from GENMEDIA_KILLS and GENMEDIA_SEED; `make kill-test` kills a thousand times.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from servers import PATIENCE, ask_api

from prefect_genmedia._core import Job, JobState, open_ledger
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.simulator import RunningSimulator

KILLS = int(os.environ.get("GENMEDIA_KILLS", "25"))
SEED = int(os.environ.get("GENMEDIA_SEED", str(random.randrange(10**6))))
AT_ONCE = 3
SUBMIT_LATENCY = 0.1
"""Seconds between the simulator's acceptance and its answer: the window in which nobody can know."""


@dataclass
class Lab:
    server: LocalServer
    simulator: RunningSimulator
    fork_server: subprocess.Popen[str]
    lock: Lock
    folder: Path
    flow_id: str = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.server.api, method, path, body)

    def create_run(self, prompt: str) -> str:
        parameters = {
            "image_url": self.simulator.portrait_url,
            "audio_url": self.simulator.speech_url,
            "prompt": prompt,
            "output_resolution": 720,
            "credentials": "killed",
            "output": str(self.folder / "out"),
        }
        run = {"flow_id": self.flow_id, "parameters": parameters, "state": {"type": "PENDING"}}
        return str(self.call("POST", "/flow_runs/", run)["id"])

    def start(self, flow_run_id: str) -> int:
        assert self.fork_server.stdin
        assert self.fork_server.stdout
        with self.lock:
            self.fork_server.stdin.write(json.dumps({"flow_run_id": flow_run_id}) + "\n")
            self.fork_server.stdin.flush()
            return int(json.loads(self.fork_server.stdout.readline())["pid"])

    def set_state(self, flow_run_id: str, kind: str, name: str | None = None) -> None:
        state = {"state": {"type": kind, "name": name}, "force": True}
        self.call("POST", f"/flow_runs/{flow_run_id}/set_state", state)

    def final_state(self, flow_run_id: str, pid: int) -> dict[str, Any]:
        """Wait until the process has ended, and give the run's state."""
        deadline = time.monotonic() + PATIENCE  # a busy server on SQLite answers 503, and Prefect's client waits
        while time.monotonic() < deadline and alive(pid):
            time.sleep(0.02)
        assert not alive(pid), "the retried run does not end"
        state: dict[str, Any] = self.call("GET", f"/flow_runs/{flow_run_id}")["state"]
        return state


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture
def lab(running_simulator: RunningSimulator, simulator: RunningSimulator, tmp_path: Path) -> Iterator[Lab]:
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_INTEGRATIONS_GENMEDIA")}
    with local_server(tmp_path / "prefect", settings) as server:
        create = (
            "from prefect_genmedia import TokenOpsCredentials as T; "
            f"T(api_key={simulator.key!r}, base_url={simulator.tokenops_url!r}).save('killed')"
        )
        subprocess.run([sys.executable, "-c", create], env=dict(server.env), check=True)
        with (tmp_path / "runs.log").open("w") as log:
            fork_server = subprocess.Popen(
                [sys.executable, str(Path(__file__).parents[2] / "support" / "fork_server.py")],
                env=dict(server.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            lab = Lab(server, simulator, fork_server, Lock(), tmp_path)
            lab.flow_id = lab.call("POST", "/flows/", {"name": "omnihuman-video"})["id"]
            try:
                yield lab
            finally:
                assert fork_server.stdin
                fork_server.stdin.close()
                fork_server.wait(PATIENCE)


@pytest.mark.server
@pytest.mark.timeout(1200 + KILLS * 20)
def test_a_run_that_is_killed_at_any_moment_and_retried_is_paid_once(
    lab: Lab, ledger_url: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("kills", f"{KILLS}, seed {SEED}")
    simulator = lab.simulator
    simulator.order("accept_slowly", times=10**9, seconds=SUBMIT_LATENCY)
    warm_up = [time_a_run(lab) for _ in range(2)]
    duration = warm_up[-1]
    chance = random.Random(SEED)
    moments = [chance.uniform(0.0, duration * 1.3) for _ in range(KILLS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda each: kill_and_retry(lab, *each), enumerate(moments)))
    jobs = asyncio.run(all_jobs(ledger_url))
    counted = Counter(ends)
    window = [job.submitted_at - job.sent_at for job in jobs if job.submitted_at and job.sent_at]
    record_property(
        "ends",
        f"{dict(counted)}; a run takes {duration:.1f} s, of which nobody can know for "
        f"{sorted(window)[len(window) // 2]:.3f} s (the simulator's answer takes {SUBMIT_LATENCY} s)",
    )
    accepted = Counter(job.body["prompt"] for job in simulator.world.jobs.values())
    assert max(accepted.values()) == 1
    assert set(counted) <= {"delivered", "unknown"}
    assert counted["delivered"] >= KILLS // 2
    for prompt, end in enumerate(ends):
        if end == "delivered":
            assert accepted[f"kill {prompt}"] == 1
    for job in jobs:
        assert job.state in (JobState.DELIVERED, JobState.UNKNOWN)
        if job.delivery:
            examine_video(Path(job.delivery.uri))


def time_a_run(lab: Lab) -> float:
    begun = time.monotonic()
    run = lab.create_run("warm up")
    state = lab.final_state(run, lab.start(run))
    assert state["type"] == "COMPLETED", state
    # The second warm-up asks for the same in another run: that is another request, with another prompt to count by.
    for job in lab.simulator.world.jobs.values():
        job.body["prompt"] = f"{job.body['prompt']} {job.id}"
    return time.monotonic() - begun


def kill_and_retry(lab: Lab, number: int, moment: float) -> str:
    run = lab.create_run(f"kill {number}")
    pid = lab.start(run)
    time.sleep(moment)  # the random moment is the test
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.01)
    lab.set_state(run, "CRASHED")
    lab.set_state(run, "SCHEDULED", "AwaitingRetry")
    state = lab.final_state(run, lab.start(run))
    if state["type"] == "COMPLETED":
        return "delivered"
    return "unknown" if "SubmissionUnknown" in state["message"] else f"{state['type']}: {state['message']}"


async def all_jobs(url: str) -> list[Job]:
    async with open_ledger(url) as ledger:
        return await ledger.jobs()

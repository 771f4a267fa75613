"""Real deployments, a real server and a real worker: cancelling, crashing, and collecting what was left behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import ask_api, stop, until

from prefect_genmedia._core import Job, JobState, open_ledger
from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.simulator import RunningSimulator

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

SETUP = """
import os, sys
from prefect import flow
from prefect_genmedia import TokenOpsCredentials
TokenOpsCredentials(api_key=sys.argv[1], base_url=sys.argv[2]).save("default", overwrite=True)
for name, function in {"omnihuman": "omnihuman_video", "reconcile": "reconcile_jobs"}.items():
    found = flow.from_source(sys.argv[3], f"{name}.py:{function}")
    found.deploy(name, work_pool_name="local", print_next_steps=False)
"""


@dataclass
class Team:
    """A server with two deployments and a worker."""

    server: LocalServer
    simulator: RunningSimulator

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.server.api, method, path, body)

    def start(self, deployment: str, **parameters: Any) -> str:
        found = self.call("GET", f"/deployments/name/{deployment}")
        run = self.call("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> str:
        return str(self.call("GET", f"/flow_runs/{run}")["state"]["type"])

    def set_state(self, run: str, kind: str) -> None:
        self.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": kind}, "force": kind == "CRASHED"})

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        only_this_run = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        found: list[dict[str, Any]] = self.call("POST", "/artifacts/filter", only_this_run)
        return found

    def events(self, name: str, job: Job) -> int:
        wanted = {"event": {"name": [name]}, "resource": {"id": [f"genmedia.job.{job.key}"]}}
        return int(self.call("POST", "/events/filter", {"filter": wanted})["total"])


@contextmanager
def process(command: list[str], server: LocalServer, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=dict(server.env), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield started
    finally:
        stop(started)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("team")


@pytest.fixture(scope="module")
def team(running_simulator: RunningSimulator, home: Path) -> Iterator[Team]:
    prefix = "PREFECT_INTEGRATIONS_GENMEDIA_"
    settings = {
        f"{prefix}LEDGER_URL": f"sqlite:///{home / 'team.db'}",
        f"{prefix}OUTPUT": str(home / "media"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with local_server(home / "prefect", settings) as server:
        prefect = [sys.executable, "-m", "prefect"]
        create = [*prefect, "work-pool", "create", "local", "--type", "process"]
        subprocess.run(create, env=dict(server.env), check=True, stdout=subprocess.DEVNULL)
        flows = str(Path(__file__).parents[2] / "flows")
        arguments = [running_simulator.key, running_simulator.tokenops_url, flows]
        subprocess.run([sys.executable, "-c", SETUP, *arguments], env=dict(server.env), check=True)
        with process([*prefect, "worker", "start", "--pool", "local"], server, home / "worker.log"):
            yield Team(server, running_simulator)


def jobs_of(home: Path) -> list[Job]:
    async def read() -> list[Job]:
        async with open_ledger(f"sqlite:///{home / 'team.db'}") as ledger:
            return await ledger.jobs()

    return asyncio.run(read())


def test_a_cancelled_run_says_so_and_its_job_is_collected_by_reconcile(
    team: Team, simulator: RunningSimulator, home: Path
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    known = {job.key for job in jobs_of(home)}
    run = team.start("omnihuman-video/omnihuman", image_url=simulator.portrait_url, audio_url=simulator.speech_url)
    until(lambda: [job.state for job in jobs_of(home) if job.key not in known] == [JobState.SUBMITTED], "submitted")
    until(lambda: simulator.world.requests["tokenops.poll"], "waited for")
    team.set_state(run, "CANCELLING")
    until(lambda: team.state(run) == "CANCELLED", "cancelled")
    (job,) = (job for job in jobs_of(home) if job.key not in known)
    assert job.state is JobState.SUBMITTED
    until(lambda: team.events("genmedia.job.detached", job) == 1, "the event")
    assert any("stopped, not lost" in str(card["data"]) for card in team.artifacts(run))

    simulator.world.settings.run_seconds = 0.1
    until(lambda: simulator.world.is_over(next(iter(simulator.world.jobs.values()))), "done at the provider")
    reconcile = team.start("reconcile-jobs/reconcile")
    until(lambda: team.state(reconcile) in ("COMPLETED", "FAILED", "CRASHED"), "reconciled")
    assert team.state(reconcile) == "COMPLETED"
    (job,) = (job for job in jobs_of(home) if job.key not in known)
    assert job.state is JobState.DELIVERED
    assert job.delivery
    assert Path(job.delivery.uri).stat().st_size == job.delivery.bytes
    assert any(job.key in str(table["data"]) for table in team.artifacts(reconcile))
    assert simulator.accepted == 1


def test_a_run_that_sleeps_while_its_job_is_made_is_woken_and_delivers(
    team: Team, simulator: RunningSimulator, home: Path
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    known = {job.key for job in jobs_of(home)}
    run = team.start(
        "omnihuman-video/omnihuman",
        image_url=simulator.portrait_url,
        audio_url=simulator.speech_url,
        suspend_while_waiting=True,
    )
    until(lambda: team.state(run) == "PAUSED", "suspended")
    first = team.start("reconcile-jobs/reconcile")
    until(lambda: team.state(first) == "COMPLETED", "reconciled while the job is being made")
    assert team.state(run) == "PAUSED"

    simulator.world.settings.run_seconds = 0.0
    second = team.start("reconcile-jobs/reconcile")
    until(lambda: team.state(second) == "COMPLETED", "reconciled when it was done")
    until(lambda: team.state(run) == "COMPLETED", "woken and delivered")
    (job,) = [job for job in jobs_of(home) if job.key not in known]
    assert job.state is JobState.DELIVERED
    assert simulator.accepted == 1

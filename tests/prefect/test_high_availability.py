"""A team with nothing single in it (two API servers, two workers, PostgreSQL, Redis) loses a worker and a server."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import HTTP, Member, ask_api, member, postgres, postgres_tools, redis, until

from prefect_genmedia._core import Job, JobState, open_ledger
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.cli.local_server import free_port
from prefect_genmedia.simulator import RunningSimulator

MISSING = [
    name
    for name, found in {
        "Debian's postgresql": postgres_tools(),
        "Debian's redis-server": shutil.which("redis-server"),
        "prefect-redis (in the extra dev)": importlib.util.find_spec("prefect_redis"),
    }.items()
    if not found
]

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
]

PREFECT = [sys.executable, "-m", "prefect"]
GENMEDIA = [sys.executable, "-m", "prefect_genmedia.cli"]
OURS = "PREFECT_INTEGRATIONS_GENMEDIA_"


@dataclass
class Team:
    """What is left to talk to: the API server that survives, and the processes that do not."""

    api: str
    doomed_server: Member
    doomed_worker: Member
    ledger_url: str
    logs: Path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.api, method, path, body)

    def start(self, deployment: str, **parameters: Any) -> str:
        found = self.call("GET", f"/deployments/name/{deployment}")
        run = self.call("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{run}")
        return found

    def state(self, run: str) -> str:
        return str(self.run(run)["state"]["type"])

    def force_state(self, run: str, kind: str) -> None:
        self.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})

    def process_of(self, run: str) -> int | None:
        """The id of the process that runs it; a worker notes it as `host:pid`."""
        noted = self.run(run)["infrastructure_pid"]
        return int(noted.rpartition(":")[2]) if noted else None

    def jobs(self) -> list[Job]:
        async def read() -> list[Job]:
            async with open_ledger(self.ledger_url) as ledger:
                return await ledger.jobs()

        return asyncio.run(read())


def team_settings(database: str, messages: str, home: Path) -> dict[str, str]:
    """The environment of every process: as `deployments/compose.yaml` has it, on loopback and in a hurry."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return env | {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("postgresql:", "postgresql+asyncpg:"),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_DOCKET_URL": f"{messages}/1",
        "PREFECT_REDIS_MESSAGING_URL": f"{messages}/0",
        # The test starts reconcile-jobs itself.
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        f"{OURS}LEDGER_URL": database,
        f"{OURS}OUTPUT": str(home / "media"),
        f"{OURS}POLL_LONGEST_SECONDS": "1",
    }


@pytest.fixture
def team(simulator: RunningSimulator, tmp_path: Path) -> Iterator[Team]:
    with ExitStack() as stack:
        database, messages = stack.enter_context(postgres()), stack.enter_context(redis())
        env = team_settings(database, messages, tmp_path)
        migrate = [*PREFECT, "server", "database", "upgrade", "--yes"]
        subprocess.run(migrate, env=env, check=True, stdout=subprocess.DEVNULL)

        def begin(name: str, command: list[str], env: Mapping[str, str]) -> Member:
            return stack.enter_context(member(name, command, env, tmp_path))

        ports = [free_port(), free_port()]
        apis = [f"http://127.0.0.1:{port}/api" for port in ports]
        serve = [*PREFECT, "server", "start", "--no-services", "--no-ui", "--host", "127.0.0.1"]
        # Of two servers that fill an empty database at the same instant one fails: the first writes the block types.
        only_the_first = [{}, {"PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}]
        servers = [
            begin(f"server-{port}", [*serve, "--port", str(port)], env | own)
            for port, own in zip(ports, only_the_first, strict=True)
        ]
        begin("services", [*PREFECT, "server", "services", "start"], env)
        for api, server in zip(apis, servers, strict=True):
            until(
                lambda api=api: HTTP.get(f"{api}/health").is_success,
                lambda server=server: server.log.read_text()[-3000:],
            )
        keys = {"GENMEDIA_TOKENOPS_API_KEY": simulator.key, "GENMEDIA_TOKENOPS_BASE_URL": simulator.tokenops_url}
        deploy = [*GENMEDIA, "deploy", "--provider", "tokenops"]
        own = env | keys | {"PREFECT_API_URL": apis[0]}
        deployed = subprocess.run(deploy, env=own, check=False, capture_output=True, text=True)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        # Of two workers that make their pool at the same instant one fails: it is there by now.
        work = [*PREFECT, "worker", "start", "--pool", "genmedia", "--type", "process", "--limit", "2"]
        workers = [
            begin(f"worker-{number}", [*work, "--name", f"worker-{number}"], env | {"PREFECT_API_URL": api})
            for number, api in enumerate(apis)
        ]
        own_pool = [*PREFECT, "worker", "start", "--pool", "genmedia-reconcile", "--type", "process"]
        begin("worker-reconcile", own_pool, env | {"PREFECT_API_URL": apis[1]})
        yield Team(apis[1], servers[0], workers[0], database, tmp_path)


def test_a_team_that_loses_a_worker_and_an_api_server_delivers_everything_and_pays_nothing_twice(
    team: Team, simulator: RunningSimulator
) -> None:
    simulator.world.settings.run_seconds = 3600.0  # nothing is done before the kill
    inputs = {"image_url": simulator.portrait_url, "audio_url": simulator.speech_url, "output_resolution": 720}
    runs = [team.start("omnihuman-video/omnihuman", prompt=f"take {number}", **inputs) for number in range(4)]
    until(lambda: [job.state for job in team.jobs()] == [JobState.SUBMITTED] * 4, lambda: str(team.jobs()))
    until(lambda: simulator.world.requests["tokenops.poll"] >= 4, "waited for")
    until(lambda: all(team.process_of(run) for run in runs), "noted which process runs what")

    killed = team.doomed_worker.kill()
    team.doomed_server.kill()
    lost = [run for run in runs if team.process_of(run) in killed]
    assert len(lost) == 2, "each worker had two runs"
    simulator.world.settings.run_seconds = 0.1

    # The surviving worker's runs end by themselves; the lost ones say that they run, and nobody is there any more.
    for run in set(runs) - set(lost):
        until(lambda run=run: team.state(run) == "COMPLETED", lambda run=run: str(team.run(run)["state"]))
    assert [team.state(run) for run in lost] == ["RUNNING", "RUNNING"]

    # One is marked Crashed, as the automation on silent runs does after ten minutes: another automation has the
    # surviving worker go on with it. The other is given up: reconcile-jobs collects what was paid for.
    resumed, given_up = lost
    team.force_state(resumed, "CRASHED")
    team.force_state(given_up, "CANCELLED")
    until(lambda: team.state(resumed) == "COMPLETED", lambda: str(team.run(resumed)["state"]))
    reconcile = team.start("reconcile-jobs/reconcile")  # not before: it takes a job whose run is Crashed for lost
    until(lambda: team.state(reconcile) == "COMPLETED", lambda: str(team.run(reconcile)["state"]))
    assert team.run(resumed)["run_count"] == 2

    accepted = Counter(job.body["prompt"] for job in simulator.world.jobs.values())
    assert accepted == {f"take {number}": 1 for number in range(4)}
    jobs = team.jobs()
    assert {job.provider_job_id for job in jobs} == set(simulator.world.jobs)
    for job in jobs:
        assert job.state is JobState.DELIVERED
        assert job.delivery
        assert examine_video(Path(job.delivery.uri)).seconds == pytest.approx(job.delivery.seconds, abs=0.1)
    assert {job.flow_run_id for job in jobs} == {*runs, reconcile} - {given_up}

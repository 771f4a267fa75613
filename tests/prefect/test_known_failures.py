"""Failures that users of Prefect have reported, on a real server with real workers: paid once, delivered, or told."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from crew import Crew, new_crew
from servers import until

from prefect_genmedia._core import Job, JobState
from prefect_genmedia.simulator import RunningSimulator

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

OWN_FLOWS = """
from prefect import flow, unmapped
from prefect_genmedia import sync
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.tasks import submit, wait_for_job

@flow
def synchronous(prompt: str) -> None:
    job = submit.submit(JimengVideo(prompt=prompt)).result()
    wait_for_job.submit(job).result()

@flow
def twins(prompt: str) -> None:
    sync.wait_for_job(sync.submit_job(JimengVideo(prompt=prompt)))

@flow
def child(prompt: str) -> None:
    sync.jimeng_video(prompt)

@flow
def mapped(prompts: list[str]) -> int:
    requests = [JimengVideo(prompt=prompt) for prompt in prompts]
    return len(submit.map(requests, credentials=unmapped("paced")).result())
"""

OLD_WHEEL = '''
import sys
from pydantic import Field, HttpUrl, SecretStr
from prefect.blocks.core import Block

class TokenOpsCredentials(Block):
    """What the first release had."""
    _block_type_name = "TokenOps Credentials"
    _block_type_slug = "tokenops-credentials"
    api_key: SecretStr = Field(title="API key", description="The key.")
    base_url: str = Field(default="https://old.example", title="Base URL", description="The root.")

TokenOpsCredentials(api_key=sys.argv[1], base_url=sys.argv[2]).save("old", overwrite=True)
'''

NEW_WHEEL = """
import sys
from prefect_genmedia import TokenOpsCredentials
block = TokenOpsCredentials.load("old")
assert block.api_key.get_secret_value() == sys.argv[1], "the key is the old one"
assert block.max_in_flight is None
block.max_in_flight = 70
block.save("old", overwrite=True)
assert TokenOpsCredentials.load("old").max_in_flight == 70
"""


@pytest.fixture(scope="module")
def crew(running_simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """A server with a worker; tests that kill either start it again."""
    crew = new_crew(tmp_path_factory.mktemp("known"), running_simulator)
    (crew.home / "often" / "own_flows.py").write_text(OWN_FLOWS)
    jimeng = "prefect_genmedia.flows.jimeng.jimeng_video"
    blocks = {
        "default": {},
        "held": {"concurrency_limit": "held"},
        "narrow": {"max_in_flight": 1},
        "paced": {"submissions_per_minute": 120},
    }
    deployments: dict[str, tuple[str, dict[str, Any]]] = {
        "free": (jimeng, {}),
        "limited": (jimeng, {"concurrency_limit": 4}),
        "broken": (jimeng, {"job_variables": {"command": "false"}}),
        "batch": ("prefect_genmedia.flows.batch.generate_batch", {}),
        "synchronous": ("own_flows.synchronous", {}),
        "twins": ("own_flows.twins", {}),
        "child": ("own_flows.child", {}),
        "mapped": ("own_flows.mapped", {}),
    }
    with crew.serving():
        crew.call("POST", "/v2/concurrency_limits/", {"name": "held", "limit": 1})
        crew.setup(blocks, deployments)
        with crew.worker():
            yield crew


def completed(crew: Crew, run: str) -> None:
    until(lambda: crew.state(run) == "Completed", lambda: f"{crew.state(run)}: {crew.logs(run)}")


def jobs_since(crew: Crew, known: set[str]) -> list[Job]:
    return [job for job in crew.jobs() if job.key not in known]


@pytest.fixture
def known(crew: Crew) -> set[str]:
    """The jobs of earlier tests."""
    return {job.key for job in crew.jobs()} if Path(crew.home / "ledger.db").exists() else set()


def test_a_run_whose_infrastructure_crashed_before_it_began_pays_nothing_and_can_be_started_again(
    crew: Crew, simulator: RunningSimulator
) -> None:
    """PrefectHQ/prefect#10354, #10211: PENDING → Crashed."""
    run = crew.start("broken", prompt="a lake")
    until(lambda: crew.state(run) == "Crashed", lambda: crew.state(run))
    assert simulator.accepted == 0
    crew.call("PATCH", f"/deployments/{crew.deployments['broken']}", {"job_variables": {}})

    def is_done() -> bool:
        if crew.state(run) == "Crashed":  # the worker may report the first crash once more
            crew.set_state(run, "SCHEDULED", "AwaitingRetry", force=True)
        return crew.state(run) == "Completed"

    until(is_done, lambda: f"{crew.state(run)}: {crew.logs(run)}")
    assert simulator.accepted == 1


def test_a_run_that_is_suspended_in_the_ui_before_it_submits_pays_nothing_until_it_is_resumed(
    crew: Crew, simulator: RunningSimulator
) -> None:
    """PrefectHQ/prefect#20388: a suspended run goes on until its next task, here in the middle of one."""
    simulator.world.settings.run_seconds = 3600.0
    first = crew.start("free", prompt="first", credentials="narrow")
    until(lambda: simulator.accepted == 1, lambda: crew.logs(first))
    second = crew.start("free", prompt="second", credentials="narrow")
    until(lambda: "Waiting for an in-flight slot" in crew.logs(second), lambda: crew.logs(second))
    crew.suspend(second)

    simulator.world.settings.run_seconds = 0.2
    completed(crew, first)
    until(lambda: not crew.pids(second), "the suspended run's process has ended")
    assert crew.state(second) == "Suspended"
    assert simulator.accepted == 1

    crew.resume(second)
    completed(crew, second)
    assert simulator.accepted == 2


def test_a_run_that_gets_sigterm_while_it_waits_joins_its_job_when_it_is_started_again(
    crew: Crew, simulator: RunningSimulator, known: set[str]
) -> None:
    """PrefectHQ/prefect#15945, #12988: SIGTERM while waiting."""
    simulator.world.settings.run_seconds = 3600.0
    run = crew.start("free", prompt="terminated")
    until(lambda: simulator.world.requests["tokenops.poll"], lambda: crew.logs(run))
    for pid in crew.pids(run):
        os.kill(pid, signal.SIGTERM)
    until(lambda: not crew.pids(run), "its process has ended")
    (job,) = jobs_since(crew, known)
    assert job.state is JobState.SUBMITTED
    simulator.world.settings.run_seconds = 0.2
    crew.set_state(run, "SCHEDULED", "AwaitingRetry", force=True)
    completed(crew, run)
    (job,) = jobs_since(crew, known)
    assert job.state is JobState.DELIVERED
    assert simulator.accepted == 1


def test_a_failed_run_that_is_retried_joins_its_job(crew: Crew, simulator: RunningSimulator) -> None:
    """PrefectHQ/prefect#12953, #20577: a retry starts from the beginning."""
    simulator.world.settings.run_seconds = 3600.0
    run = crew.start("free", prompt="retried", timeout_seconds=2)
    until(lambda: crew.state(run) == "Failed", lambda: crew.state(run))
    simulator.world.settings.run_seconds = 0.2
    crew.set_state(run, "SCHEDULED", "AwaitingRetry", force=True)
    completed(crew, run)
    assert simulator.accepted == 1


def test_two_processes_of_one_run_pay_once_and_deliver_one_file(
    crew: Crew, simulator: RunningSimulator, known: set[str]
) -> None:
    """PrefectHQ/prefect#12509: two pods of one run."""
    simulator.world.settings.run_seconds = 5.0
    deployment = crew.deployments["free"]
    body = {"parameters": {"prompt": "twins"}, "state": {"type": "PENDING"}}  # no worker takes it
    run = str(crew.call("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])
    command = [sys.executable, "-m", "prefect.engine"]
    env = crew.env | {"PREFECT__FLOW_RUN_ID": run}
    twins = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert all(twin.wait(240) is not None for twin in twins)
    (job,) = jobs_since(crew, known)
    assert job.state is JobState.DELIVERED
    assert simulator.accepted == 1


def test_requests_that_are_mapped_under_a_pace_are_each_submitted_once(crew: Crew, simulator: RunningSimulator) -> None:
    """PrefectHQ/prefect#18883, #12252: `.map` of many tasks, each in an event loop of its own."""
    run = crew.start("mapped", prompts=[f"mapped {number}" for number in range(6)])
    completed(crew, run)
    assert simulator.accepted == 6


@pytest.mark.parametrize("deployment", ["synchronous", "twins", "child"])
def test_a_cancelled_synchronous_flow_leaves_its_card_and_its_event(
    deployment: str, crew: Crew, simulator: RunningSimulator, known: set[str]
) -> None:
    """PrefectHQ/prefect#17623, #10367: a synchronous flow that is cancelled runs no clean-up."""
    simulator.world.settings.run_seconds = 3600.0
    run = crew.start(deployment, prompt="cancelled")
    until(lambda: simulator.world.requests["tokenops.poll"], lambda: crew.logs(run))
    before = crew.events("genmedia.job.detached")
    crew.set_state(run, "CANCELLING")
    until(lambda: crew.state(run) == "Cancelled", lambda: crew.state(run))
    (job,) = jobs_since(crew, known)
    assert job.state is JobState.SUBMITTED
    until(lambda: crew.events("genmedia.job.detached") == before + 1, "the event")
    assert "stopped, not lost" in "".join(crew.artifacts(each) for each in (run, *crew.children(run)))


def test_a_freed_slot_of_a_limit_is_used_within_two_seconds(crew: Crew, simulator: RunningSimulator) -> None:
    """PrefectHQ/prefect#23183, #15618: freed slots stay idle, since those that wait ask after up to a minute."""
    rows = [{"id": f"row-{number}", "kind": "jimeng", "prompt": f"slot {number}"} for number in range(5)]
    completed(crew, crew.start("batch", table=rows, credentials="held", batch_id="slots", output=str(crew.home)))
    idle = []
    freed_at: datetime | None = None
    names = ["prefect.concurrency-limit.acquired", "prefect.concurrency-limit.released"]
    wanted = {"filter": {"event": {"name": names}, "order": "ASC"}}
    until(lambda: crew.call("POST", "/events/filter", wanted)["total"] >= 10, "the events")
    for event in crew.call("POST", "/events/filter", wanted)["events"]:
        at = datetime.fromisoformat(event["occurred"].replace("Z", "+00:00"))
        if event["event"] == names[0] and freed_at is not None:
            idle.append((at - freed_at).total_seconds())
        freed_at = at if event["event"] == names[1] else None
    assert len(idle) == 4
    assert statistics.median(idle) <= 2.0, "the machine may stand still once"
    assert simulator.accepted == 5


def test_a_block_that_an_earlier_wheel_saved_loads_edits_and_deploys_with_this_one(
    crew: Crew, simulator: RunningSimulator
) -> None:
    """PrefectHQ/prefect#6265, #15619: a Block's schema that has gained fields."""
    for code in (OLD_WHEEL, NEW_WHEEL):
        given = [simulator.key, simulator.tokenops_url]
        subprocess.run([sys.executable, "-c", code, *given], env=crew.env, check=True)
    completed(crew, crew.start("free", prompt="old", credentials="old"))
    command = [sys.executable, "-m", "prefect_genmedia.cli", "deploy"]
    keys = {"GENMEDIA_TOKENOPS_API_KEY": simulator.key}
    subprocess.run(command, env=crew.env | keys, cwd=crew.home, check=True, stdout=subprocess.DEVNULL)
    completed(crew, crew.start("free", prompt="deployed", credentials="old"))
    assert simulator.accepted == 2


def test_a_server_that_is_away_for_longer_than_a_lease_costs_one_payment_and_leaves_one_file(
    crew: Crew, simulator: RunningSimulator, known: set[str]
) -> None:
    """PrefectHQ/prefect#18839, #18893, #19068: a run whose lease is lost while the server is away may be ended."""
    simulator.world.settings.run_seconds = 3600.0
    free = crew.start("free", prompt="free", credentials="held")
    limited = crew.start("limited", prompt="limited")
    until(lambda: simulator.accepted == 2, lambda: crew.logs(free) + crew.logs(limited))
    server = crew.server
    assert server is not None
    server.kill()
    time.sleep(20)  # renewals after 6 s each, and three attempts at one
    simulator.world.settings.run_seconds = 0.2
    with crew.serving():
        for run in (free, limited):
            until(
                lambda run=run: crew.state(run) == "Completed" or not crew.pids(run),
                lambda run=run: f"{crew.state(run)}: {crew.logs(run)}",
            )
            if crew.state(run) != "Completed":
                crew.set_state(run, "SCHEDULED", "AwaitingRetry", force=True)
                completed(crew, run)
        assert [job.state for job in jobs_since(crew, known)] == [JobState.DELIVERED] * 2
        assert simulator.accepted == 2


def test_a_slot_that_leaked_with_its_worker_and_server_is_named_and_can_be_freed(
    crew: Crew, simulator: RunningSimulator
) -> None:
    """PrefectHQ/prefect#17415, #21794, #9895: a worker was killed, and the server that knew its lease restarted."""
    with crew.serving(), crew.worker("second"):
        crew.call("PATCH", "/v2/concurrency_limits/held", {"active_slots": 0})
        simulator.world.settings.run_seconds = 3600.0
        killed = crew.start("free", prompt="killed", credentials="held")
        until(lambda: simulator.accepted == 1, lambda: crew.logs(killed))
        until(lambda: crew.events("prefect.concurrency-limit.acquired", killed), "the event of its slot")
        crew.kill(killed)
        until(lambda: crew.state(killed) == "Crashed", lambda: crew.state(killed))
        assert crew.server is not None
        crew.server.kill()
    simulator.world.settings.run_seconds = 0.2
    with crew.serving(), crew.worker("third"):
        name = crew.run(killed)["name"]
        waiting = crew.start("free", prompt="waiting", credentials="held", timeout_seconds=20)
        until(lambda: crew.state(waiting) == "Failed", lambda: f"{crew.state(waiting)}: {crew.logs(waiting)}")
        assert "RateLimited" in crew.run(waiting)["state"]["message"]
        assert f"'{name}' (Crashed), which did not give it back" in crew.logs(waiting)
        assert simulator.accepted == 1
        crew.call("PATCH", "/v2/concurrency_limits/held", {"active_slots": 0})
        crew.set_state(waiting, "SCHEDULED", "AwaitingRetry", force=True)
        completed(crew, waiting)
        assert simulator.accepted == 2

"""Pauses that are longer than the leases of a deployment's concurrency slots, with a real server and a real worker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from crew import Crew, new_crew
from servers import until

from prefect_genmedia._core import JobState
from prefect_genmedia.simulator import RunningSimulator

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

LEASE_SECONDS = 30
"""The shortest that Prefect allows."""

FLOW = "prefect_genmedia.flows.omnihuman.omnihuman_video"


@pytest.fixture(scope="module")
def crew(running_simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    crew = new_crew(
        tmp_path_factory.mktemp("pauses"),
        running_simulator,
        PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION=str(LEASE_SECONDS),
    )
    with crew.serving():
        crew.setup({"default": {}}, {"limited": (FLOW, {"concurrency_limit": 4}), "free": (FLOW, {})})
        with crew.worker():
            yield crew


def test_runs_that_wait_for_a_person_or_their_job_outlive_the_leases_of_their_deployments_slots(
    crew: Crew, simulator: RunningSimulator
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    inputs = {"image_url": simulator.portrait_url, "audio_url": simulator.speech_url}
    limited = crew.start("limited", **inputs, subject="ask", seed=1)
    free = crew.start("free", **inputs, subject="ask", seed=2)
    waiting = crew.start("limited", **inputs, suspend_while_waiting=True, seed=3)
    until(
        lambda: [crew.state(each) for each in (limited, free, waiting)] == ["Suspended", "Paused", "Suspended"],
        lambda: str([crew.state(each) for each in (limited, free, waiting)]),
    )
    assert simulator.accepted == 1
    time.sleep(3 * LEASE_SECONDS + 5)  # the leases are the server's: nothing can make them older
    assert [crew.state(each) for each in (limited, free, waiting)] == ["Suspended", "Paused", "Suspended"]

    simulator.world.settings.run_seconds = 0.2
    crew.resume(limited, subject="1 · right, largest")
    crew.resume(free, subject="1 · right, largest")
    crew.resume(waiting)
    for run in (limited, free, waiting):
        until(lambda run=run: crew.state(run) == "Completed", lambda run=run: f"{crew.state(run)}: {crew.logs(run)}")
    assert [job.state for job in crew.jobs()] == [JobState.DELIVERED] * 3
    assert simulator.accepted == 3

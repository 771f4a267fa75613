"""Who started a run again decides how long it waits: automatic retries keep the first deadline, a person does not."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.flow_engine import run_flow_async
from prefect.states import State

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import pipeline
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

TIMEOUT = 0.3


@pytest.fixture
def waited(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each wait may last, from when the job was accepted; the job is never done."""
    simulator.world.settings.run_seconds = 3600.0
    monkeypatch.setattr(pipeline, "JUST_ACCEPTED_SECONDS", 0.0)
    seconds: list[float] = []
    original = pipeline.wait_for_job

    async def noted(ledger: Any, client: Any, job: Any, timeout_seconds: float, *rest: Any) -> Any:
        seconds.append(timeout_seconds)
        return await original(ledger, client, job, timeout_seconds, *rest)

    monkeypatch.setattr(pipeline, "wait_for_job", noted)
    return seconds


async def again(run_id: UUID, state: State[Any], credentials: TokenOpsCredentials) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(run_id, state, force=True)
        run = await client.read_flow_run(run_id)
    await run_flow_async(
        jimeng_video,
        flow_run=run,
        parameters={"prompt": "a lake", "credentials": credentials, "timeout_seconds": TIMEOUT},
        return_type="state",
    )


async def failed(credentials: TokenOpsCredentials, **options: Any) -> UUID:
    flow = jimeng_video.with_options(**options)
    state = await flow("a lake", credentials=credentials, timeout_seconds=TIMEOUT, return_state=True)
    assert "JobTimeout" in (state.message or "")
    assert state.state_details.flow_run_id
    return state.state_details.flow_run_id


async def test_automatic_retries_keep_the_first_deadline(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, waited: list[float]
) -> None:
    await failed(credentials, retries=2, retry_delay_seconds=0)
    assert waited == [TIMEOUT] * 3
    assert simulator.accepted == 1


@pytest.mark.parametrize(
    "state",
    [
        State(type=StateType.SCHEDULED, name="AwaitingRetry", message="Retry from the UI"),
        State(type=StateType.SCHEDULED, name="Scheduled", message="Retried via CLI"),
    ],
    ids=["ui", "cli"],
)
async def test_a_run_that_a_person_starts_again_waits_anew(
    state: State[Any], simulator: RunningSimulator, credentials: TokenOpsCredentials, waited: list[float]
) -> None:
    run = await failed(credentials)
    await again(run, state, credentials)
    assert waited[0] == TIMEOUT
    assert waited[1] > TIMEOUT * 2, "the time before the person's retry does not count"
    assert simulator.accepted == 1


@pytest.mark.parametrize(
    ("state", "is_by_person"),
    [
        (State(type=StateType.SCHEDULED, message="Started again after a crash; it goes on with the same job."), False),
        (State(type=StateType.SCHEDULED, name="AwaitingRetry", message="Retry from the UI"), True),
    ],
    ids=["automation", "person"],
)
async def test_a_run_that_crashed_waits_anew_only_if_a_person_started_it_again(
    state: State[Any],
    is_by_person: bool,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    waited: list[float],
) -> None:
    run = await failed(credentials)
    async with get_client() as client:
        await client.set_flow_run_state(run, State(type=StateType.CRASHED), force=True)
    await again(run, state, credentials)
    assert (waited[1] > TIMEOUT) == is_by_person
    assert simulator.accepted == 1

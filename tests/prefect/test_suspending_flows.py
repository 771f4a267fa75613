"""Flows that free their process: refused where nothing could start them again, answered by a person or by the clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.flow_runs import aresume_flow_run

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.providers.tokenops import ask
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

WAITING = "suspend_while_waiting"
ASKING = "suspend_while_asking"


def parameters_of(flow: Flow[..., Any], simulator: RunningSimulator, **more: Any) -> dict[str, Any]:
    """What a flow needs at least."""
    key = simulator.key
    tokenops = TokenOpsCredentials(api_key=key, base_url=simulator.tokenops_url)
    own: dict[str, dict[str, Any]] = {
        omnihuman_video.name: {
            "image_url": simulator.portrait_url,
            "audio_url": simulator.speech_url,
            "credentials": tokenops,
        },
        jimeng_video.name: {"prompt": "a lake at dawn", "credentials": tokenops},
        live_poster.name: {
            "image_url": simulator.portrait_url,
            "scene": "firework",
            "credentials": JeniusCredentials(api_key=key, base_url=simulator.jenius_url),
        },
        stylize_video.name: {
            "video_url": simulator.clip_url,
            "style": "ink_wash",
            "credentials": HiDreamCredentials(token=key, base_url=simulator.hidream_url),
        },
    }
    return own[flow.name] | more


class Deployed:
    """A run of a deployment, which goes in this process whenever it is told to."""

    def __init__(self, flow: Flow[..., Any], run: FlowRun) -> None:
        self.flow, self.run = flow, run

    async def goes(self, parameters: dict[str, Any]) -> Any:
        """What the run returns; None where it sleeps, and its process would be free."""
        try:
            return await run_flow_async(self.flow, flow_run=await self.now(), parameters=parameters)
        except Pause:
            return None

    async def now(self) -> FlowRun:
        async with get_client() as client:
            return await client.read_flow_run(self.run.id)

    async def state(self) -> str:
        run = await self.now()
        assert run.state
        return run.state.name

    async def galleries(self) -> int:
        """How often the subjects were shown."""
        only_own = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[self.run.id]), key=ArtifactFilterKey(any_=["genmedia-subjects"])
        )
        async with get_client() as client:
            return len(await client.read_artifacts(artifact_filter=only_own))


Deploy = Callable[[Flow[..., Any]], Awaitable[Deployed]]


@pytest.fixture
async def deploy() -> AsyncIterator[Deploy]:
    """Makes a run of a deployment; nothing of it is left for tests that look at what is paused or deployed."""
    made = []

    async def make(flow: Flow[..., Any]) -> Deployed:
        async with get_client() as client:
            flow_id = await client.create_flow(flow)
            deployment = await client.create_deployment(flow_id, name="suspending", enforce_parameter_schema=False)
            run = await client.create_flow_run_from_deployment(deployment)
        made.append((deployment, run))
        return Deployed(flow, run)

    yield make
    async with get_client() as client:
        for deployment, run in made:
            await client.delete_flow_run(run.id)
            await client.delete_deployment(deployment)


@pytest.mark.parametrize(
    ("flow", "parameter"),
    [
        (omnihuman_video, WAITING),
        (omnihuman_video, ASKING),
        (jimeng_video, WAITING),
        (live_poster, WAITING),
        (stylize_video, WAITING),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_run_without_a_deployment_refuses_to_suspend_before_anything_is_sent(
    flow: Flow[..., Any], parameter: str, simulator: RunningSimulator
) -> None:
    more: dict[str, Any] = {parameter: True} | ({"subject": "ask"} if parameter == ASKING else {})
    with pytest.raises(InvalidRequest, match=f"{parameter}: for runs of deployments only"):
        await flow(**parameters_of(flow, simulator, **more))
    assert simulator.accepted == 0
    assert not simulator.world.requests, "nobody was detected either"


async def test_a_subflow_of_a_deployed_run_refuses_to_suspend_before_anything_is_sent(
    simulator: RunningSimulator, deploy: Deploy
) -> None:
    @flow(name="parent")
    async def parent() -> None:
        await live_poster(**parameters_of(live_poster, simulator, suspend_while_waiting=True))

    deployed = await deploy(parent)
    with pytest.raises(InvalidRequest, match="not for subflows"):
        await deployed.goes({})
    assert simulator.accepted == 0
    assert not simulator.world.requests


async def test_where_nobody_is_asked_it_does_not_matter_how_the_run_would_wait_for_a_person(
    simulator: RunningSimulator,
) -> None:
    await omnihuman_video(**parameters_of(omnihuman_video, simulator, subject="largest", suspend_while_asking=True))
    assert simulator.accepted == 1


def asking(simulator: RunningSimulator, **more: Any) -> dict[str, Any]:
    return parameters_of(omnihuman_video, simulator, subject="ask", suspend_while_asking=True, **more)


def mask_in_use(simulator: RunningSimulator) -> int:
    """Which of the subjects that were detected last speaks in the one job that was paid."""
    (job,) = simulator.world.jobs.values()
    masks = [url for url, file in simulator.world.files.items() if file.media_type == "image/png"][-2:]
    (sent,) = job.body["mask_urls"]
    return [f"{simulator.url}/files/{mask}" for mask in masks].index(sent)


async def test_a_run_that_asks_frees_its_process_and_goes_on_with_whom_the_person_chose(
    simulator: RunningSimulator, deploy: Deploy
) -> None:
    deployed = await deploy(omnihuman_video)
    assert await deployed.goes(asking(simulator)) is None
    assert await deployed.state() == "Suspended"
    assert simulator.accepted == 0
    await aresume_flow_run(deployed.run.id, run_input={"subject": "2 · left"})
    assert isinstance(await deployed.goes(asking(simulator)), Delivery)
    assert mask_in_use(simulator) == 1
    assert await deployed.galleries() == 1, "the numbers mean what they meant when the run asked"


async def reconciled(monkeypatch: pytest.MonkeyPatch, later: float) -> None:
    """What `reconcile_jobs` does when some seconds more have passed."""
    with monkeypatch.context() as clock:
        clock.setattr(ask, "time", SimpleNamespace(time=lambda: time.time() + later))
        await reconcile_jobs()


async def test_a_sleeping_question_that_nobody_answers_in_time_is_answered_with_the_largest(
    simulator: RunningSimulator, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = asking(simulator, ask_timeout_seconds=7200, ask_fallback="largest")
    deployed = await deploy(omnihuman_video)
    assert await deployed.goes(patient) is None
    await reconciled(monkeypatch, later=3600)
    assert await deployed.state() == "Suspended"
    await reconciled(monkeypatch, later=7201)
    assert await deployed.state() == "Resuming"
    assert isinstance(await deployed.goes(patient), Delivery)
    assert mask_in_use(simulator) == 0


async def test_a_sleeping_question_without_a_fallback_is_left_to_the_person(
    simulator: RunningSimulator, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = await deploy(omnihuman_video)
    assert await deployed.goes(asking(simulator, ask_timeout_seconds=7200)) is None
    await reconciled(monkeypatch, later=7201)
    assert await deployed.state() == "Suspended"
    run = await deployed.now()
    assert run.state
    assert run.state.state_details.pause_timeout
    assert run.state.timestamp
    kept = run.state.state_details.pause_timeout - run.state.timestamp
    assert kept.total_seconds() < ask.GRACE_SECONDS, "the server ends it when its time is over"

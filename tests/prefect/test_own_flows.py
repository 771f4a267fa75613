"""The tasks in the flows that users write: futures, `map`, `with_options`, names, cards and the flows' common tail."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import pytest
from prefect import flow, task, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.utilities.collections import isiterable, visit_collection

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, Job
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.generate import generate
from prefect_genmedia.providers.tokenops import Detection, JimengVideo
from prefect_genmedia.providers.tokenops.subjects import SubjectSelection
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, select_subject
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World
from prefect_genmedia.tasks import check_inputs, download_result, submit, submit_job, wait_for_job

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

LAKE = JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P")
MAPPED = 20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of five frames: five seconds long, decoded in no time."""
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


async def name_of(state: State[Any]) -> str:
    async with get_client() as client:
        return (await client.read_flow_run(cast(UUID, state.state_details.flow_run_id))).name


async def failure_cards(state: State[Any]) -> list[str]:
    """The failure cards of a flow run, each time one was published."""
    run_id = cast(UUID, state.state_details.flow_run_id)
    async with get_client() as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        shown = await client.read_artifacts(artifact_filter=only_this_run)
    return [str(artifact.data) for artifact in shown if artifact.key == "genmedia-failure"]


# --- the flows' common tail ---


async def test_the_common_tail_gives_a_users_flow_a_delivery_to_go_on_with(credentials: TokenOpsCredentials) -> None:
    @flow
    async def theirs() -> list[float]:
        deliveries = [await generate(LAKE, credentials=credentials) for _ in range(2)]
        assert all(isinstance(delivery, Delivery) for delivery in deliveries)
        return [delivery.seconds for delivery in deliveries]

    assert await theirs() == [5.0, 5.0]


async def test_a_flow_of_the_package_gives_a_delivery_and_its_state_tells_of_the_job(
    credentials: TokenOpsCredentials,
) -> None:
    state = await jimeng_video("a lake", LAKE.model, credentials=credentials, return_state=True)
    delivery = await state.aresult()
    assert isinstance(delivery, Delivery)
    words = f"Job {delivery.provider_job_id} is completed at tokenops; verified and delivered: 5.00 s, 1280×720, "
    assert state.message == words + delivery.uri


async def test_a_task_without_a_flow_that_is_retried_pays_once(
    credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    tries = []

    @task(retries=1)
    async def theirs() -> str:
        job = await submit_job(LAKE, credentials=credentials)
        tries.append(job.key)
        if len(tries) == 1:
            raise RuntimeError("theirs")
        return job.key

    assert [await theirs()] * 2 == tries
    assert simulator.accepted == 1


# --- names ---


async def test_a_users_run_keeps_its_name_whatever_it_is(credentials: TokenOpsCredentials) -> None:
    @flow(flow_run_name="jimeng · named by me")
    async def theirs() -> str:
        return (await generate(LAKE, credentials=credentials)).uri

    assert await name_of(await theirs(return_state=True)) == "jimeng · named by me"


async def test_only_a_run_with_the_packages_own_name_gets_the_jobs_id(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    ours = await jimeng_video("a lake", LAKE.model, credentials=credentials, return_state=True)
    (job_id,) = simulator.world.jobs
    assert await name_of(ours) == f"jimeng · a lake · {job_id}"
    renamed = jimeng_video.with_options(flow_run_name="jimeng · {prompt} for the home page")
    theirs = await renamed("a lake", LAKE.model, credentials=credentials, return_state=True)
    assert await name_of(theirs) == "jimeng · a lake for the home page"


# --- futures ---


def test_futures_of_one_task_are_what_the_next_one_takes(
    credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    names = []

    def noted(task: object, run: TaskRun, state: object) -> None:
        names.append(run.name)

    steps = [step.with_options(on_completion=[noted]) for step in (check_inputs, submit, wait_for_job, download_result)]

    @flow
    def theirs() -> Delivery:
        future: Any = LAKE
        for step in steps:
            future = step.submit(future, credentials=credentials)
        return cast(Delivery, future.result())

    assert theirs().seconds == 5.0
    (job_id,) = simulator.world.jobs
    assert names == ["check inputs", "submit jimeng", f"wait {job_id}", f"download {job_id}"]


def test_futures_of_a_detection_and_of_a_choice_are_what_a_selection_takes(
    credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    @flow
    def theirs() -> SubjectSelection:
        detection: PrefectFuture[Detection] = detect_subjects.submit(simulator.portrait_url, credentials=credentials)
        return cast(SubjectSelection, select_subject.submit(detection, "leftmost", credentials=credentials).result())

    assert theirs().subject


@pytest.mark.parametrize("given", ["name", "block", "unmapped"])
async def test_a_list_of_requests_is_mapped_with_one_account(
    given: str, credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    await credentials.save("mapped", overwrite=True)
    account: Any = {"name": "mapped", "block": credentials, "unmapped": unmapped(credentials)}[given]

    @flow
    def theirs() -> list[Delivery]:
        requests = [LAKE.model_copy(update={"seed": number}) for number in range(MAPPED)]
        jobs = submit.map(requests, credentials=account)
        done = wait_for_job.map(jobs, credentials=account)
        return cast(list[Delivery], download_result.map(done, credentials=account).result())

    deliveries = cast(list[Delivery], theirs())
    assert len({delivery.uri for delivery in deliveries}) == simulator.accepted == MAPPED


def test_a_block_is_one_value_to_map_and_still_looked_into_by_prefect(credentials: TokenOpsCredentials) -> None:
    assert not isiterable(credentials)
    observed: list[Any] = []
    visit_collection(credentials, observed.append)
    assert credentials.api_key in observed
    assert dict(credentials)["base_url"] == credentials.base_url


# --- retries, and the failure card ---


def never(task: object, run: object, state: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("options", "refusals", "cards"),
    [
        ({"retries": 0}, 99, 1),
        ({"retries": 1}, 1, 0),
        ({"retries": 1}, 99, 1),
        ({"retries": 10}, 6, 0),
        ({"retries": 10}, 99, 1),
        ({"retries": 10, "retry_condition_fn": never}, 99, 1),
    ],
)
async def test_a_failure_card_appears_exactly_when_no_retry_follows(
    options: dict[str, Any],
    refusals: int,
    cards: int,
    credentials: TokenOpsCredentials,
    simulator: RunningSimulator,
) -> None:
    simulator.order("rate_limited", times=refusals, retry_after=0.01)

    @flow
    async def theirs() -> Job:
        return await submit.with_options(**options)(LAKE, credentials=credentials)

    state = await theirs(return_state=True)
    assert (state.is_failed(), len(await failure_cards(state))) == (bool(cards), cards)
    attempts = refusals + 1 if not cards else 1 if "retry_condition_fn" in options else options["retries"] + 1
    assert simulator.world.requests["tokenops.submit"] == attempts


async def test_a_failure_card_appears_for_a_submitted_task_as_well(
    credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    simulator.order("detect_503", times=99)

    @flow
    def theirs() -> object:
        lone = detect_subjects.with_options(retries=0)
        return lone.submit(simulator.portrait_url, credentials=credentials).result()

    state: State[Any] = theirs(return_state=True)
    (card,) = await failure_cards(state)
    assert card.startswith("# ProviderError")


async def test_a_subflow_has_a_card_of_its_own_although_the_task_around_it_is_retried(
    credentials: TokenOpsCredentials,
) -> None:
    states: list[State[Any]] = []

    @task(retries=1)
    async def around() -> None:
        table = [{"id": "a", "prompt": ""}]
        states.append(await generate_batch(table, "jimeng", credentials=credentials, return_state=True))
        await states[-1].aresult()

    @flow
    async def theirs() -> None:
        await around()

    with pytest.raises(errors.InvalidRequest):
        await theirs()
    assert [len(await failure_cards(state)) for state in states] == [1, 1]

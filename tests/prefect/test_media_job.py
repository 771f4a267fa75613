"""The `MediaJob` Block: a stored template behind Prefect's interface of jobs, in runs and outside of them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.settings import get_current_settings
from pydantic import ValidationError

from prefect_genmedia import (
    BudgetStop,
    Delivery,
    InvalidRequest,
    Job,
    JobState,
    MediaJob,
    MediaJobRun,
    TokenOpsCredentials,
)
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick", "stored")

LAKE = MediaJob(
    kind="jimeng",
    fields={"prompt": "a lake at dawn", "model": "jimeng-video-3.0-720P", "seed": 7},
    credentials="media-job",
    label="our lake",
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of five frames: five seconds long, decoded in no time."""
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture
async def stored(credentials: TokenOpsCredentials) -> None:
    await credentials.save("media-job", overwrite=True)


def test_a_stored_template_is_run_in_a_synchronous_flow_with_a_field_of_its_own(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    LAKE.model_copy(update={"output": str(tmp_path / "lake.mp4")}).save("lake", overwrite=True)

    @flow
    def theirs() -> tuple[Job, Delivery]:
        run = MediaJob.load("lake").trigger({"seed": 8})
        return run.wait_for_completion(), run.fetch_result()

    job, delivery = theirs()
    assert (job.state, job.label, job.request["seed"]) == (JobState.SUCCEEDED, "our lake", 8)
    assert job.request["prompt"] == LAKE.fields["prompt"]
    assert (delivery.uri, simulator.accepted) == (str(tmp_path / "lake.mp4"), 1)


async def test_a_template_that_was_filled_in_in_the_ui_is_loaded(simulator: RunningSimulator) -> None:
    async with get_client() as client:
        await MediaJob.aregister_type_and_schema(client=client)
        document = BlockDocumentCreate(
            name="from-the-ui",
            data={"kind": "jimeng", "fields": LAKE.fields, "credentials": "media-job"},
            block_type_id=MediaJob._block_type_id,
            block_schema_id=MediaJob._block_schema_id,
        )
        await client.create_block_document(document)
    run = await (await MediaJob.aload("from-the-ui")).atrigger(idempotency_key="from the UI")
    assert (run.credentials, run.output, simulator.accepted) == ("media-job", None, 1)


async def test_it_serves_code_that_is_written_for_prefects_interface() -> None:
    """Which is asynchronous, and so is what the same names give there."""

    async def theirs(block: JobBlock[Delivery]) -> Delivery:
        run: JobRun[Delivery] = await block.trigger()
        await run.wait_for_completion()
        return await run.fetch_result()

    @flow
    async def around() -> float:
        return (await theirs(LAKE)).seconds

    assert await around() == 5.0


async def test_its_asynchronous_methods_work_in_a_task_of_a_flow(simulator: RunningSimulator) -> None:
    @task
    async def step() -> Delivery:
        run = await LAKE.atrigger()
        assert (await LAKE.atrigger()).job == run.job, "the same request of the same run"
        assert (await LAKE.atrigger(variant=1)).job != run.job
        await run.await_for_completion()
        return await run.afetch_result()

    @flow
    async def theirs() -> Delivery:
        return await step()

    assert (await theirs()).seconds == 5.0
    assert simulator.accepted == 2


def test_outside_of_flow_runs_nothing_is_sent_without_an_idempotency_key(simulator: RunningSimulator) -> None:
    """Also not in a lone task, whose retries would be runs of `submit_job` that share nothing."""
    for call in (LAKE.trigger, task(lambda: LAKE.trigger())):
        with pytest.raises(InvalidRequest, match="idempotency_key: is required outside of a flow run"):
            call()
    assert simulator.accepted == 0
    keys = {LAKE.trigger(idempotency_key="today").job for _ in range(2)}
    assert (len(keys), simulator.accepted) == (1, 1)


FRESH = """
import sys
from prefect_genmedia import MediaJobRun
run = MediaJobRun(sys.argv[1], credentials="media-job", output=sys.argv[2])
run.wait_for_completion()
print("DELIVERED", run.fetch_result().uri)
"""


def test_a_fresh_process_goes_on_from_the_providers_id(simulator: RunningSimulator, tmp_path: Path) -> None:
    LAKE.trigger(idempotency_key="from an id")
    (job_id,) = simulator.world.jobs
    environment = {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}
    command = [sys.executable, "-c", FRESH, job_id, str(tmp_path / "fresh.mp4")]
    reported = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert f"DELIVERED {tmp_path / 'fresh.mp4'}" in reported
    assert simulator.accepted == 1


def test_a_run_is_pickled_with_plain_values() -> None:
    run = MediaJobRun("3f2a", credentials="team", output="media", timeout_seconds=60)
    again = pickle.loads(pickle.dumps(run))
    assert vars(again) == vars(run)
    assert repr(again) == "MediaJobRun('3f2a', credentials='team', output='media')"


def test_a_file_is_fetched_only_once_the_job_has_one(simulator: RunningSimulator) -> None:
    simulator.world.settings.run_seconds = 3600.0
    run = LAKE.trigger(idempotency_key="too early")
    with pytest.raises(InvalidRequest, match="wait for it first"):
        run.fetch_result()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (MediaJob(kind="jimeng"), "prompt"),
        (MediaJob(kind="jimeng", fields={"prompt": "a lake", "sed": 7}), "sed"),
        (MediaJob(kind="no-such-kind"), "no installed provider has the kind 'no-such-kind'"),
    ],
)
def test_a_template_that_lacks_something_is_refused_before_anything_is_sent(
    template: MediaJob, problem: str, simulator: RunningSimulator
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        template.trigger(idempotency_key="invalid")
    assert simulator.accepted == 0


def test_the_most_that_a_result_may_cost_holds(simulator: RunningSimulator) -> None:
    with pytest.raises(BudgetStop):
        LAKE.model_copy(update={"max_cost": 0.01}).trigger(idempotency_key="cheap")
    assert simulator.accepted == 0


@pytest.mark.parametrize("place", ["image_urls", "extra_body"])
def test_a_file_as_base64_is_not_stored_with_the_template(place: str) -> None:
    content = "data:image/png;base64,iVBORw0KGgo="
    with pytest.raises(ValidationError, match=f"{place}.*give its path or URL") as refused:
        MediaJob(kind="jimeng", fields={place: {"first": content}})
    assert content not in str(refused.value)

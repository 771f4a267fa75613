"""A relative path is one in the run's folder: made absolute, and refused where a worker deletes that folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flow_engine import run_flow_async
from prefect.runtime import flow_run

from prefect_genmedia import TokenOpsCredentials, tasks
from prefect_genmedia._core import Ledger
from prefect_genmedia.batch.table import encode_table
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

LAKE = {"prompt": "a lake", "model": "jimeng-video-3.0-720P"}
OUTPUT = "PREFECT_INTEGRATIONS_GENMEDIA_OUTPUT"
WHY = "is relative, and a worker deletes its run's folder: give an absolute path or a storage URL"

Worker = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def worker() -> Worker:
    """Run a flow as a worker's process does: as a run of a deployment to a work pool."""

    async def work(what: Flow[..., Any], **parameters: Any) -> Any:
        async with get_client() as client:
            pool = await client.create_work_pool(WorkPoolCreate(name=f"pool-{uuid4().hex[:8]}", type="process"))
            flow_id = await client.create_flow(what)
            deployment = await client.create_deployment(flow_id, pool.name, work_pool_name=pool.name)
            run = await client.create_flow_run_from_deployment(deployment)
        return await run_flow_async(what, run, parameters)

    return work


def problems(caught: pytest.ExceptionInfo[InvalidRequest]) -> list[str]:
    return [str(problem) for problem in caught.value.problems]


async def test_a_worker_s_run_refuses_a_relative_output_before_anything_is_sent(
    worker: Worker, credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    for output in ("media", "media/lake.mp4", "file://media"):
        with pytest.raises(InvalidRequest) as caught:
            await worker(jimeng_video, **LAKE, credentials=credentials, output=output)
        assert problems(caught) == [f"output: {output!r} {WHY}"]
    assert not simulator.world.requests
    delivery = await worker(jimeng_video, **LAKE, credentials=credentials, output=str(tmp_path / "media"))
    assert Path(delivery.uri).parent == tmp_path / "media"


async def test_the_setting_may_not_be_relative_there_either(
    worker: Worker, credentials: TokenOpsCredentials, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTPUT, "media")
    for run in (worker(jimeng_video, **LAKE, credentials=credentials), worker(reconcile_jobs)):
        with pytest.raises(InvalidRequest) as caught:
            await run
        assert problems(caught) == [f"the setting OUTPUT: 'media' {WHY}"]
    assert not simulator.world.requests


async def test_a_flow_inside_of_a_worker_s_run_is_in_the_same_folder(
    worker: Worker, credentials: TokenOpsCredentials, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    async def outer() -> None:
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(flow_run.id))  # as the worker sets it for the process
        await jimeng_video(**LAKE, credentials=credentials, output="media")

    with pytest.raises(InvalidRequest, match="a worker deletes"):
        await worker(outer)
    assert not simulator.world.requests


async def test_a_file_that_is_fetched_alone_is_not_put_where_it_would_be_deleted(
    worker: Worker, credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    @flow
    async def fetch() -> None:
        job = await tasks.submit(JimengVideo(**LAKE), credentials=credentials)
        done = await tasks.wait_for_job(job, credentials=credentials)
        await tasks.download_result(done, "media", credentials=credentials)

    with pytest.raises(InvalidRequest, match="a worker deletes"):
        await worker(fetch)
    assert simulator.world.requests["tokenops.content"] == 0


async def test_a_worker_s_batch_tells_every_relative_path_at_once(
    worker: Worker, credentials: TokenOpsCredentials, simulator: RunningSimulator, here: Path
) -> None:
    (here / "lakes.csv").write_bytes(encode_table([{"id": "a", **LAKE}], ("id", *LAKE), "csv"))
    places = {"table": "lakes.csv", "output": "media", "results": "results.csv"}
    with pytest.raises(InvalidRequest) as caught:
        await worker(generate_batch, kind="jimeng", credentials=credentials, **places)
    assert problems(caught) == [f"{name}: {place!r} {WHY}" for name, place in places.items()]
    assert not simulator.world.requests
    places = {name: str(here / place) for name, place in places.items()}
    assert (await worker(generate_batch, kind="jimeng", credentials=credentials, **places)).delivered == 1


async def test_a_run_without_a_worker_keeps_its_folder_and_the_ledger_knows_which_it_is(
    credentials: TokenOpsCredentials, ledger: Ledger, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    delivery = await jimeng_video(**LAKE, credentials=credentials, output="media")
    assert Path(delivery.uri).parent == here / "media"
    (job,) = await ledger.jobs()
    assert job.output == str(here / "media")
    monkeypatch.setenv(OUTPUT, "elsewhere")
    await jimeng_video("another lake", model=LAKE["model"], credentials=credentials)
    monkeypatch.setenv(OUTPUT, str(tmp_path / "media"))
    await jimeng_video("a third lake", model=LAKE["model"], credentials=credentials)
    assert {each.output for each in await ledger.jobs()} == {str(here / "media"), str(here / "elsewhere"), None}


async def test_what_a_batch_wants_is_absolute_in_the_ledger_too(
    credentials: TokenOpsCredentials, ledger: Ledger, here: Path
) -> None:
    await generate_batch([{"id": "a", **LAKE}], "jimeng", credentials, batch_id="b", output="media", results="r.csv")
    (job,) = await ledger.jobs()
    assert job.output == str(here / "media" / "a.mp4")
    assert (here / "r.csv").is_file()


async def test_a_table_is_never_written_over_by_its_results(credentials: TokenOpsCredentials, here: Path) -> None:
    table = encode_table([{"id": "a", **LAKE}], ("id", *LAKE), "csv")
    (here / "lakes.csv").write_bytes(table)
    with pytest.raises(InvalidRequest, match="results: is the table itself"):
        await generate_batch(str(here / "lakes.csv"), "jimeng", credentials, results="lakes.csv")
    assert (here / "lakes.csv").read_bytes() == table

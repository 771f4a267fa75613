"""The tasks and flows in synchronous code: results, runs, errors, and what a run that is stopped leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import State, StateType
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelling
from servers import PATIENCE, until

from prefect_genmedia import Delivery, InvalidRequest, JimengVideo, TokenOpsCredentials, sync, tasks
from prefect_genmedia._prefect import history
from prefect_genmedia._prefect.synchronous import run_sync
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

LAKE = JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of five frames: five seconds long, decoded in no time."""
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


def run_id_of(state: State[Any]) -> UUID:
    return cast(UUID, state.state_details.flow_run_id)


# --- flows and tasks ---

with_prefect = pytest.mark.usefixtures("prefect_server", "quick")


@with_prefect
def test_the_steps_of_a_synchronous_flow_are_task_runs_and_give_values(
    credentials: TokenOpsCredentials, simulator: RunningSimulator
) -> None:
    @flow
    def theirs() -> Delivery:
        request = sync.check_inputs(LAKE, credentials=credentials)
        job = sync.submit_job(request, credentials=credentials)
        assert sync.submit_job(LAKE, credentials=credentials).key == job.key
        done = sync.wait_for_job(job, credentials=credentials)
        return sync.download_result(done, credentials=credentials)

    state = theirs(return_state=True)
    assert state.result().seconds == 5.0
    assert simulator.accepted == 1
    with get_client(sync_client=True) as client:
        only_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id_of(state)]))
        until(lambda: len(client.read_task_runs(flow_run_filter=only_this_run)) == 5, "the task runs")
        names = {run.name for run in client.read_task_runs(flow_run_filter=only_this_run)}
    (job_id,) = simulator.world.jobs
    assert names == {"check inputs", "submit jimeng", f"wait {job_id}", f"download {job_id}"}


@with_prefect
def test_a_flow_of_the_package_is_a_child_of_a_synchronous_flow(credentials: TokenOpsCredentials) -> None:
    @flow
    def theirs() -> float:
        return sync.jimeng_video("a lake", LAKE.model, credentials=credentials).seconds

    state = theirs(return_state=True)
    assert state.result() == 5.0
    with get_client(sync_client=True) as client:
        of_this_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id_of(state)]))
        (child,) = client.read_flow_runs(flow_run_filter=of_this_run)
    assert child.state_type is StateType.COMPLETED


@with_prefect
def test_a_flow_of_the_package_runs_in_a_synchronous_program(credentials: TokenOpsCredentials) -> None:
    assert sync.jimeng_video("a lake", LAKE.model, credentials=credentials).seconds == 5.0


@with_prefect
def test_the_flows_common_tail_works_in_a_synchronous_flow(credentials: TokenOpsCredentials) -> None:
    @flow
    def theirs() -> float:
        return sync.generate(LAKE, credentials=credentials, label="the lake").seconds

    assert theirs() == 5.0


@with_prefect
def test_an_error_is_raised_as_it_is_in_an_asynchronous_flow(credentials: TokenOpsCredentials) -> None:
    @flow
    def theirs() -> None:
        with pytest.raises(InvalidRequest, match="prompt"):
            sync.jimeng_video("", credentials=credentials)

    theirs()


@with_prefect
async def test_a_synchronous_flow_and_task_work_below_an_asynchronous_flow(credentials: TokenOpsCredentials) -> None:
    """There an event loop already runs in the thread, and in a notebook as well."""

    @flow
    def inner() -> str:
        return sync.submit_job(LAKE, credentials=credentials, idempotency_key="lake").key

    @task
    def step() -> str:
        return sync.submit_job(LAKE, credentials=credentials, idempotency_key="lake").key

    @flow
    async def theirs() -> set[str]:
        return {inner(), step(), await asyncio.to_thread(step)}

    assert len(await theirs()) == 1


@with_prefect
async def test_a_twin_refuses_to_block_an_asynchronous_flow(simulator: RunningSimulator) -> None:
    @flow
    async def theirs() -> None:
        sync.submit_job(LAKE)

    with pytest.raises(RuntimeError, match="await submit_job instead"):
        await theirs()
    assert simulator.accepted == 0


@with_prefect
async def test_the_old_name_of_submit_job_works_and_warns(credentials: TokenOpsCredentials) -> None:
    @flow
    async def theirs() -> str:
        return (await tasks.submit(LAKE, credentials=credentials)).key

    with pytest.warns(DeprecationWarning, match="The task submit is now submit_job"):
        assert await theirs()


# --- stopping ---


class Stopped(BaseException):
    """What a signal's handler raises, as Prefect's does."""


@pytest.fixture
def stopping_signal() -> Iterator[int]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_cancels_the_coroutine_which_cleans_up_before_the_caller_goes_on(stopping_signal: int) -> None:
    ends: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), stopping_signal)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ends.append(threading.current_thread().name)
            raise

    with pytest.raises(Stopped):
        run_sync(work())
    assert ends == ["genmedia-sync"]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), Stopped()], ids=repr)
def test_what_the_coroutine_raises_is_raised_in_the_caller(error: BaseException) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run_sync(work())
    assert raised.value is error


def detached(run: UUID, job_key: str) -> tuple[int, list[str]]:
    """The events of a job that a stopped run left, and the run's cards."""
    with get_client(sync_client=True) as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        cards = [str(each.data) for each in client.read_artifacts(artifact_filter=only_this_run)]
        named = EventFilter(event=EventNameFilter(name=["genmedia.job.detached"])).model_dump(mode="json")
        found = client._client.post("/events/filter", json={"filter": named}).json()["events"]
    events = [each for each in found if each["resource"]["prefect.resource.id"] == f"genmedia.job.{job_key}"]
    return len(events), [card for card in cards if "stopped, not lost" in card]


STOPPED = """
import sys
from prefect import flow
from prefect_genmedia import TokenOpsCredentials, sync
block = TokenOpsCredentials(api_key=sys.argv[1], base_url=sys.argv[2])
@flow
def theirs():
    from prefect.runtime import flow_run
    from prefect_genmedia import JimengVideo
    job = sync.submit_job(JimengVideo(prompt="a lake at dawn"), credentials=block)
    print("JOB", job.key, flow_run.id, flush=True)
    sync.wait_for_job(job, credentials=block)
theirs()
"""


@pytest.mark.usefixtures("prefect_server")
def test_a_synchronous_run_that_is_terminated_leaves_its_card_and_its_event(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    environment = {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}
    command = [sys.executable, "-c", STOPPED, simulator.key, simulator.tokenops_url]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: simulator.world.requests["tokenops.poll"], lambda: (tmp_path / "log").read_text())
        _, job_key, run = next(
            line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("JOB")
        ).split()
        process.terminate()
        stopped_at = time.monotonic()
        process.wait(PATIENCE)
        assert time.monotonic() - stopped_at < 30, "Prefect kills it then"
    finally:
        process.kill()
        process.wait()
    until(lambda: detached(UUID(run), job_key)[0] == 1, lambda: (tmp_path / "log").read_text())
    assert len(detached(UUID(run), job_key)[1]) == 1


@pytest.mark.usefixtures("prefect_server")
def test_a_synchronous_run_that_nobody_signals_sees_that_it_is_cancelled(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CANCELLATION_SECONDS", 0.1)
    simulator.world.settings.run_seconds = 3600.0
    left: list[tuple[UUID, str]] = []

    def cancel(run: UUID) -> None:
        until(lambda: simulator.world.requests["tokenops.poll"], "polled")
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling())

    @flow
    def theirs() -> None:
        run, job = UUID(str(flow_run.id)), sync.submit_job(LAKE, credentials=credentials)
        left.append((run, job.key))
        threading.Thread(target=cancel, args=(run,)).start()
        sync.wait_for_job(job, credentials=credentials)

    with pytest.raises(asyncio.CancelledError):
        theirs()
    until(lambda: detached(*left[0])[0] == 1, "the event")
    assert len(detached(*left[0])[1]) == 1

"""Batches on several machines: which rows are whose, what is told of them, and that a lost part is done again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Pending, Running
from servers import Member, ask_api, member, postgres, postgres_tools

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import JobState, Ledger, open_ledger
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._media.storage import sha256_of
from prefect_genmedia.batch import BatchReport, row_runs, row_task, supervisor
from prefect_genmedia.batch.shards import shards_of
from prefect_genmedia.batch.table import encode_table, read_table
from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, InvalidRequest
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

ROWS = 24
FLOWS = str(Path(__file__).parents[3] / "flows")
PREFECT = [sys.executable, "-m", "prefect"]
SETUP = """
import sys
from prefect import flow
from prefect_genmedia import TokenOpsCredentials
TokenOpsCredentials(api_key=sys.argv[1], base_url=sys.argv[2]).save("default", overwrite=True)
found = flow.from_source(sys.argv[3], "batch.py:generate_batch")
found.deploy("batch-shard", work_pool_name="local", print_next_steps=False)
"""


async def test_processes_that_share_a_ledger_know_it_from_another(
    ledger: Ledger, ledger_url: str, tmp_path: Path
) -> None:
    await Budget(ledger, "any", None, None).open()
    async with open_ledger(f"sqlite:///{tmp_path}/./ledger.db") as same, open_ledger(f"{ledger_url}.other") as other:
        assert await same.fingerprint() == await ledger.fingerprint() != await other.fingerprint()


@pytest.mark.server
@pytest.mark.skipif(postgres_tools() is None, reason="needs Debian's postgresql")
async def test_a_ledger_on_postgresql_is_known_by_its_server_and_database() -> None:
    with postgres() as url:
        async with open_ledger(url) as one, open_ledger(url.replace("127.0.0.1", "localhost")) as same:
            assert await one.fingerprint() == await same.fingerprint()


def lakes(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"row-{number}", "model": "jimeng-video-3.0-720P", "prompt": f"lake {number}"} for number in range(count)
    ]


@pytest.fixture
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = World._rendered

    async def tiny(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", tiny)


WAITING = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))


class Machines:
    """Machines that do the runs of a deployment in this process, and lose as many of them as they are told to."""

    def __init__(self, deployment: UUID) -> None:
        self.deployment = deployment
        self.lose = 0
        self.idle = False
        self.done: list[FlowRun] = []
        self._working: set[asyncio.Task[Any]] = set()

    async def work(self) -> None:
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment]))
        async with get_client() as client:
            while True:
                found = await client.read_flow_runs(deployment_filter=mine, flow_run_filter=WAITING)
                for run in [] if self.idle else found:
                    await client.set_flow_run_state(run.id, Pending())
                    if self.lose:
                        self.lose -= 1
                        await client.set_flow_run_state(run.id, Crashed(message="The machine is gone."), force=True)
                        continue
                    self.done.append(run)
                    doing = asyncio.create_task(
                        run_flow_async(generate_batch, flow_run=run, parameters=run.parameters, return_type="state")
                    )
                    self._working.add(doing)
                    doing.add_done_callback(self._working.discard)
                await asyncio.sleep(0.05)

    async def begun(self, client: PrefectClient, count: int) -> list[FlowRun]:
        """The runs that wait for a machine, as soon as there are so many."""
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment]))
        while len(found := await client.read_flow_runs(deployment_filter=mine, flow_run_filter=WAITING)) < count:
            await asyncio.sleep(0.05)
        return found


@pytest.fixture
async def machines(
    prefect_server: None, credentials: TokenOpsCredentials, few_frames: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Machines]:
    await credentials.save("shards", overwrite=True)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(row_runs, "RECORD_SECONDS", 0.1)
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    async with get_client() as client:
        flow_id = await client.create_flow(generate_batch)
        schema = generate_batch.parameters.model_dump_for_openapi()
        deployment = await client.create_deployment(flow_id, "batch-shard", parameter_openapi_schema=schema)
    found = Machines(deployment)
    working = asyncio.create_task(found.work())
    yield found
    working.cancel()


class Batch:
    """A batch of lakes in two shards."""

    def __init__(self, simulator: RunningSimulator, folder: Path) -> None:
        self.simulator = simulator
        self.folder = folder

    def parameters(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        places = {"output": str(self.folder / "out"), "results": str(self.folder / "results.jsonl")}
        named = {"batch_id": "lakes", "shards": 2, "shard_deployment": "generate-batch/batch-shard"}
        return {"table": rows, "kind": "jimeng", "credentials": "shards", **named, **places}

    async def run(self, rows: list[dict[str, Any]], **options: Any) -> BatchReport:
        return await generate_batch(**{**self.parameters(rows), **options})

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in read_table(str(self.folder / "results.jsonl"))}

    @property
    def states(self) -> Counter[str]:
        return Counter(row["state"] for row in self.results.values())


async def artifacts(state: State[Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a run's table artifacts, by key."""
    whole = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    async with get_client() as client:
        found = await client.read_artifacts(flow_run_filter=whole)
    return {str(each.key): json.loads(str(each.data)) for each in found if each.type == "table"}


@pytest.fixture
def batch(machines: Machines, simulator: RunningSimulator, tmp_path: Path) -> Batch:
    return Batch(simulator, tmp_path)


async def test_shards_do_their_rows_and_the_batch_shows_them_as_one(batch: Batch, machines: Machines) -> None:
    state = await generate_batch(**batch.parameters(lakes(8)), canary=1, max_in_flight=5, return_state=True)
    assert ((await state.result()).delivered, batch.simulator.accepted) == (8, 8)
    assert list(batch.results) == [f"row-{number}" for number in range(8)]
    assert sorted(run.parameters["max_in_flight"] for run in machines.done) == [2, 3]
    assert sum(len(run.parameters["table"]) for run in machines.done) == 8
    whole = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    async with get_client() as client:
        shown = {each.key: each for each in await client.read_artifacts(flow_run_filter=whole)}
        runs = [await client.read_flow_run(run.id) for run in machines.done]
    assert "8 of 8 delivered" in (shown["genmedia-batch"].description or "")
    linked = str(shown["genmedia-batch-gallery"].data).count("[row](")
    pages = [str(row["run"]) for row in (await artifacts(state))["genmedia-batch-results"]]
    assert (linked, len(set(pages)), ["/runs/task-run/" in page for page in pages]) == (8, 8, [True] * 8)
    assert sorted(run.name for run in runs) == ["batch · lakes · shard 1 of 2", "batch · lakes · shard 2 of 2"]
    assert (await batch.run(lakes(9))).delivered == 9
    assert batch.simulator.accepted == 9


async def test_a_shard_whose_run_crashed_is_taken_up_again(batch: Batch, machines: Machines) -> None:
    machines.lose = 2
    assert (await batch.run(lakes(6))).delivered == 6
    assert len(machines.done) == 2


async def test_a_shard_that_is_lost_again_and_again_is_given_up_and_the_batch_says_so(
    batch: Batch, machines: Machines
) -> None:
    machines.lose = 6
    with pytest.raises(BatchIncomplete, match=r"runs of shard \d of 2 were lost 3 times; the last one ended Crashed"):
        await batch.run(lakes(6))
    assert batch.states == {"not_sent": 6}
    assert machines.done == []


@pytest.mark.parametrize(
    ("state", "heartbeat", "silent", "why"),
    [
        (Running(), "12:00", 80, None),
        (Running(), "12:00", 100, "gave no sign of life"),
        (Running(), None, 100, None),
        (Pending(), None, 700, "gave no sign of life"),
        (Completed(), "12:00", 0, "ended Completed before its end"),
        (None, "12:00", 0, "is gone"),
    ],
)
def test_a_shard_is_lost_when_its_run_is_gone_ended_too_early_or_silent_for_too_long(
    state: State[Any] | None, heartbeat: str | None, silent: float, why: str | None
) -> None:
    kept = supervisor.Kept(shards_of(2, "")[0], {}, heartbeat=heartbeat, reported_at=1000.0)
    run = None if state is None else FlowRun(flow_id=uuid4(), state=state)
    found = supervisor.why_lost(kept, run, 1000.0 + silent)
    assert found is None if why is None else found and why in found


async def test_what_goes_wrong_in_a_shard_stands_in_the_batchs_table(batch: Batch, machines: Machines) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    state = await generate_batch(**batch.parameters(lakes(4)), timeout_seconds=0.2, return_state=True)
    with pytest.raises(BatchIncomplete, match="0 of 4 delivered"):
        await state.result()
    assert batch.states == {"submitted": 4}
    assert {row["error_kind"] for row in batch.results.values()} == {"JobTimeout"}
    (failure,) = (await artifacts(state))["genmedia-batch-failures"]
    assert "/runs/task-run/" in str(failure["run"])


async def test_rows_that_are_left_out_are_left_out_of_every_shard(
    batch: Batch, machines: Machines, tmp_path: Path
) -> None:
    twins = [{**row, "id": row["id"].upper()} for row in lakes(4)]
    rows = [*lakes(4), *twins, {"id": "bad", "model": "jimeng-video-3.0-720P", "frames": 7}, *lakes(1)]
    table = tmp_path / "lakes.jsonl"
    table.write_bytes(encode_table(rows, ("id", "model", "prompt", "frames"), "jsonl"))
    for given in (rows, str(table)):
        report = await batch.run(given, skip_invalid=True)
        assert report.states == {"delivered": 4, "invalid": 6}
    assert batch.simulator.accepted == 4


async def test_shards_share_one_budget(batch: Batch, machines: Machines) -> None:
    with pytest.raises(BudgetStop, match="5 of 5 jobs"):
        await batch.run(lakes(8), max_jobs=5)
    assert batch.simulator.accepted == 5
    assert batch.states == {"delivered": 5, "not_sent": 3}


async def test_rows_with_bad_pictures_are_found_by_the_batch_and_left_out_by_its_shards(
    batch: Batch, machines: Machines, tmp_path: Path
) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    rows = lakes(6)
    rows[1]["image_urls"] = rows[4]["image_urls"] = str(tmp_path / "small.png")
    table = tmp_path / "lakes.csv"
    table.write_bytes(encode_table(rows, ("id", "model", "prompt", "image_urls"), "csv"))
    with pytest.raises(InvalidRequest, match=r"row row-1\.image_urls\.0: is 100×100 pixels.*row row-4"):
        await batch.run(rows, table=str(table))
    assert machines.done == []
    report = await batch.run(rows, table=str(table), skip_invalid=True)
    assert (report.states, batch.simulator.accepted) == ({"delivered": 4, "invalid": 2}, 4)
    assert [run.parameters["preflight"] for run in machines.done] == [False, False]


async def test_a_cancelled_batch_cancels_its_shards(batch: Batch, machines: Machines) -> None:
    machines.idle = True
    running = asyncio.create_task(batch.run(lakes(4)))
    async with get_client() as client:
        begun = await machines.begun(client, 2)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        states = {(await client.read_flow_run(run.id)).state_name for run in begun}
    assert states <= {"Cancelled", "Cancelling"}


async def test_a_batch_that_was_killed_and_is_started_again_takes_up_its_shards(
    batch: Batch, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_dead_for_that(_: supervisor.ShardSupervisor) -> None:
        pass

    machines.idle = True
    monkeypatch.setattr(supervisor.ShardSupervisor, "_cancel", too_dead_for_that)
    parameters = batch.parameters(lakes(4))
    async with get_client() as client:
        whole = await client.create_flow_run(generate_batch, parameters=parameters, state=Pending())
        killed = asyncio.create_task(run_flow_async(generate_batch, whole, parameters, return_type="state"))
        begun = await machines.begun(client, 2)
        killed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killed
        await client.set_flow_run_state(whole.id, Pending(), force=True)
        machines.idle = False
        again = await client.read_flow_run(whole.id)
        state: Any = await run_flow_async(generate_batch, again, parameters, return_type="state")
    assert state.is_completed()
    assert {run.id for run in machines.done} == {run.id for run in begun}
    assert batch.states == {"delivered": 4}


async def test_a_batch_that_is_started_again_starts_no_runs_for_shards_that_are_done(
    batch: Batch, machines: Machines
) -> None:
    parameters = batch.parameters(lakes(8))
    async with get_client() as client:
        whole = await client.create_flow_run(generate_batch, parameters=parameters, state=Pending())
        first: Any = await run_flow_async(generate_batch, whole, parameters, return_type="state")
        assert first.is_completed()
        (lost,) = (run for run in machines.done if run.parameters["shard"]["number"] == 2)
        await client.delete_flow_run(lost.id)  # as if shard 2 had been lost, and with it what it had told
        await client.set_flow_run_state(whole.id, Crashed(message="The worker was killed."), force=True)
        await client.set_flow_run_state(whole.id, Pending(), force=True)
        again = await client.read_flow_run(whole.id)
        state: Any = await run_flow_async(generate_batch, again, parameters, return_type="state")
    assert state.is_completed()
    assert [run.parameters["shard"]["number"] for run in machines.done[2:]] == [2]
    assert batch.states == {"delivered": 8}
    assert batch.simulator.accepted == 8


async def test_a_shard_with_rows_left_to_do_is_started_again(batch: Batch, machines: Machines) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    parameters = {**batch.parameters(lakes(4)), "timeout_seconds": 0.2}
    async with get_client() as client:
        whole = await client.create_flow_run(generate_batch, parameters=parameters, state=Pending())
        await run_flow_async(generate_batch, whole, parameters, return_type="state")
        batch.simulator.world.settings.run_seconds = 0.1
        await client.set_flow_run_state(whole.id, Pending(), force=True)
        again = await client.read_flow_run(whole.id)
        parameters["timeout_seconds"] = 60
        state: Any = await run_flow_async(generate_batch, again, parameters, return_type="state")
    assert state.is_completed()
    assert len(machines.done) == 4
    assert batch.states == {"delivered": 4}
    assert batch.simulator.accepted == 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"shard_deployment": None}, "names the deployment"),
        ({"shard_deployment": "generate-batch/nowhere"}, "there is no deployment"),
        ({"shards": 9}, "more than max_in_flight"),
        ({"shard": {"number": 1, "of": 2, "ledger": "x"}}, "ledger_url"),
    ],
)
async def test_a_batch_that_cannot_be_split_so_is_refused_before_anything_is_paid(
    options: dict[str, Any], problem: str, batch: Batch, machines: Machines
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        await batch.run(lakes(30), **options)
    assert batch.simulator.accepted == 0


async def test_a_block_that_is_not_saved_does_not_travel(
    batch: Batch, machines: Machines, credentials: TokenOpsCredentials
) -> None:
    unsaved = TokenOpsCredentials(api_key=credentials.api_key, base_url=credentials.base_url)
    with pytest.raises(InvalidRequest, match="must be a Block that is saved"):
        await generate_batch(lakes(4), "jimeng", unsaved, shards=2, shard_deployment="generate-batch/batch-shard")


@pytest.fixture
def server(tmp_path: Path, simulator: RunningSimulator) -> Iterator[LocalServer]:
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_INTEGRATIONS_GENMEDIA")}
    settings["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    with local_server(tmp_path / "prefect", settings) as started:
        create = [*PREFECT, "work-pool", "create", "local", "--type", "process"]
        subprocess.run(create, env=dict(started.env), check=True, stdout=subprocess.DEVNULL)
        setup = [sys.executable, "-c", SETUP, simulator.key, simulator.tokenops_url, FLOWS]
        subprocess.run(setup, env=dict(started.env), check=True, stdout=subprocess.DEVNULL)
        yield started


@contextlib.contextmanager
def worker(name: str, server: LocalServer, logs: Path) -> Iterator[Member]:
    """A worker that does one run at a time, so that two shards need two of them."""
    command = [*PREFECT, "worker", "start", "--pool", "local", "--name", name, "--limit", "1"]
    with member(name, command, server.env, logs) as started:
        yield started


def runs(server: LocalServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask_api(server.api, "POST", "/flow_runs/filter", {})
    return [run for run in found if run["deployment_id"]]


@pytest.mark.server
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("few_frames")
async def test_a_shard_whose_worker_is_killed_is_taken_up_by_another_and_each_row_is_paid_once(
    server: LocalServer,
    simulator: RunningSimulator,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only the dead are silent, however slow the others are; a run that was never heard of would be given ten minutes.
    monkeypatch.setattr(supervisor, "STALLED_SECONDS", 1.0)
    is_stalled = supervisor.Kept.is_stalled
    dead: set[str] = set()
    monkeypatch.setattr(
        supervisor.Kept, "is_stalled", lambda kept, now: str(kept.run_id) in dead and is_stalled(kept, now)
    )
    simulator.world.settings.run_seconds = 3600.0
    with (
        worker("first", server, tmp_path) as first,
        worker("second", server, tmp_path),
        temporary_settings({PREFECT_API_URL: server.api}),
    ):
        table = tmp_path / "lakes.jsonl"
        table.write_bytes(encode_table(lakes(ROWS), ("id", "model", "prompt"), "jsonl"))
        batch = asyncio.create_task(
            generate_batch(
                str(table),
                "jimeng",
                output=str(tmp_path / "out"),
                max_in_flight=2 * ROWS,
                max_jobs=ROWS,
                shards=2,
                shard_deployment="generate-batch/batch-shard",
            )
        )
        while sum(job.state is JobState.SUBMITTED for job in await ledger.jobs()) < ROWS:
            assert not batch.done(), batch.exception()
            await asyncio.sleep(0.1)
        while not all(run["infrastructure_pid"] for run in runs(server)):  # the worker notes which process it is
            await asyncio.sleep(0.1)
        killed = first.kill()
        dead.update(run["id"] for run in runs(server) if int(run["infrastructure_pid"].rpartition(":")[2]) in killed)
        assert len(dead) == 1
        simulator.world.settings.run_seconds = 0.1
        report = await batch
    assert Counter(run["state"]["name"] for run in runs(server)) == {"Crashed": 1, "Completed": 2}
    assert report.states == {"delivered": ROWS}
    paid = Counter(job.body["prompt"] for job in simulator.world.jobs.values())
    assert paid == Counter(f"lake {number}" for number in range(ROWS))
    results = read_table(str(tmp_path / "lakes.results.jsonl"))
    assert [row["id"] for row in results] == [f"row-{number}" for number in range(ROWS)]
    for row in results:
        with Path(row["path"]).open("rb") as file:
            assert sha256_of(file) == row["sha256"]

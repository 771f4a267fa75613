"""Batches: a table in, each row paid once within its limits, a true table out."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import Pause
from prefect.filesystems import LocalFileSystem
from prefect.states import Suspended

from prefect_genmedia import JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._inputs import identified
from prefect_genmedia.batch import BatchReport, row_task, scheduler
from prefect_genmedia.batch import known as known_module
from prefect_genmedia.batch.slots import Slots
from prefect_genmedia.batch.table import encode_table, read_table
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import ASSETS, Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and videos of five frames: five seconds long, decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


def lakes(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"row-{number}", "model": "jimeng-video-3.0-720P", "prompt": f"lake {number}", **fields}
        for number in range(count)
    ]


class Batch:
    """A batch that can be run again and again, and what it left behind."""

    def __init__(self, simulator: RunningSimulator, credentials: TokenOpsCredentials, folder: Path) -> None:
        self.simulator = simulator
        self.credentials = credentials
        self.folder = folder

    async def run(self, table: Any, kind: str = "jimeng", **options: Any) -> BatchReport:
        places = {"output": str(self.folder / "out"), "results": str(self.folder / "results.csv")}
        named = {"batch_id": "lakes", "credentials": self.credentials, **places}
        return await generate_batch(table, kind, **{**named, **options})

    async def until_accepted(self, count: int, running: asyncio.Task[BatchReport]) -> None:
        """Wait until so many jobs of a batch that is under way are at the provider."""
        while self.simulator.accepted < count:
            assert not running.done()
            await asyncio.sleep(0.02)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in read_table(str(self.folder / "results.csv"))}

    @property
    def states(self) -> list[str]:
        return [row["state"] for row in self.results.values()]

    @property
    def submissions(self) -> int:
        return self.simulator.world.requests["tokenops.submit"]


@pytest.fixture
def batch(simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path) -> Batch:
    return Batch(simulator, credentials, tmp_path)


async def test_every_row_becomes_a_verified_file_named_by_its_id(batch: Batch, tmp_path: Path) -> None:
    report = await batch.run(lakes(3))
    assert (report.delivered, report.rows, batch.simulator.accepted) == (3, 3, 3)
    for name, row in batch.results.items():
        assert row["state"] == "delivered"
        assert Path(row["path"]) == tmp_path / "out" / f"{name}.mp4"
        assert Path(row["path"]).is_file()
        assert (row["width"], row["height"], row["attempts"]) == ("1280", "720", "1")
        assert row["provider_job_id"] in batch.simulator.world.jobs
        assert float(row["estimated_cost"]) == pytest.approx(5 * 0.28, abs=0.01)
        assert row["currency"] == "CNY"


async def test_every_bad_row_is_reported_at_once_and_nothing_is_submitted(batch: Batch) -> None:
    table = [*lakes(2), {"id": "a", "prompt": ""}, {"id": "b", "prompt": "x", "frames": 7}, {"prompt": "no id"}]
    with pytest.raises(errors.InvalidRequest) as refusal:
        await batch.run(table)
    assert {problem.field for problem in refusal.value.problems} == {"row a", "row b.frames", "row #5.id"}
    assert batch.submissions == 0


async def test_bad_rows_can_be_left_out(batch: Batch) -> None:
    report = await batch.run([*lakes(1), {"id": "a", "prompt": ""}], skip_invalid=True)
    assert report.states == {"delivered": 1, "invalid": 1}
    assert "needs a prompt" in batch.results["a"]["error_message"]


async def test_a_rerun_does_the_rest(batch: Batch) -> None:
    batch.simulator.order("fail_internal")
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(lakes(4), max_in_flight=1)
    assert batch.states == ["failed", "delivered", "delivered", "delivered"]
    downloads = batch.simulator.world.requests["tokenops.content"]
    report = await batch.run(lakes(4))
    assert report.delivered == 4
    assert batch.results["row-0"]["attempts"] == "2"
    assert batch.submissions == 5
    assert batch.simulator.world.requests["tokenops.content"] == downloads + 1


async def test_a_changed_row_is_another_request_and_a_lost_file_is_not(batch: Batch) -> None:
    await batch.run(lakes(2))
    Path(batch.results["row-1"]["path"]).unlink()
    table = lakes(2)
    table[0]["prompt"] = "a desert"
    await batch.run(table)
    assert batch.submissions == 3
    assert Path(batch.results["row-1"]["path"]).is_file()


def with_pictures(count: int, place: str, picture: bytes) -> list[dict[str, Any]]:
    for number in range(count):
        with fsspec.open(f"{place}/{number}.jpg", "wb") as file:
            file.write(picture)
    return [{**row, "image_urls": [f"{place}/{number}.jpg"]} for number, row in enumerate(lakes(count))]


@pytest.mark.parametrize("storage", ["memory", "local"])
async def test_rows_with_own_files_are_known_in_a_rerun_and_by_their_bytes(
    storage: str, batch: Batch, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    async def counted(request: Any, rules: Any) -> Any:
        read.append(request)
        return await identified(request, rules)

    monkeypatch.setattr(known_module, "identified", counted)
    place = f"memory://{tmp_path.name}" if storage == "memory" else str(tmp_path)
    picture = (ASSETS / "portrait.jpg").read_bytes()
    table = with_pictures(2, place, picture)
    batch.simulator.order("fail_internal")
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(table, max_jobs=2, max_in_flight=1)
    assert batch.states == ["failed", "delivered"]
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 1
    assert read == []  # of a new batch, no file is read but to be sent
    assert (await batch.run(table, dry_run=True)).states == {"submit": 1, "verify": 1}
    assert (await batch.run(table, max_jobs=2)).delivered == 2
    assert (batch.submissions, batch.results["row-0"]["attempts"]) == (3, "2")
    table = with_pictures(1, place, picture + b"\0") + table[1:]
    assert (await batch.run(table, max_jobs=3)).delivered == 2
    assert batch.submissions == 4
    assert len(read) == (6 if storage == "memory" else 0)


async def test_table_files_and_results_may_all_be_in_a_block(batch: Batch, tmp_path: Path) -> None:
    await LocalFileSystem(basepath=str(tmp_path / "block")).save("tables", overwrite=True)
    place = "block://local-file-system/tables"
    (tmp_path / "block" / "in").mkdir(parents=True)
    (tmp_path / "block" / "in" / "lakes.csv").write_bytes(encode_table(lakes(2), ("id", "model", "prompt"), "csv"))
    report = await batch.run(f"{place}/in/lakes.csv", output=f"{place}/out", results=None)
    assert (report.delivered, report.results) == (2, f"{place}/in/lakes.results.csv")
    rows = read_table(str(tmp_path / "block" / "in" / "lakes.results.csv"))
    assert [row["path"] for row in rows] == [f"{place}/out/row-0.mp4", f"{place}/out/row-1.mp4"]
    report = await batch.run(lakes(2), output=f"{place}/out", results=None)
    assert (report.delivered, report.results) == (2, f"{place}/out/lakes.results.jsonl")
    assert batch.submissions == 2
    with pytest.raises(errors.InvalidRequest, match="cannot be read: ValueError"):
        await batch.run(f"{place}/in/nowhere.csv")
    with pytest.raises(errors.InvalidRequest, match="there is no local-file-system Block named 'nothing'"):
        await batch.run(lakes(2), results="block://local-file-system/nothing/results.csv")


async def test_two_identical_batches_at_once_pay_once(batch: Batch) -> None:
    await asyncio.gather(batch.run(lakes(5), max_cost=7.0), batch.run(lakes(5), max_cost=7.0))
    assert batch.simulator.accepted == batch.submissions == 5


async def test_speakers_are_selected_inside_the_row_and_not_again_in_a_rerun(batch: Batch) -> None:
    inputs = {"image_url": batch.simulator.portrait_url, "audio_url": batch.simulator.speech_url}
    table = [{"id": "talk", "subject": "0.50, 0.5", "output_resolution": 720, **inputs}]
    with pytest.raises((errors.BatchIncomplete, errors.InvalidRequest)):  # nobody is there, or the file is another
        await batch.run([{**table[0], "subject": "0.001,0.001"}], "omnihuman")
    assert "NoSubject" in batch.results["talk"]["error_kind"]
    table[0]["subject"] = "leftmost"
    with pytest.raises(errors.BatchIncomplete):  # five seconds are not seven: the file does not verify
        await batch.run(table, "omnihuman")
    assert batch.results["talk"]["state"] == "undeliverable"
    assert len(next(iter(batch.simulator.world.jobs.values())).body["mask_urls"]) == 1
    detections = batch.simulator.world.requests["tokenops.detect"]
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(table, "omnihuman")
    assert batch.simulator.accepted == 1
    assert batch.simulator.world.requests["tokenops.detect"] == detections


async def test_a_row_that_expired_is_sent_again_with_its_speaker(batch: Batch, ledger: Ledger) -> None:
    inputs = {"image_url": batch.simulator.portrait_url, "audio_url": batch.simulator.speech_url}
    table = [{"id": "talk", "subject": "leftmost", "output_resolution": 720, **inputs}]
    with pytest.raises(errors.BatchIncomplete):  # five seconds are not seven: the file does not verify
        await batch.run(table, "omnihuman")
    (job,) = await ledger.jobs()
    await ledger.note(job, expires_at=1.0)
    assert (await batch.run(table, "omnihuman", dry_run=True)).states == {"submit": 1}
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(table, "omnihuman")
    first, second = (job.body["mask_urls"] for job in batch.simulator.world.jobs.values())
    assert len(first) == len(second) == 1


async def test_the_budget_stops_a_batch_and_a_larger_one_lets_it_go_on(batch: Batch) -> None:
    with pytest.raises(errors.BudgetStop, match="2 of 2 jobs"):
        await batch.run(lakes(4), max_jobs=2)
    assert batch.states.count("not_sent") == 2
    with pytest.raises(errors.BudgetStop, match="estimated"):
        await batch.run(lakes(4), max_cost=3 * 1.4)
    assert batch.simulator.accepted == 3
    assert (await batch.run(lakes(4), max_cost=4 * 1.4)).delivered == 4
    assert batch.submissions == 4


async def test_what_was_refused_gives_its_money_back(batch: Batch, ledger: Ledger) -> None:
    batch.simulator.order("refuse_invalid")
    batch.simulator.order("fail_internal")
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(lakes(3), max_jobs=3, max_in_flight=1)
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 1
    await batch.run(lakes(3), max_jobs=3)


@pytest.mark.parametrize("end", [asyncio.CancelledError(), Pause(state=Suspended())], ids=["cancelled", "suspended"])
async def test_a_run_that_is_interrupted_reserves_nothing_for_rows_that_were_not_sent(
    end: BaseException, batch: Batch, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.run(lakes(1), max_jobs=3)

    async def interrupted(*_: Any) -> None:
        raise end

    monkeypatch.setattr(row_task, "run_job", interrupted)
    for row_task_runs in ("on", "off"):
        with pytest.raises(type(end)):
            await batch.run(lakes(3), max_jobs=3, row_task_runs=row_task_runs)
        assert (await Budget(ledger, "lakes", None, None).state()).jobs == 1


async def test_a_limit_on_cost_wants_a_price_for_every_row(batch: Batch) -> None:
    table = [{"id": "a", "kind": "poster", "image_url": "https://example.com/a.jpg", "scene": "firework"}]
    with pytest.raises(errors.InvalidRequest, match=r"prices\.jenius/"):
        await batch.run(table, max_cost=5)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("refuse_key", "CredentialsError"), ("refuse_balance", "QuotaError"), ("accept_then_500", "SubmissionUnknown")],
)
async def test_the_same_error_again_and_again_stops_the_batch(fault: str, kind: str, batch: Batch) -> None:
    batch.simulator.order(fault, times=100)
    with pytest.raises(errors.BatchIncomplete, match=f"2 rows in a row with the same {kind}"):
        await batch.run(lakes(20), breaker=2, max_in_flight=1)
    assert batch.submissions == 2
    assert batch.states.count("not_sent") == 18


async def test_a_stopped_batch_finishes_what_is_in_flight(batch: Batch) -> None:
    table = lakes(12)
    batch.simulator.world.settings.run_seconds = 3600.0
    running = asyncio.create_task(batch.run(table, breaker=2, max_in_flight=4))
    await batch.until_accepted(4, running)
    batch.simulator.order("refuse_key", times=100)
    batch.simulator.world.settings.run_seconds = 0.2
    with pytest.raises(errors.BatchIncomplete):
        await running
    assert batch.states[:4] == ["delivered"] * 4


async def test_canary_rows_must_pass_before_the_rest_begins(batch: Batch) -> None:
    batch.simulator.order("fail_output")
    with pytest.raises(errors.BatchIncomplete, match="1 of 2 canary rows"):
        await batch.run(lakes(6), canary=2)
    assert batch.simulator.accepted == 2
    assert (await batch.run(lakes(6), canary=2)).delivered == 6


async def test_a_dry_run_sends_nothing_and_estimates_the_cost(batch: Batch) -> None:
    await batch.run(lakes(1))
    before = dict(batch.simulator.world.requests)
    report = await batch.run(lakes(3), dry_run=True)
    assert dict(batch.simulator.world.requests) == before
    assert report.states == {"verify": 1, "submit": 2}
    assert report.estimated_cost == pytest.approx(2 * 5 * 0.28)
    assert report.results is None


async def test_a_dry_run_prints_its_plan_by_model_and_what_would_be_done(
    batch: Batch, accounts: str, caplog: pytest.LogCaptureFixture
) -> None:
    await batch.run(lakes(1))
    table = [*lakes(3), *posters(2, batch.simulator.portrait_url), {"id": "odd", "frames": 7}]
    with caplog.at_level(logging.INFO):
        await batch.run(table, credentials=accounts, skip_invalid=True, dry_run=True)
    (reported,) = [record.getMessage() for record in caplog.records if "Dry run" in record.getMessage()]
    words, *lines = reported.splitlines()
    assert words.endswith("1 verify, 4 submit, 1 invalid; about 2.80 CNY (estimate)")
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines if "─" not in line]
    assert cells == [
        ["model", "what would be done", "rows", "estimated CNY"],
        ["–", "leave out: it is invalid", "1", "0.00"],
        ["jenius/poster", "submit", "2", "no price"],
        ["tokenops/jimeng-video-3.0-720P", "submit", "2", "2.80"],
        ["tokenops/jimeng-video-3.0-720P", "verify its delivered file: nothing is paid again", "1", "0.00"],
        ["total", "6", "2.80"],
    ]


async def test_a_dry_run_measures_recordings_to_estimate(batch: Batch) -> None:
    inputs = {"image_url": batch.simulator.portrait_url, "audio_url": batch.simulator.speech_url}
    report = await batch.run([{"id": "talk", **inputs}], "omnihuman", dry_run=True)
    assert report.estimated_cost == pytest.approx(7.2 * 1.2, abs=0.5)
    assert batch.submissions == 0


async def test_a_provider_that_asks_to_slow_down_gets_fewer_jobs_and_all_of_them(batch: Batch) -> None:
    batch.simulator.order("rate_limited", times=6, retry_after=0.05)
    report = await batch.run(lakes(6), max_in_flight=4)
    assert report.delivered == batch.simulator.accepted == 6


@pytest.fixture
async def accounts(simulator: RunningSimulator, credentials: TokenOpsCredentials) -> str:
    """The name of the Blocks of two accounts."""
    await credentials.save("accounts", overwrite=True)
    jenius = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    await jenius.save("accounts", overwrite=True)
    return "accounts"


def posters(count: int, picture: str) -> list[dict[str, Any]]:
    return [
        {"id": f"card-{number}", "kind": "poster", "image_url": f"{picture}?{number}", "scene": "firework"}
        for number in range(count)
    ]


async def test_rows_of_one_account_take_no_places_of_anothers(batch: Batch, accounts: str, ledger: Ledger) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    table = [*posters(3, batch.simulator.portrait_url), *lakes(1)]
    running = asyncio.create_task(batch.run(table, credentials=accounts, max_in_flight=1))
    while {job.provider for job in await ledger.jobs([JobState.SUBMITTED])} != {"jenius", "tokenops"}:
        assert not running.done()
        await asyncio.sleep(0.02)
    assert batch.simulator.accepted == 2
    batch.simulator.world.settings.run_seconds = 0.1
    assert (await running).delivered == 4


async def test_a_provider_that_asks_to_slow_down_slows_down_its_own_rows_only(
    batch: Batch, accounts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Slots] = []

    class Noticed(Slots):
        slowed = 0

        def __init__(self, limit: int) -> None:
            super().__init__(limit)
            made.append(self)

        def slower(self) -> None:
            self.slowed += 1
            super().slower()

    monkeypatch.setattr(scheduler, "Slots", Noticed)
    batch.simulator.order("rate_limited", times=3, provider="tokenops", retry_after=0.05)
    table = [*lakes(3), *posters(2, batch.simulator.portrait_url)]
    assert (await batch.run(table, credentials=accounts, max_in_flight=4)).delivered == 5
    assert sorted(getattr(slots, "slowed", 0) > 0 for slots in made) == [False, True]


async def test_a_named_concurrency_limit_must_exist_and_is_held(batch: Batch) -> None:
    with pytest.raises(errors.InvalidRequest, match="no global concurrency limit 'nowhere'"):
        await batch.run(lakes(1), concurrency_limit="nowhere")
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name("providers", 1)
    assert (await batch.run(lakes(2), concurrency_limit="providers")).delivered == 2


async def all_ended(client: PrefectClient, run: FlowRunFilter, count: int) -> list[TaskRun]:
    """The task runs of a flow run, once so many have ended: the server hears of them later, by events."""
    deadline = time.monotonic() + 120
    while True:
        found = await client.read_task_runs(flow_run_filter=run)
        ended = [each for each in found if each.state is not None and each.state.is_final()]
        if len(ended) >= count or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def test_a_batch_shows_one_task_run_a_row_one_progress_and_one_gallery(batch: Batch) -> None:
    state = await generate_batch(
        lakes(3), "jimeng", batch.credentials, "shown", output=str(batch.folder), return_state=True
    )
    async with get_client() as client:
        run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        found = await all_ended(client, run, 3)
        artifacts = await client.read_artifacts(flow_run_filter=run)
    assert sorted(each.name for each in found) == ["row-0", "row-1", "row-2"]
    shown = {artifact.key: artifact for artifact in artifacts if (artifact.key or "").startswith("genmedia-batch")}
    assert sorted(shown) == ["genmedia-batch", "genmedia-batch-gallery", "genmedia-batch-results"]
    assert shown["genmedia-batch"].data == 100
    assert "3 of 3 delivered" in (shown["genmedia-batch"].description or "")
    assert shown["genmedia-batch-gallery"].data.count("data:image/jpeg") == 3


async def test_a_batch_that_stops_says_what_was_paid_and_how_to_go_on(batch: Batch) -> None:
    state = await generate_batch(
        lakes(3), "jimeng", batch.credentials, "tight", output=str(batch.folder), max_jobs=2, return_state=True
    )
    async with get_client() as client:
        run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        shown = {each.key: each for each in await client.read_artifacts(flow_run_filter=run)}
    card = str(shown["genmedia-failure"].data)
    assert card.startswith("# BudgetStop")
    assert "2 of 3 delivered · 1 not sent · about 2.80 CNY (estimate)" in card
    assert "batch_id 'tight'" in card
    (row,) = json.loads(str(shown["genmedia-batch-failures"].data))
    assert row["next"].startswith("raise max_jobs or max_cost")


async def test_a_cancelled_batch_leaves_a_true_table_and_its_jobs_to_be_joined(batch: Batch, ledger: Ledger) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    running = asyncio.create_task(batch.run(lakes(3)))
    await batch.until_accepted(3, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {job.state for job in await ledger.jobs()} == {JobState.SUBMITTED}
    assert set(batch.states) == {"submitted"}
    batch.simulator.world.settings.run_seconds = 0.2
    assert (await batch.run(lakes(3))).delivered == 3
    assert batch.submissions == 3

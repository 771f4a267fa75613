"""Batches with and without task runs: the same jobs and record; tables that grow, and reruns that trust files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from pydantic import TypeAdapter
from test_batch_flow import Batch, batch, lakes, quick  # noqa: F401 - fixtures

from prefect_genmedia import errors
from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core import ledger as ledger_module
from prefect_genmedia._core.standing import still_there
from prefect_genmedia._media.local import LocalFolder
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect import history
from prefect_genmedia.batch.packed import PackedCells
from prefect_genmedia.batch.result import COLUMNS, QUALITY
from prefect_genmedia.batch.results import Carried, Results
from prefect_genmedia.batch.rows import BadRow, Row
from prefect_genmedia.batch.spec import RowTaskRuns, has_task_runs
from prefect_genmedia.batch.table import TableFile, encode_table, format_of, read_table
from prefect_genmedia.batch.text_table import Dialect
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.providers.tokenops import JimengVideo

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


async def test_without_task_runs_the_run_has_none_and_shows_all_the_same(batch: Batch) -> None:
    batch.simulator.order("fail_internal")
    options = {"output": str(batch.folder), "row_task_runs": "off", "max_in_flight": 1, "return_state": True}
    state = await generate_batch(lakes(3), "jimeng", batch.credentials, "plain", **options)
    async with get_client() as client:
        run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        assert await client.read_task_runs(flow_run_filter=run) == []
        shown = {each.key: each for each in await client.read_artifacts(flow_run_filter=run)}
    assert "2 of 3 delivered · 1 without a file" in (shown["genmedia-batch"].description or "")
    assert shown["genmedia-batch-gallery"].data.count("data:image/jpeg") == 2
    (failures,) = json.loads(str(shown["genmedia-batch-failures"].data))
    assert (failures["rows"], failures["for example"]) == (1, "row-0")


@pytest.mark.parametrize(
    ("wanted", "by_setting", "rows", "has"),
    [
        ("auto", "auto", 2000, True),
        ("auto", "auto", 2001, False),
        ("auto", "off", 1, False),
        ("auto", "on", 10**6, True),
        ("on", "off", 10**6, True),
        ("off", "on", 1, False),
    ],
)
def test_a_batch_decides_before_the_setting_and_the_setting_before_the_number_of_rows(
    wanted: RowTaskRuns, by_setting: RowTaskRuns, rows: int, has: bool
) -> None:
    assert has_task_runs(wanted, by_setting, rows) is has


def test_what_yaml_makes_of_on_and_off_is_understood() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(RowTaskRuns)
    assert [adapter.validate_python(value) for value in (True, False, "auto")] == ["on", "off", "auto"]


async def test_the_setting_leaves_out_task_runs(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_ROW_TASK_RUNS", "off")
    state = await generate_batch(
        lakes(1), "jimeng", batch.credentials, "set", output=str(batch.folder), return_state=True
    )
    async with get_client() as client:
        run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        assert await client.read_task_runs(flow_run_filter=run) == []


async def test_a_cancelled_batch_without_task_runs_is_joined_by_one_that_has_them(batch: Batch, ledger: Ledger) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    running = asyncio.create_task(batch.run(lakes(3), row_task_runs="off"))
    await batch.until_accepted(3, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {job.state for job in await ledger.jobs()} == {JobState.SUBMITTED}
    assert set(batch.states) == {"submitted"}
    batch.simulator.world.settings.run_seconds = 0.2
    assert (await batch.run(lakes(3), row_task_runs="on")).delivered == 3
    assert batch.submissions == 3


async def test_steps_are_repeated_without_task_runs_and_nothing_is_paid_twice(batch: Batch) -> None:
    batch.simulator.order("rate_limited", times=2, retry_after=0.02)
    batch.simulator.order("content_truncated", times=2)
    batch.simulator.order("accept_then_500")
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(lakes(4), row_task_runs="off", max_in_flight=2)
    assert sorted(batch.states) == ["delivered", "delivered", "delivered", "unknown"]
    assert batch.simulator.accepted == 4


@pytest.mark.parametrize("task_runs", ["on", "off"])
async def test_lines_of_a_row_in_the_run_s_log_name_the_row(
    task_runs: str, batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await batch.run(lakes(2), row_task_runs=task_runs)
    logged = [record.getMessage() for record in caplog.records if record.name == "prefect.flow_runs"]
    assert {line.split(":")[0] for line in logged if "Delivered" in line} == {"row-0", "row-1"}
    assert any(line.startswith("Batch lakes") for line in logged)


async def test_rows_that_come_at_once_ask_once_whether_the_run_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def state_of(run_id: str) -> None:
        asked.append(run_id)
        await asyncio.sleep(0)

    monkeypatch.setattr(history, "_state_of", state_of)
    check = history.SuspensionCheck(["a", "a"])
    await asyncio.gather(*(check() for _ in range(50)))
    assert asked == ["a"]


async def test_a_rerun_reads_no_file_that_has_its_size_and_time_unless_asked_to(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.run(lakes(3))
    read: list[str] = []
    digest = LocalFolder.digest

    def counted(folder: LocalFolder, uri: str) -> str | None:
        read.append(Path(uri).name)
        return digest(folder, uri)

    monkeypatch.setattr(LocalFolder, "digest", counted)
    assert (await batch.run(lakes(3))).delivered == 3
    assert read == []
    assert (await batch.run(lakes(3), reverify=True)).delivered == 3
    assert sorted(read) == ["row-0.mp4", "row-1.mp4", "row-2.mp4"]
    assert batch.submissions == 3


async def test_a_rerun_mends_a_file_that_was_damaged_since(batch: Batch) -> None:
    await batch.run(lakes(2))
    damaged = Path(batch.results["row-1"]["path"])
    whole, status = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(whole[:200] + bytes(len(whole) - 200))  # as large as before
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    batch.simulator.world.requests.clear()
    assert (await batch.run(lakes(2))).delivered == 2
    assert (damaged.read_bytes(), batch.submissions) == (whole, 0)


async def test_a_file_without_a_stamp_is_read(batch: Batch, ledger: Ledger) -> None:
    await batch.run(lakes(1))
    (job,) = await ledger.jobs()
    assert job.delivery is not None
    assert job.delivery.stamp
    storage = LocalFolder(batch.folder / "out")
    earlier = job.delivery.model_copy(update={"stamp": ""})
    assert still_there(earlier, storage, reverify=False)
    Path(earlier.uri).write_bytes(b"another file")
    assert not still_there(earlier, storage, reverify=False)
    assert job.delivery.is_same(earlier)


def test_a_stamp_behind_a_url_changes_with_the_file(tmp_path: Path) -> None:
    storage = target_at(f"memory://{tmp_path.name}/out").storage
    stamps = []
    for content in (b"one", b"two", b"three"):
        with storage.staging() as staged:
            staged.write_bytes(content)
            stamps.append(storage.stamp(storage.publish(staged, "a.mp4")))
    assert len(set(stamps)) == 3
    assert None not in stamps
    assert storage.stamp(storage.uri_of("b.mp4")) is None


AWKWARD = {"note": 'two\nlines, "quoted"; and = 7', "name": "湖"}


def results_of(location: Path, count: int, dialect: Dialect) -> Results:
    cells = PackedCells(tuple(AWKWARD), tuple(AWKWARD.values()))
    rows = [Row(f"r{n}", n, JimengVideo(prompt="x"), cells) for n in range(count)]
    bad = [BadRow("bad", count, (("prompt", "is missing"),), cells)]
    carried = Carried.from_rows(rows, dialect).with_cells(rows)
    return Results([row.id for row in rows], bad, str(location), carried=carried)


def whole_table(results: Results, dialect: Dialect) -> bytes:
    columns = list(results.carried.columns)
    rows = [vars(each) | dict(each.extra) for each in results.all()]
    assert results.location is not None
    own = [name for name in COLUMNS if name != QUALITY]
    return encode_table(rows, [*own, *columns], format_of(results.location), dialect)


@pytest.mark.parametrize("dialect", [Dialect("utf-8"), Dialect("utf-8-sig", spreadsheet=True), Dialect("gb18030")])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
async def test_a_table_that_grows_is_at_each_moment_the_whole_table(
    name: str, dialect: Dialect, tmp_path: Path
) -> None:
    results = results_of(tmp_path / name, 4, dialect)
    for number, state in enumerate(("in_flight", "delivered", "failed")):
        changed = results.of(f"r{number}")
        changed.state, changed.error_message = state, "a, b\nc" if state == "failed" else None
        results._pause = 0.0
        await results.save()
        if name.endswith((".csv", ".tsv", ".jsonl")):
            assert (tmp_path / name).read_bytes() == whole_table(results, dialect)
        states = [row["state"] for row in read_table(str(tmp_path / name))]
        assert states == [*(each.state for each in results.all())]


async def test_only_the_rows_that_have_changed_are_encoded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(tmp_path / "a.csv", 500, Dialect("utf-8"))
    await results.save(now=True)
    encoded: list[Any] = []
    lines = TableFile.lines

    def counted(file: TableFile, rows: Iterable[Mapping[str, Any]]) -> Any:
        taken = list(rows)
        encoded.extend(row["id"] for row in taken)
        return lines(file, taken)

    monkeypatch.setattr(TableFile, "lines", counted)
    for row_id in ("r7", "r400"):
        results.of(row_id).state = "delivered"
    results._pause = 0.0
    await results.save()
    assert sorted(encoded) == ["r400", "r7"]


async def test_what_a_failed_write_had_is_in_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(tmp_path / "a.jsonl", 2, Dialect("utf-8"))
    await results.save(now=True)
    results.of("r1").state = "delivered"
    with monkeypatch.context() as broken:
        broken.setattr(TableFile, "_publish", lambda file, content: 1 / 0)
        results._pause = 0.0
        with pytest.raises(ZeroDivisionError):
            await results.save()
    results._pause = 0.0
    await results.save()
    assert [row["state"] for row in read_table(str(tmp_path / "a.jsonl"))] == ["not_sent", "delivered", "invalid"]


async def test_a_batch_of_more_jobs_than_are_read_at_once_is_read_whole(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "ROWS_AT_ONCE", 3)
    for number in range(7):
        for attempt in range(1, 1 + number % 3 + 1):
            named = {"identity": f"identity-{number}", "scope": f"batch:b:row-{number}"}
            await ledger.reserve(Job(key="", attempt=attempt, provider="tokenops", **named))
    await ledger.reserve(Job(key="", identity="other", scope="batch:c:row-1", provider="tokenops"))
    newest = await ledger.newest_in("batch:b:")
    assert {name: job.attempt for name, job in newest.items()} == {
        f"identity-{number}": number % 3 + 1 for number in range(7)
    }

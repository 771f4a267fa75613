"""What a batch shows at its end: results with links, failures by field and value, a line a failed row, a report."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from test_batch_flow import Batch, batch, lakes, quick
from test_command_line import Typed, typed

from prefect_genmedia import errors

__all__ = ["batch", "quick", "typed"]

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

KEPT = {"owner": "Anna"}


def report_rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = re.search(r'id="data">(.*?)</script>', (folder / "index.html").read_text("utf-8"))
    assert found
    return {row["id"]: row for row in json.loads(found[1])["rows"]}


async def artifact(key: str) -> list[dict[str, Any]]:
    async with get_client() as client:
        newest = (await client.read_artifacts(sort="CREATED_DESC", limit=20))[::-1]
    found = {each.key: each for each in newest}
    rows: list[dict[str, Any]] = json.loads(str(found[key].data))
    return rows


async def test_a_rerun_says_that_it_paid_nothing_itself_and_what_a_row_is_charged_to_is_no_unsent_column(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "project": "spring", "tags": "a b"} for row in lakes(2)]
    first = await batch.run(rows)
    assert first.estimated_cost_of_run == first.estimated_cost > 0
    assert "by this run" not in caplog.text
    again = await batch.run(rows)
    assert (again.estimated_cost, again.estimated_cost_of_run) == (first.estimated_cost, 0.0)
    assert f"about {again.estimated_cost:.2f} CNY (estimate), nothing of it by this run" in caplog.text
    assert "not sent" not in caplog.text
    assert all("not sent" not in row for row in await artifact("genmedia-batch-results"))


async def test_each_row_is_shown_with_its_link_or_with_the_field_and_value_that_are_wrong(
    batch: Batch, typed: Typed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_VIEWER_URL", "https://videos.example.com")
    batch.simulator.order("fail_output")
    table = [*lakes(1, **KEPT), {**lakes(2)[1], "seconds": 7, "aspect_ratio": "7:5", **KEPT}]
    with pytest.raises(errors.BatchIncomplete):
        await batch.run(table, skip_invalid=True)
    failed = [each for each in caplog.records if each.levelname == "ERROR" and each.name == "prefect.task_runs"]
    (line,) = failed
    assert line.getMessage().startswith("Row row-0: OutputRefused: ")
    assert line.exc_info is None

    await batch.run([*lakes(1, **KEPT), *table[1:]], skip_invalid=True)
    invalid, row = await artifact("genmedia-batch-results")
    key = batch.results["row-0"]["job_key"]
    assert list(row) == ["row", "state", "file", "error", "seconds", "estimated CNY", "job", "not sent", "run"]
    assert "/runs/task-run/" in row["run"]
    assert (row["row"], row["file"]) == ("row-0", f"https://videos.example.com/files/{key}")
    assert batch.results["row-0"]["watch_url"] == row["file"]
    assert invalid["state"] == "invalid"

    (failure,) = await artifact("genmedia-batch-failures")
    assert next(iter(failure)) == "rows"
    assert list(failure)[-1] == "next"
    shown = str(failure["what happened"])
    assert "seconds: Input should be 5 or 10, not 7" in shown
    assert "not '7:5'" in batch.results["row-1"]["error_message"]
    assert " • " in batch.results["row-1"]["error_message"]

    rows = report_rows(batch.folder / "out")
    assert rows["row-0"]["play"] == "./row-0.mp4"
    assert rows["row-0"]["own"] == rows["row-1"]["own"] == [["owner", "Anna"]]
    assert rows["row-1"]["error"] == "InvalidRequest"
    before = rows
    (batch.folder / "out" / "index.html").unlink()
    code, out, _ = await asyncio.to_thread(typed, "report", "lakes", "--results", str(batch.folder / "results.csv"))
    assert (code, str(batch.folder / "out" / "index.html") in out) == (0, True)
    again = report_rows(batch.folder / "out")
    assert {name: (row["play"], row["own"], row["state"]) for name, row in again.items()} == {
        name: (row["play"], row["own"], row["state"]) for name, row in before.items()
    }
    code, _, said = await asyncio.to_thread(typed, "report", "rivers")
    assert code == 1
    assert "no job of a batch 'rivers'" in said


async def test_a_cancelled_batch_has_a_report_of_what_is_at_the_provider(batch: Batch) -> None:
    batch.simulator.world.settings.run_seconds = 3600.0
    running = asyncio.create_task(batch.run(lakes(2)))
    await batch.until_accepted(2, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    rows = report_rows(batch.folder / "out")
    assert {row["state"] for row in rows.values()} == {"submitted"}
    assert all(row["play"] is None for row in rows.values())


async def test_a_batch_whose_report_cannot_be_written_is_complete_all_the_same(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    out = batch.folder / "out"
    out.mkdir()
    for name in ("index.html", "lakes.html"):
        (out / name).write_text("mine")
    assert (await batch.run(lakes(1))).delivered == 1
    assert "The report of batch lakes cannot be written" in caplog.text
    assert (out / "index.html").read_text() == "mine"

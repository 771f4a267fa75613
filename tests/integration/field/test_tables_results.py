"""The user's own columns, and tables of results that open in the program that the table came from."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tables import MODEL, Tables, artifact

from prefect_genmedia.batch.table import read_table
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


LONG = "20261127000000000017"


async def test_columns_of_the_users_own_are_shown_and_carried_and_never_sent(
    tables: Tables, simulator: RunningSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    table = tables.file("t.csv", f"id,Owner,prompt,model,path\na,Zoe-own,x,{MODEL},shelf 3\nb,,y,{MODEL},\n")
    with caplog.at_level(logging.INFO):
        await tables.plan(table)
        assert "not sent" in (plan := await artifact("genmedia-batch-plan"))
        assert "Owner: Zoe-own, path: shelf 3" in plan
        caplog.clear()
        report = await tables.run(table)
    (line,) = (each.getMessage() for each in caplog.records if "not sent, and" in each.getMessage())
    assert line.endswith("Owner, path")
    assert "not sent: Owner: Zoe-own" in (await artifact("genmedia-batch-gallery")).replace("\\", "")
    first, second = read_table(report.results)
    assert (first["Owner"], first["table_path"]) == ("Zoe-own", "shelf 3")
    assert first["path"].endswith("a.mp4")
    assert "Owner" not in second
    sent = json.dumps([job.body for job in simulator.world.jobs.values()])
    assert "Zoe-own" not in sent
    assert "shelf 3" not in sent


async def test_rows_that_are_left_out_keep_their_own_columns(tables: Tables) -> None:
    rows = [{"id": "a", "model": MODEL, "prompt": "x", "team": "red"}, {"id": "b", "prompt": "", "team": "blue"}]
    report = await tables.run(rows, skip_invalid=True)
    assert [row["team"] for row in read_table(report.results)] == ["red", "blue"]


@pytest.mark.parametrize(
    ("column", "meant"),
    [("promt", "prompt"), ("Prompts", "prompt"), ("modle", "model"), ("Image URL", "image_urls"), ("seeed", "seed"),
     ("aspct_ratio", "aspect_ratio"), ("image_url", "image_urls"), ("knd", "kind")],
)  # fmt: skip
async def test_a_slip_of_a_field_s_name_is_an_error_with_a_suggestion(column: str, meant: str, tables: Tables) -> None:
    row = {"id": "a", "model": MODEL, "prompt": "x", "image_urls": "https://example.com/a.jpg", "seed": 1}
    row |= {"aspect_ratio": "1:1"}
    row.pop(meant, None)
    reported = await tables.problems([{**row, column: "x"}])
    assert f"row a.{'image_url' if column == 'image_url' else column}" in reported
    assert f"did you mean {meant!r}?" in reported


@pytest.mark.parametrize("column", ["owner", "notes", "site", "title", "编号", "due date", "prompt_v2", "sku"])
async def test_a_name_of_its_own_is_no_slip(column: str, tables: Tables) -> None:
    assert await tables.problems([{"id": "a", "model": MODEL, "prompt": "x", column: "y"}]) == ""


async def test_a_filled_field_of_another_kind_is_an_error_and_an_empty_one_is_not(tables: Tables) -> None:
    row: dict[str, Any] = {"id": "a", "model": MODEL, "prompt": "x"}
    assert "is no field of jimeng, but of poster" in await tables.problems([{**row, "scene": "firework"}])
    for empty in ("", None, "NULL", float("nan")):
        assert await tables.problems([{**row, "scene": empty}]) == ""


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8-sig", ","), ("utf-8-sig", ";"), ("utf-16", "\t"), ("gb18030", ",")]
)
async def test_results_have_the_dialect_of_the_table_and_keep_long_ids_as_text(
    encoding: str, delimiter: str, tables: Tables
) -> None:
    lines = [["id", "model", "prompt", "负责人"], [LONG, MODEL, "湖，清晨", "王芳"], ["007", MODEL, "湖，黄昏", "0012"]]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    report = await tables.run(tables.file("t.csv", text.encode(encoding)))
    content = Path(report.results).read_bytes()
    assert content.startswith({"utf-8-sig": b"\xef\xbb\xbf", "utf-16": b"\xff\xfe"}.get(encoding, b"id"))
    first, second = csv.DictReader(io.StringIO(content.decode(encoding), newline=""), delimiter=delimiter)
    assert (first["id"], first["负责人"], second["负责人"]) == (f"\t{LONG}", "王芳", "\t0012")
    assert [row["id"] for row in read_table(report.results)] == [LONG, "007"]


async def test_results_beside_a_plain_table_are_plain(tables: Tables) -> None:
    report = await tables.run(tables.file("t.csv", f"id,model,prompt\n{LONG},{MODEL},x\n"))
    assert Path(report.results).read_bytes().decode().split("\n")[1].startswith(f"{LONG},delivered")


async def test_results_in_a_workbook_are_text_where_the_table_is(tables: Tables) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    rows = [{"id": LONG, "model": MODEL, "prompt": "x", "sum": "=1+1", "bad": "a\x01b"}]
    report = await tables.run(rows, results=str(tables.folder / "r.xlsx"))
    header, cells = openpyxl.load_workbook(report.results).active.iter_rows()
    found = {name.value: cell for name, cell in zip(header, cells, strict=True)}
    assert (found["id"].value, found["id"].data_type, found["sum"].data_type) == (LONG, "s", "s")
    assert found["bad"].value == "a\ufffdb"
    assert isinstance(found["seconds"].value, int | float)
    assert read_table(report.results)[0]["id"] == LONG


async def test_a_tsv_table_has_results_in_tsv(tables: Tables) -> None:
    report = await tables.run(tables.file("t.tsv", f"id\tmodel\tprompt\na\t{MODEL}\tx\n"))
    assert report.results.endswith("t.results.tsv")
    assert read_table(report.results)[0]["state"] == "delivered"

"""Tables as Excel, pandas, databases and people write them: read as they are meant, or refused by name and place."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from decimal import Decimal
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from tables import MODEL, Tables

from prefect_genmedia._core import Ledger
from prefect_genmedia.batch.table import read_table

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


TEXT = f"id,model,prompt\n甲,{MODEL},湖；清晨\nb,{MODEL},a; b\tc\n"


def delimited(delimiter: str) -> str:
    return f'id{delimiter}model{delimiter}prompt\na{delimiter}{MODEL}{delimiter}"x, y; z"\n'


WRITTEN: dict[str, bytes] = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": TEXT.encode("utf-8-sig"),
    "utf-16 with a mark": TEXT.encode("utf-16"),
    "utf-16-le": TEXT.encode("utf-16-le"),
    "utf-16-be": TEXT.encode("utf-16-be"),
    "gb18030": TEXT.encode("gb18030"),
}


@pytest.mark.parametrize("written", WRITTEN)
async def test_the_encoding_of_a_table_is_detected(written: str, tables: Tables, ledger: Ledger) -> None:
    report = await tables.run(tables.file("t.csv", WRITTEN[written]))
    assert report.delivered == 2
    asked = await tables.requests(ledger)
    assert {name: each["prompt"] for name, each in asked.items()} == {"甲": "湖；清晨", "b": "a; b\tc"}


async def test_western_text_is_not_taken_for_chinese_and_its_encoding_can_be_named(tables: Tables) -> None:
    table = tables.file("t.csv", f"id,model,prompt\na,{MODEL},un café d'été\n".encode("cp1252"))
    assert "line 2" in (reported := await tables.problems(table))
    assert "encoding=" in reported
    assert (await tables.plan(table, encoding="cp1252")).states == {"submit": 1}
    assert "not an encoding" in await tables.problems(table, encoding="klingon")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
async def test_the_delimiter_of_a_table_is_detected(delimiter: str, tables: Tables) -> None:
    assert (await tables.plan(tables.file("t.csv", delimited(delimiter)))).states == {"submit": 1}
    assert (await tables.plan(tables.file("u.csv", f"sep={delimiter}\r\n{delimited(delimiter)}"))).states == {
        "submit": 1
    }


async def test_a_tsv_file_is_separated_by_tabs(tables: Tables) -> None:
    assert (await tables.plan(tables.file("t.tsv", delimited("\t")))).states == {"submit": 1}


async def test_headers_are_trimmed_and_known_in_any_case_without_invisible_characters(tables: Tables) -> None:
    table = tables.file("t.csv", f" ID ,\u200bModel,PROMPT\u00a0,,\na,{MODEL.upper()},lake,,\n,,,,\n,,,,\n")
    assert (await tables.plan(table)).states == {"submit": 1}


async def test_ids_and_choices_are_trimmed_and_prompts_are_not(tables: Tables, ledger: Ledger) -> None:
    await tables.run(tables.file("t.csv", f"id,kind,model,prompt\n a , JiMeng , {MODEL} ,  two blanks  \n"))
    asked = (await tables.requests(ledger))["a"]
    assert (asked["model"], asked["prompt"]) == (MODEL, "  two blanks  ")


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("id,prompt,Prompt\na,x,y\n", "'prompt' twice"),
        ("id,prompt\na,x,y\n", "line 2 has a cell in column 3"),
        ('id,prompt\na,x\nb,"y\nz\n', "line 3: the quotes"),
        ('id,prompt\na,"x"y\n', "line 2: the quotes"),
        ("id,prompt\n", "no rows"),
        ("", "no rows"),
    ],
)
async def test_a_csv_file_that_cannot_be_read_names_the_place(content: str, reported: str, tables: Tables) -> None:
    assert reported in await tables.problems(tables.file("t.csv", content))


async def test_json_lines_end_at_line_feeds_only_and_errors_name_the_line(tables: Tables, ledger: Ledger) -> None:
    row = {"id": "a", "model": MODEL, "prompt": "one\u2028two\u0085three"}
    separators = f"{json.dumps(row, ensure_ascii=False)}\n"
    assert (await tables.plan(tables.file("t.jsonl", separators))).states == {"submit": 1}
    for bad, reported in (
        ("{nonsense", "line 4, column 2"),
        ("[1]", "line 4 is not"),
        ('{"id": 1, "id": 2}', "'id' twice"),
    ):
        assert reported in await tables.problems(tables.file("u.jsonl", f"{separators}\n\n{bad}\n"))


def workbook(rows: list[list[Any]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    output = io.BytesIO()
    book.save(output)
    return output.getvalue()


async def test_an_excel_workbook_is_read(tables: Tables, ledger: Ledger) -> None:
    header = ["id", "model", "prompt", "seconds", "owner", None]
    rows = [[7, MODEL, 2026, 5, "Anna", None], ["b", MODEL, "=1+1", None, None, None], [None] * 6]
    assert (await tables.run(tables.file("t.xlsx", workbook([header, rows[0], rows[2]])))).delivered == 1
    asked = (await tables.requests(ledger))["7"]
    assert (asked["prompt"], asked["seconds"]) == ("2026", 5)
    assert "no Excel workbook" in await tables.problems(tables.file("u.xlsx", b"PK\x03\x04"))
    assert "save it as .xlsx" in await tables.problems(tables.file("u.xls", b""))


async def test_a_frame_of_pandas_is_a_table(tables: Tables, ledger: Ledger) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "id": [1, 2, 3],
            "model": MODEL,
            "prompt": ["NULL", "lake", "N/A"],
            "seconds": [5, math.nan, None],
            "seed": pandas.array([7, None, pandas.NA], dtype="Int64"),
            "due": [pandas.Timestamp("2026-11-27"), pandas.NaT, None],
        },
        index=[10, 20, 30],
    )
    assert (await tables.run(frame)).delivered == 3
    asked = await tables.requests(ledger)
    assert [asked[name]["prompt"] for name in "123"] == ["NULL", "lake", "N/A"]
    assert (asked["1"]["seconds"], asked["1"]["seed"], asked["2"].get("seconds")) == (5, 7, None)
    assert (await tables.plan(frame.set_index("id"))).states == {"verify": 3}
    assert (await tables.plan(frame.to_dict("records"))).states == {"verify": 3}
    assert "twice" in await tables.problems(pandas.concat([frame, frame[["prompt"]]], axis=1))


async def test_frames_of_polars_and_arrow_streams_are_tables(tables: Tables) -> None:
    polars = pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    columns = {"id": ["a", "b"], "model": [MODEL, MODEL], "prompt": ["x", "y"], "seconds": [5, None]}
    frame = polars.DataFrame(columns)

    class Stream:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return frame.__arrow_c_stream__(requested_schema)

    for table in (frame, frame.lazy(), arrow.table(columns), Stream()):
        assert (await tables.plan(table)).states == {"submit": 2}
    for once in (arrow.table(columns).to_reader(), iter(frame.to_dicts())):
        assert "can be read once only" in await tables.problems(once)


async def test_an_index_that_nobody_has_named_is_ignored(tables: Tables) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"id": ["a"], "model": [MODEL], "prompt": ["x"]}, index=[4])
    frame.to_csv(tables.folder / "t.csv")
    pandas.read_csv(tables.folder / "t.csv").to_csv(tables.folder / "twice.csv")
    frame.to_parquet(tables.folder / "t.parquet")
    for name in ("t.csv", "twice.csv", "t.parquet"):
        path = tables.folder / name
        await tables.run(str(path), results=str(tables.folder / "results.jsonl"))
        (row,) = read_table(str(tables.folder / "results.jsonl"))
        assert [column for column in row if "index" in column or "Unnamed" in column] == []


@pytest.mark.parametrize("missing", [None, math.nan, Decimal("NaN"), "NULL", "n/a", "NaN", "#N/A", "<NA>", ""])
async def test_a_missing_number_url_or_choice_is_no_value(missing: Any, tables: Tables) -> None:
    row = {"id": "a", "model": MODEL, "prompt": "x", "seconds": missing, "image_urls": missing, "aspect_ratio": missing}
    assert (await tables.plan([{**row, "kind": missing}])).states == {"submit": 1}


async def test_words_for_nothing_are_ids_and_prompts_like_others(tables: Tables, ledger: Ledger) -> None:
    await tables.run(tables.file("t.csv", f"id,model,prompt\nNULL,{MODEL},N/A\nNaN,{MODEL},null\n"))
    asked = await tables.requests(ledger)
    assert {name: each["prompt"] for name, each in asked.items()} == {"NULL": "N/A", "NaN": "null"}


async def test_numbers_are_prompts_and_subjects(tables: Tables) -> None:
    speaker = {"kind": "omnihuman", "image_url": "a.png", "audio_url": "a.mp3"}
    rows = [{"id": 1, "model": MODEL, "prompt": 2026}, {"id": 2, **speaker, "subject": 0, "prompt": 1.5}]
    reported = await tables.problems(rows)
    assert "subject" not in reported
    assert "prompt" not in reported
    assert "there is no 'a.png'" in reported


async def test_several_files_in_a_cell_are_split_only_where_each_is_one(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tables.folder)
    for name in ("a.png", "b.png", "my pic,1.png"):
        tables.file(name, b"")

    async def reported(cell: Any, field: str = "image_urls", kind: str = "jimeng") -> str:
        return await tables.problems([{"id": "a", "prompt": "x", "model": MODEL, field: cell}], kind, preflight=False)

    assert "neither a file nor a list" in await reported("a.png,c.png")
    for whole in ("a.png", "my pic,1.png", "https://example.com/a,b.jpg", "https://example.com/a.jpg?x=a;b|c"):
        assert await reported(whole) == "", whole
    for three in (
        "a.png,b.png,a.png",
        "a.png; b.png;a.png",
        "a.png|b.png|https://example.com/c.jpg",
        "a.png b.png a.png",
    ):
        assert "at most 2" in await reported(three), three  # three of them were read, and two are the limit
        assert await reported(re.sub(r"[,;| ][^,;| ]+$", "", three)) == ""
    assert "names several files" in await tables.problems(
        [{"id": "a", "image_url": "a.png,b.png", "scene": "firework"}], "poster", preflight=False
    )


async def test_kinds_and_models_match_in_any_case_and_the_valid_ones_are_listed(tables: Tables) -> None:
    rows = [{"id": "a", "kind": "JIMENG", "model": "Jimeng-Video-3.0-Pro", "prompt": "x"}]
    assert (await tables.plan(rows)).states == {"submit": 1}
    reported = await tables.problems([{"id": "a", "kind": "song"}, {"id": "b", "model": "sora", "prompt": "x"}])
    assert "jimeng, omnihuman, poster, stylize" in reported
    assert "jimeng-video-3.0-720P" in reported


async def test_text_that_cannot_be_sent_or_shown_is_reported_by_row(tables: Tables) -> None:
    rows = [
        {"id": "a\u200bb", "prompt": "x"},
        {"id": "c", "prompt": "x\0y"},
        {"id": "d", "prompt": "x\ud800y"},
        {"id": 2.0**60, "prompt": "x"},
    ]
    table = tables.file("t.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    reported = (await tables.problems(table)).split("\n")
    assert len(reported) == 4
    for line, words in zip(reported, ("cannot be seen", "row c.prompt", "row d.prompt", "was rounded"), strict=True):
        assert words in line


@pytest.mark.parametrize("table", [[], "t.jsonl", "t.parquet"])
async def test_a_table_without_rows_is_an_error(table: Any, tables: Tables) -> None:
    if table == "t.parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.table({"id": []}), tables.folder / table)
    elif table:
        tables.file(table, b"\n")
    assert "no rows" in await tables.problems(table if isinstance(table, list) else str(tables.folder / table))


@pytest.mark.parametrize(
    ("url", "package", "line"),
    [
        ("s3://lakes/t.csv", "s3fs", "pip install 'prefect-genmedia[s3]'"),
        ("gs://lakes/t.csv", "gcsfs", "pip install 'gcsfs'"),
        ("https://example.com/t.csv", "aiohttp", "pip install 'aiohttp'"),
    ],
)
async def test_a_missing_package_is_named_with_what_installs_it(
    url: str, package: str, line: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    registry: Any = sys.modules["fsspec.registry"]  # the package has another object of that name
    for name in ("s3", "gs", "https", "http"):  # an earlier test may have used them
        monkeypatch.delitem(registry._registry, name, raising=False)
    assert line in await tables.problems(url)


async def test_a_signed_url_of_a_table_reaches_no_name_and_no_message(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    url = "http://127.0.0.1:9/lakes.csv?X-Amz-Credential=a/b&X-Amz-Signature=5ec2e7"
    reported = await tables.problems(url, batch_id=None)
    reported += await tables.problems(url.replace(".csv", ".txt"), batch_id=None)
    async with get_client() as client:
        names = [run.name for run in await client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)]
    assert "batch · lakes.csv" in names
    assert not any("5ec2e7" in text for text in [reported, caplog.text, *names])

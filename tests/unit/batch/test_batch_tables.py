"""Tables and rows: every format holds the same rows, and a cell becomes what its field wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from prefect_genmedia import errors
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia.batch import results as written
from prefect_genmedia.batch.columns import number_of
from prefect_genmedia.batch.result import COLUMNS
from prefect_genmedia.batch.results import Results
from prefect_genmedia.batch.rows import SHOWN_PROBLEMS, check_rows, refuse
from prefect_genmedia.batch.table import TableFile, encode_table, read_table
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo

ROWS: list[dict[str, Any]] = [
    {
        "id": "1",
        "kind": "omnihuman",
        "image_url": "https://example.com/a.jpg",
        "audio_url": "https://example.com/a.mp3",
        "output_resolution": 720,
        "pe_fast_mode": True,
        "seed": 7,
        "prompt": "说,“你好”\n两行",
        "subject": "0.50,0.4",
    },
    {"id": "2", "kind": "jimeng", "prompt": "123", "seconds": 10, "model": "jimeng-video-3.0-720P"},
]
COLUMNS_IN = sorted({name for row in ROWS for name in row})


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_the_same_rows_come_back_from_every_format_and_place(ending: str, place: str, tmp_path: Path) -> None:
    location = f"memory://tables/rows.{ending}" if place == "memory" else str(tmp_path / f"rows.{ending}")
    TableFile(location, COLUMNS_IN).write(ROWS)
    good, bad = check_rows(read_table(location), "jimeng")
    assert bad == []
    expected, _ = check_rows(ROWS, "jimeng")
    assert good == expected
    speaker, lake = (row.request for row in good)
    assert isinstance(speaker, OmniHumanVideo)
    assert (speaker.output_resolution, speaker.pe_fast_mode, speaker.subject) == (720, True, "0.5,0.4")
    assert isinstance(lake, JimengVideo)
    assert (lake.prompt, lake.seconds) == ("123", 10)


def test_several_pictures_stand_in_one_cell() -> None:
    pictures = "https://example.com/a.jpg https://example.com/b.jpg"
    for cell in (pictures, json.dumps(pictures.split())):
        fields = {"id": "x", "model": "jimeng-video-3.0-720P", "image_urls": cell}
        ((row,), bad) = check_rows([fields], "jimeng")
        assert not bad
        assert list(row.request.image_urls) == pictures.split()


def test_problems_name_row_and_field_and_all_are_kept() -> None:
    table = [{"id": f"r{number}", "prompt": "x", "frames": 3} for number in range(SHOWN_PROBLEMS + 5)]
    table += [{"id": "r0", "prompt": "x"}, {"id": "k", "kind": "song"}]
    good, bad = check_rows(table, "jimeng")
    error = refuse(bad)
    assert good == []
    assert len(error.problems) == SHOWN_PROBLEMS + 7
    fields = [problem.field for problem in error.problems]
    assert fields[0] == "row r0.frames"
    assert fields[-2:] == ["row r0.id", "row k.kind"]
    assert (
        "column frames: 55 rows Input should be 121 or 241, not 3: r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, …"
        in error.message
    )
    assert "row k.kind: 'song' is not a kind" in error.message
    assert "taken as" not in error.next_step


def test_where_fields_are_missing_the_kind_that_was_taken_is_named() -> None:
    _, bad = check_rows([{"id": "a"}], "omnihuman")
    error = refuse(bad, kind="omnihuman")
    assert error.next_step.startswith("rows that name no kind are taken as omnihuman: ")
    assert "row a.image_url: is missing" in error.message


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a lake"}, "jimeng"),
        ({"prompt": "a lake", "kind": "NULL", "model": "jimeng-video-3.0-720P", "owner": "Anna"}, "jimeng"),
        ({"image_url": "https://example.com/a.jpg", "scene": "firework"}, "poster"),
        ({"video_url": "https://example.com/a.mp4", "style": "no such style"}, "stylize"),
    ],
)
def test_rows_without_a_kind_that_have_the_fields_of_another_kind_name_it_in_their_error(
    row: dict[str, Any], kind: str
) -> None:
    _, bad = check_rows([{"id": "a", **row}, {"id": "b", **row, "kind": "omnihuman"}], "omnihuman")
    assert str(bad[0].problems[0]) == f"row a.kind: empty, which means omnihuman, but the fields are those of {kind}"
    assert len(bad[0].problems) == 1
    assert "row b.kind" not in {each.field for each in bad[1].problems}  # it has said what it is
    assert refuse(bad[:1], kind="omnihuman").next_step.startswith(f"give kind='{kind}', or a column `kind`; ")


def test_a_row_is_counted_as_a_spreadsheet_does_with_the_empty_ones(tmp_path: Path) -> None:
    files = {
        "csv": b"id,prompt\n1,a\n,\n\n4,\n,nameless\n",
        "jsonl": b'{"id": "1", "prompt": "a"}\n\n\n{"id": "4"}\n{"prompt": "nameless"}\n',
        "xlsx": encode_table(
            [{"id": "1", "prompt": "a"}, {}, {}, {"id": "4"}, {"prompt": "nameless"}], ["id", "prompt"], "xlsx"
        ),
    }
    for ending, content in files.items():
        path = tmp_path / f"rows.{ending}"
        path.write_bytes(content)
        assert [number_of(row, 0) for row in read_table(str(path))] == [1, 4, 5]
        _, bad = check_rows(read_table(str(path)), "jimeng")
        assert [row.id for row in bad] == ["4", "#5"]


def test_a_file_that_is_not_there_is_said_in_words() -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        read_table("/no/such/rows.csv")
    assert "'/no/such/rows.csv' cannot be read: there is no such file or folder." in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", b"id"),
        ("missing.csv", None),
        ("broken.jsonl", b"{nonsense"),
        ("list.jsonl", b"[1]"),
        ("broken.parquet", b"PAR1"),
        ("wide.csv", b"id,prompt\n1,a,b\n"),
    ],
)
def test_a_table_that_cannot_be_read_says_so(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.InvalidRequest, match=r"^The table, rows: "):
        read_table(str(path))


def test_a_spreadsheet_s_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("\ufeffid,prompt\nx,y\n".encode())
    assert read_table(str(tmp_path / "rows.csv")) == [{"id": "x", "prompt": "y"}]


@pytest.mark.parametrize("name", ["a/b", "..", "数字", "x" * 300, "a b", ".hidden"])
def test_file_names_are_safe_and_tell_ids_apart(name: str) -> None:
    stem = file_stem(name)
    assert "/" not in stem
    assert not stem.startswith(".")
    assert len(stem.encode()) < 200
    assert stem == file_stem(name) != file_stem(name + "?")


def test_rows_that_would_share_a_file_on_some_disk_are_reported_before_anything_is_paid() -> None:
    ids = ["Anna", "anna", "a b", file_stem("a b"), "Straße", "STRASSE", "clip", "clip-2", "Anna"]
    good, bad = check_rows([{"id": row_id, "prompt": "x"} for row_id in ids], "jimeng")
    assert [row.id for row in good] == ["Anna", "a b", "Straße", "clip", "clip-2"]
    assert [row.id for row in bad] == ["anna", file_stem("a b"), "STRASSE", "Anna"]
    problems = [problem.problem for row in bad for problem in row.problems]
    assert all(problem.startswith("names the same file as") for problem in problems[:3])
    assert problems[3] == "is the id of another row, too"


def test_a_part_of_a_table_leaves_out_what_the_whole_leaves_out() -> None:
    table = [{"id": row_id, "prompt": "x"} for row_id in ("Anna", "anna", "berta")]
    good, bad = check_rows(table, "jimeng", {"anna", "berta"}.__contains__)
    assert ([(row.id, row.position) for row in good], [row.id for row in bad]) == ([("berta", 2)], ["anna"])


async def test_results_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "SAVE_SECONDS", 3600.0)
    results = Results(["a", "b"], [], str(tmp_path / "results.jsonl"))
    await results.save(now=True)
    results.of("a").state = "delivered"
    await results.save()  # not yet time
    assert [row["state"] for row in read_table(results.location)] == ["not_sent", "not_sent"]
    await results.save(now=True)
    assert [row["state"] for row in read_table(results.location)] == ["delivered", "not_sent"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_an_empty_table_of_results_has_its_columns() -> None:
    assert encode_table([], COLUMNS, "csv").decode().strip() == ",".join(COLUMNS)
    with fsspec.open("memory://empty.parquet", "wb") as file:
        file.write(encode_table([], COLUMNS, "parquet"))
    assert read_table("memory://empty.parquet") == []

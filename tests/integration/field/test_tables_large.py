"""Large tables: they are read as a stream, and a row takes little memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia._core.session import Session
from prefect_genmedia.batch.packed import PackedRequest, Packer
from prefect_genmedia.batch.plan import Plan, PlannedRow
from prefect_genmedia.batch.rows import check_rows, refuse
from prefect_genmedia.batch.table import read_rows
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo

ROWS = 4000


def posters(url: str = "https://example.com/{}.jpg") -> Iterator[dict[str, Any]]:
    for number in range(ROWS):
        yield {
            "id": f"row-{number:06}",
            "image_url": url.format(number),
            "scene": "firework",
            "note": f"no {number}",
        }


@pytest.mark.parametrize("url", ["https://example.com/{}.jpg", "no URL: {}"], ids=["good", "invalid"])
def test_a_row_takes_less_than_a_kilobyte(url: str) -> None:
    check_rows(list(posters(url))[:10], "poster")  # what is read once for all tables
    tracemalloc.start()
    try:
        good, bad = check_rows(posters(url), "poster")
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(good) + len(bad) == ROWS
    assert held / ROWS < 1000
    if bad:
        refusal = refuse(bad)
        assert len(refusal.problems) == ROWS
        assert f"column image_url: {ROWS} rows" in refusal.message
        assert len(refusal.message) < 1000


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
async def test_rows_are_parsed_as_they_are_taken(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"t.{ending}"
    good = "id,prompt\na,x\n" if ending == "csv" else json.dumps({"id": "a", "prompt": "x"}) + "\n"
    file.write_text(good + ('b,"x\n' if ending == "csv" else "{\n"))
    table = await read_rows(str(file))
    assert next(table.rows) == {"id": "a", "prompt": "x"}
    with pytest.raises(errors.InvalidRequest, match=r"line [23]"):
        next(table.rows)


def test_text_is_decoded_in_pieces_that_may_end_within_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_genmedia.batch.text_table._PIECE_BYTES", 3)
    from prefect_genmedia.batch.table import read_table

    for encoding in ("utf-8", "gb18030", "utf-16", "utf-8-sig"):
        (tmp_path / "t.csv").write_bytes("id;prompt\r\n1;湖，清晨\r\n".encode(encoding))
        assert read_table(str(tmp_path / "t.csv")) == [{"id": "1", "prompt": "湖，清晨"}]
    (tmp_path / "t.csv").write_bytes(b"id,prompt\n1,x\n2,\xff\xff\n")
    with pytest.raises(errors.InvalidRequest, match="line 3 is not utf-8"):
        read_table(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    "request_",
    [
        LivePoster(image_url="https://example.com/a.jpg", scene="firework", extra_body={"prompt": "x"}),
        JimengVideo(prompt="a lake", model="jimeng-video-3.0-720P", seconds=10),
        OmniHumanVideo(image_url="https://example.com/a.jpg", audio_url="https://example.com/a.mp3", subject="0.5,0.4"),
    ],
    ids=lambda request_: request_.kind,
)
def test_a_packed_request_is_the_same_request(request_: Any) -> None:
    packed = Packer().request(request_)
    assert isinstance(packed, PackedRequest)
    again = packed.unpack()
    assert again == request_
    assert again.model_fields_set == request_.model_fields_set
    assert again.payload() == request_.payload()
    assert again.identity() == request_.identity()


def test_a_plan_spells_out_its_first_rows_and_counts_all() -> None:
    plan = Plan()
    for number in range(2500):
        plan.add(PlannedRow(str(number), "submit", "poster", "jenius/poster", None))
    assert (len(plan), len(plan.first), plan.counts) == (2500, 1000, {"submit": 2500})
    assert "no price" in plan.text()


async def test_a_new_batch_makes_no_identities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: Any
) -> None:
    made: list[str] = []
    monkeypatch.setattr(Session, "identities", lambda self, request, scope, variant=0: made.append(scope))
    account = JeniusCredentials(api_key="nothing-is-sent", base_url="http://127.0.0.1:9/v1")
    rows = list(posters())[:20]
    options: dict[str, Any] = {"kind": "poster", "credentials": account, "output": str(tmp_path)}
    plan = await generate_batch(rows, **options, dry_run=True, preflight=False)
    assert plan.states == {"submit": 20}
    assert made == []

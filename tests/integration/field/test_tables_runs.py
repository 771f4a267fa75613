"""Which rows of a table run, and when a run is complete; problems of many rows in few lines."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

PHOTO = "https://example.com/a.jpg"


@pytest.fixture
def options(simulator: RunningSimulator, tmp_path: Path) -> dict[str, Any]:
    account = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    return {"kind": "poster", "credentials": account, "output": str(tmp_path / "out")}


def table(folder: Path, ids: str) -> str:
    file = folder / "posters.csv"
    lines = [f"{each},{PHOTO},firework" for each in ids]
    file.write_text("\n".join(["id,image_url,scene", *lines]))
    return str(file)


def states(folder: Path) -> dict[str, str]:
    with (folder / "posters.results.csv").open(newline="") as file:
        return {row["id"]: row["state"] for row in csv.DictReader(file)}


async def test_only_the_named_rows_run_and_the_others_keep_their_results(
    options: dict[str, Any], simulator: RunningSimulator, tmp_path: Path
) -> None:
    posters = table(tmp_path, "abc")
    report = await generate_batch(posters, **options, only=["a"])
    assert (report.rows, report.delivered, simulator.accepted) == (1, 1, 1)
    assert states(tmp_path) == {"a": "delivered", "b": "not_sent", "c": "not_sent"}
    report = await generate_batch(posters, **options, only=["b"])
    assert (report.rows, report.delivered, simulator.accepted) == (1, 1, 2)
    assert states(tmp_path) == {"a": "delivered", "b": "delivered", "c": "not_sent"}
    with pytest.raises(errors.InvalidRequest, match="only: names rows that are not in the table: 'x'"):
        await generate_batch(posters, **options, only=["a", "x"])


async def test_an_invalid_row_that_is_not_asked_for_refuses_nothing(
    options: dict[str, Any], simulator: RunningSimulator
) -> None:
    rows = [{"id": "a", "image_url": PHOTO, "scene": "firework"}, {"id": "b", "scene": "firework"}]
    report = await generate_batch(rows, **options, only=["a"])
    assert report.delivered == simulator.accepted == 1


async def test_a_run_is_complete_when_enough_rows_are_delivered(
    options: dict[str, Any], simulator: RunningSimulator, tmp_path: Path
) -> None:
    posters = table(tmp_path, "abcd")
    simulator.order("refuse_invalid")
    report = await generate_batch(posters, **options, min_delivered=0.75)
    assert (report.rows, report.delivered) == (4, 3)
    simulator.order("refuse_invalid")
    with pytest.raises(errors.BatchIncomplete, match="3 of 4 delivered"):
        await generate_batch(posters, **options, min_delivered=0.8)


async def test_problems_of_the_same_kind_are_reported_by_column(
    options: dict[str, Any], simulator: RunningSimulator
) -> None:
    rows = [
        {"id": number, "image_url": None if number % 3 == 0 else PHOTO, "scene": "firework"} for number in range(1, 112)
    ]
    rows += [{"id": f"x{number}", "image_url": f"/absent/{number}.jpg", "scene": "firework"} for number in range(5)]
    rows += [{"id": "odd", "image_url": PHOTO, "scene": "nowhere"}]
    with pytest.raises(errors.InvalidRequest) as caught:
        await generate_batch(rows, **options)
    said = str(caught.value)
    assert "column image_url: 37 rows empty: 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, …" in said
    assert "row odd.scene" in said
    assert len(said) < 2000
    assert len(caught.value.problems) >= 38
    assert simulator.accepted == 0

"""Rows that are generated anew: paid once in a run and its retries, whatever happens between, and again in others."""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from sqlalchemy import select

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia._core import schema
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import JobState
from prefect_genmedia._core.regenerate import fix_variants, next_variants
from prefect_genmedia.batch import row_task, runner
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.settings import current_settings
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

PHOTO = "https://example.com/a.jpg"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, prefect_server: Any) -> None:
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture
def options(simulator: RunningSimulator, tmp_path: Path) -> dict[str, Any]:
    account = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    (tmp_path / "posters.csv").write_text(f"id,image_url,scene\na,{PHOTO},firework\nb,{PHOTO},firework\n")
    return {
        "table": str(tmp_path / "posters.csv"),
        "kind": "poster",
        "credentials": account,
        "output": str(tmp_path / "out"),
    }


def results(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "posters.results.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


async def fixed() -> list[int]:
    async with open_ledger(current_settings().ledger) as ledger:
        rows = await ledger.query(select(schema.regenerations.c.variant).order_by(schema.regenerations.c.variant))
        return [row[0] for row in rows]


async def test_a_row_is_paid_anew_once_and_later_runs_have_its_new_result(
    options: dict[str, Any], simulator: RunningSimulator, tmp_path: Path
) -> None:
    await generate_batch(**options)
    before = results(tmp_path)
    report = await generate_batch(**options, regenerate=["a"])
    assert (report.delivered, simulator.accepted) == (2, 3)
    anew = results(tmp_path)
    assert anew["a"]["job_key"] != before["a"]["job_key"]
    assert anew["a"]["path"] == before["a"]["path"]
    assert anew["b"] == before["b"]
    await generate_batch(**options)
    assert simulator.accepted == 3
    assert results(tmp_path) == anew
    await generate_batch(**options, regenerate=["a"])
    assert simulator.accepted == 4
    assert await fixed() == [1, 2]


@pytest.mark.parametrize("where", ["before it is reserved", "before it is sent", "after it is sent"])
async def test_a_run_that_is_killed_and_retried_pays_once(
    where: str, options: dict[str, Any], simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await generate_batch(**options)
    killed: list[str] = []

    def once(module: Any, name: str, after: bool) -> None:
        does = getattr(module, name)

        async def killing(*args: Any, **kwargs: Any) -> Any:
            if killed:
                return await does(*args, **kwargs)
            killed.append(name)
            if after:
                await does(*args, **kwargs)
            raise RuntimeError("killed")

        monkeypatch.setattr(module, name, killing)

    if where == "before it is reserved":
        once(runner, "_inspected", after=False)
    else:
        once(row_task, "run_job", after=where == "after it is sent")

    @flow(retries=2, retry_delay_seconds=0)
    async def nightly() -> None:
        await generate_batch(**options, regenerate=["a"])

    await nightly()
    assert killed
    assert simulator.accepted == 3
    assert await fixed() == [1]


async def test_two_calls_in_a_run_pay_once_and_two_runs_twice(
    options: dict[str, Any], simulator: RunningSimulator
) -> None:
    await generate_batch(**options)

    def anew() -> Any:
        return generate_batch(**options, regenerate=["a"], only=["a"])

    @flow
    async def together() -> None:
        await asyncio.gather(anew(), anew())

    await together()
    assert simulator.accepted == 3
    await asyncio.gather(anew(), anew())
    assert simulator.accepted == 5
    assert await fixed() == [1, 2, 3]


async def test_the_plan_counts_it_and_fixes_nothing(options: dict[str, Any], simulator: RunningSimulator) -> None:
    await generate_batch(**options)
    prices = {"jenius/poster": {"per_job": 2.0}}
    plan = await generate_batch(**options, regenerate=["b"], dry_run=True, prices=prices)
    assert plan.states == {"verify": 1, "regenerate": 1}
    assert plan.estimated_cost == 2.0
    assert (simulator.accepted, await fixed()) == (2, [])


async def test_the_budget_counts_it(options: dict[str, Any], simulator: RunningSimulator) -> None:
    await generate_batch(**options, max_jobs=3)
    with pytest.raises(errors.BudgetStop, match="3 of 3 jobs"):
        await generate_batch(**options, max_jobs=3, regenerate=["a", "b"])
    assert simulator.accepted == 3


async def test_unknown_ids_are_refused(options: dict[str, Any], simulator: RunningSimulator) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"regenerate: names rows that this run does not do.*: 'x'"):
        await generate_batch(**options, regenerate=["a", "x"])
    with pytest.raises(errors.InvalidRequest, match=r"regenerate: names rows .*: 'b'"):
        await generate_batch(**options, regenerate=["b"], only=["a"])
    with pytest.raises(errors.InvalidRequest, match="regenerate: cannot be split"):
        await generate_batch(**options, regenerate=["a"], shards=2)
    assert (simulator.accepted, await fixed()) == (0, [])


async def test_a_new_result_that_came_to_nothing_leaves_the_old_one(
    options: dict[str, Any], simulator: RunningSimulator, tmp_path: Path
) -> None:
    await generate_batch(**options)
    before = results(tmp_path)
    simulator.order("fail_internal")
    with pytest.raises(errors.BatchIncomplete):
        await generate_batch(**options, regenerate=["a"])
    paid = simulator.accepted
    await generate_batch(**options)
    assert simulator.accepted == paid
    assert results(tmp_path) == before


@pytest.mark.parametrize(
    ("fault", "state"),
    [("content_picture", "delivered"), ("accept_then_500", "abandoned")],
    ids=["broken", "abandoned"],
)
async def test_a_new_result_that_is_paid_and_not_delivered_is_the_rows_where_no_other_is_paid(
    fault: str,
    state: str,
    options: dict[str, Any],
    simulator: RunningSimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [])
    options |= {"only": ["a"]}
    simulator.order("fail_internal")
    await generate_batch(**options, return_state=True)
    simulator.order(fault)
    await generate_batch(**options, regenerate=["a"], return_state=True)
    async with open_ledger(current_settings().ledger) as ledger:
        for unknown in await ledger.jobs({JobState.UNKNOWN}):
            await decide(ledger, unknown.key, "abandon")
    assert results(tmp_path)["a"]["state"] != "delivered"
    await generate_batch(**options, return_state=True)
    assert simulator.accepted == 2, "nothing is paid a second time"
    assert results(tmp_path)["a"]["state"] == state


async def test_an_edited_file_stays_beside_the_new_one(options: dict[str, Any], tmp_path: Path) -> None:
    await generate_batch(**options)
    file = tmp_path / "out" / "a.mp4"
    edited = file.read_bytes() + b"\0" * 8
    file.write_bytes(edited)
    await generate_batch(**options, regenerate=["a"])
    assert file.read_bytes() == edited
    path = Path(results(tmp_path)["a"]["path"].removeprefix("file://"))
    assert path.name.startswith("a-")
    assert path.exists()


async def test_runs_never_get_the_same_variant_and_a_run_always_the_same(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as one, open_ledger(shared_ledger) as other:
        runs = [fix_variants(ledger, {"row": 3}, run) for ledger in (one, other) for run in ("r1", "r2", "r3")]
        found = [variants["row"] for variants in await asyncio.gather(*runs)]
        assert found[:3] == found[3:]
        assert sorted(found[:3]) == [4, 5, 6]
        assert await next_variants(one, {"row": 3}, "r9") == {"row": 7}
        assert await fix_variants(one, {"row": 3}, "r1") == {"row": found[0]}

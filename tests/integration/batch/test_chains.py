"""Chains: rows with further steps, each made from the verified file of the step before, and each paid once."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Ledger
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._media.storage import sha256_of
from prefect_genmedia.batch import BatchReport, BatchSpec, ShardJob, row_task
from prefect_genmedia.batch.result import Result
from prefect_genmedia.batch.runner import open_batch
from prefect_genmedia.batch.shards import Shard
from prefect_genmedia.batch.supervisor import ShardSupervisor
from prefect_genmedia.batch.table import encode_table, read_table
from prefect_genmedia.flows.batch import generate_batch, generate_shard
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"
INK: dict[str, Any] = {"kind": "stylize", "style": "ink_wash"}
ANIME: dict[str, Any] = {"kind": "stylize", "style": "anime"}
PRICES = {"hidream/video_edit": {"per_job": 2.0}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and videos of five frames: five seconds long, decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


def lake(row_id: str = "lake", then: Any = INK, **fields: Any) -> dict[str, Any]:
    given = {"id": row_id, "model": "jimeng-video-3.0-720P", "prompt": f"a {row_id}", **fields}
    return given if then is None else given | {"then": then}


class Chains:
    """A batch of chains that can be run again and again, and what it left behind."""

    def __init__(self, simulator: RunningSimulator, folder: Path) -> None:
        self.simulator = simulator
        self.folder = folder

    async def run(self, table: Any, **options: Any) -> BatchReport:
        places = {"output": str(self.folder / "out"), "results": str(self.folder / "results.csv")}
        named = {"batch_id": "lakes", "credentials": "chained", "prices": PRICES, **places}
        return await generate_batch(table, "jimeng", **{**named, **options})

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in read_table(str(self.folder / "results.csv"))}

    @property
    def paid(self) -> tuple[int, int]:
        """How many jobs Jimeng and HiDream have accepted."""
        by_provider = [job.provider for job in self.simulator.world.jobs.values()]
        return by_provider.count("tokenops"), by_provider.count("hidream")

    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "out").glob("*.mp4")}


@pytest.fixture
async def chains(simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chains:
    monkeypatch.setenv(SETTING, simulator.inbox_url)
    tokenops = TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url)
    hidream = HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    for block in (tokenops, hidream):
        await block.save("chained", overwrite=True)
    return Chains(simulator, tmp_path)


def sent_to_hidream(chains: Chains) -> list[str]:
    return [str(job.body["video_name"]) for job in chains.simulator.world.jobs.values() if job.provider == "hidream"]


async def test_the_published_file_of_a_step_is_the_input_of_the_next(chains: Chains) -> None:
    report = await chains.run([lake(then=[INK, ANIME]), lake("pond", then=None)])
    assert (report.delivered, report.rows, chains.paid) == (2, 2, (2, 2))
    assert chains.files() == {"lake.step-1.mp4", "lake.step-2.mp4", "lake.mp4", "pond.mp4"}
    row, steps = chains.results["lake"], json.loads(chains.results["lake"]["steps"])
    assert [(each["step"], each["kind"], each["state"]) for each in steps] == [
        (1, "jimeng", "delivered"),
        (2, "stylize", "delivered"),
        (3, "stylize", "delivered"),
    ]
    assert (row["path"], row["job_key"]) == (str(chains.folder / "out" / "lake.mp4"), steps[2]["job_key"])
    assert float(row["estimated_cost"]) == pytest.approx(sum(each["estimated_cost"] for each in steps))
    assert report.estimated_cost == pytest.approx(2 * 5 * 0.28 + 2 * 2.0)
    assert [url.rpartition("/")[2] for url in sent_to_hidream(chains)] == [
        f"{each['sha256']}.mp4" for each in steps[:2]
    ]
    for url, name in zip(sent_to_hidream(chains), ("lake.step-1.mp4", "lake.step-2.mp4"), strict=True):
        assert httpx.get(url).content == (chains.folder / "out" / name).read_bytes()


async def test_a_rerun_pays_nothing_and_needs_no_file_of_an_earlier_step(chains: Chains) -> None:
    await chains.run([lake()])
    (chains.folder / "out" / "lake.step-1.mp4").unlink()
    (chains.folder / "out" / "lake.mp4").unlink()
    report = await chains.run([lake()])
    assert (report.delivered, chains.paid, chains.files()) == (1, (1, 1), {"lake.mp4"})
    report = await chains.run([lake(then=[INK, ANIME])])
    assert (report.delivered, chains.paid) == (1, (1, 2))


async def test_a_row_that_gets_further_steps_later_does_not_pay_the_first_again(chains: Chains) -> None:
    await chains.run([lake(then=None)])
    assert (await chains.run([lake()])).delivered == 1
    assert chains.paid == (1, 1)
    path = Path(chains.results["lake"]["path"])
    assert path.name != "lake.mp4"  # that is the input, and stays
    assert {path.name, "lake.mp4"} == chains.files()


async def test_equal_steps_of_a_chain_are_paid_each(chains: Chains) -> None:
    """The simulator makes the same bytes of every job here, so the requests of both steps are equal."""
    await chains.run([lake(then=[INK, INK])])
    assert chains.paid == (1, 2)
    await chains.run([lake(then=[INK, INK])])
    assert chains.paid == (1, 2)


@pytest.mark.parametrize(
    ("then", "field", "said"),
    [
        ({"kind": "paint"}, "step 2.kind", "is not a kind of request"),
        ({"style": "ink_wash"}, "step 2.kind", "is missing"),
        ({"kind": "stylize"}, "step 2.style", "give a style"),
        ({"kind": "stylize", "style": "inkwash"}, "step 2.style", ""),
        ({"kind": "stylize", "stile": "anime", "prompt": "x"}, "step 2.stile", "did you mean 'style'?"),
        ({"kind": "stylize", "style": "anime", "my_note": "x"}, "step 2.my_note", "is no field"),
        ({**INK, "video_url": "https://example.com/a.mp4"}, "step 2.video_url", "must not be given"),
        ({**INK, "then": ANIME}, "step 2.then", "belongs to the row"),
        ({**INK, "id": "x"}, "step 2.id", "belongs to the row"),
        ({"kind": "jimeng", "prompt": "x"}, "step 2.kind", "cannot follow another step; kinds that can: stylize"),
        ([INK, {"kind": "poster"}], "step 3.kind", "cannot follow"),
        ([INK, "stylize"], "step 3", "must be an object"),
        ("stylize", "then", "must be JSON"),
        (7, "then", "must be a step or a list of steps"),
        ([INK] * 20, "then", "at most 20"),
    ],
)
async def test_a_wrong_step_is_refused_before_anything_is_paid(
    then: Any, field: str, said: str, chains: Chains
) -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        await chains.run([lake("fine"), lake(then=then)])
    assert [(each.field, said in each.problem) for each in refusal.value.problems] == [(f"row lake.{field}", True)]
    assert chains.paid == (0, 0)


async def test_the_problems_of_all_steps_of_all_rows_are_said_at_once(chains: Chains) -> None:
    table = [lake("a", frames=7, then={"kind": "stylize", "style": "x"}), lake("b", then=[{"kind": "paint"}, INK, {}])]
    with pytest.raises(errors.InvalidRequest) as refusal:
        await chains.run(table)
    fields = {each.field for each in refusal.value.problems}
    assert fields == {"row a.frames", "row a.step 2.style", "row b.step 2.kind", "row b.step 4.kind"}
    assert chains.paid == (0, 0)


async def test_a_row_named_like_the_file_of_a_step_is_refused(chains: Chains) -> None:
    for table in ([lake(), lake("lake.step-1", then=None)], [lake("Lake.step-1", then=None), lake()]):
        with pytest.raises(errors.InvalidRequest):
            await chains.run(table)
    assert chains.paid == (0, 0)


async def test_a_failing_later_step_keeps_and_reports_what_is_paid(chains: Chains) -> None:
    chains.simulator.order("fail_internal", provider="hidream")
    with pytest.raises(errors.BatchIncomplete):
        await chains.run([lake()])
    row, kept = chains.results["lake"], chains.folder / "out" / "lake.step-1.mp4"
    steps = json.loads(row["steps"])
    assert (row["state"], row.get("path"), row["error_kind"]) == ("failed", None, "GenerationFailed")
    assert row["error_message"].startswith("Step 2 of 2 (stylize): ")
    assert row["error_message"].endswith(f"Step 1 is delivered and paid, and is not paid again: {kept}")
    assert (float(row["estimated_cost"]), steps[0]["path"]) == (pytest.approx(1.4, abs=0.01), str(kept))
    with kept.open("rb") as file:
        assert sha256_of(file) == steps[0]["sha256"]
    assert (await chains.run([lake()])).delivered == 1
    assert chains.paid == (1, 2)


async def test_an_edited_file_of_a_step_is_not_sent_in_place_of_what_was_delivered(chains: Chains) -> None:
    chains.simulator.order("fail_internal", provider="hidream")
    with pytest.raises(errors.BatchIncomplete):
        await chains.run([lake()])
    edited = chains.folder / "out" / "lake.step-1.mp4"
    edited.write_bytes(edited.read_bytes() + b"\0\0\0\x08free")
    with pytest.raises(errors.BatchIncomplete):
        await chains.run([lake()])
    assert "was changed since step 1 delivered it" in chains.results["lake"]["error_message"]
    assert chains.paid == (1, 1)
    assert (await chains.run([lake()], overwrite=True)).delivered == 1
    assert chains.paid == (1, 2)


async def test_plan_and_cost_count_all_steps(chains: Chains) -> None:
    report = await chains.run([lake(), lake("pond", then=None)], dry_run=True)
    assert (report.states, report.estimated_cost) == ({"submit": 2}, pytest.approx(2 * 1.4 + 2.0))
    await chains.run([lake()])
    report = await chains.run([lake(then=[INK, ANIME])], dry_run=True)
    assert (report.states, report.estimated_cost) == ({"submit": 1}, pytest.approx(2.0))
    assert (await chains.run([lake()], dry_run=True)).states == {"verify": 1}
    with pytest.raises(errors.InvalidRequest, match="hidream/video_edit"):
        await chains.run([lake("new")], max_cost=100.0, prices={})
    assert chains.paid == (1, 1)


@pytest.mark.parametrize("limit", [{"max_jobs": 3}, {"max_cost": 6.0}])
async def test_no_chain_is_begun_that_the_budget_does_not_hold(
    limit: dict[str, Any], chains: Chains, ledger: Ledger
) -> None:
    with pytest.raises(errors.BudgetStop):
        await chains.run([lake("a"), lake("b")], max_in_flight=1, **limit)
    assert chains.paid == (1, 1)
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 2
    assert [row["state"] for row in chains.results.values()] == ["delivered", "not_sent"]
    assert (await chains.run([lake("a"), lake("b")], max_jobs=4)).delivered == 2
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 4


async def test_a_failed_chain_gives_back_what_its_later_steps_reserved(chains: Chains, ledger: Ledger) -> None:
    chains.simulator.order("fail_internal", provider="tokenops")
    with pytest.raises(errors.BatchIncomplete):
        await chains.run([lake(then=[INK, ANIME])], max_jobs=3)
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 0
    assert (await chains.run([lake(then=[INK, ANIME])], max_jobs=3)).delivered == 1
    assert (await Budget(ledger, "lakes", None, None).state()).jobs == 3


async def test_two_identical_batches_at_once_pay_each_step_once(chains: Chains) -> None:
    table = [lake(f"row-{number}") for number in range(3)]
    await asyncio.gather(chains.run(table, max_jobs=6), chains.run(table, max_jobs=6))
    assert chains.paid == (3, 3)


@pytest.mark.parametrize("ending", ["csv", "xlsx", "jsonl", "parquet"])
async def test_every_kind_of_table_names_steps(ending: str, chains: Chains, tmp_path: Path) -> None:
    then: Any = INK if ending in ("jsonl", "parquet") else json.dumps(INK)
    table = [lake(then=then), {**lake("pond", then=None), "then": None}]
    path = tmp_path / f"table.{ending}"
    path.write_bytes(encode_table(table, tuple(table[0]), ending))  # type: ignore[arg-type] # one of its formats
    report = await chains.run(str(path), dry_run=True)
    assert report.estimated_cost == pytest.approx(2 * 1.4 + 2.0)


async def test_a_row_made_anew_makes_all_of_its_steps_anew(chains: Chains) -> None:
    await chains.run([lake()])
    report = await chains.run([lake()], regenerate=["lake"])
    assert (report.delivered, chains.paid) == (1, (2, 2))
    assert (await chains.run([lake()])).delivered == 1
    assert chains.paid == (2, 2)


async def test_the_report_shows_the_final_file_and_lists_the_steps(chains: Chains) -> None:
    await chains.run([lake()])
    html = (chains.folder / "out" / "index.html").read_text("utf-8")
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    (row,) = data["rows"]
    assert (row["play"], row["delivered"], row["cost"]) == ("./lake.mp4", True, pytest.approx(3.4, abs=0.01))
    steps = dict(row["details"])
    assert steps["Step 1"].startswith("jimeng · delivered · about 1.40 CNY")
    assert "lake.step-1.mp4" in steps["Step 1"]
    assert steps["Step 2"].startswith("stylize · delivered · about 2.00 CNY")


async def test_shards_run_whole_chains_and_the_batch_reads_their_steps(
    chains: Chains, ledger: Ledger, tmp_path: Path
) -> None:
    table = [lake("a"), lake("b")]
    out = str(tmp_path / "out")
    for number in (1, 2):
        shard = Shard(number=number, of=2, ledger=await ledger.fingerprint())
        options: dict[str, Any] = {"kind": "jimeng", "credentials": "chained", "batch_id": "lakes", "output": out}
        limits: dict[str, Any] = {"max_in_flight": 2, "breaker": 3, "timeout_seconds": 600.0, "budget": "lakes"}
        if rows := [dict(row) for row in shard.part_of(table)]:
            await generate_shard(ShardJob(shard=shard, table=rows, **options, **limits))
    assert (chains.paid, chains.files()) == ((2, 2), {"a.mp4", "a.step-1.mp4", "b.mp4", "b.step-1.mp4"})

    @flow
    async def supervised() -> list[Result]:
        spec = BatchSpec(table=[*table, lake("c")], kind="jimeng", credentials="chained", batch_id="lakes", output=out)
        async with AsyncExitStack() as stack:
            batch = await open_batch(stack, spec)
            supervisor = ShardSupervisor(batch.scheduler, uuid4(), [])
            await supervisor._read({})
            assert [each.state for each in batch.scheduler.results.all()] == ["delivered", "delivered", "not_sent"]
            await supervisor._finish()
            return batch.scheduler.results.all()

    results = await supervised()
    assert [each.state for each in results] == ["delivered", "delivered", "not_sent"]
    assert [len(json.loads(each.steps or "[]")) for each in results] == [2, 2, 2]

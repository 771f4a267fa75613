"""Chains whose steps several accounts may pay for: each step is paid once, and its own account is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials
from prefect_genmedia._core import Ledger, schema
from prefect_genmedia._core.reviews import decisions_of
from prefect_genmedia.batch import BatchReport, row_task
from prefect_genmedia.batch.decisions import apply_decisions
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = [pytest.mark.usefixtures("prefect_server", "quick"), pytest.mark.timeout(300)]

KEYS = {"a": "sk-of-a", "b": "sk-of-b"}
INK = {"kind": "stylize", "style": "ink_wash"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and videos of five frames: five seconds long, decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


class Studio:
    """Who makes chains with the accounts a and b of both providers."""

    def __init__(self, provider: RunningSimulator, folder: Path) -> None:
        self.provider, self.folder = provider, folder

    async def save(self) -> None:
        for name, key in KEYS.items():
            blocks = (
                TokenOpsCredentials(api_key=key, base_url=self.provider.tokenops_url),
                HiDreamCredentials(token=key, base_url=self.provider.hidream_url, submissions_per_minute=None),
            )
            for block in blocks:
                await block.save(name, overwrite=True)

    async def run(self, rows: int, **options: Any) -> BatchReport:
        table = [
            {"id": f"row-{number}", "prompt": f"lake {number}", "model": "jimeng-video-3.0-720P", "then": [INK]}
            for number in range(rows)
        ]
        named = {"batch_id": "lakes", "output": str(self.folder / "out"), "results": str(self.results)}
        return await generate_batch(table, "jimeng", **{"credentials": ["a", "b"], **named, **options})

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def payers(self) -> list[list[str]]:
        """The accounts of the steps of each row, as the table of results names them."""
        steps = (line["steps"] for line in self.lines())
        return [[step["account"] for step in (json.loads(each) if isinstance(each, str) else each)] for each in steps]

    def paid(self) -> Counter[tuple[str, str]]:
        """How many jobs each provider has billed to each account."""
        names = {key: name for name, key in KEYS.items()}
        return Counter((job.provider, names[job.key]) for job in self.provider.world.jobs.values())


@pytest.fixture
async def studio(simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL", simulator.inbox_url)
    monkeypatch.setattr(simulator.world, "keys", frozenset(KEYS.values()))
    simulator.world.settings.run_seconds = 0.1
    studio = Studio(simulator, tmp_path)
    await studio.save()
    return studio


async def test_accounts_share_the_steps_of_chains_and_each_step_is_paid_once(studio: Studio) -> None:
    assert (await studio.run(4, max_in_flight=1)).delivered == 4
    billed = studio.paid()
    assert {provider: sum(billed[provider, name] for name in KEYS) for provider in ("tokenops", "hidream")} == {
        "tokenops": 4,
        "hidream": 4,
    }
    assert billed["tokenops", "a"] > 0 < billed["tokenops", "b"]
    named = Counter(name for payers in studio.payers() for name in payers)
    assert named == {f"{provider}/{name}": count for (provider, name), count in billed.items()}
    assert [line["account"] for line in studio.lines()] == [payers[-1] for payers in studio.payers()]
    assert (await studio.run(4, credentials=["b", "a"])).delivered == 4
    assert studio.paid() == billed


async def test_a_step_that_another_account_pays_for_counts_against_that_accounts_budget_alone(
    studio: Studio, ledger: Ledger
) -> None:
    studio.provider.order("refuse_balance", provider="hidream", times=99, key=KEYS["a"])
    assert (await studio.run(1, max_jobs=2, budget_per_account=True)).delivered == 1
    assert sum(studio.paid().values()) == 2
    assert studio.paid()["hidream", "b"] == 1
    counts = await ledger.transact(lambda connection: connection.scalars(select(schema.budgets.c.reserved_jobs)).all())
    assert sorted(counts) == [0, 0, 1, 1]  # of each provider, the account that pays and the one that does not


async def test_a_decision_about_a_chain_is_about_its_final_file(studio: Studio, ledger: Ledger, tmp_path: Path) -> None:
    await studio.run(1)
    (line,) = studio.lines()
    file = tmp_path / "decisions.jsonl"
    file.write_text(json.dumps({"row": "row-0", "decision": "accept", "job": line["job_key"]}) + "\n")
    await apply_decisions(ledger, file, "lakes", "Anna", resumes=False)
    assert [each.job_key for each in await decisions_of(ledger, "lakes")] == [line["job_key"]]

"""Several accounts share a batch's rows: each row is one result, paid once, whichever account pays."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from servers import PATIENCE
from sqlalchemy import update

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobState, open_ledger, schema
from prefect_genmedia._core import session as session_module
from prefect_genmedia._core.account_admin import pause_account
from prefect_genmedia._core.reconcile import STALLED_SECONDS
from prefect_genmedia.batch import row_task
from prefect_genmedia.batch.spec import BatchReport
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = [pytest.mark.usefixtures("prefect_server", "quick"), pytest.mark.timeout(300)]

KEYS = {"a": "sk-of-a", "b": "sk-of-b", "c": "sk-of-c"}
FOR_EVER = 3600.0
LAKE = {"model": "jimeng-video-3.0-720P"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and videos of five frames: five seconds long, decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


class Studio:
    """Who runs batches with the accounts a, b and c of one provider."""

    def __init__(self, provider: RunningSimulator, ledger: str, folder: Path) -> None:
        self.provider, self.ledger, self.folder = provider, ledger, folder

    async def save(self, name: str, **limits: Any) -> TokenOpsCredentials:
        block = TokenOpsCredentials(api_key=KEYS[name], base_url=self.provider.tokenops_url, **limits)
        await block.save(name, overwrite=True)
        return block

    async def batch(self, rows: int, credentials: Any = ("a", "b"), **options: Any) -> BatchReport:
        table = [{"id": f"row-{number}", "prompt": f"lake {number}", **LAKE} for number in range(rows)]
        named = {"batch_id": "lakes", "output": str(self.folder / "out"), "results": str(self.results)}
        given = credentials if isinstance(credentials, str) else list(credentials)
        return await generate_batch(table, "jimeng", credentials=given, **{**named, "max_in_flight": 4, **options})

    async def stopped_in_flight(self, rows: int, **options: Any) -> None:
        """Begin a batch whose jobs do not end, and cancel it when all are at the provider."""
        self.provider.world.settings.run_seconds = FOR_EVER
        running = asyncio.create_task(self.batch(rows, **options))
        await self.until(lambda: self.provider.accepted == rows, running)
        running.cancel()
        await asyncio.wait({running})
        self.provider.world.settings.run_seconds = 0.1

    async def until(self, reached: Callable[[], bool], running: asyncio.Task[Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert not running.done(), running
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def jobs(self) -> list[Job]:
        async with open_ledger(self.ledger) as ledger:
            return sorted(await ledger.jobs(), key=lambda job: (job.label, job.attempt))

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def payers(self) -> list[str | None]:
        return [json.loads(line)["account"] for line in self.results.read_text().splitlines()]

    def paid(self) -> Counter[str]:
        """How many jobs each account was billed for, as the provider counts."""
        names = {key: name for name, key in KEYS.items()}
        return Counter(names[job.key] for job in self.provider.world.jobs.values())

    @property
    def posts(self) -> int:
        return self.provider.world.requests["tokenops.submit"]


@pytest.fixture
async def studio(
    simulator: RunningSimulator, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Studio:
    monkeypatch.setattr(simulator.world, "keys", frozenset(KEYS.values()))
    simulator.world.settings.run_seconds = 0.1
    studio = Studio(simulator, ledger_url, tmp_path)
    for name in KEYS:
        await studio.save(name)
    return studio


async def rounds_of(studio: Studio, rows: int, credentials: list[str]) -> list[Counter[str]]:
    """The jobs at the provider in each round. A round ends when the test ends all of its jobs, and no job ends before:
    so a batch takes the time of so many jobs."""
    world = studio.provider.world
    world.settings.run_seconds = FOR_EVER
    running = asyncio.create_task(studio.batch(rows, credentials, max_in_flight=1, batch_id=f"by {credentials}"))
    rounds: list[Counter[str]] = []
    ended: set[str] = set()
    while len(ended) < rows:
        awaited = min(len(credentials), rows - len(ended))
        await studio.until(lambda ended=ended, awaited=awaited: len(world.jobs) >= len(ended) + awaited, running)
        now = [job for job in world.jobs.values() if job.id not in ended]
        rounds.append(Counter(job.key for job in now))
        for job in now:
            ended.add(job.id)
            job.created_at -= 2 * FOR_EVER
    assert (await running).delivered == rows
    world.jobs.clear()
    return rounds


async def test_two_accounts_with_one_slot_each_take_half_of_the_time_of_one(studio: Studio) -> None:
    alone = await rounds_of(studio, 6, ["a"])
    shared = await rounds_of(studio, 6, ["a", "b"])
    assert len(shared) <= 0.55 * len(alone)
    assert all(number == 1 for each in (*alone, *shared) for number in each.values()), "an account has one slot"


async def test_a_row_goes_on_at_the_next_account_where_one_has_no_balance(studio: Studio) -> None:
    studio.provider.order("refuse_balance", times=99, key=KEYS["a"])
    report = await studio.batch(4, max_in_flight=1)
    jobs = await studio.jobs()
    refused = [job for job in jobs if job.state is JobState.REJECTED]
    assert (report.delivered, studio.paid()) == (4, {"b": 4})
    assert [job.error_kind for job in refused] == ["QuotaError"], "an account that cannot pay gets no further row"
    assert len({job.identity_token for job in jobs}) == 1, "the first account's token, whoever pays"
    followed = next(job for job in jobs if job.identity == refused[0].identity and job.attempt == 2)
    assert (followed.state, followed.account == refused[0].account) == (JobState.DELIVERED, False)
    assert studio.payers() == ["tokenops/b"] * 4


async def test_a_batch_stops_when_no_account_can_pay_and_names_each(studio: Studio) -> None:
    studio.provider.order("refuse_balance", times=99)
    with pytest.raises(errors.BatchIncomplete, match=r"QuotaError.*\(a\): .*\(b\): "):
        await studio.batch(9, max_in_flight=1, breaker=3)
    assert studio.provider.accepted == 0
    assert {job.state for job in await studio.jobs()} == {JobState.REJECTED}


async def test_an_account_gets_rows_again_when_the_others_cannot_pay(studio: Studio) -> None:
    studio.provider.order("refuse_balance", times=1, key=KEYS["a"])
    studio.provider.order("refuse_balance", times=99, key=KEYS["b"])
    report = await studio.batch(4, max_in_flight=1, breaker=0, min_delivered=0.5)
    assert report.delivered == 3, "one row had asked both by then"


@pytest.mark.parametrize("order", [("b", "a"), ("c", "b", "a")], ids=["reversed", "another one first"])
async def test_another_order_of_the_accounts_pays_nothing_again(order: tuple[str, ...], studio: Studio) -> None:
    await studio.batch(2)
    await studio.stopped_in_flight(4)
    before = studio.paid()
    assert (await studio.batch(4, order)).delivered == 4
    assert (studio.paid(), studio.posts) == (before, 4)
    assert set(studio.payers()) == {"tokenops/a", "tokenops/b"}


async def test_two_batches_at_once_in_another_order_pay_each_row_once(studio: Studio) -> None:
    reports = await asyncio.gather(studio.batch(8), studio.batch(8, ["b", "a"], results=str(studio.folder / "2.jsonl")))
    assert [report.delivered for report in reports] == [8, 8]
    bodies = Counter(job.body["prompt"] for job in studio.provider.world.jobs.values())
    assert bodies == {f"lake {number}": 1 for number in range(8)}


async def test_an_unknown_submission_is_never_sent_by_another_account(studio: Studio) -> None:
    studio.provider.order("accept_then_500", key=KEYS["a"])
    with pytest.raises(errors.BatchIncomplete):
        await studio.batch(1, max_in_flight=1)
    for order in (["a", "b"], ["b", "a"]):
        with pytest.raises(errors.BatchIncomplete):
            await studio.batch(1, order)
    assert (studio.posts, studio.provider.accepted) == (1, 1)


async def test_reconcile_polls_and_fetches_with_the_key_of_the_account_that_paid(studio: Studio) -> None:
    await studio.stopped_in_flight(4, max_in_flight=2)
    assert studio.paid() == {"a": 2, "b": 2}
    async with open_ledger(studio.ledger) as ledger:
        silent = schema.jobs.c.updated_at - 2 * STALLED_SECONDS
        await ledger.transact(lambda connection: connection.execute(update(schema.jobs).values(updated_at=silent)))
    assert await reconcile_jobs(credentials=["a"]) == 2
    assert await reconcile_jobs(credentials=["a", "b"]) == 0
    assert {job.state for job in await studio.jobs()} == {JobState.DELIVERED}


async def test_an_account_that_was_paused_leaves_the_rows_to_the_others(studio: Studio) -> None:
    await studio.batch(2)
    async with open_ledger(studio.ledger) as ledger:
        await pause_account(ledger, "a", "leaked")
    assert (await studio.batch(6)).delivered == 6
    assert studio.paid()["a"] == 1


async def test_a_request_to_slow_down_holds_back_one_account_only(studio: Studio) -> None:
    studio.provider.order("rate_limited", key=KEYS["a"], retry_after=900.0)
    assert (await studio.batch(3, max_in_flight=1)).delivered == 3
    assert studio.paid() == {"b": 3}


async def test_rows_do_not_wait_for_slots_that_another_run_holds(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "POOL_PATIENCE_SECONDS", 0.1)
    await studio.save("a", max_in_flight=1)
    await studio.stopped_in_flight(1, credentials="a", batch_id="another")
    assert (await studio.batch(3, max_in_flight=1)).delivered == 3
    assert studio.paid() == {"a": 1, "b": 3}


async def test_each_accounts_caps_and_budgets_count_what_it_pays(studio: Studio) -> None:
    await studio.save("a", max_jobs_per_day=1)
    assert (await studio.batch(3, max_in_flight=1)).delivered == 3
    assert studio.paid() == {"a": 1, "b": 2}
    with pytest.raises(errors.BudgetStop, match=r"\(b\): The budget"):
        await studio.batch(9, ["b", "c"], batch_id="own", max_jobs=2, budget_per_account=True)
    assert studio.paid() == {"a": 1, "b": 4, "c": 2}


async def test_a_budget_of_all_accounts_is_not_passed_by_moving_on(studio: Studio) -> None:
    studio.provider.order("refuse_balance", times=99, key=KEYS["a"])
    with pytest.raises(errors.BudgetStop):
        await studio.batch(5, max_jobs=2)
    assert studio.paid() == {"b": 2}


async def test_an_account_alone_finds_what_it_paid_in_a_pool(studio: Studio) -> None:
    studio.provider.order("refuse_balance", times=99, key=KEYS["a"])
    await studio.stopped_in_flight(2)
    with pytest.raises(errors.BatchIncomplete, match="2 without a file"):
        await studio.batch(2, "a")  # its jobs are found under its identity, but only b's key can poll them
    assert "Another account paid" in studio.results.read_text()
    assert (await studio.batch(2, "b")).delivered == 2
    assert studio.paid() == {"b": 2}


async def test_blocks_may_be_given_and_one_account_is_used_once(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    same = TokenOpsCredentials(api_key=KEYS["a"], base_url=studio.provider.tokenops_url, account_name="a")
    assert (await studio.batch(4, [await studio.save("a"), same, "b"], max_in_flight=1)).delivered == 4
    assert set(studio.paid()) == {"a", "b"}
    assert "one account of tokenops" in caplog.text
    async with get_client() as client:
        given = [run.parameters for run in await client.read_flow_runs()]
    assert given
    assert KEYS["a"] not in json.dumps(given, default=str), "no key is stored with the run"


def test_a_run_form_offers_one_block_as_before_or_a_list_of_names() -> None:
    choices = generate_batch.parameters.properties["credentials"]["anyOf"]
    assert all("$ref" in each for each in choices[:-2])
    assert choices[-2:] == [{"type": "string"}, {"items": {"type": "string"}, "type": "array"}]


@pytest.mark.parametrize("credentials", [[], ["a", "nobody"]])
async def test_a_list_that_names_no_account_or_an_unknown_one_is_refused(
    credentials: list[str], studio: Studio
) -> None:
    with pytest.raises(errors.CredentialsError):
        await studio.batch(1, credentials)
    assert studio.posts == 0

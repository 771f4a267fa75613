"""Runs, batches and reconcile after a key was rotated, or became another customer's: nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, open_ledger, schema
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.reconcile import STALLED_SECONDS
from prefect_genmedia.batch import row_task
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.generate import generate
from prefect_genmedia.providers.protocol import Account
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World
from prefect_genmedia.tasks import submit

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

OLD, NEW, STRANGER = "sk-old", "sk-new", "sk-of-another-customer"
LAKE = {"model": "jimeng-video-3.0-720P"}
FOR_EVER = 3600.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and videos of five frames: five seconds long, decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture
def provider(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> RunningSimulator:
    monkeypatch.setattr(simulator.world, "keys", frozenset({OLD, STRANGER}))
    return simulator


@pytest.fixture
def ledger_of_runs(shared_ledger: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The runs' ledger, on each kind of database."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL", shared_ledger)
    return shared_ledger


class Team:
    """Whoever runs batches and single videos with the Block `default`."""

    def __init__(self, provider: RunningSimulator, ledger: str, folder: Path) -> None:
        self.provider = provider
        self.ledger = ledger
        self.output = str(folder / "out")
        self.results = str(folder / "results.csv")

    async def save_block(self, key: str, name: str = "default") -> None:
        block = TokenOpsCredentials(api_key=key, base_url=self.provider.tokenops_url)
        await block.save(name, overwrite=True)

    async def batch(self, rows: int, **options: Any) -> Any:
        table = [{"id": f"row-{number}", "prompt": f"lake {number}", **LAKE} for number in range(rows)]
        named = {"batch_id": "lakes", "output": self.output, "results": self.results, "max_in_flight": 60}
        return await generate_batch(table, "jimeng", **{**named, **options})

    async def single(self, number: int, **options: Any) -> Any:
        return await jimeng_video(
            prompt=f"single {number}", **LAKE, output=self.output, idempotency_key=f"single {number}", **options
        )

    async def until_accepted_then_stopped(self, count: int, running: asyncio.Task[Any]) -> None:
        """Stop a run when so many jobs are at the provider: its jobs stay there."""
        while self.provider.accepted < count:
            assert not running.done()
            await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait({running})

    async def states(self) -> Counter[str]:
        async with open_ledger(self.ledger) as ledger:
            return Counter(job.state.value for job in await ledger.jobs())

    @property
    def posts(self) -> int:
        return self.provider.world.requests["tokenops.submit"]


@pytest.fixture
async def team(provider: RunningSimulator, ledger_of_runs: str, tmp_path: Path) -> Team:
    team = Team(provider, ledger_of_runs, tmp_path)
    await team.save_block(OLD)
    return team


async def test_after_a_rotation_a_hundred_results_were_paid_once_each_and_delivered(
    team: Team, provider: RunningSimulator
) -> None:
    provider.world.settings.run_seconds = 0.05
    await team.batch(50)
    provider.world.settings.run_seconds = FOR_EVER
    await team.until_accepted_then_stopped(90, asyncio.create_task(team.batch(90)))
    for number in range(10):  # runs that died as soon as their jobs were accepted
        request = JimengVideo(prompt=f"single {number}", **LAKE)
        await submit(request, idempotency_key=f"single {number}", label="single", output=f"{team.output}/{number}.mp4")
    assert await team.states() == {"delivered": 50, "submitted": 50}

    answer = httpx.post(f"{provider.url}/control/keys", json={"old": OLD, "new": NEW})
    assert answer.status_code == 200
    await team.save_block(NEW)
    provider.world.settings.run_seconds = 0.05

    report = await team.batch(90)
    assert report.delivered == 90
    for number in range(5):
        await team.single(number)
    async with open_ledger(team.ledger) as ledger:
        silent = schema.jobs.c.updated_at - 2 * STALLED_SECONDS
        await ledger.transact(lambda connection: connection.execute(update(schema.jobs).values(updated_at=silent)))
    assert await reconcile_jobs() == 0
    assert await team.states() == {"delivered": 100}
    assert (provider.accepted, team.posts) == (100, 100)
    async with open_ledger(team.ledger) as ledger:
        assert len({job.account for job in await ledger.jobs()}) == 1, "no row was rewritten"


@pytest.mark.parametrize("known", [False, True], ids=["a new key", "the key of a known account"])
async def test_a_block_that_gets_another_customers_key_submits_nothing_that_is_in_flight(
    known: bool, team: Team, provider: RunningSimulator
) -> None:
    if known:
        async with open_ledger(team.ledger) as ledger:
            await resolve_account(ledger, Account.of("tokenops", provider.tokenops_url, STRANGER), "customer-b")
    provider.world.settings.run_seconds = FOR_EVER
    await team.until_accepted_then_stopped(50, asyncio.create_task(team.batch(50)))
    await team.save_block(STRANGER)
    expected = errors.AccountConflict if known else errors.BatchIncomplete
    with pytest.raises(expected):
        await team.batch(50, timeout_seconds=0.5)
    assert (await team.states())["submitted"] == 50
    assert (provider.accepted, team.posts) == (50, 50)


async def test_the_same_batch_under_a_second_account_stops_before_anything_is_sent(
    team: Team, provider: RunningSimulator
) -> None:
    await team.batch(4)
    await team.save_block(STRANGER, "customer-b")
    with pytest.raises(errors.BatchIncomplete, match="accounts merge"):
        await team.batch(4, credentials="customer-b", max_in_flight=1)
    assert team.posts == 4


async def test_a_flow_may_pay_a_second_account_where_it_says_so(team: Team, provider: RunningSimulator) -> None:
    await team.single(0)
    await team.save_block(STRANGER, "customer-b")
    with pytest.raises(errors.AccountConflict, match="same request"):
        await team.single(0, credentials="customer-b")
    assert team.posts == 1

    from prefect import flow

    @flow
    async def twice() -> Any:
        request = JimengVideo(prompt="single 0", **LAKE)
        options = {"credentials": "customer-b", "idempotency_key": "single 0", "output": team.output}
        return await generate(request, allow_second_account=True, **options)

    await twice()
    assert team.posts == 2


async def test_the_setting_lets_every_run_pay_a_second_account(
    team: Team, provider: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await team.batch(2)
    await team.save_block(STRANGER, "customer-b")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_SECOND_ACCOUNT", "true")
    await team.batch(2, credentials="customer-b")
    assert team.posts == 4


async def test_account_name_holds_the_account_over_blocks_of_any_name(team: Team, provider: RunningSimulator) -> None:
    first = TokenOpsCredentials(api_key=OLD, base_url=provider.tokenops_url, account_name="company")
    await team.single(0, credentials=first)
    provider.world.rotate_key(OLD, NEW)
    second = TokenOpsCredentials(api_key=NEW, base_url=provider.tokenops_url, account_name="company")
    await team.single(0, credentials=second)
    assert team.posts == 1
    async with open_ledger(team.ledger) as ledger:
        assert [job.state for job in await ledger.jobs()] == [JobState.DELIVERED]

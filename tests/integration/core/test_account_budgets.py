"""Caps of an account: whoever spends, and however, never spends more than they hold, and hears why."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from jobs import asking
from prefect import flow
from pydantic import ValidationError
from sqlalchemy import Connection, text, update

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobHooks, JobSpec, JobState, Session, open_ledger, schema, submit_once
from prefect_genmedia._core.account_admin import merge_accounts
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.caps import Cap, Caps, remember_caps, shown_amount
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.pipeline import submit as submit_job
from prefect_genmedia._prefect import run as run_module
from prefect_genmedia._prefect.session import caps_of
from prefect_genmedia.cli.app import app
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.prices import Price, limit_in_micros
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.tasks import submit

NONE = Caps()
ONE, TWO = "sk-one", "sk-two"
MODEL = "jimeng-video-3.0-720P"
PRICE = Decimal("1.4")
"""CNY of five seconds, by the list prices."""

NOON = datetime.fromisoformat("2026-03-31T12:00:00+00:00").timestamp()


class SetClock(Clock):
    """A wall clock that a test sets."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def now(self) -> float:
        return self.at


class Noted(JobHooks):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def budget(self, what: str, facts: Any) -> None:
        self.events.append((what, facts))


@pytest.fixture
def provider(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> RunningSimulator:
    """One customer at the provider who has two keys."""
    monkeypatch.setattr(simulator.world, "keys", frozenset({ONE, TWO, simulator.key}))
    return simulator


def cny(amount: str | Decimal) -> int:
    return int(Decimal(amount) * 10**6)


@asynccontextmanager
async def opened(
    url: str,
    provider: RunningSimulator,
    caps: Caps = NONE,
    key: str = ONE,
    clock: Clock = SYSTEM_CLOCK,
    **options: Any,
) -> AsyncIterator[Session]:
    """A session as a saved Block with these caps opens it."""
    block = TokenOpsCredentials(api_key=key, base_url=provider.tokenops_url)
    async with block.client() as client, open_ledger(url, clock) as ledger:
        record = await resolve_account(ledger, client.account, options.pop("name", "default"))
        await remember_caps(ledger, record, caps)
        yield Session(client, ledger, record=record, caps=caps, clock=clock, **options)


def spec(number: int, **options: Any) -> JobSpec:
    return JobSpec(JimengVideo(prompt=f"lake {number}", model=MODEL), scope=f"key:lake {number}", **options)


async def sent(session: Session, *numbers: int) -> Job:
    for number in numbers:
        job = await submit_job(session, spec(number))
    return job


def posts(provider: RunningSimulator) -> int:
    return provider.world.requests["tokenops.submit"]


# --- what counts ---


@pytest.mark.parametrize(
    ("caps", "holds"),
    [
        (Caps("b", day_jobs=2), 2),
        (Caps("b", day_micros=cny(PRICE * 3)), 3),
        (Caps("b", day_micros=cny(PRICE * 3) - 1), 2),
        (Caps("b", month_micros=cny(PRICE * 2), day_micros=cny(9)), 2),
        (Caps("b", day_micros=0), 0),
        (Caps("b", day_jobs=0), 0),
    ],
)
async def test_a_cap_is_never_passed_by_one(
    caps: Caps, holds: int, ledger_url: str, provider: RunningSimulator
) -> None:
    async with opened(ledger_url, provider, caps) as session:
        await sent(session, *range(holds)) if holds else None
        with pytest.raises(errors.BudgetStop) as caught:
            await sent(session, holds)
        assert await sent(session, holds - 1) if holds else True, "what is paid is joined"
    assert posts(provider) == holds
    assert not caught.value.retryable
    assert caught.value.paid == "nothing"


async def test_a_refusal_says_the_cap_what_is_spent_and_reserved_and_when_the_period_ends(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    caps = Caps("team", day_micros=cny("3.5"), time_zone="Asia/Shanghai")
    async with opened(shared_ledger, provider, caps, clock=SetClock()) as session:
        await sent(session, 1)
        provider.order("accept_then_drop")
        with pytest.raises(errors.SubmissionUnknown):
            await sent(session, 2)
        with pytest.raises(errors.BudgetStop) as caught:
            await sent(session, 3)
    reported = str(pickle.loads(pickle.dumps(caught.value)))
    for words in ("max_cost_per_day", "'team'", "3.50 CNY", "1.40 CNY spent and 1.40 CNY reserved"):
        assert words in reported
    assert "until 2026-04-01 00:00:00+08:00 (Asia/Shanghai)" in reported
    assert "Paid: nothing. Next: raise max_cost_per_day, or wait" in reported


async def test_every_job_of_the_account_counts_whichever_key_and_block_sent_it(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, key=ONE) as session:
        await sent(session, 1)
    async with opened(shared_ledger, provider, key=TWO) as session:  # rotated
        await sent(session, 2)
    async with opened(shared_ledger, provider, Caps("capped", day_jobs=3), TWO) as session:
        await sent(session, 3)
        with pytest.raises(errors.BudgetStop):
            await sent(session, 4)
    assert posts(provider) == 3


async def test_a_cap_of_a_saved_block_holds_for_every_other_block_of_the_account_until_it_is_taken_away(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, Caps("capped", day_jobs=1)) as session:
        await sent(session, 1)
    async with opened(shared_ledger, provider, Caps("another"), TWO) as session:
        with pytest.raises(errors.BudgetStop, match="of the Block 'capped'"):
            await sent(session, 2)
    async with opened(shared_ledger, provider, Caps("capped", day_jobs=2)):
        pass
    async with opened(shared_ledger, provider) as session:
        await sent(session, 2)
        with pytest.raises(errors.BudgetStop):
            await sent(session, 3)
    async with opened(shared_ledger, provider, Caps("capped")) as session:
        await sent(session, 3)
    assert posts(provider) == 3


async def test_merged_accounts_share_their_caps_and_what_they_have_spent(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, Caps("a", day_jobs=2), ONE, name="a") as session:
        await sent(session, 1)
    async with opened(shared_ledger, provider, Caps("b"), TWO, name="b") as session:
        await sent(session, 2)
        await merge_accounts(session.ledger, "b", "a")
        with pytest.raises(errors.BudgetStop):
            await submit_once(session, spec(3))  # a session of before the merge
    assert posts(provider) == 2


@pytest.mark.parametrize(
    ("decision", "then"), [(None, "stopped"), ("resubmit", "sent"), ("abandon", "stopped"), ("adopt", "stopped")]
)
async def test_an_unknown_submission_keeps_its_money_until_a_person_says_that_it_never_arrived(
    decision: Any, then: str, ledger_url: str, provider: RunningSimulator
) -> None:
    async with opened(ledger_url, provider, Caps("b", day_micros=cny(PRICE))) as session:
        provider.order("accept_then_drop")
        with pytest.raises(errors.SubmissionUnknown) as caught:
            await sent(session, 1)
        if decision is not None:
            (found,) = provider.world.jobs
            theirs = found if decision == "adopt" else None
            await decide(
                session.ledger, caught.value.job_key or "", decision, theirs, client_for=asking(session.client)
            )
        if then == "sent":
            await sent(session, 2)
        else:
            with pytest.raises(errors.BudgetStop):
                await sent(session, 2)


@pytest.mark.parametrize("fault", ["refuse_invalid", "rate_limited", "refuse_balance"])
async def test_what_the_provider_did_not_take_gives_its_money_back(
    fault: str, ledger_url: str, provider: RunningSimulator
) -> None:
    async with opened(ledger_url, provider, Caps("b", day_jobs=1)) as session:
        provider.order(fault, retry_after=0.01)
        with pytest.raises(errors.GenMediaError):
            await sent(session, 1)
        await sent(session, 2)
        with pytest.raises(errors.BudgetStop):
            await sent(session, 3)


async def test_a_failed_job_counts_unless_its_provider_documents_that_it_is_free(
    ledger_url: str, provider: RunningSimulator
) -> None:
    async with opened(ledger_url, provider, Caps("b", day_jobs=1)) as session:
        job = await sent(session, 1)
        assert await session.ledger.move(job, JobState.FAILED)
        await sent(session, 2)
        assert posts(provider) == 2


async def test_jobs_that_a_worker_of_an_earlier_version_sends_count_by_their_estimate_as_a_float(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, Caps("b", day_micros=cny(PRICE * 2) + 1)) as session:
        job = await sent(session, 1)

        def as_an_old_worker(connection: Connection) -> None:
            old = {"cost_micros": None, "account_id": None, "estimated_cost": 1.4000000000000001}
            connection.execute(update(schema.jobs).where(schema.jobs.c.key == job.key).values(**old))

        await session.ledger.transact(as_an_old_worker)
        await sent(session, 2)
        with pytest.raises(errors.BudgetStop, match=r"2\.80 CNY spent"):
            await sent(session, 3)


async def test_a_worker_of_the_earlier_version_records_an_accepted_id_in_a_migrated_ledger(shared_ledger: str) -> None:
    from pathlib import Path

    from alembic import command
    from alembic.config import Config

    from prefect_genmedia._core import database

    def downgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0008@0002")
        values = "'old', 'i', 1, '', 0, 'tokenops', 'tokenops:f@u', '', '', '', '{}', '{}', 'sending', 1, 0, 0"
        names = "key, identity, attempt, scope, variant, provider, account, kind, model, label, request, expectation"
        connection.execute(
            text(f"INSERT INTO genmedia_jobs ({names}, state, outputs, created_at, updated_at) VALUES ({values})")
        )

    before = await database.open_database(shared_ledger)
    await before.transact(downgrade)
    await before.close()
    async with open_ledger(shared_ledger) as ledger:

        def by_the_old_worker(connection: Connection) -> list[str]:
            accepted = "UPDATE genmedia_jobs SET state = 'submitted', provider_job_id = 'p1' WHERE key = 'old'"
            connection.execute(text(accepted))
            return list(connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalars())

        assert set(await ledger.transact(by_the_old_worker)) >= {"0003", "0004", "0005", "0006"}
        job = await ledger.get("old")
        assert job is not None
        assert (job.state, job.provider_job_id, job.cost_micros) == (JobState.SUBMITTED, "p1", None)


# --- days and months ---


@pytest.mark.parametrize(
    ("zone", "at", "begins", "ends"),
    [
        ("UTC", "2026-03-31T23:59:59.9+00:00", "2026-03-31T00:00+00:00", "2026-04-01T00:00+00:00"),
        ("Asia/Shanghai", "2026-03-31T16:00+00:00", "2026-03-31T16:00+00:00", "2026-04-01T16:00+00:00"),
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        # Clocks that jump at midnight: the day begins when the date does.
        ("America/Havana", "2026-03-08T12:00-04:00", "2026-03-08T01:00-04:00", "2026-03-09T00:00-04:00"),
    ],
)
def test_a_day_is_that_of_the_time_zone(zone: str, at: str, begins: str, ends: str) -> None:
    period = Cap("max_jobs_per_day", 1, "", zone).period(datetime.fromisoformat(at).timestamp())
    assert period.begins_at == datetime.fromisoformat(begins).timestamp()
    assert period.ends_at == datetime.fromisoformat(ends).timestamp()


def test_a_month_begins_on_its_first_and_ends_with_the_next_ones() -> None:
    for month in range(1, 13):
        period = Cap("max_cost_per_month", 1).period(datetime.fromisoformat(f"2027-{month:02}-28T00:00Z").timestamp())
        after = f"{2027 + month // 12}-{month % 12 + 1:02}-01T00:00Z"
        assert (period.name, period.ends_at) == (
            f"2027-{month:02} UTC",
            datetime.fromisoformat(after).timestamp(),
        )


async def test_a_new_day_has_its_own_money_and_a_month_goes_on(ledger_url: str, provider: RunningSimulator) -> None:
    clock = SetClock(datetime.fromisoformat("2026-03-30T23:00+00:00").timestamp())
    caps = Caps("b", day_jobs=1, month_micros=cny(PRICE * 2))
    async with opened(ledger_url, provider, caps, clock=clock) as session:
        for number, cap in enumerate(["max_jobs_per_day", "max_cost_per_month", "max_jobs_per_day"]):
            await sent(session, number)
            with pytest.raises(errors.BudgetStop, match=cap):
                await sent(session, 100)
            clock.at += 86400
            if number == 1:  # the first of April
                assert posts(provider) == 2


# --- prices ---


async def test_a_cap_on_costs_refuses_what_has_no_price(ledger_url: str, provider: RunningSimulator) -> None:
    async with opened(ledger_url, provider, Caps("b", day_micros=cny(9)), prices={}) as session:
        with pytest.raises(errors.BudgetStop, match=f"tokenops/{MODEL} has no price"):
            await sent(session, 1)
    async with opened(ledger_url, provider, Caps("b", day_jobs=9), prices={}) as session:
        await sent(session, 1)  # a cap on jobs needs none
    assert posts(provider) == 1


async def test_jobs_that_were_sent_without_a_price_count_by_the_prices_of_now_or_stop_what_follows(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, Caps("b"), prices={}) as session:
        await sent(session, 1, 2)
    other = {f"tokenops/{MODEL}": Price(per_second=1.0), "tokenops/jimeng-video-3.0-pro": Price(per_job=1.0)}
    async with opened(shared_ledger, provider, Caps("b", day_micros=cny(11)), prices=other) as session:
        with pytest.raises(errors.BudgetStop, match=r"10\.00 CNY spent"):
            await sent(session, 3)
        pro = JobSpec(JimengVideo(prompt="x", model="jimeng-video-3.0-pro"), scope="pro")
        await submit_job(session, pro)
    del other[f"tokenops/{MODEL}"]
    async with opened(shared_ledger, provider, Caps("b", day_micros=cny(11)), prices=other) as session:
        with pytest.raises(errors.BudgetStop, match="was sent in this period, is not known"):
            await submit_job(session, JobSpec(JimengVideo(prompt="y", model="jimeng-video-3.0-pro"), scope="pro"))


async def test_a_job_that_was_reserved_at_another_price_counts_by_the_price_of_the_day_it_is_sent(
    ledger_url: str, provider: RunningSimulator
) -> None:
    async with opened(ledger_url, provider, Caps("b", day_jobs=0)) as session:
        with pytest.raises(errors.BudgetStop):
            await submit_once(session, spec(1))
    dearer = {f"tokenops/{MODEL}": Price(per_second=2.0)}
    async with opened(ledger_url, provider, Caps("b", day_micros=cny(10)), prices=dearer) as session:
        job = await sent(session, 1)
        assert (job.cost_micros, job.estimated_cost) == (cny(10), 10.0)


def test_a_limit_is_what_was_meant_and_never_more() -> None:
    amounts = (3 * 1.4, 0.1 + 0.2, Decimal("0.0000019"), Decimal("1000000000"), 0)
    assert [limit_in_micros(amount) for amount in amounts] == [4_200_000, 300_000, 1, 10**15, 0]


def test_amounts_are_exact_and_shown_with_as_many_decimals_as_they_have() -> None:
    assert sum(Price(per_second=0.1).of(3) or 0 for _ in range(10)) == 3
    shown = [shown_amount(Decimal(amount)) for amount in ("3", "3.5", "0.000001", "100", "0")]
    assert shown == ["3.00 CNY", "3.50 CNY", "0.000001 CNY", "100.00 CNY", "0.00 CNY"]


# --- many at once, and killed ---

SUBMIT = """
import asyncio, sys
from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import JobSpec, Session, open_ledger, submit_once
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.caps import Caps
from prefect_genmedia.errors import BudgetStop
from prefect_genmedia.providers.tokenops import JimengVideo

async def main(url, base_url, key, name, jobs, caps):
    block = TokenOpsCredentials(api_key=key, base_url=base_url)
    async with block.client() as client, open_ledger(url) as ledger:
        record = await resolve_account(ledger, client.account, "default")
        session = Session(client, ledger, record=record, caps=eval(caps))
        print("ready", flush=True)
        sys.stdin.readline()
        specs = [JobSpec(JimengVideo(prompt=f"{name} {n}", model="jimeng-video-3.0-720P"), scope=f"{name} {n}")
                 for n in range(int(jobs))]
        found = await asyncio.gather(*(submit_once(session, spec) for spec in specs), return_exceptions=True)
        assert all(isinstance(each, BudgetStop) for each in found if isinstance(each, Exception)), found

asyncio.run(main(*sys.argv[1:]))
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUBMIT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [False, True], ids=["all live", "one is killed"])
async def test_two_processes_at_once_never_overspend_by_one(
    killed: bool, shared_ledger: str, provider: RunningSimulator
) -> None:
    """Each wants nine jobs at once; together they get seven. One that is killed in a POST may have paid for its own."""
    caps = f"Caps('b', day_micros={cny(PRICE * 7)}, day_jobs=100)"
    if killed:
        provider.order("accept_slowly", times=3, seconds=2.0)
    async with open_ledger(shared_ledger):
        pass
    names = ["one", "two"]
    processes = [started(shared_ledger, provider.tokenops_url, ONE, name, "9", caps) for name in names]
    try:
        for each in processes:
            assert each.stdout is not None
            assert await asyncio.to_thread(each.stdout.readline) == "ready\n"
        for number, each in enumerate(processes):
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
            if killed and number == 0:
                deadline = time.monotonic() + 60
                while not provider.accepted and time.monotonic() < deadline:
                    await asyncio.sleep(0.01)
                each.send_signal(signal.SIGKILL)
        ends = [await asyncio.to_thread(each.wait, 120) for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.communicate()
    assert ends == [-signal.SIGKILL if killed else 0, 0]
    async with open_ledger(shared_ledger) as ledger:
        jobs = await ledger.jobs()
    states = Counter(job.state.value for job in jobs)
    assert states["submitted"] + states["sending"] == 7
    assert provider.accepted <= 7
    assert provider.accepted == posts(provider) if killed else posts(provider) == 7
    assert sum(job.cost_micros or 0 for job in jobs if job.state is not JobState.RESERVED) == cny(PRICE * 7)


# --- events ---


async def test_events_come_at_80_percent_and_at_the_stop_once_in_a_period_whoever_meets_them(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    hooks, clock = Noted(), SetClock()
    caps = Caps("b", day_jobs=5, month_micros=cny(100))
    for key in (ONE, TWO):
        async with opened(shared_ledger, provider, caps, key, clock, hooks=hooks) as session:
            await sent(session, 1, 2, 3)
            assert hooks.events == [] or key == TWO
            await sent(session, 4, 5)
            for number in (6, 7):
                with pytest.raises(errors.BudgetStop):
                    await sent(session, number)
    assert [what for what, _ in hooks.events] == ["warning", "reached"]
    warning, reached = (facts for _, facts in hooks.events)
    assert (warning["cap"], warning["limit"], warning["spent"], warning["reserved"]) == ("max_jobs_per_day", 5, 3, 1)
    assert (reached["spent"], reached["period"]) == (5, "2026-03-31 UTC")
    clock.at += 86400
    async with opened(shared_ledger, provider, caps, ONE, clock, hooks=hooks) as session:
        await sent(session, 6, 7, 8, 9)
    assert [what for what, _ in hooks.events] == ["warning", "reached", "warning"]


# --- flows, tasks and batches ---


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def keep(event: str, **_: Any) -> None:
        names.append(event)

    monkeypatch.setattr(run_module, "emit_event", keep)
    return names


@pytest.mark.usefixtures("prefect_server")
async def test_a_batch_a_flow_and_a_task_spend_from_one_cap_and_the_batch_ends_its_rows_with_it(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Any, emitted: list[str]
) -> None:
    credentials.max_cost_per_day = PRICE * 4
    simulator.world.settings.queue_seconds = simulator.world.settings.run_seconds = 0.01
    output = str(tmp_path / "out")

    @flow
    async def own() -> None:
        await submit(JimengVideo(prompt="own", model=MODEL), credentials=credentials)

    await own()
    await jimeng_video("single", MODEL, credentials=credentials, output=output)
    rows = [{"id": f"row-{number}", "prompt": f"lake {number}", "model": MODEL} for number in range(5)]
    with pytest.raises(errors.BudgetStop, match="max_cost_per_day") as caught:
        await generate_batch(rows, "jimeng", credentials, "lakes", output, max_in_flight=2)
    assert caught.value.next_step.startswith("raise max_cost_per_day, or wait for the end of the period, and run the")
    assert "not_sent" in caught.value.paid.replace(" ", "_")
    with pytest.raises(errors.BudgetStop):
        await jimeng_video("another", MODEL, credentials=credentials, output=output)
    assert posts(simulator) == simulator.accepted == 4
    assert [name for name in emitted if "budget" in name] == ["genmedia.budget.warning", "genmedia.budget.reached"]


@pytest.mark.usefixtures("prefect_server")
async def test_a_batch_with_rows_that_have_no_price_is_refused_by_a_cap_before_anything_is_sent(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials.max_cost_per_month = Decimal(100)
    rows = [{"id": "row", "prompt": "lake", "extra_body": {"model": "brand-new"}}]
    with pytest.raises(errors.InvalidRequest, match="is needed for max_cost_per_month"):
        await generate_batch(rows, "jimeng", credentials, "lakes", str(tmp_path))
    assert posts(simulator) == 0


@pytest.mark.usefixtures("prefect_server")
async def test_max_cost_of_a_single_flow_holds_for_every_attempt_and_needs_a_price(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_genmedia._core import account_budgets

    options: dict[str, Any] = {"credentials": credentials, "output": str(tmp_path / "out")}
    with pytest.raises(errors.BudgetStop, match=r"max_cost lets this result cost 1\.39 CNY.*would cost 1\.40 CNY"):
        await jimeng_video("a lake", MODEL, max_cost=1.39, **options)
    assert posts(simulator) == 0
    with pytest.raises(errors.InvalidRequest, match="max_cost"):
        await jimeng_video("a lake", MODEL, max_cost=float("nan"), **options)
    # A provider that does not document that failures are free: the refused video counts.
    monkeypatch.setattr(account_budgets, "providers_with_free_failures", frozenset)
    simulator.order("fail_output", times=3)
    with pytest.raises(errors.BudgetStop, match=r"lets this result cost 0\.20 CNY"):
        await jimeng_video("a lake", MODEL, max_cost=3.0, resubmit_on_output_refusal=4, **options)
    assert posts(simulator) == 2


@pytest.mark.usefixtures("prefect_server")
async def test_max_cost_counts_what_an_earlier_run_has_paid_for_the_same_result(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_genmedia._core import account_budgets

    monkeypatch.setattr(account_budgets, "providers_with_free_failures", frozenset)
    simulator.order("fail_internal", times=1)
    options: dict[str, Any] = {"credentials": credentials, "output": str(tmp_path), "idempotency_key": "k"}
    with pytest.raises(errors.GenerationFailed):
        await jimeng_video("a lake", MODEL, max_cost=2.0, **options)
    with pytest.raises(errors.BudgetStop, match=r"after 1\.40 CNY for earlier attempts"):
        await jimeng_video("a lake", MODEL, max_cost=2.0, **options)
    assert posts(simulator) == 1


# --- the Block ---


def test_a_blocks_caps_are_exact_amounts_and_stored_as_numbers() -> None:
    block = TokenOpsCredentials(
        api_key="k", max_cost_per_day=0.1, max_cost_per_month="12.5", max_jobs_per_day="3", budget_time_zone=""
    )
    assert caps_of(block) == Caps("", 100_000, 12_500_000, 3, "UTC")
    assert block.model_dump(mode="json")["max_cost_per_day"] == 0.1
    assert list(TokenOpsCredentials.model_fields)[-6:] == [
        "max_cost_per_day",
        "max_cost_per_month",
        "max_jobs_per_day",
        "budget_time_zone",
        "project",
        "tags",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_cost_per_day": -1},
        {"max_cost_per_day": float("nan")},
        {"max_cost_per_month": float("inf")},
        {"max_cost_per_month": 10**10},
        {"max_jobs_per_day": -1},
        {"budget_time_zone": "Mars/Olympus"},
        {"budget_time_zone": "../etc/passwd"},
    ],
)
def test_caps_that_limit_nothing_or_cannot_be_counted_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenOpsCredentials(api_key="k", **wrong)


@pytest.mark.usefixtures("prefect_server")
async def test_a_batchs_own_budget_has_the_same_events(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Any, emitted: list[str]
) -> None:
    rows = [{"id": f"row-{number}", "prompt": f"lake {number}", "model": MODEL} for number in range(4)]
    for _ in range(2):
        with pytest.raises(errors.BudgetStop, match="2 of 2 jobs"):
            await generate_batch(rows, "jimeng", credentials, "lakes", str(tmp_path), max_jobs=2)
    assert [name for name in emitted if "budget" in name] == ["genmedia.budget.warning", "genmedia.budget.reached"]
    assert posts(simulator) == 2


# --- the command line ---


async def test_the_command_line_shows_the_caps_of_an_account_and_removes_those_of_a_deleted_block(
    ledger_url: str, provider: RunningSimulator, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(ledger_url, provider, Caps("old", day_micros=cny("9"))) as session:
        await sent(session, 1)
    await asyncio.to_thread(app, ["accounts", "budget", "default", "--json"], result_action="return_value")
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["cap"], shown["block"], shown["limit"], shown["spent"]) == ("max_cost_per_day", "old", 9.0, 1.4)
    await asyncio.to_thread(app, ["accounts", "uncap", "default", "old"], result_action="return_value")
    await asyncio.to_thread(app, ["accounts", "budget", "default"], result_action="return_value")
    assert "has no caps" in capsys.readouterr().out

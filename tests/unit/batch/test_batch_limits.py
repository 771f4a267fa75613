"""Budgets, places in flight, the breaker and prices, each by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import pytest

from prefect_genmedia import errors
from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia._core.budgets import Budget, BudgetState, budget_name, holder_of
from prefect_genmedia._core.check import check_ledger
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.session import Session
from prefect_genmedia.batch.pool import AccountPool, Lease, PayingAccount
from prefect_genmedia.batch.slots import Breaker, Slots
from prefect_genmedia.prices import Price, price_table
from prefect_genmedia.providers.plugin import list_prices


def in_own_loop(url: str, who: int, wanted: int) -> int:
    """One submitter with connections of its own: how many of its reservations were let through."""

    async def work() -> int:
        got = 0
        async with open_ledger(url) as ledger:
            budget = Budget(ledger, "shared", 37, 3.7)
            await budget.open()
            for number in range(wanted):
                try:
                    await budget.reserve(f"{who}:{number}", 0.1)
                except errors.BudgetStop:
                    continue
                got += 1
                if number % 3 == 2:
                    got -= await budget.release(str(who), number)
        return got

    return asyncio.run(work())


async def test_twenty_submitters_at_once_never_overspend_by_one(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:  # so that the twenty find a schema
        got = await asyncio.gather(*(asyncio.to_thread(in_own_loop, shared_ledger, who, 6) for who in range(20)))
        state = await Budget(ledger, "shared", 37, 3.7).state()
        # What others gave back late may be free now; nothing more than that.
        assert sum(got) == state.jobs <= 37
        assert state.cost == state.jobs * Decimal("0.1")
        left = [f"left:{number}" for number in range(40)]
        budget = Budget(ledger, "shared", 37, 3.7)
        outcomes = await asyncio.gather(*(budget.reserve(holder, 0.1) for holder in left), return_exceptions=True)
        assert (await budget.state()).jobs == 37
        assert sum(outcome is None for outcome in outcomes) == 37 - state.jobs


async def test_the_same_holder_reserves_and_releases_once(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        budget = Budget(ledger, "b", 1, None)
        await budget.open()
        await asyncio.gather(*(budget.reserve(holder_of("me", 1), None) for _ in range(8)))
        assert (await budget.state()).jobs == 1
        assert sorted(await asyncio.gather(*(budget.release("me", 1) for _ in range(4)))) == [False, False, False, True]
        assert (await budget.state()).jobs == 0


async def test_a_holder_whose_reservation_was_replaced_reserves_nothing_again(shared_ledger: str) -> None:
    """Another run of the same chain, or one after a kill, does not count a step twice."""
    async with open_ledger(shared_ledger) as ledger:
        budget = Budget(ledger, "b", 2, 3.0)
        await budget.open()
        await budget.reserve(holder_of("first", 1), 1.0)
        await budget.reserve(holder_of("placeholder", 1), 2.0)
        for _ in range(2):
            await budget.reserve(holder_of("second", 1), 2.0, instead_of=holder_of("placeholder", 1))
            await budget.reserve(holder_of("placeholder", 1), 2.0)
            assert ((await budget.state()).jobs, float((await budget.state()).cost)) == (2, 3.0)
        assert (await check_ledger(ledger)).problems == []
        assert not await budget.release("placeholder", 1)
        assert (await budget.state()).jobs == 2


async def test_a_replaced_reservation_stays_if_the_budget_does_not_hold_the_new_one(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        budget = Budget(ledger, "b", None, 3.0)
        await budget.open()
        await budget.reserve(holder_of("placeholder", 1), 2.0)
        with pytest.raises(errors.BudgetStop):
            await budget.reserve(holder_of("second", 1), 4.0, instead_of=holder_of("placeholder", 1))
        assert float((await budget.state()).cost) == 2.0


def wanted(number: int) -> Job:
    return Job(key="", identity=f"row-{number}", provider="tokenops", account="account", estimated_cost=0.1)


def sending_and_giving_back(url: str, who: int) -> None:
    """One of many identical batches: tries to send each row, and gives back what it reserved for those it could not."""

    async def work() -> None:
        chance = random.Random(who)
        async with open_ledger(url) as ledger:
            budget = Budget(ledger, "shared", 5, None)
            for number in chance.sample(range(12), 12):
                job = await ledger.reserve(wanted(number))
                with contextlib.suppress(errors.BudgetStop):
                    await budget.reserve(holder_of(job.identity, 1), 0.1)
                    if chance.random() < 0.5:
                        await ledger.start_sending(job, None, 100, budget.spender(0.1))
                await budget.release(job.identity, 1)

    asyncio.run(work())


async def test_no_job_is_sent_without_its_reservation_while_others_give_theirs_back(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        budget = Budget(ledger, "shared", 5, None)
        await budget.open()
        await asyncio.gather(*(asyncio.to_thread(sending_and_giving_back, shared_ledger, who) for who in range(8)))
        sent = await ledger.jobs([JobState.SENDING])
        state = await budget.state()
        assert 0 < len(sent) == state.jobs <= 5
        for job in sent:
            assert not await budget.release(job.identity, 1), "what may be paid is not given back"


async def test_a_row_whose_reservation_another_run_gave_back_reserves_anew_or_is_not_sent(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        budget = Budget(ledger, "b", 1, None)
        await budget.open()
        mine = await ledger.reserve(wanted(1))
        await budget.reserve(holder_of(mine.identity, 1), 0.1)  # this run, and another one of the same batch
        assert await budget.release(mine.identity, 1)  # the other one could not send it
        await budget.reserve(holder_of("row-2", 1), 0.1)  # a third one takes the money
        with pytest.raises(errors.BudgetStop, match="1 of 1 job "):
            await ledger.start_sending(mine, None, spend=budget.spender(0.1))
        present = await ledger.get(mine.key)
        assert present is not None
        assert present.state is JobState.RESERVED
        assert await budget.release("row-2", 1)
        sending = await ledger.start_sending(mine, None, spend=budget.spender(None))
        assert sending is not None
        assert (await budget.state()) == BudgetState("b", 1, Decimal("0.1"), 1, None)
        failed = await ledger.move(sending, JobState.REJECTED)
        assert failed is not None
        assert await budget.release(mine.identity, 1)
        assert (await budget.state()).jobs == 0


@pytest.mark.parametrize(("provider", "comes_back"), [("tokenops", True), ("jenius", False)])
async def test_a_failed_job_gives_its_money_back_where_its_provider_documents_that_it_is_free(
    provider: str, comes_back: bool, ledger: Ledger
) -> None:
    await (budget := Budget(ledger, "b", 1, None)).open()
    job = await ledger.reserve(wanted(1).model_copy(update={"provider": provider}))
    await budget.reserve(holder_of(job.identity, 1), 0.1)
    for state in (JobState.SENDING, JobState.SUBMITTED, JobState.FAILED):
        job = await ledger.move(job, state) or job
    assert await budget.release(job.identity, 1) is comes_back


async def test_a_budget_remembers_what_is_reserved_when_its_limit_changes(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        await (first := Budget(ledger, "b", None, 1.0)).open()
        await first.reserve("a", 0.9)
        assert (await Budget(ledger, "b", None, 2.0).open()).cost == Decimal("0.9")
        await first.reserve("c", 1.0)
        with pytest.raises(errors.BudgetStop, match=r"1\.90 of 2\.00 CNY"):
            await first.reserve("d", 0.2)


def test_budgets_are_distinguished_by_day_and_account() -> None:
    class Noon(Clock):
        def now(self) -> float:
            return 86400 * 365 + 43200

    assert budget_name("b", "total", None) == "b"
    assert budget_name("b", "day", "acc", Noon()) == "b · 1971-01-01 · acc"


def account(limit: int) -> PayingAccount:
    """An account with so many slots; the pool asks its session for the account's name alone."""
    record = AccountRecord("1a2b", "tokenops", "https://example.com:443", names=("studio",))
    return PayingAccount(cast(Session, SimpleNamespace(record=record)), Slots(limit, calm_seconds=3600))


async def test_places_halve_when_the_provider_asks_and_come_back() -> None:
    pool = AccountPool([account(8)])
    slots = pool.accounts[0].slots
    for _ in range(5):
        slots.slower()  # one burst counts once
    assert int(slots.allowed) == 4
    for _ in range(4):
        await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    urgent = asyncio.create_task(pool.acquire(first=True))
    await asyncio.sleep(0)
    slots.release()
    await urgent
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    for _ in range(40):
        slots.faster()
    assert slots.allowed == 8
    await asyncio.gather(*waiting[1:])
    assert slots.used == 6


async def test_a_row_takes_a_slot_of_the_account_with_the_most_free_ones() -> None:
    one, other = account(1), account(2)
    pool = AccountPool([one, other])
    assert [await pool.acquire() for _ in range(3)] == [other, one, other]
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    one.slots.release()
    assert await waiting is one


async def test_a_row_that_one_account_refused_waits_for_another_and_holds_nobody_up() -> None:
    one, other = account(1), account(1)
    pool = AccountPool([one, other])
    lease = Lease(pool, await pool.acquire())
    busy = await pool.acquire()
    moving = asyncio.create_task(lease.move_on(errors.QuotaError("no balance")))
    await asyncio.sleep(0)
    assert not moving.done()
    busy.slots.release()
    await moving
    assert (lease.account, one.slots.used, other.slots.used) == (other, 0, 1)
    fresh = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert not fresh.done(), "an account that cannot pay gets no row while another one can"
    with pytest.raises(errors.QuotaError, match="None of the 2 accounts"):
        await lease.move_on(errors.QuotaError("no balance here either"))
    lease.release()
    assert await fresh in (one, other), "all refused: each row tries again"


async def test_a_pool_whose_accounts_cool_down_goes_on_with_the_first_that_is_ready() -> None:
    one, other = account(1), account(1)
    pool = AccountPool([one, other])
    pool.cool(one, 3600.0)
    pool.cool(other, 0.01)
    assert await pool.acquire() is other


def test_the_breaker_opens_on_a_streak_of_one_kind_only() -> None:
    breaker = Breaker(2)
    for error in (errors.QuotaError(), errors.CredentialsError(), errors.GenerationFailed()):
        breaker.failed(error)
    assert not breaker.open
    breaker.accepted()
    breaker.failed(errors.CredentialsError())
    breaker.failed(errors.CredentialsError("again"))
    assert breaker.reason is not None
    assert breaker.reason.message == "again"
    never = Breaker(0)
    for _ in range(9):
        never.failed(errors.QuotaError())
    assert not never.open


def test_a_storage_that_takes_no_files_opens_the_breaker_though_submissions_pass() -> None:
    breaker = Breaker(2)
    breaker.failed(errors.StorageError())
    breaker.delivered()
    breaker.failed(errors.StorageError())
    breaker.accepted()
    assert not breaker.open
    breaker.failed(errors.StorageError())
    assert breaker.open


def test_own_prices_stand_in_place_of_the_list_s() -> None:
    table = price_table(list_prices(), {"tokenops/jimeng-video-3.0-pro": 2.0, "jenius/x": Price(per_job=3)})
    assert table["tokenops/jimeng-video-3.0-pro"].of(5) == 10
    assert table["jenius/x"].of(None) == 3
    assert table["tokenops/OmniHuman_1.5"].of(None) is None

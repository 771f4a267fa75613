"""Pace and cool-down belong to the account: over awaits, event loops, processes, and in a fair order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clocks import QuickClock
from servers import PATIENCE
from sqlalchemy import select, update

from prefect_genmedia._core import Job, JobHooks, JobSpec, Ledger, RunContext, Session, open_ledger, schema, submit_once
from prefect_genmedia._core import pace as pace_module
from prefect_genmedia._core import submit as submit_module
from prefect_genmedia._core.pace import Refused, Turn, ask, cool_down, grant
from prefect_genmedia.errors import QuotaError, RateLimited
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.simulator import RunningSimulator

MINUTE = 2.0
"""A minute of these tests, in seconds."""

BEGIN = (1.0, 5.0)
"""How soon a POST must begin, in seconds: as in earnest, since this machine may be busy."""

SUBMIT = """
import asyncio, sys
from prefect_genmedia._core import JobSpec, RunContext, Session, open_ledger, pace, submit, submit_once
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.client import TokenOpsClient

pace.MINUTE, submit.BEGIN_SECONDS = {minute}, {begin}

async def main(url, base_url, key, *names):
    client = TokenOpsClient(key, base_url=base_url, submissions_per_minute=2)
    async with open_ledger(url) as ledger:
        session = Session(client=client, ledger=ledger, run=RunContext(root_run_id="r"))
        for name in names:
            request = JimengVideo(prompt=name, model="jimeng-video-3.0-720P")
            await submit_once(session, JobSpec(request, scope=name))
    await client.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


async def submit_all(url: str, simulator: RunningSimulator, *names: str, at_once: bool = False) -> None:
    """Submit jobs of one account in this event loop, one after another or all at once."""
    client = TokenOpsClient(simulator.key, base_url=simulator.tokenops_url, submissions_per_minute=2)
    async with open_ledger(url) as ledger:
        session = Session(client=client, ledger=ledger, run=RunContext(root_run_id="r"))
        specs = [JobSpec(JimengVideo(prompt=name, model="jimeng-video-3.0-720P"), scope=name) for name in names]
        if at_once:
            await asyncio.gather(*(submit_once(session, spec) for spec in specs))
        else:
            for spec in specs:
                await submit_once(session, spec)
    await client.aclose()


@pytest.mark.timeout(200)
async def test_no_minute_has_more_posts_than_the_pace_whoever_sends_them(
    shared_ledger: str, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve jobs: awaited in turn, all at once in one loop, in loops of other threads, and in three processes."""
    monkeypatch.setattr(pace_module, "MINUTE", MINUTE)
    monkeypatch.setattr(submit_module, "BEGIN_SECONDS", BEGIN)
    async with open_ledger(shared_ledger):
        pass
    command = [sys.executable, "-c", SUBMIT.format(minute=MINUTE, begin=BEGIN), shared_ledger]
    command += [simulator.tokenops_url, simulator.key]
    children = [subprocess.Popen([*command, f"process {number}"]) for number in range(3)]
    with ThreadPoolExecutor(3) as threads:

        def in_a_loop_of_its_own(name: str) -> None:
            asyncio.run(submit_all(shared_ledger, simulator, name))

        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(
                submit_all(shared_ledger, simulator, "a", "b", "c"),
                submit_all(shared_ledger, simulator, "d", "e", "f", at_once=True),
                *(loop.run_in_executor(threads, in_a_loop_of_its_own, name) for name in ("g", "h", "i")),
            )
            ends = [await asyncio.to_thread(child.wait, PATIENCE) for child in children]
        finally:
            for child in children:
                child.kill()
    moments = sorted(job.created_at for job in simulator.world.jobs.values())
    assert ends == [0, 0, 0]
    assert len(moments) == simulator.world.requests["tokenops.submit"] == 12
    assert min(third - first for first, third in zip(moments, moments[2:], strict=False)) > MINUTE


class Noted(JobHooks):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, what: str, job: Job, **payload: Any) -> None:
        self.events.append((what, payload))


async def rejected_then_sent(
    ledger_url: str, simulator: RunningSimulator, clock: QuickClock, fault: str, **options: float
) -> tuple[type[Exception], Noted]:
    """One job meets a fault; another one of the same account is submitted right after, by another client."""
    hooks, caught = Noted(), Exception
    async with open_ledger(ledger_url, clock) as ledger:
        for name in ("one", "two"):
            client = TokenOpsClient(simulator.key, base_url=simulator.tokenops_url)
            session = Session(client=client, ledger=ledger, hooks=hooks, clock=clock)
            if name == "one":
                simulator.order(fault, **options)
            request = JimengVideo(prompt=name, model="jimeng-video-3.0-720P")
            try:
                await submit_once(session, JobSpec(request, scope=name))
            except (RateLimited, QuotaError) as error:
                caught = type(error)
            await client.aclose()
    return caught, hooks


@pytest.mark.parametrize(("asked", "waits"), [(30.0, 30.0), (86400.0, 900.0)])
async def test_after_slow_down_nobody_sends_for_the_account_until_the_time_is_over(
    asked: float, waits: float, ledger_url: str, simulator: RunningSimulator
) -> None:
    clock = QuickClock()
    caught, hooks = await rejected_then_sent(ledger_url, simulator, clock, "rate_limited", retry_after=asked)
    assert caught is RateLimited
    assert waits <= clock.passed < waits + 1
    assert simulator.accepted == 1
    assert ("cooling_down", {"seconds": waits}) in hooks.events


async def test_an_answer_about_quota_holds_nobody_back(ledger_url: str, simulator: RunningSimulator) -> None:
    clock = QuickClock()
    caught, hooks = await rejected_then_sent(ledger_url, simulator, clock, "refuse_balance")
    assert (caught, clock.passed, hooks.events) == (QuotaError, 0.0, [])


# --- the order of those who wait ---


class Queue:
    """An account's waiters, asked for one after another, as processes would."""

    def __init__(self, ledger: Ledger, clock: QuickClock) -> None:
        self.ledger, self.clock = ledger, clock
        self.arrived: dict[str, float] = {}

    async def asks(self, name: str) -> float | None:
        """Seconds that a job must wait; None if it was granted its turn. Names of batch rows begin with `batch`."""
        now = self.clock.monotonic()
        waited = now - self.arrived.setdefault(name, now)
        turn = Turn(Job(key=name, identity=name, provider="p", account="a"), 2.0, name.startswith("batch"), waited)

        def work(connection: Any) -> Refused | None:
            refused = ask(connection, turn, self.clock)
            if refused is None:
                grant(connection, turn, self.clock)
            return refused

        refused = await self.ledger.transact(work)
        return None if refused is None else refused.seconds

    async def next_of(self, names: list[str]) -> str:
        """Let a turn pass, while all of these ask often enough; returns who got the next one."""
        while True:
            for name in names:
                if await self.asks(name) is None:
                    return name
            self.clock.passed += 1.0


@pytest.fixture
async def queue(ledger_url: str) -> Any:
    clock = QuickClock()
    async with open_ledger(ledger_url, clock) as ledger:
        waiting = Queue(ledger, clock)
        assert await waiting.asks("first") is None  # from here on there is a pace to wait for
        yield waiting


async def test_turns_come_in_the_order_of_arrival(queue: Queue) -> None:
    names = ["one", "two", "three"]
    for name in names:
        queue.clock.passed += 0.1
        assert await queue.asks(name) is not None
    backwards = names[::-1]
    got = []
    for _ in names:
        got.append(await queue.next_of(backwards))
        backwards.remove(got[-1])
    assert got == names


async def test_runs_come_before_batches_and_a_batch_gets_every_fourth_turn(queue: Queue) -> None:
    assert await queue.asks("batch") is not None
    names = ["batch", *(f"run {number}" for number in range(7))]
    got = []
    for _ in range(8):
        got.append(await queue.next_of(names))
        if got[-1] != "batch":
            names.remove(got[-1])
        else:
            queue.arrived.pop("batch")
    assert got.count("batch") == 2
    assert got.index("batch") <= 3


async def test_a_waiter_that_has_died_holds_up_nobody_for_longer_than_its_heartbeat(queue: Queue) -> None:
    assert await queue.asks("dead") is not None
    queue.clock.passed += 1.0
    begun = queue.clock.passed
    assert await queue.next_of(["alive"]) == "alive"
    assert queue.clock.passed - begun <= pace_module.ALIVE_SECONDS + 2.0


@pytest.mark.parametrize("ahead", [3600.0, 10 * 365 * 86400.0])
async def test_a_time_that_a_jump_of_the_clock_left_behind_is_reset(ahead: float, queue: Queue) -> None:
    table = schema.pace

    def jumped(connection: Any) -> None:
        far = queue.clock.now() + ahead
        connection.execute(update(table).values(next_at=far, cooled_until=0.0))

    await queue.ledger.transact(jumped)
    begun = queue.clock.passed
    assert await queue.next_of(["one"]) == "one"
    assert 30.0 <= queue.clock.passed - begun <= 33.0


async def test_a_shorter_cool_down_does_not_end_a_longer_one(queue: Queue) -> None:
    job = Job(key="k", identity="i", provider="p", account="a")
    for seconds in (60.0, 1.0):
        await queue.ledger.transact(lambda connection, s=seconds: cool_down(connection, job, s, queue.clock))
    found: Callable[[Any], float] = lambda connection: connection.execute(  # noqa: E731
        select(schema.pace.c.cooled_until)
    ).scalar_one()
    assert await queue.ledger.transact(found) == queue.clock.now() + 60.0

"""How often HiDream's key is exchanged: once in each process, whatever loop asks, and never at the same instant."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hidream_web import EXCHANGE, ID, SUBMIT, TOKENS, Api, envelope, keyed, make, tokens_sent
from servers import PATIENCE
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia._core import Ledger, Session, locks, open_ledger, schema
from prefect_genmedia._core.clock import Clock
from prefect_genmedia.errors import CredentialsError, LedgerError
from prefect_genmedia.providers.hidream import HiDreamClient
from prefect_genmedia.providers.hidream.simulator import HiDream
from prefect_genmedia.simulator import RunningSimulator, run_simulator

__all__ = ["keyed", "make"]

LASTING, ROTATED = "a-key-of-the-account", "its-next-key"


@pytest.fixture
def provider(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> RunningSimulator:
    monkeypatch.setattr(simulator.world, "keys", frozenset({LASTING}))
    return simulator


def exchanges(provider: RunningSimulator) -> int:
    return provider.world.requests["hidream.token"]


async def polled(provider: RunningSimulator, key: str = LASTING) -> None:
    """What needs a token and costs nothing, by a client of its own."""
    client = HiDreamClient(api_key=key, base_url=provider.base_url("hidream"))
    try:
        await client.poll_many(["nothing"])
    finally:
        await client.aclose()


@pytest.mark.usefixtures("prefect_server")
def test_tasks_that_are_mapped_and_submitted_exchange_the_key_once(provider: RunningSimulator) -> None:
    from prefect import flow, unmapped

    from prefect_genmedia.providers.hidream import StylizedVideo
    from prefect_genmedia.tasks import submit

    block = HiDreamCredentials(
        api_key=LASTING, base_url=provider.base_url("hidream"), submissions_per_minute=None, account_name="account"
    )

    @flow
    def many() -> None:
        requests = [StylizedVideo(video_url=provider.clip_url, prompt=f"clip {number}") for number in range(3)]
        options = {"credentials": block, "preflight": False}
        futures = [submit.submit(requests[0], **options)]
        futures += submit.map(requests[1:], **{name: unmapped(value) for name, value in options.items()})
        for future in futures:
            future.result()

    many()
    assert provider.accepted == 3
    assert exchanges(provider) == 1


def test_event_loops_in_threads_exchange_the_key_once(provider: RunningSimulator) -> None:
    together = threading.Barrier(4)

    def in_a_loop_of_its_own(_: int) -> None:
        together.wait()
        asyncio.run(polled(provider))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(in_a_loop_of_its_own, range(4)))
    assert exchanges(provider) == 1


async def test_a_rotated_key_is_exchanged_anew(provider: RunningSimulator) -> None:
    await polled(provider)
    provider.world.rotate_key(LASTING, ROTATED)
    await polled(provider, ROTATED)
    await polled(provider, ROTATED)
    assert exchanges(provider) == 2


async def test_an_exchange_that_was_cancelled_holds_up_nobody(provider: RunningSimulator) -> None:
    provider.order("token_drip", seconds=30.0)
    hanging = asyncio.create_task(polled(provider))
    while not exchanges(provider):
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(polled(provider))
    hanging.cancel()
    await asyncio.wait({hanging})
    await waiting
    assert exchanges(provider) == 2


async def test_those_that_waited_for_an_exchange_share_its_failure(
    provider: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider.world, "keys", frozenset({"another-key"}))
    ends = await asyncio.gather(*(polled(provider) for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [CredentialsError] * 5
    assert exchanges(provider) == 1


async def test_a_provider_that_refuses_every_token_is_not_flooded_with_exchanges(keyed: Api) -> None:
    exchange = keyed.exchange()
    results = keyed.web.get(f"{SUBMIT}/results").respond(401)
    for _ in range(5):
        with pytest.raises(CredentialsError):
            await keyed.client.poll(ID)
    assert exchange.call_count == 2
    keyed.now += 601.0
    with pytest.raises(CredentialsError):
        await keyed.client.poll(ID)
    assert exchange.call_count == 3
    assert set(tokens_sent(results)) == set(TOKENS[:3])


async def test_a_provider_that_accepts_each_token_once_is_not_flooded_either(keyed: Api) -> None:
    exchange = keyed.exchange()
    good = httpx.Response(200, json=envelope([]))
    keyed.web.post(f"{SUBMIT}/results/batch").mock(
        side_effect=[good, *[httpx.Response(401), good] * 3, *[httpx.Response(401)] * 5]
    )
    for _ in range(4):
        await keyed.client.poll_many([ID])
    for _ in range(5):
        with pytest.raises(CredentialsError):
            await keyed.client.poll_many([ID])
    assert exchange.call_count == 4


async def test_a_token_that_cannot_be_renewed_is_not_asked_for_again_at_each_call(keyed: Api) -> None:
    keyed.exchange()
    keyed.web.post(SUBMIT).respond(401)
    await keyed.client._tokens.fresh()
    refused = keyed.web.get(EXCHANGE).respond(503)
    keyed.now += 86400 - 500
    before = refused.call_count
    for _ in range(5):
        assert await keyed.client._tokens.fresh() == TOKENS[0]
    assert refused.call_count == before + 1


# --- several processes ---

CHILD = """
import asyncio, sys
from prefect_genmedia._core import Session, open_ledger
from prefect_genmedia.providers.hidream import HiDreamClient

async def poll(url, base_url, key):
    client = HiDreamClient(api_key=key, base_url=base_url)
    async with open_ledger(url) as ledger:
        Session(client=client, ledger=ledger)
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(client.poll_many(["nothing"]) for _ in range(3)))
    await client.aclose()

asyncio.run(poll(*sys.argv[1:]))
"""


@pytest.fixture
def slow_exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RunningSimulator, list[int]]]:
    """A provider whose exchange takes a moment, and how many it answered at once, for each."""
    token, under_way, at_once = HiDream.token, [0], list[int]()

    async def answer(self: HiDream, request: Request) -> Response:
        under_way[0] += 1
        at_once.append(under_way[0])
        try:
            await asyncio.sleep(0.3)
            return await token(self, request)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(HiDream, "token", answer)
    with run_simulator(keys=frozenset({LASTING}), dialects=(HiDream,)) as simulator:
        yield simulator, at_once


def test_processes_exchange_once_each_and_one_after_another(
    shared_ledger: str, slow_exchange: tuple[RunningSimulator, list[int]]
) -> None:
    asyncio.run(_opened(shared_ledger))
    provider, at_once = slow_exchange
    command = [sys.executable, "-c", CHILD, shared_ledger, provider.base_url("hidream"), LASTING]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(3)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(PATIENCE) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            child.kill()
    assert at_once == [1, 1, 1]


async def _opened(url: str) -> None:
    async with open_ledger(url):
        pass


class SteppedClock(Clock):
    def __init__(self) -> None:
        self.passed = 0.0
        self.begun = super().now()

    def now(self) -> float:
        return self.begun + self.passed

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds
        await asyncio.sleep(0)


async def take(ledger: Ledger, holder: str, clock: Clock) -> bool:
    return await ledger.transact(lambda connection: locks.take(connection, "a lock", holder, clock))


async def test_a_lock_whose_holder_was_killed_lapses(ledger: Ledger) -> None:
    clock = SteppedClock()
    assert await take(ledger, "killed", clock)
    clock.passed += locks.HELD_SECONDS - 1.0
    assert not await take(ledger, "next", clock)
    clock.passed += 2.0
    assert await take(ledger, "next", clock)
    assert not await take(ledger, "killed", clock)


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
async def test_a_jump_of_the_clock_keeps_no_lock_closed(step: float, ledger: Ledger) -> None:
    clock = SteppedClock()
    assert await take(ledger, "before the jump", clock)
    clock.passed += step
    assert await take(ledger, "after it", clock)


async def test_who_waits_in_vain_for_a_lock_goes_on_without_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 10.0)
    clock = SteppedClock()
    async with locks.exclusively(ledger, "a lock"), locks.exclusively(ledger, "a lock", clock):
        assert 10.0 <= clock.passed < 11.0


async def test_a_ledger_that_is_away_holds_up_no_exchange(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(work: Any) -> Any:
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(ledger, "transact", away)
    async with locks.exclusively(ledger, "a lock"):
        pass


async def test_no_token_and_no_key_is_in_the_ledger_or_in_any_file(
    provider: RunningSimulator, tmp_path: Path, ledger: Ledger
) -> None:
    client = HiDreamClient(api_key=LASTING, base_url=provider.base_url("hidream"))
    Session(client=client, ledger=ledger)
    held: list[str] = []
    transact = ledger.transact

    async def watched(work: Any) -> Any:
        done = await transact(work)
        rows = await ledger.query(select(schema.locks))
        held.extend(str(row) for row in rows)
        return done

    ledger.transact = watched  # type: ignore[method-assign] # a ledger of this test only
    await client.poll_many(["nothing"])
    token = client._tokens.present
    await client.aclose()
    assert held, "the lock was taken"
    assert not any(LASTING in row or token in row for row in held)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert token.encode() not in content
            assert LASTING.encode() not in content

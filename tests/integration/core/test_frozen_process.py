"""A process that is frozen between `sending` and the POST: what a person decides meanwhile is paid once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from servers import PATIENCE

from prefect_genmedia._core import Job, JobSpec, JobState, Ledger, RunContext, Session, submit_once
from prefect_genmedia._core import start as start_module
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.model import STALE_SENDING_SECONDS
from prefect_genmedia._transport import api as api_module
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.simulator import RunningSimulator

REQUEST = JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P")
SPEC = JobSpec(REQUEST, scope="frozen")


class SteppedClock(Clock):
    """The real time, plus what a test adds to each of its clocks."""

    def __init__(self) -> None:
        self.wall_step = 0.0
        self.boot_step = 0.0

    def now(self) -> float:
        return super().now() + self.wall_step

    def boottime(self) -> float:
        return super().boottime() + self.boot_step


def session(ledger: Ledger, client: Any, clock: Clock, root: str = "first") -> Session:
    return Session(client=client, ledger=ledger, run=RunContext(root_run_id=root), clock=clock)


def posts(simulator: RunningSimulator) -> int:
    return simulator.world.requests["tokenops.submit"]


class Freeze:
    """Holds the first request right before the check of its row, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        check_now = api_module.check_now

        async def frozen() -> None:
            if not self.reached.is_set():
                self.reached.set()
                await self.go_on.wait()
            await check_now()

        monkeypatch.setattr(api_module, "check_now", frozen)


@pytest.fixture
async def client(simulator: RunningSimulator) -> Any:
    opened = TokenOpsClient(simulator.key, base_url=simulator.tokenops_url)
    yield opened
    await opened.aclose()


async def test_a_frozen_process_joins_the_job_that_a_person_had_resubmitted(
    ledger: Ledger, client: Any, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SteppedClock()
    freeze = Freeze(monkeypatch)
    first = asyncio.create_task(submit_once(session(ledger, client, clock), SPEC))
    await freeze.reached.wait()
    (job,) = await ledger.jobs()
    later = SteppedClock()
    later.wall_step = STALE_SENDING_SECONDS + 1
    await decide(ledger, job.key, "resubmit", by="a person", clock=later)
    second = await submit_once(session(ledger, client, later, "second"), SPEC)
    freeze.go_on.set()
    assert (await first).key == second.key
    assert (posts(simulator), simulator.accepted) == (1, 1)
    assert sorted(each.state for each in await ledger.jobs()) == [JobState.REJECTED, JobState.SUBMITTED]


@pytest.mark.parametrize("which", ["wall_step", "boot_step"])
@pytest.mark.parametrize("seconds", [start_module.BEGIN_SECONDS + 1.0, 7200.0])
async def test_a_process_that_was_frozen_for_long_sends_only_after_it_has_recorded_that_anew(
    which: str,
    seconds: float,
    ledger: Ledger,
    client: Any,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SteppedClock()
    freeze = Freeze(monkeypatch)
    sending = asyncio.create_task(submit_once(session(ledger, client, clock), SPEC))
    await freeze.reached.wait()
    (before,) = await ledger.jobs()
    setattr(clock, which, seconds)
    freeze.go_on.set()
    sent = await sending
    assert (posts(simulator), sent.key) == (1, before.key)
    assert sent.send_token != before.send_token


async def test_a_row_that_another_process_sends_is_not_taken_back(ledger: Ledger) -> None:
    job = await ledger.reserve(Job(key="", identity="i" * 64, provider="tokenops"))
    mine = await ledger.start_sending(job, None)
    assert mine is not None
    assert await ledger.unsend(mine) is not None
    theirs = await ledger.start_sending(job, None)
    assert theirs is not None
    assert await ledger.unsend(mine) is None
    assert (await ledger.get(job.key)) == theirs


CHILD = """
import asyncio, sys
from prefect_genmedia._core import JobSpec, RunContext, Session, open_ledger, submit, submit_once
from prefect_genmedia._core import start
from prefect_genmedia._transport import api as before
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.client import TokenOpsClient

submit.STALE_SENDING_SECONDS = 0.0
check = before.check_now

async def announced():
    print("connected", flush=True)
    sys.stdin.readline()  # the parent has stopped this process by the time that it answers
    await check()

before.check_now = announced

async def main():
    url, base_url, key = sys.argv[1:]
    client = TokenOpsClient(key, base_url=base_url)
    async with open_ledger(url) as ledger:
        spec = JobSpec(JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P"), scope="frozen")
        job = await submit_once(Session(client=client, ledger=ledger, run=RunContext(root_run_id="first")), spec)
        print(job.key, flush=True)
    await client.aclose()

asyncio.run(main())
"""


async def test_a_process_stopped_by_sigstop_does_not_pay_after_sigcont(
    ledger: Ledger, ledger_url: str, client: Any, simulator: RunningSimulator
) -> None:
    command = [sys.executable, "-c", CHILD, ledger_url, simulator.tokenops_url, simulator.key]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        assert await asyncio.to_thread(child.stdout.readline) == "connected\n"
        os.kill(child.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
        later = SteppedClock()
        later.wall_step = STALE_SENDING_SECONDS + 1
        (job,) = await ledger.jobs()
        await decide(ledger, job.key, "resubmit", by="a person", clock=later)
        second = await submit_once(session(ledger, client, later, "second"), SPEC)
        os.kill(child.pid, signal.SIGCONT)
        output, _ = await asyncio.to_thread(child.communicate, timeout=PATIENCE)
    finally:
        child.kill()
    assert output.strip() == second.key
    assert (posts(simulator), simulator.accepted) == (1, 1)


async def test_a_process_that_is_frozen_between_headers_and_body_sends_the_body_no_more(
    ledger: Ledger, client: Any, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, frozen = SteppedClock(), False
    trace = api_module.trace

    async def freezing(event: str, info: dict[str, Any]) -> None:
        nonlocal frozen
        if event.endswith("send_request_headers.complete") and info.get("return_value") is None and not frozen:
            frozen = True
            clock.boot_step = clock.wall_step = STALE_SENDING_SECONDS + 1
            (job,) = await ledger.jobs()
            await decide(ledger, job.key, "resubmit", by="a person", clock=clock)
        await trace(event, info)

    monkeypatch.setattr(api_module, "trace", freezing)
    sent = await submit_once(session(ledger, client, clock), SPEC)
    assert frozen
    assert simulator.accepted == 1
    assert sorted(each.state for each in await ledger.jobs()) == [JobState.REJECTED, JobState.SUBMITTED]
    assert sent.attempt == 2

"""Rounds of reconcile: one at a time, none that wedges the next, and everybody can see whether they succeed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import submit_once
from rich.console import Console

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.rounds import (
    LEASE_SECONDS,
    OVERDUE_SECONDS,
    RENEW_SECONDS,
    AtWork,
    Round,
    begin_round,
    health,
)
from prefect_genmedia._prefect import reconcile as reconcile_module
from prefect_genmedia._prefect.reconcile import RoundReport, run_round
from prefect_genmedia.cli import reconcile as command
from prefect_genmedia.cli.app import app
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

PROGRAM = [sys.executable, "-m", "prefect_genmedia.cli"]


class Hand(Clock):
    """A clock that is set by hand; who sleeps wakes when it is set."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.woken = asyncio.Event()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await self.woken.wait()
        self.woken.clear()

    def advance(self, seconds: float) -> None:
        self.time += seconds


async def test_one_round_of_a_scope_is_at_work_and_another_scope_has_its_own(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger, begin_round(ledger, "default", "first") as first:
        assert isinstance(first, Round)
        async with begin_round(ledger, "default", "second") as second:
            assert isinstance(second, AtWork)
            assert second.holder == "first"
        async with begin_round(ledger, "customer", "third") as third:
            assert isinstance(third, Round)
    async with open_ledger(shared_ledger) as ledger, begin_round(ledger, "default", "fourth") as fourth:
        assert isinstance(fourth, Round)


async def test_of_rounds_that_begin_at_the_same_instant_one_works(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        everybody = asyncio.Barrier(8) if hasattr(asyncio, "Barrier") else None
        working = 0

        async def one(number: int) -> None:
            nonlocal working
            async with begin_round(ledger, "default", f"process {number}") as begun:
                working += isinstance(begun, Round)
                if everybody is not None:
                    await everybody.wait()  # nobody gives the lease back before all have asked

        await asyncio.gather(*(one(number) for number in range(8)))
        assert working == 1 or everybody is None


async def test_a_round_whose_process_was_killed_loses_its_lease_when_it_expires(ledger: Ledger) -> None:
    clock = Hand()
    killed = begin_round(ledger, "default", "killed", clock)
    await killed.__aenter__()  # and nothing of it comes any more
    clock.advance(LEASE_SECONDS - 1)
    async with begin_round(ledger, "default", "too early", clock) as early:
        assert isinstance(early, AtWork)
    clock.advance(2)
    async with begin_round(ledger, "default", "next", clock) as begun:
        assert isinstance(begun, Round)
    assert (await health(ledger, clock)).succeeded_at == clock.time


async def test_a_round_that_works_for_long_keeps_its_lease(ledger: Ledger) -> None:
    clock = Hand()
    async with begin_round(ledger, "default", "long", clock):
        for _ in range(20):
            clock.advance(RENEW_SECONDS)
            clock.woken.set()
            async with begin_round(ledger, "default", "impatient", clock) as other:
                assert isinstance(other, AtWork)
            while clock.woken.is_set():
                await asyncio.sleep(0)
            await ledger.jobs()  # the renewal was written before this


async def test_a_round_that_stood_still_stops_when_another_one_has_begun(ledger: Ledger) -> None:
    clock = Hand()

    async def frozen() -> None:
        async with begin_round(ledger, "default", "frozen", clock):
            clock.advance(LEASE_SECONDS + 1)
            async with begin_round(ledger, "default", "next", clock) as begun:
                assert isinstance(begun, Round)
                clock.woken.set()
                await asyncio.Event().wait()

    with pytest.raises(LedgerError, match="since this one stood still"):
        await frozen()
    assert (await health(ledger, clock)).succeeded_at is None, "neither of the two has succeeded"


async def test_the_ledger_tells_when_reconcile_succeeded_last_and_why_not_since(ledger: Ledger) -> None:
    clock = Hand()
    assert (await health(ledger, clock)).is_overdue
    assert "never succeeded" in str(await health(ledger, clock))
    async with begin_round(ledger, "default", "first", clock):
        pass
    clock.advance(OVERDUE_SECONDS)
    assert not (await health(ledger, clock)).is_overdue
    with pytest.raises(OSError, match="disk"):
        async with begin_round(ledger, "default", "second", clock):
            raise OSError("disk")
    clock.advance(1)
    found = await health(ledger, clock)
    assert found.is_overdue
    assert str(found) == "Reconcile last succeeded 20 min ago; its last round began 0 min ago (OSError)."


# --- The process ---


async def lost_job(ledger: Ledger, credentials: TokenOpsCredentials, ledger_url: str) -> None:
    """A paid job whose process died an hour ago."""
    async with credentials.client() as client:
        request = JimengVideo(model="jimeng-video-3.0-720P", prompt="a lake")
        await submit_once(ledger, client, request, "run:gone")
    with sqlite3.connect(ledger_url.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE genmedia_jobs SET updated_at = updated_at - 3600, flow_run_id = 'gone'")


def environment(simulator: RunningSimulator, home: Path) -> dict[str, str]:
    """No Prefect server, and the keys in the environment."""
    own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    keys = {"GENMEDIA_TOKENOPS_API_KEY": simulator.key, "GENMEDIA_TOKENOPS_BASE_URL": simulator.tokenops_url}
    return {**own, **keys, "PREFECT_HOME": str(home), "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("server", [None, "http://127.0.0.1:9/api"], ids=["none is set", "it is away"])
async def test_without_a_prefect_server_a_lost_job_is_delivered_and_the_round_prints_one_line(
    server: str | None,
    ledger: Ledger,
    ledger_url: str,
    credentials: TokenOpsCredentials,
    simulator: RunningSimulator,
    tmp_path: Path,
) -> None:
    simulator.world.settings.run_seconds = 0.0
    await lost_job(ledger, credentials, ledger_url)
    env = environment(simulator, tmp_path / "home") | ({"PREFECT_API_URL": server} if server else {})
    answer = await asyncio.to_thread(
        subprocess.run, [*PROGRAM, "reconcile"], env=env, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    (line,) = answer.stdout.splitlines()
    assert "succeeded: 1 job, 1 delivered, 0 need a person; no Prefect server answers" in line
    (job,) = await ledger.jobs()
    assert job.state is JobState.DELIVERED
    assert simulator.accepted == 1
    assert not (await health(ledger)).is_overdue
    assert simulator.key not in answer.stdout + answer.stderr


async def test_sigterm_ends_the_process_with_status_0_and_gives_the_lease_back(
    simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "reconcile", "--every", "1h"],
        env=environment(simulator, tmp_path / "home"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert "succeeded" in await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 120) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    async with begin_round(ledger, "default", "next") as begun:
        assert isinstance(begun, Round)


class Written:
    """What the process prints."""

    def __init__(self) -> None:
        self.console = Console(record=True, width=200, file=Path(os.devnull).open("w"))  # noqa: SIM115 - the test's

    @property
    def lines(self) -> list[str]:
        return self.console.export_text(clear=False).splitlines()


async def no_server() -> bool:
    return False


async def test_a_process_that_is_stopped_in_a_round_cancels_it_and_gives_the_lease_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hangs(*_: Any) -> RoundReport:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(command, "server_answers", no_server)
    monkeypatch.setattr(reconcile_module, "_round", hangs)
    written = Written()
    process = command.ReconcileProcess(["default"], written.console)
    running = asyncio.create_task(process.run(60.0))
    await begun.wait()
    process.stop()
    assert await running == 0
    assert [line.partition("reconcile ")[2] for line in written.lines] == ["stopped"]
    async with begin_round(ledger, "default", "next") as next_round:
        assert isinstance(next_round, Round)


async def test_a_round_that_fails_is_one_line_and_the_next_one_comes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written()
    process = command.ReconcileProcess(["default"], written.console)
    rounds = 0

    async def fails_once(*_: Any) -> RoundReport:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a secret: hunter2")
        process.stop()
        return RoundReport()

    monkeypatch.setattr(command, "server_answers", no_server)
    monkeypatch.setattr(reconcile_module, "_round", fails_once)
    assert await process.run(0.0) == 0
    reported = [line.partition("reconcile ")[2] for line in written.lines]
    assert reported[0] == "failed: RuntimeError"
    assert (await health(ledger)).succeeded_at is not None


async def test_a_storage_that_hangs_keeps_no_job_from_being_collected_and_does_not_wedge_the_round(
    ledger: Ledger,
    ledger_url: str,
    credentials: TokenOpsCredentials,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    released = threading.Event()
    monkeypatch.setattr(reconcile_module, "STORAGE_SECONDS", 0.05)
    monkeypatch.setattr("prefect_genmedia._media.storage.LocalFolder.remove_stale", lambda _: released.wait())
    simulator.world.settings.__dict__.update(queue_seconds=0.0, run_seconds=0.0)
    await lost_job(ledger, credentials, ledger_url)
    try:
        report = await run_round([credentials], "default", server=False)
    finally:
        released.set()
    assert [finding.action for finding in report.findings] == ["delivered"]
    assert not (await health(ledger)).is_overdue


# --- Who notices ---


async def listed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    status = await asyncio.to_thread(app, ["jobs", "list", *words], result_action="return_int_as_exit_code_else_zero")
    assert status == 0
    reported = capsys.readouterr()
    return reported.out, reported.err


async def test_jobs_list_warns_while_no_round_has_succeeded_and_not_where_programs_read(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_genmedia._prefect.reconcile.server_answers", no_server)
    assert "econcile" not in "".join(await listed(capsys)), "no job waits to be collected"
    job = await ledger.reserve(Job(key="", identity="waits", provider="tokenops", account="a"))
    assert await ledger.start_sending(job, None)
    out, err = await listed(capsys, "--json")
    assert len(json.loads(out)) == 1
    assert "Reconcile has never succeeded with this ledger" in err
    assert "prefect-genmedia reconcile --every 10m" in err
    async with begin_round(ledger, "default", "any"):
        pass
    assert "econcile" not in (await listed(capsys))[1]
    with sqlite3.connect(await file_of(ledger)) as database:
        database.execute("UPDATE genmedia_reconciles SET succeeded_at = ?", [time.time() - OVERDUE_SECONDS - 60])
    assert "last succeeded 21 min ago" in (await listed(capsys))[1]


async def file_of(ledger: Ledger) -> str:
    from sqlalchemy import text

    rows = await ledger.transact(lambda connection: connection.execute(text("PRAGMA database_list")).fetchall())
    return str(rows[0][2])

"""A ledger that is away for a while fails no call; one that is lost, damaged or read-only fails with one sentence."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from clocks import QuickClock
from servers import postgres, postgres_tools
from sqlalchemy import Connection, create_engine, inspect

from prefect_genmedia._core import Job, JobState, Ledger, open_ledger, schema, wait_for_job
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.database import open_database
from prefect_genmedia._core.outages import PATIENCE_SECONDS
from prefect_genmedia.cli.jobs import app as jobs_command
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.providers.protocol import Observation, Phase

OUTAGE_SECONDS = 240.0


class Flaky:
    """A database that is away from one moment to another; with `after`, it is written and the answer is lost."""

    def __init__(self, database: Any, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self.dialect = database.dialect
        self.away = (float("inf"), float("inf"))
        self.lose_answers = 0

    async def run(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Any]:
        return await self._do(lambda: self._database.run(statement, values), statement.is_dml)

    async def transact(self, work: Any) -> Any:
        return await self._do(lambda: self._database.transact(work), True)

    async def _do(self, work: Any, writes: bool) -> Any:
        if self.away[0] <= self._clock.monotonic() < self.away[1]:
            raise LedgerError("away")
        done = await work()
        if writes and self.lose_answers:
            self.lose_answers -= 1
            raise LedgerError("the answer is lost")
        return done


@pytest.fixture
async def flaky(ledger_url: str) -> Any:
    database = await open_database(ledger_url)
    clock = QuickClock()
    stand_in = Flaky(database, clock)
    yield stand_in, Ledger(stand_in, clock), clock  # type: ignore[arg-type]
    await database.close()


class Running:
    """A provider whose job is done at the fourth poll."""

    def __init__(self) -> None:
        self.polls = 0

    async def poll(self, provider_job_id: str) -> Observation:
        self.polls += 1
        return Observation(Phase.SUCCEEDED, "done") if self.polls > 3 else Observation(Phase.RUNNING, f"{self.polls}")


WANTED = Job(key="", identity="i" * 64, provider="tokenops")


async def test_a_wait_survives_an_outage_of_minutes(flaky: Any) -> None:
    database, ledger, clock = flaky
    sending = await ledger.start_sending(await ledger.reserve(WANTED), None)
    job = await ledger.move(sending, JobState.SUBMITTED, provider_job_id="107")
    database.away = (1.0, 1.0 + OUTAGE_SECONDS)
    provider: Any = Running()
    done = await wait_for_job(ledger, provider, job, 3600.0, clock=clock)
    assert done.state is JobState.SUCCEEDED
    assert clock.passed > OUTAGE_SECONDS


async def test_patience_has_an_end(flaky: Any) -> None:
    database, ledger, clock = flaky
    database.away = (0.0, float("inf"))
    with pytest.raises(LedgerError) as caught:
        await ledger.reserve(WANTED)
    assert caught.value.retryable
    assert PATIENCE_SECONDS <= clock.passed < PATIENCE_SECONDS + 10


async def test_a_lost_answer_to_a_commit_changes_nothing(flaky: Any) -> None:
    database, ledger, _ = flaky
    database.lose_answers = 1
    reserved = await ledger.reserve(WANTED)
    spent: list[str] = []
    database.lose_answers = 1
    sending = await ledger.start_sending(reserved, None, spend=lambda _, job: spent.append(job.key))
    assert sending is not None
    assert spent == [reserved.key]
    database.lose_answers = 1
    submitted = await ledger.move(sending, JobState.SUBMITTED, provider_job_id="107")
    assert submitted is not None
    assert (submitted.state, submitted.provider_job_id) == (JobState.SUBMITTED, "107")
    assert await ledger.move(sending, JobState.REJECTED) is None


@pytest.mark.skipif(postgres_tools() is None, reason="needs Debian's postgresql")
@pytest.mark.timeout(300)
async def test_thirty_immediate_restarts_of_postgresql_fail_no_call() -> None:
    calls = 0
    with postgres() as url:
        async with open_ledger(url) as ledger:
            for _ in range(30):
                restarting = asyncio.create_task(asyncio.to_thread(_restart, url))
                while True:
                    over = restarting.done()  # one whole job after each restart
                    wanted = WANTED.model_copy(update={"identity": f"{calls}"})
                    sending = await ledger.start_sending(await ledger.reserve(wanted), None)
                    assert isinstance(sending, Job)
                    assert await ledger.move(sending, JobState.SUBMITTED, provider_job_id=str(calls)) is not None
                    calls += 1
                    if over:
                        break
                await restarting
            assert len(await ledger.jobs()) == calls


def _processes() -> list[str]:
    shown = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True)
    return shown.stdout.splitlines()


def _restart(url: str) -> None:
    tools, port = postgres_tools(), url.rpartition(":")[2].partition("/")[0]
    assert tools is not None
    (folder,) = {
        Path(line.split(" -D ")[1].split()[0])
        for line in _processes()
        if f"-p {port} " in line and " -D " in line and line.split()[0].endswith("postgres")
    }
    user = "postgres" if os.geteuid() == 0 else None
    command = [tools / "pg_ctl", "-D", folder, "-w", "-m", "immediate", "-l", folder.parent / "log", "restart"]
    subprocess.run(command, check=True, user=user, cwd=folder.parent, stdout=subprocess.DEVNULL)


# --- a ledger that is lost, damaged, read-only, or of another version ---


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _empty(file: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    file.write_bytes(b"")


def _execute(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement)
    connection.close()


SPOILED = {
    "removed": (lambda file: file.unlink(), "missing or empty"),
    "emptied": (_empty, "missing or empty"),
    "replaced by an empty database": (lambda file: (_empty(file), _execute(file, "CREATE TABLE x (y)")), "is empty"),
    "damaged": (lambda file: file.write_bytes(b"not a database, " * 1000), "damaged"),
    "newer": (
        lambda file: _execute(
            file, "UPDATE genmedia_schema_version SET version_num = '9999' WHERE version_num = '0006'"
        ),
        "newer version",
    ),
    "without version row": (lambda file: _execute(file, "DELETE FROM genmedia_schema_version"), "version is lost"),
    "without version table": (lambda file: _execute(file, "DROP TABLE genmedia_schema_version"), "version is lost"),
}


@pytest.mark.parametrize("how", SPOILED)
async def test_a_spoiled_ledger_is_refused_with_a_sentence_and_not_begun_anew(how: str, ledger_url: str) -> None:
    async with open_ledger(ledger_url) as ledger:
        await ledger.reserve(WANTED)
    spoil, sentence = SPOILED[how]
    spoil(_file(ledger_url))  # type: ignore[operator]
    for _ in range(2):
        with pytest.raises(LedgerError, match=sentence) as caught:
            async with open_ledger(ledger_url):
                pass
        assert not caught.value.retryable
        assert caught.value.next_step


async def test_a_new_ledger_that_another_process_migrates_between_two_questions_is_not_taken_for_a_damaged_one(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL each question sees what was committed by then."""
    asked: list[str] = []

    class Questions:
        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def has_table(self, name: str) -> bool:
            answer = bool(inspect(self.connection).has_table(name))
            if not asked:
                their_engine = create_engine(ledger_url)
                with their_engine.begin() as other, monkeypatch.context() as real:
                    real.setattr(schema, "inspect", inspect)
                    schema.migrate(other)
            asked.append(name)
            return answer

    engine = create_engine(ledger_url, isolation_level="AUTOCOMMIT")
    monkeypatch.setattr(schema, "inspect", Questions)
    with engine.connect() as connection:
        assert schema.is_current(connection)
    assert len(asked) >= 2


@pytest.mark.parametrize("how", ["newer", "without version row", "emptied"])
def test_the_command_line_says_it_in_a_sentence(how: str, ledger_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_opened(ledger_url))
    SPOILED[how][0](_file(ledger_url))  # type: ignore[operator]
    with pytest.raises(SystemExit):
        jobs_command(["list"])
    shown = capsys.readouterr()
    assert "Next: " in shown.err
    assert "Traceback" not in shown.err + shown.out


async def _opened(url: str) -> None:
    async with open_ledger(url):
        pass


async def test_deleting_the_marker_begins_a_new_ledger(ledger_url: str) -> None:
    await _opened(ledger_url)
    _file(ledger_url).unlink()
    Path(f"{_file(ledger_url)}.marker").unlink()
    async with open_ledger(ledger_url) as ledger:
        assert await ledger.jobs() == []


async def test_a_file_that_is_removed_in_use_takes_no_further_writes(ledger_url: str) -> None:
    async with open_ledger(ledger_url) as ledger:
        _file(ledger_url).unlink()
        with pytest.raises(LedgerError, match="removed or replaced"):
            await ledger.reserve(WANTED)


async def test_a_read_only_ledger_fails_closed(ledger_url: str) -> None:
    await _opened(ledger_url)
    with pytest.raises(LedgerError, match="read-only") as caught:
        async with open_ledger(f"sqlite:///file:{_file(ledger_url)}?mode=ro&uri=true") as ledger:
            await ledger.reserve(WANTED)
    assert "writable" in caught.value.next_step

"""Backups of a ledger: complete, from either database, and never restored over what was paid since."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from servers import postgres, postgres_tools

from prefect_genmedia import errors, housekeeping
from prefect_genmedia._core import Delivery, Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.account_admin import pause_account
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.budgets import Budget, holder_of
from prefect_genmedia._core.restore import restore_ledger as restore_at
from prefect_genmedia.cli.app import app
from prefect_genmedia.housekeeping import back_up_ledger, check_ledger, restore_ledger
from prefect_genmedia.providers.protocol import Account

DATABASES = ["sqlite", "postgresql"]
PAST = {
    JobState.RESERVED: (),
    JobState.SENDING: (JobState.SENDING,),
    JobState.SUBMITTED: (JobState.SENDING, JobState.SUBMITTED),
    JobState.DELIVERED: (JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if postgres_tools() is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    with postgres() as url:
        yield url


async def execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledger of the settings, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url = request.getfixturevalue("server")
    asyncio.run(execute(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL", url)
    return url


async def moved(ledger: Ledger, job: Job, *path: JobState) -> Job:
    delivery = Delivery(
        uri="/nowhere/a.mp4", sha256="a" * 64, bytes=1, seconds=5, width=1, height=1, codec="h264", has_audio=False
    )
    for state in path:
        facts: dict[str, Any] = {"provider_job_id": f"at-{job.identity}"} if state is JobState.SUBMITTED else {}
        if state is JobState.DELIVERED:
            facts = {"delivery": delivery}
        job = await ledger.move(job, state, **facts) or job
    return job


async def fill(url: str, *states: JobState) -> None:
    """One job in each state; its label is a text that a database may spoil."""
    async with open_ledger(url) as ledger:
        for state in states:
            wanted = Job(
                key="", identity=state.value, provider="tokenops", label="日落 \\ \t 'a'", cost_micros=8_600_000
            )
            await moved(ledger, await ledger.reserve(wanted), *PAST[state])


async def content(url: str) -> dict[str, dict[str, Any]]:
    async with open_ledger(url) as ledger:
        return {job.identity: job.model_dump() for job in await ledger.jobs()}


async def test_a_backup_holds_every_job_and_restores_a_lost_ledger(url: str, tmp_path: Path) -> None:
    await fill(url, JobState.SUBMITTED, JobState.DELIVERED)
    before = await content(url)
    report = await back_up_ledger(tmp_path / "backup.db")
    assert report.jobs == 2
    assert os.stat(tmp_path / "backup.db").st_mode & 0o777 == 0o600  # noqa: PTH116
    await lose(url, tmp_path)
    restored = await restore_ledger(tmp_path / "backup.db")
    assert (restored.jobs, restored.unknown, restored.kept) == (2, 0, None)
    assert await content(url) == before
    assert (await check_ledger()).problems == []


async def lose(url: str, tmp_path: Path) -> None:
    """The ledger's data are gone; on SQLite its marker is left, which refuses an empty ledger."""
    if not url.startswith("sqlite"):
        await execute(url, "DELETE FROM genmedia_jobs")
        return
    for file in tmp_path.glob("ledger.db*"):
        if not file.name.endswith(".marker"):
            file.unlink()


@pytest.mark.parametrize("news", ["a new job", "a later state"])
async def test_a_restore_that_would_forget_a_payment_is_refused(news: str, url: str, tmp_path: Path) -> None:
    await fill(url, JobState.RESERVED)
    await back_up_ledger(tmp_path / "backup.db")
    if news == "a new job":
        await fill(url, JobState.SUBMITTED)
    else:
        async with open_ledger(url) as ledger:
            (job,) = await ledger.jobs()
            await moved(ledger, job, JobState.SENDING, JobState.SUBMITTED)
    before = await content(url)
    with pytest.raises(errors.LedgerError, match=r"would be forgotten, and paid again\. Nothing was restored"):
        await restore_ledger(tmp_path / "backup.db")
    assert await content(url) == before

    report = await restore_ledger(tmp_path / "backup.db", force=True)
    assert (report.lost, report.older) == ((1, 0) if news == "a new job" else (0, 1))
    assert report.kept
    kept = await content(f"sqlite:///{report.kept}")
    assert kept == before, "what was forgotten can be read there"
    after = await content(url)
    state = JobState.RESERVED if news == "a new job" else JobState.UNKNOWN
    assert {job["state"] for job in after.values()} == {state}


async def test_what_may_have_been_sent_after_the_backup_is_unknown_and_not_sent_again(url: str, tmp_path: Path) -> None:
    await fill(url, JobState.RESERVED, JobState.SENDING, JobState.DELIVERED)
    await back_up_ledger(tmp_path / "backup.db")
    await lose(url, tmp_path)
    report = await restore_ledger(tmp_path / "backup.db")
    assert report.unknown == 2
    states = {name: job["state"] for name, job in (await content(url)).items()}
    assert states == {"reserved": JobState.UNKNOWN, "sending": JobState.UNKNOWN, "delivered": JobState.DELIVERED}


async def test_a_backup_of_one_database_is_restored_into_the_other(server: str, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path / 'ledger.db'}"
    await fill(source, JobState.SUBMITTED, JobState.DELIVERED)
    await back_up_ledger(tmp_path / "backup.db")
    await execute(server, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await restore_at(server, tmp_path / "backup.db")
    assert await content(server) == await content(source)


async def test_a_restore_keeps_an_account_paused_and_the_budgets_as_they_were(url: str, tmp_path: Path) -> None:
    async with open_ledger(url) as ledger:
        account = await resolve_account(ledger, Account("tokenops", "f" * 12, "https://a.example/v1"), "anna")
        await Budget(ledger, "b", 5, 100).open()
        await Budget(ledger, "b", 5, 100).reserve(holder_of("i" * 64, 1), 8)
        await back_up_ledger(tmp_path / "backup.db")
        await pause_account(ledger, account.id, "the key has leaked")
    await restore_ledger(tmp_path / "backup.db")
    async with open_ledger(url) as ledger:
        again = await resolve_account(ledger, Account("tokenops", "f" * 12, "https://a.example/v1"), "anna")
        assert again.paused_at is not None
        assert (await Budget(ledger, "b", 5, 100).state()).jobs == 1
    assert (await check_ledger()).problems == []


async def test_a_damaged_ledger_is_put_aside_only_if_that_is_forced(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    await fill(url, JobState.DELIVERED)
    before = await content(url)
    await back_up_ledger(tmp_path / "backup.db")
    (tmp_path / "ledger.db").write_bytes(b"no database at all " * 300)
    for journal in tmp_path.glob("ledger.db-*"):
        journal.unlink()
    with pytest.raises(errors.LedgerError, match="cannot be compared with the backup"):
        await restore_ledger(tmp_path / "backup.db")
    report = await restore_ledger(tmp_path / "backup.db", force=True)
    assert report.kept
    assert Path(report.kept).read_bytes().startswith(b"no database")
    assert await content(url) == before


@pytest.mark.parametrize("file", ["nothing", "text", "another database"])
async def test_what_is_no_backup_is_refused(file: str, tmp_path: Path) -> None:
    await fill(f"sqlite:///{tmp_path / 'ledger.db'}", JobState.DELIVERED)
    path = tmp_path / "file.db"
    if file == "text":
        path.write_text("text " * 1000)
    elif file == "another database":
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE other (x)")
    with pytest.raises(errors.LedgerError, match="is no backup that can be restored"):
        await restore_ledger(path, force=True)
    assert len(await content(f"sqlite:///{tmp_path / 'ledger.db'}")) == 1


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    await fill(f"sqlite:///{tmp_path / 'ledger.db'}", JobState.DELIVERED)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(errors.StorageError, match="a file is there already"):
        await back_up_ledger(tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(errors.StorageError, match="cannot be written"):
        await back_up_ledger(tmp_path / "no" / "folder" / "backup.db")


async def test_of_two_backups_to_one_name_at_once_one_is_there_and_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(url, JobState.DELIVERED)
    monkeypatch.setattr("prefect_genmedia._core.backup._check_new", lambda file: None)  # both look before either writes
    (tmp_path / "backup.db.part").write_text("mine")
    await back_up_ledger(tmp_path / "backup.db")
    first = (tmp_path / "backup.db").read_bytes()
    with pytest.raises(errors.StorageError, match="cannot be written: File exists"):
        await back_up_ledger(tmp_path / "backup.db")
    assert (tmp_path / "backup.db").read_bytes() == first
    assert (tmp_path / "backup.db.part").read_text() == "mine"
    assert len(list(tmp_path.glob("backup.db*"))) == 2


BROKEN = {
    "it is delivered and has no delivery": "UPDATE genmedia_jobs SET delivery = NULL WHERE state = 'delivered'",
    "the row cannot be right: state": "UPDATE genmedia_jobs SET state = 'paid' WHERE state = 'delivered'",
    "it is submitted and has no provider_job_id": "UPDATE genmedia_jobs SET provider_job_id = NULL",
    "attempts are missing": "UPDATE genmedia_jobs SET attempt = 3 WHERE state = 'delivered'",
    "does not exist": "UPDATE genmedia_jobs SET account_id = 'nobody'",
    "its cost is negative": "UPDATE genmedia_jobs SET cost_micros = -1",
}


@pytest.mark.parametrize("problem", BROKEN)
async def test_a_check_finds_rows_that_cannot_be_right(problem: str, tmp_path: Path) -> None:
    await fill(f"sqlite:///{tmp_path / 'ledger.db'}", JobState.SUBMITTED, JobState.DELIVERED)
    assert (await check_ledger()).problems == []
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute(BROKEN[problem])
    assert any(problem in each.problem for each in (await check_ledger()).problems)


async def test_a_check_reads_delivered_files_if_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    await fill(url, JobState.DELIVERED)
    assert (await check_ledger()).problems == []
    (lost,) = (await check_ledger(files=True)).problems
    assert lost.problem == "/nowhere/a.mp4 does not exist"
    async with open_ledger(url) as ledger:
        (job,) = await ledger.jobs()
        assert job.delivery
        (tmp_path / "a.mp4").write_bytes(b"edited")
        await ledger.note(job, delivery=job.delivery.model_copy(update={"uri": str(tmp_path / "a.mp4")}))
    (changed,) = (await check_ledger(files=True)).problems
    assert "has other bytes than were delivered" in changed.problem


def test_the_commands_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    asyncio.run(fill(url, JobState.DELIVERED))
    backup = str(tmp_path / "backup.db")

    def printed(*words: str) -> str:
        app(["ledger", *words], result_action="return_value")
        return capsys.readouterr().out

    assert "Jobs        1\n" in printed("backup", backup)
    assert "Problems    0" in printed("check")
    assert json.loads(printed("check", "--backup", backup, "--json")) == {
        "jobs": 1,
        "states": {"delivered": 1},
        "pruned": 0,
        "files": 0,
        "problems": [],
    }
    assert "bytes" in printed("vacuum")
    assert "would be paid again" in printed("restore", backup)
    asyncio.run(fill(url, JobState.SUBMITTED))
    with pytest.raises(SystemExit, match="1"):
        printed("restore", backup)
    assert "1 job that the backup does not have" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        printed("check", "--files")
    assert "/nowhere/a.mp4 does not exist" in capsys.readouterr().out


def test_what_is_public_is_named() -> None:
    assert all(hasattr(housekeeping, name) for name in housekeeping.__all__)

"""Accounts: a rotated key, another spelling of the base URL or another customer's key never pays anything twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobSpec, JobState, Ledger, Session, open_ledger, schema, submit_once
from prefect_genmedia._core.account_admin import (
    list_accounts,
    merge_accounts,
    pause_account,
    rename_account,
    resume_account,
)
from prefect_genmedia._core.accounts import learn_accounts, normalized_base_url, resolve_account
from prefect_genmedia._core.pipeline import find_job, run_job
from prefect_genmedia.cli.app import app
from prefect_genmedia.providers.protocol import Account
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

ONE, TWO, THREE = "sk-one", "sk-two", "sk-three"
URL = "https://api.example.com/v1"


@pytest.fixture
def provider(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> RunningSimulator:
    """One customer at the provider who has several keys."""
    monkeypatch.setattr(simulator.world, "keys", frozenset({ONE, TWO, THREE}))
    return simulator


def video(number: int = 0) -> JimengVideo:
    return JimengVideo(prompt=f"lake {number}", model="jimeng-video-3.0-720P")


def spec(number: int = 0, **options: Any) -> JobSpec:
    return JobSpec(video(number), scope=f"key:lake {number}", **options)


def account(key: str = ONE, base_url: str = URL) -> Account:
    return Account.of("tokenops", base_url, key)


@asynccontextmanager
async def opened(
    url: str, provider: RunningSimulator, key: str, name: str | None = "default", base_url: str | None = None
) -> AsyncIterator[Session]:
    """A session as a Block of this name and key opens it."""
    block = TokenOpsCredentials(api_key=key, base_url=base_url or provider.tokenops_url)
    async with block.client() as client, open_ledger(url) as ledger:
        yield Session(client, ledger, record=await resolve_account(ledger, client.account, name))


def posts(provider: RunningSimulator) -> int:
    """How many submissions the provider has got."""
    return provider.world.requests["tokenops.submit"]


# --- resolving ---


@pytest.mark.parametrize(
    "spelled",
    [
        "https://API.Example.com/v1",
        "https://api.example.com/v1/",
        "https://api.example.com:443/v1",
        "HTTPS://api.example.com./v1//",
        "https://api.example.com/x/../v1",
    ],
)
def test_spellings_of_one_base_url_are_one(spelled: str) -> None:
    assert normalized_base_url(spelled) == normalized_base_url(URL) == "https://api.example.com:443/v1"


@pytest.mark.parametrize("other", ["http://api.example.com/v1", "https://api.example.com:8443/v1", f"{URL}/V2"])
def test_another_scheme_port_or_path_is_another_base_url(other: str) -> None:
    assert normalized_base_url(other) != normalized_base_url(URL)
    assert normalized_base_url("http://[::1]:8080/v1/") == "http://[::1]:8080/v1"
    assert normalized_base_url("no URL") == "no URL"


async def test_a_known_key_decides_and_a_new_name_becomes_an_alias(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        first = await resolve_account(ledger, account(), "default")
        again = await resolve_account(ledger, account(), "batch")
        assert again.id == first.id
        assert again.names == ("default", "batch")
        assert await resolve_account(ledger, account(), None) == again


async def test_a_known_name_with_a_new_key_is_a_rotation_and_the_first_token_stays_first(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        first = await resolve_account(ledger, account(ONE), "default")
        rotated = await resolve_account(ledger, account(TWO), "default")
        assert rotated.id == first.id
        assert rotated.fingerprints == (account(ONE).fingerprint, account(TWO).fingerprint)
        assert rotated.tokens == (str(account(ONE)), str(account(TWO)))


async def test_a_name_and_a_key_of_two_accounts_are_refused_with_the_command(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        mine = await resolve_account(ledger, account(ONE), "default")
        theirs = await resolve_account(ledger, account(TWO), "customer-b")
        with pytest.raises(errors.AccountConflict) as caught:
            await resolve_account(ledger, account(TWO), "default")
        assert f"prefect-genmedia accounts merge {mine.id} {theirs.id}" in str(caught.value)
        assert (await resolve_account(ledger, account(TWO), "default", strict=False)).id == theirs.id
        await rename_account(ledger, "default", "customer-a")
        assert (await resolve_account(ledger, account(TWO), "default")).id == theirs.id


async def test_another_name_with_another_key_is_another_account(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        found = [
            await resolve_account(ledger, account(ONE), "a"),
            await resolve_account(ledger, account(TWO), "b"),
            await resolve_account(ledger, account(ONE, f"{URL}/other"), "a"),
            await resolve_account(ledger, account(THREE), None),
        ]
        assert len({each.id for each in found}) == 4


async def test_many_processes_that_resolve_at_once_make_one_account(shared_ledger: str) -> None:
    def resolved(key: str) -> str:
        async def work() -> str:
            async with open_ledger(shared_ledger) as ledger:
                return (await resolve_account(ledger, account(key), "default")).id

        return asyncio.run(work())

    async with open_ledger(shared_ledger) as ledger:
        keys = [ONE, TWO, THREE] * 4
        assert len(set(await asyncio.gather(*(asyncio.to_thread(resolved, key) for key in keys)))) == 1
        (listed,) = await list_accounts(ledger)
        assert len(listed.record.fingerprints) == len(listed.record.tokens) == 3


# --- ledgers of earlier versions ---


async def old_job(ledger: Ledger, payer: Account, identity: str, state: JobState = JobState.RESERVED) -> Job:
    """A job as a version without accounts writes it."""
    job = await ledger.reserve(Job(key="", identity=identity, provider=payer.provider, account=str(payer)))
    while job.state is not state:
        step = JobState.SENDING if job.state is JobState.RESERVED else state
        job = await ledger.move(job, step, **({"provider_job_id": identity} if step is state else {})) or job
    return job


async def test_three_spellings_with_one_key_are_one_account_with_three_tokens(shared_ledger: str) -> None:
    spelled = [URL, "https://API.example.com/v1/", "https://api.example.com:443/v1"]
    async with open_ledger(shared_ledger) as ledger:
        for number, base_url in enumerate(spelled):
            await old_job(ledger, account(ONE, base_url), f"job {number}")
        await old_job(ledger, account(TWO), "of another key")
        await ledger.transact(learn_accounts)
        await ledger.transact(learn_accounts)  # once is enough
        mine, other = await list_accounts(ledger)
        assert mine.record.tokens == tuple(str(account(ONE, each)) for each in spelled)
        assert other.record.tokens == (str(account(TWO)),)
        assert {job.account for job in await ledger.jobs()} == {*mine.record.tokens, *other.record.tokens}


async def test_jobs_of_a_key_that_only_a_worker_of_an_earlier_version_used_are_found(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        await old_job(ledger, account(ONE, f"{URL}/"), "by an old worker")
        record = await resolve_account(ledger, account(ONE, "https://api.example.com:443/v1"), "default")
        assert record.tokens[0] == str(account(ONE))
        assert record.pays_for(str(account(ONE, f"{URL}/")))


async def test_jobs_in_flight_are_counted_over_all_keys_and_spellings(shared_ledger: str) -> None:
    payers = [account(ONE), account(TWO), account(ONE, "https://API.example.com:443/v1/")]
    async with open_ledger(shared_ledger) as ledger:
        for payer in payers:
            await resolve_account(ledger, payer, "default")
        for number, payer in enumerate(payers):
            await old_job(ledger, payer, f"job {number}", JobState.SUBMITTED)
        assert [await ledger.in_flight(str(payer)) for payer in payers] == [3, 3, 3]
        waiting = await ledger.reserve(Job(key="", identity="x", provider="tokenops", account=str(account(TWO))))
        assert await ledger.start_sending(waiting, None, 3) is None
        assert await ledger.start_sending(waiting, None, 4) is not None


OLD_JOB = """
INSERT INTO genmedia_jobs (key, identity, attempt, scope, variant, provider, account, kind, model, label, request,
    expectation, state, outputs, created_at, updated_at)
VALUES ('{key}', '{key}', 1, '', 0, 'tokenops', '{account}', '', '', '', '{{}}', '{{}}', 'sending', 1, 0, 0)
"""


async def without_accounts(url: str) -> None:
    """Make a ledger of the version before accounts of a present one, with one job in it."""
    from alembic import command
    from alembic.config import Config

    from prefect_genmedia._core import database

    def downgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0005@0002")
        connection.execute(text(OLD_JOB.format(key="old", account=account())))

    ledger = await database.open_database(url)
    await ledger.transact(downgrade)
    await ledger.close()


async def test_workers_of_earlier_versions_go_on_with_a_migrated_ledger(shared_ledger: str) -> None:
    await without_accounts(shared_ledger)
    async with open_ledger(shared_ledger) as ledger:
        (listed,) = await list_accounts(ledger)
        assert listed.record.tokens == (str(account()),)

        def by_an_old_worker(connection: Connection) -> list[str]:
            versions = connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalars().all()
            connection.execute(text(OLD_JOB.format(key="newer", account=account(TWO))))
            accepted = "UPDATE genmedia_jobs SET state = 'submitted', provider_job_id = 'p1' WHERE key = 'old'"
            connection.execute(text(accepted))
            return list(versions)

        versions = await ledger.transact(by_an_old_worker)
        assert versions[0] == "0003", "version 0003 looks at the first row alone"
        assert set(versions) >= {"0003", "0004"}, "version 0004 wants both"
        accepted = await ledger.get("old")
        assert accepted is not None
        assert (accepted.state, accepted.provider_job_id) == (JobState.SUBMITTED, "p1")
        assert len(await list_accounts(ledger)) == 2


async def test_a_sqlite_ledger_is_backed_up_before_it_is_migrated(tmp_path: Path) -> None:
    ledger_file = tmp_path / "ledger.db"
    async with open_ledger(f"sqlite:///{ledger_file}"):
        assert not list(tmp_path.glob("*.backup-*")), "a new ledger has nothing to lose"
    await without_accounts(f"sqlite:///{ledger_file}")
    async with open_ledger(f"sqlite:///{ledger_file}") as ledger:
        (copy,) = tmp_path.glob("ledger.db.backup-0003-0004-*")
        assert copy.stat().st_mode & 0o777 == 0o600
        with sqlite3.connect(copy) as before:
            assert before.execute("SELECT key, state FROM genmedia_jobs").fetchall() == [("old", "sending")]
            tables = {name for (name,) in before.execute("SELECT name FROM sqlite_master")}
            assert "genmedia_accounts" not in tables
            assert before.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert await ledger.get("old") is not None
    async with open_ledger(f"sqlite:///{ledger_file}"):
        assert list(tmp_path.glob("*.backup-*")) == [copy]


async def test_a_ledger_that_cannot_be_backed_up_is_not_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    await without_accounts(url)

    def no_room(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_room)
        with pytest.raises(errors.StorageError, match="cannot be backed up") as caught:
            async with open_ledger(url):
                raise AssertionError("it was opened")
    assert caught.value.paid == "nothing"
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'genmedia_accounts'").fetchall()
    assert not list(tmp_path.glob("*.part"))
    async with open_ledger(url) as ledger:
        assert await ledger.get("old") is not None


# --- submitting ---


async def test_a_rotated_key_finds_every_job_and_pays_nothing_again(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE) as session:
        before = [await submit_once(session, spec(number)) for number in range(3)]
    async with opened(shared_ledger, provider, TWO) as session:
        after = [await submit_once(session, spec(number)) for number in range(3)]
        assert await find_job(session, spec(0)) == before[0]
        new = await submit_once(session, spec(3))
    assert [job.key for job in after] == [job.key for job in before]
    assert posts(provider) == 4
    assert new.account == str(session.account), "the payer is the key that was sent"
    assert new.identity_token == before[0].account, "the identity is made by the first token"
    assert new.account_id == before[0].account_id


async def test_a_job_that_was_reserved_with_the_old_key_is_sent_and_paid_by_the_new_one(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE) as session:
        await pause_account(session.ledger, "default")
        with pytest.raises(errors.AccountPaused):
            await submit_once(session, spec())
        await resume_account(session.ledger, "default")
    async with opened(shared_ledger, provider, TWO) as session:
        job = await submit_once(session, spec())
        (row,) = await session.ledger.jobs()
        assert (row.key, row.account) == (job.key, str(session.account))


async def test_a_new_attempt_keeps_the_identity_of_the_one_before(ledger_url: str, provider: RunningSimulator) -> None:
    async with opened(ledger_url, provider, ONE) as session:
        job = await submit_once(session, spec())
        await session.ledger.move(job, JobState.FAILED, error_kind="GenerationFailed", root_run_id="an earlier run")
    async with opened(ledger_url, provider, TWO) as session:
        again = await submit_once(session, spec())
    assert (again.identity, again.attempt) == (job.identity, 2)


async def test_another_spelling_of_the_base_url_finds_the_job(shared_ledger: str, provider: RunningSimulator) -> None:
    async with opened(shared_ledger, provider, ONE) as session:
        job = await submit_once(session, spec())
    spelled = provider.tokenops_url.replace("http://", "HTTP://") + "/"
    async with opened(shared_ledger, provider, ONE, name=None, base_url=spelled) as session:
        assert await submit_once(session, spec()) == job
    assert posts(provider) == 1


async def test_the_same_request_under_a_second_account_is_refused_before_it_is_sent(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE, "customer-a") as session:
        job = await submit_once(session, spec())
        first = session.record
    async with opened(shared_ledger, provider, TWO, "customer-b") as session:
        with pytest.raises(errors.AccountConflict, match=f"job {job.key} of account") as caught:
            await submit_once(session, spec())
        assert first is not None
        assert session.record is not None
        assert f"prefect-genmedia accounts merge {first.id} {session.record.id}" in str(caught.value)
        assert "allow_second_account=True" in str(caught.value)
        assert posts(provider) == 1
        await submit_once(session, spec(1))  # another request is no second payment
        allowed = await submit_once(session, spec(allow_second_account=True))
        assert allowed.key != job.key
        assert posts(provider) == 3
        assert await submit_once(session, spec()) == allowed, "what an account has paid for itself is joined"


async def test_two_accounts_that_send_the_same_request_at_the_same_moment_pay_once(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE, "a") as one, opened(shared_ledger, provider, TWO, "b") as two:
        both = await asyncio.gather(*(submit_once(each, spec()) for each in (one, two)), return_exceptions=True)
    assert sorted(type(each) for each in both if isinstance(each, Exception)) == [errors.AccountConflict]
    assert posts(provider) == 1


async def test_merged_accounts_share_what_both_have_paid_for_and_no_row_is_rewritten(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE, "a") as session:
        first = await submit_once(session, spec(1))
    async with opened(shared_ledger, provider, TWO, "b") as session:
        second = await submit_once(session, spec(2))
        before = await session.ledger.jobs()
        merged = await merge_accounts(session.ledger, "a", "b")
        assert await session.ledger.jobs() == before
        assert merged.names == ("a", "b")
        assert merged.tokens == (first.account, second.account)
        assert [each.record.id for each in await list_accounts(session.ledger)] == [merged.id]
        # A session that was opened before the merge meets the guard.
        assert (await submit_once(session, spec(3))).state is JobState.SUBMITTED
    for key, name in ((ONE, "a"), (TWO, "b"), (TWO, "a")):
        async with opened(shared_ledger, provider, key, name) as session:
            assert [(await submit_once(session, spec(number))).key for number in (1, 2)] == [first.key, second.key]
    assert posts(provider) == 3


async def test_a_session_from_before_a_merge_joins_what_the_other_account_has_paid(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    async with opened(shared_ledger, provider, ONE, "a") as one, opened(shared_ledger, provider, TWO, "b") as two:
        job = await submit_once(one, spec())
        await merge_accounts(one.ledger, "a", "b")
        assert await submit_once(two, spec()) == job
    assert posts(provider) == 1


# --- pausing ---


async def test_a_paused_account_sends_nothing_while_waiting_and_delivery_go_on(
    shared_ledger: str, provider: RunningSimulator, tmp_path: Path
) -> None:
    async with opened(shared_ledger, provider, ONE) as session:
        job = await submit_once(session, spec())
        await pause_account(session.ledger, "default", "the key has leaked", by="Ann")
        with pytest.raises(errors.AccountPaused, match=r"paused by Ann: the key has leaked") as caught:
            await submit_once(session, spec(1))
        assert f"accounts resume {session.record.id if session.record else ''}" in caught.value.next_step
        assert not caught.value.retryable
        delivered = await run_job(session, spec(output=f"{tmp_path}/out/"))
        assert (delivered.key, delivered.state) == (job.key, JobState.DELIVERED)
        assert posts(provider) == 1
        await resume_account(session.ledger, "default")
        await submit_once(session, spec(1))
        assert posts(provider) == 2


async def test_what_runs_meanwhile_sends_nothing_once_the_pause_is_written(
    shared_ledger: str, provider: RunningSimulator
) -> None:
    """Every submission has either begun when `pause_account` returns, or is refused."""

    async with opened(shared_ledger, provider, ONE) as session:

        async def keep_sending() -> int:
            for number in range(1000):
                try:
                    await submit_once(session, spec(number))
                except errors.AccountPaused:
                    return number
            raise AssertionError("it was never refused")

        sending = asyncio.create_task(keep_sending())
        while posts(provider) < 3:
            await asyncio.sleep(0)
        await pause_account(session.ledger, "default")
        begun = [job for job in await session.ledger.jobs() if job.state is not JobState.RESERVED]
        await sending
        assert posts(provider) == len(begun)


# --- the commands ---


async def reported(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What the command prints."""
    code = await asyncio.to_thread(app, ["accounts", *words], result_action="return_int_as_exit_code_else_zero")
    assert code == status
    return capsys.readouterr().out


async def test_the_commands_list_rename_merge_pause_and_resume(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_genmedia._prefect import session as session_module

    events: list[tuple[str, str]] = []
    monkeypatch.setattr(
        session_module,
        "emit_event",
        lambda event, resource, payload: events.append((event, resource["prefect.resource.id"])),
    )
    monkeypatch.setenv("COLUMNS", "300")
    one = await resolve_account(ledger, account(ONE), "default")
    two = await resolve_account(ledger, account(TWO), "[red]b")
    await old_job(ledger, account(ONE), "in flight", JobState.SUBMITTED)

    assert {one.id, two.id} <= set((await reported(capsys, "list")).split())
    listed = json.loads(await reported(capsys, "list", "--json"))
    assert [(each["names"], each["in_flight"]) for each in listed] == [(["default"], 1), (["[red]b"], 0)]

    await reported(capsys, "pause", one.id[:5], "--reason", "too dear")
    assert "too dear" in await reported(capsys, "list")
    await reported(capsys, "resume", "tokenops/default")
    assert events == [(f"genmedia.account.{what}", f"genmedia.account.{one.id}") for what in ("paused", "resumed")]

    await reported(capsys, "rename", "default", "customer-a")
    await reported(capsys, "merge", "customer-a", "[red]b")
    (listed,) = json.loads(await reported(capsys, "list", "--json"))
    assert listed["names"] == ["customer-a", "[red]b"]
    assert listed["id"] == one.id


@pytest.mark.parametrize(
    "words",
    [("pause", "nobody"), ("resume", "default"), ("merge", "default", "default"), ("merge", "default", "other")],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    await resolve_account(ledger, account(ONE), "default")
    await resolve_account(ledger, account(ONE, f"{URL}/elsewhere"), "other")
    with pytest.raises(SystemExit):
        await asyncio.to_thread(app, ["accounts", *words])
    assert "Traceback" not in capsys.readouterr().err


async def test_a_name_that_accounts_of_two_providers_have_needs_more(ledger: Ledger) -> None:
    tokenops = await resolve_account(ledger, account(ONE), "default")
    await resolve_account(ledger, Account.of("jenius", URL, ONE), "default")
    with pytest.raises(errors.InvalidRequest, match=tokenops.id):
        await pause_account(ledger, "default")
    assert (await pause_account(ledger, "tokenops/default")).id == tokenops.id


async def test_hidreams_user_id_names_the_account_beside_a_daily_token(ledger: Ledger) -> None:
    found = []
    for token, user_id in [("t1", "user-7"), ("t2", "user-7"), ("t3", "user-8")]:
        block = HiDreamCredentials(token=token, user_id=user_id, base_url=URL)
        async with block.client() as client:
            found.append(await resolve_account(ledger, client.account, block.name_of_account))
    assert found[0] == found[1] != found[2]


async def test_the_name_of_an_account_is_its_blocks_account_name_or_document_name(prefect_server: None) -> None:
    fields = {"api_key": ONE, "base_url": URL}
    assert TokenOpsCredentials(**fields).name_of_account is None
    assert TokenOpsCredentials(**fields, account_name="  ").name_of_account is None
    await TokenOpsCredentials(**fields).save("of-the-team", overwrite=True)
    assert (await TokenOpsCredentials.aload("of-the-team")).name_of_account == "of-the-team"
    await TokenOpsCredentials(**fields, account_name="company").save("of-the-team", overwrite=True)
    assert (await TokenOpsCredentials.aload("of-the-team")).name_of_account == "company"

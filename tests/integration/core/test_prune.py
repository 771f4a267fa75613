"""Pruning drops what jobs say, and nothing of what keeps a result from being paid again."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import postgres, postgres_tools
from sqlalchemy import insert

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.attempts import Asker, holds_payment, next_attempt
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.prune import DROPPED, PruneFilter, prune
from prefect_genmedia._core.schema import jobs as table
from prefect_genmedia._core.statements import columns_of
from prefect_genmedia.cli.app import app
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.prune import prune_jobs
from prefect_genmedia.simulator import RunningSimulator

NOW = 2_000_000_000.0
DAY = 86400.0
SECRET = "the words that must go"


class FixedClock(Clock):
    """A clock that stands."""

    def now(self) -> float:
        return NOW


DELIVERY = Delivery(
    uri="/media/a.mp4", sha256="a" * 64, bytes=1, seconds=5, width=1, height=1, codec="h264", has_audio=False
)
FINAL_AT_ONCE = {JobState.FAILED, JobState.REJECTED, JobState.ABANDONED}


def job(**facts: Any) -> Job:
    """An old job that tells the secret wherever a job has words."""
    texts = {name: SECRET for name, value in DROPPED.items() if value is None or value == ""}
    texts |= {"request": {"prompt": SECRET}, "evidence": {"request_id": SECRET}}
    decided = {"decision": "abandon", "fields": {"state": "unknown", "error_message": SECRET, "note": SECRET}}
    old = {"created_at": NOW - 900 * DAY, "updated_at": NOW - 800 * DAY, "before_decision": decided}
    return Job(**{"key": "", "identity": "i", "provider": "tokenops", "account": "a", **texts, **old, **facts})


async def written(ledger: Ledger, *jobs: Job) -> None:
    rows = [columns_of(each) | {"key": each.key or f"{number:012x}"} for number, each in enumerate(jobs)]
    await ledger.transact(lambda connection: connection.execute(insert(table), rows) and None)


@pytest.fixture
async def ledger(ledger_url: str) -> Any:
    async with open_ledger(ledger_url, FixedClock()) as opened:
        yield opened


states = st.sampled_from(list(JobState))
kinds = st.sampled_from([None, "InputRefused", "OutputRefused", "GenerationFailed", "JobExpired", "ResultInvalid"])
ages = st.sampled_from([None, NOW - 700 * DAY, NOW - 3600, NOW + 3600])


@st.composite
def attempts(draw: Any) -> list[Job]:
    """All attempts at one result, in whatever states rows may ever be."""
    return [
        job(
            attempt=number,
            state=draw(states),
            error_kind=draw(kinds),
            expires_at=draw(ages),
            submitted_at=draw(ages),
            delivery=draw(st.sampled_from([None, DELIVERY])),
            root_run_id=draw(st.sampled_from(["one", "other"])),
            identity_version=draw(st.sampled_from([None, 2])),
            updated_at=draw(st.sampled_from([NOW - 800 * DAY, NOW - 1.0])),
            cost_micros=draw(st.sampled_from([None, 0, 8_600_000])),
        )
        for number in range(1, draw(st.integers(1, 3)) + 1)
    ]


ASKERS = [
    Asker(run, ask_again, by_person)
    for run in ("one", "new")
    for ask_again in (True, False)
    for by_person in (True, False)
]


class PrunedLedgers:
    """A ledger for all examples: making one takes longer than pruning it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.opened = open_ledger(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}", FixedClock())
        self.ledger: Ledger = self.loop.run_until_complete(self.opened.__aenter__())

    def pruned(self, jobs: list[Job]) -> list[Job]:
        return self.loop.run_until_complete(self._pruned(jobs))

    async def _pruned(self, jobs: list[Job]) -> list[Job]:
        await self.ledger.transact(lambda connection: connection.execute(table.delete()) and None)
        await written(self.ledger, *jobs)
        await prune(self.ledger, PruneFilter(older_than_seconds=365 * DAY), vacuum=False)
        return sorted(await self.ledger.jobs(), key=lambda each: each.attempt)

    def close(self) -> None:
        self.loop.run_until_complete(self.opened.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def ledgers() -> Iterator[PrunedLedgers]:
    ledgers = PrunedLedgers()
    yield ledgers
    ledgers.close()


@settings(max_examples=150)
@given(before=attempts())
def test_a_pruned_result_is_asked_for_again_exactly_as_before(ledgers: PrunedLedgers, before: list[Job]) -> None:
    after = ledgers.pruned(before)
    for old, new in zip(before, after, strict=True):
        new = new.model_copy(update={"key": old.key})
        assert holds_payment(new, NOW) == holds_payment(old, NOW)
        assert new.rerun(NOW) is old.rerun(NOW)
        assert [next_attempt(new, asker, NOW) for asker in ASKERS] == [
            next_attempt(old, asker, NOW) for asker in ASKERS
        ]
        assert new.micros == old.micros
        if new.pruned_at is None:
            assert new == old, "what is not pruned is not touched"
            continue
        is_over = old.is_over(NOW) and old.state in (JobState.DELIVERED, JobState.UNDELIVERABLE)
        assert old.state in FINAL_AT_ONCE or is_over
        assert SECRET not in new.model_dump_json()
        dropped = {*DROPPED, "pruned_at", "before_decision"}
        assert new.model_dump(exclude=dropped) == old.model_dump(exclude=dropped)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_old_final_jobs_are_pruned_and_no_others(database: str, ledger_url: str) -> None:
    if database == "postgresql" and postgres_tools() is None:
        pytest.skip("no PostgreSQL on this machine")
    rows = [
        job(key="0ld", identity="1", state=JobState.DELIVERED, delivery=DELIVERY, submitted_at=NOW - 800 * DAY),
        job(key="new", identity="2", state=JobState.FAILED, updated_at=NOW - DAY),
        job(key="here", identity="3", state=JobState.DELIVERED, delivery=DELIVERY, expires_at=NOW + 60),
        *(
            job(key=state.value, identity=state.value, state=state)
            for state in JobState
            if state not in FINAL_AT_ONCE | {JobState.DELIVERED, JobState.UNDELIVERABLE}
        ),
    ]

    async def kept(url: str) -> set[str]:
        async with open_ledger(url, FixedClock()) as ledger:
            await written(ledger, *rows)
            wanted = PruneFilter.read("1y")
            planned = await prune(ledger, wanted, dry_run=True)
            assert (planned.jobs, planned.bytes_after) == (1, None)
            assert all(each.pruned_at is None for each in await ledger.jobs())
            report = await prune(ledger, wanted)
            assert report.jobs == 1
            assert report.not_final == 6
            assert report.bytes_after
            assert (await prune(ledger, wanted)).jobs == 0
            return {each.key for each in await ledger.jobs() if each.pruned_at is None}

    if database == "sqlite":
        assert await kept(ledger_url) == {row.key for row in rows} - {"0ld"}
    else:
        with postgres() as url:
            assert await kept(url) == {row.key for row in rows} - {"0ld"}


async def test_nothing_of_a_pruned_text_is_left_in_the_file(ledger: Ledger, tmp_path: Path) -> None:
    long = SECRET * 500  # on pages of its own
    await written(ledger, *(job(identity=str(number), state=JobState.FAILED, note=long) for number in range(30)))
    await prune(ledger, PruneFilter.read("1y"))
    content = b"".join(file.read_bytes() for file in tmp_path.glob("ledger.db*"))
    assert SECRET.encode() not in content
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("condition", "pruned"),
    [
        ({"label": "ANNA"}, "ab"),
        ({"idempotency_key": "k"}, "b"),
        ({"label": "anna", "older_than": "1y"}, "a"),
    ],
    ids=str,
)
async def test_a_request_to_be_forgotten_is_met_by_label_or_key(
    condition: dict[str, str], pruned: str, ledger: Ledger
) -> None:
    rows = [
        job(key="a", identity="a", state=JobState.FAILED, label="for Anna", scope="key:other"),
        job(key="b", identity="b", state=JobState.FAILED, label="anna", scope="key:k", updated_at=NOW - 60),
        job(key="c", identity="c", state=JobState.FAILED, label="Bert", scope="key:k2", updated_at=NOW - 60),
        job(key="d", identity="d", state=JobState.UNKNOWN, label="anna", scope="key:k"),
    ]
    await written(ledger, *rows)
    report = await prune(ledger, PruneFilter.read(**condition))
    assert {each.key for each in await ledger.jobs() if each.pruned_at} == set(pruned)
    assert report.not_final == 1, "a person must know that one job is left"


@pytest.mark.parametrize("age", ["6m", "1", "y", "-1d", "1 month", "1.5y"])
def test_an_age_that_may_be_misread_is_refused(age: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="takes days, weeks or years"):
        PruneFilter.read(age)


def test_pruning_without_a_condition_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        app(["jobs", "prune"])
    assert "give an age, a label or an idempotency key" in capsys.readouterr().err


def age_all(tmp_path: Path) -> None:
    """Two years pass."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        times = [row[1] for row in database.execute("PRAGMA table_info(genmedia_jobs)") if row[1].endswith("_at")]
        database.execute(f"UPDATE genmedia_jobs SET {', '.join(f'{name} = {name} - {730 * DAY}' for name in times)}")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("ending", ["delivered", "refused", "gone"])
async def test_a_pruned_result_is_not_paid_again_by_the_same_request(
    ending: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    async def again() -> Any:
        return await jimeng_video(
            prompt=SECRET,
            model="jimeng-video-3.0-720P",
            credentials=credentials,
            idempotency_key="k",
            return_state=True,
        )

    if ending == "refused":
        simulator.order("fail_input")
    first = await again()
    accepted = simulator.accepted
    age_all(tmp_path)
    if ending == "gone":
        Path((await first.aresult()).uri).unlink()
    assert await prune_jobs(older_than="1y", dry_run=False) == 1
    state = await again()
    assert simulator.accepted == accepted, "nothing is sent"
    if ending == "refused":
        assert "InputRefused" in state.message
        assert "pruned" in state.message
    else:  # a file that is gone is fetched again, since this provider still has it
        assert (await state.aresult()).sha256 == (await first.aresult()).sha256
    assert SECRET not in (tmp_path / "ledger.db").read_bytes().decode("utf-8", "replace")


@pytest.mark.usefixtures("prefect_server")
async def test_the_form_shows_first_what_would_be_pruned(ledger: Ledger) -> None:
    await written(ledger, job(state=JobState.FAILED, updated_at=1.0))
    assert await prune_jobs() == 1
    assert [each.pruned_at for each in await ledger.jobs()] == [None]


def test_the_command_says_what_was_pruned(ledger_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def write() -> None:
        async with open_ledger(ledger_url) as ledger:
            await written(
                ledger,
                *(
                    job(identity=state.value, state=state, updated_at=1.0)
                    for state in (JobState.FAILED, JobState.UNKNOWN)
                ),
            )

    asyncio.run(write())
    app(["jobs", "prune", "--older-than", "1y", "--dry-run"], result_action="return_value")
    assert "1 job would be pruned.\n1 more job is not final and stays until it ends and the" in capsys.readouterr().out
    app(["jobs", "prune", "--older-than", "1y"], result_action="return_value")
    assert "1 job was pruned." in capsys.readouterr().out

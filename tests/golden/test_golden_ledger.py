"""A ledger that an earlier commit has left: its jobs go on, and nothing in it is paid again.

`make_ledger.py` wrote `ledger-0003.sqlite`; `ledger-0003.json` says of each job how the same result is asked for again,
what must come of that, and how many submissions it may send. The provider's own server counts them.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import access
import fsspec
import httpx
import pytest
import wire
from ledger_items import EXCHANGED, KEYS
from make_ledger import rows_of

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

HERE = Path(__file__).parent
LEDGER = HERE / "ledger-0003.sqlite"
REPORTED: dict[str, Any] = json.loads((HERE / "ledger-0003.json").read_text("utf-8"))
ITEMS = [item for item in REPORTED["items"] if item["keyed"]]
BEFORE_STALE = 60.0
"""Seconds by which the ledger's last write is older than what makes a submission that was never finished unknown."""

PATIENCE = access.STALE_SENDING_SECONDS + BEFORE_STALE + 240.0
"""Seconds from a job's acceptance: what is not found at the provider must end the test."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Any]:
    """The simulator, at the host that the ledger's base URLs name."""
    with access.few_frames(), access.simulated(KEYS) as simulator, wire.leading_to(simulator.url):
        simulator.world.settings.queue_seconds = simulator.world.settings.run_seconds = 0.05
        yield simulator


class Fixture:
    """A copy of the ledger, and a provider that knows the jobs in it."""

    def __init__(self, simulator: Any, ledger: Path) -> None:
        self.simulator = simulator
        self.ledger = ledger
        self.token = httpx.get(
            f"{simulator.url}/hidream/prod-api/user/apikey2token", headers={"Api-Key": "golden-key"}
        ).json()["result"]["token"]

    @property
    def posts(self) -> int:
        """How many submissions the provider has got."""
        requests = httpx.get(f"{self.simulator.url}/control/report").json()["requests"]
        return sum(count for name, count in requests.items() if name.endswith(".submit"))

    def block(self, account: str) -> Any:
        """The Block of an account; its user has another token today."""
        options = dict(REPORTED["accounts"][account])
        if options.get("token") == EXCHANGED:
            options["token"] = self.token
        return access.BLOCKS[options.pop("block")](**options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The ledger's jobs as they are now."""
        return rows_of(self.ledger)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        with sqlite3.connect(self.ledger) as database:
            return database.execute(statement).fetchall()


@pytest.fixture
def fixture(provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """The ledger as if it had been written some minutes ago, its delivered files in place, its jobs at the provider."""
    monkeypatch.chdir(HERE)  # one's own files are named by relative paths
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_PRIVATE_HOSTS", "true")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_POLL_LONGEST_SECONDS", "0.1")  # old jobs are polled seldom
    httpx.post(f"{provider.url}/control/reset")
    ledger = tmp_path / "ledger.db"  # where the settings look
    shutil.copy(LEDGER, ledger)
    _bring_up_to_now(ledger)
    _put_files()
    httpx.post(f"{provider.url}/golden/seed", json=_jobs_at_provider(ledger), timeout=60).raise_for_status()
    return Fixture(provider, ledger)


def _bring_up_to_now(ledger: Path) -> None:
    """Move every time by the same number of seconds: jobs expire hours after they were made, and the file stays."""
    with sqlite3.connect(ledger) as database:
        (last,) = database.execute("SELECT max(updated_at) FROM genmedia_jobs").fetchone()
        times = [row[1] for row in database.execute("PRAGMA table_info(genmedia_jobs)") if row[1].endswith("_at")]
        by = time.time() - last - access.STALE_SENDING_SECONDS - BEFORE_STALE
        moved = ", ".join(f"{name} = {name} + {by}" for name in [*times, "not_before"])
        database.execute(f"UPDATE genmedia_jobs SET {moved}")


def _put_files() -> None:
    """The delivered files, but for those that were lost."""
    memory = fsspec.filesystem("memory")
    if memory.exists("/golden"):
        memory.rm("/golden", recursive=True)
    lost = {item["name"] for item in REPORTED["items"] if item["file_is_lost"]}
    for place, name in REPORTED["files"].items():
        if place.split("/")[3] not in lost:
            memory.pipe_file(place.removeprefix("memory:/"), (HERE / name).read_bytes())


def _jobs_at_provider(ledger: Path) -> list[dict[str, Any]]:
    """What the provider still has: every job with an id whose generation did not fail."""
    keys = {"tokenops": "sk-golden-one", "jenius": "sk-golden-one", "hidream": "golden-key"}
    known = {}
    with sqlite3.connect(ledger) as database:
        database.row_factory = sqlite3.Row
        for row in database.execute("SELECT * FROM genmedia_jobs WHERE provider_job_id IS NOT NULL"):
            if row["state"] == "failed" or row["error_kind"] == "JobExpired":
                continue
            second = row["account"].startswith(_account("tokenops, another key"))
            known[row["provider_job_id"]] = {
                "id": row["provider_job_id"],
                "provider": row["provider"],
                "key": "sk-golden-two" if second else keys[row["provider"]],
                "body": {"prompt": "firework", "expectation": json.loads(row["expectation"])},
            }
    return list(known.values())


def _account(name: str) -> str:
    """How the text of an account's rows begins: provider and fingerprint."""
    key = next(item["jobs"][0] for item in REPORTED["items"] if item["account"] == name)
    account: str = REPORTED["rows"][key]["account"]
    return account.partition("@")[0]


async def ending_of(run: Any) -> str:
    """`delivered`, or the name of the error that a run ends with."""
    try:
        await run
    except access.ERRORS.GenMediaError as error:
        return str(error.kind)
    return "delivered"


async def test_every_row_is_read_as_it_was_written(fixture: Fixture) -> None:
    async with access.ledger_at(fixture.ledger) as ledger:
        jobs = {job.key: job for job in await ledger.jobs()}
    assert jobs.keys() == REPORTED["rows"].keys()
    for key, row in REPORTED["rows"].items():
        present = {name: getattr(jobs[key], name) for name in row} | {"state": jobs[key].state.value}
        assert present == row


def test_the_ledger_holds_every_state_and_what_later_versions_migrate() -> None:
    rows = REPORTED["rows"].values()
    assert {row["state"] for row in rows} == {state.value for state in access.JobState}
    assert len({row["account"].partition("@")[0] for row in rows if row["account"].startswith("tokenops:")}) == 2
    spelled = {row["account"].partition("@")[2] for row in rows if row["account"].startswith(_account("tokenops"))}
    assert len(spelled) == 3
    ids = [row["provider_job_id"] for row in rows if row["provider_job_id"]]
    assert len(ids) == len(set(ids)) + 1


@pytest.mark.parametrize("item", ITEMS, ids=[item["name"] for item in ITEMS])
async def test_the_same_request_in_a_new_run_goes_on_with_its_job(item: dict[str, Any], fixture: Fixture) -> None:
    before = fixture.rows()
    options = {**item["parameters"], "credentials": fixture.block(item["account"]), "timeout_seconds": PATIENCE}
    run = access.flow_at(item["entrypoint"])(**options)
    assert await ending_of(run) == item["again"]
    assert fixture.posts == item["posts"]
    rows = fixture.rows()
    new = [rows[key] for key in rows.keys() - before.keys()]
    left = REPORTED["rows"][item["jobs"][-1]]["state"]
    assert len(new) == (0 if left == "reserved" else item["posts"]), "it sends the reserved job, or makes an attempt"
    identities = {before[key]["identity"]: before[key]["attempt"] for key in item["jobs"]}
    assert {row["identity"]: row["attempt"] - 1 for row in new}.items() <= identities.items()
    if item["again"] == "delivered":
        states = [rows[key]["state"] for key in rows if rows[key]["identity"] in identities]
        assert "delivered" in states
        untouched = {"tokenops": fixture.simulator.world.requests["tokenops.content"]}
        assert item["name"] != "delivered" or untouched == {"tokenops": 0}, "its file is there: nothing is downloaded"
    others = before.keys() - set(item["jobs"])
    assert {key: rows[key] for key in others} == {key: before[key] for key in others}


@pytest.mark.parametrize("batch", REPORTED["batches"], ids=lambda batch: batch["options"]["table"])
async def test_the_same_batch_again_does_the_rest(batch: dict[str, Any], fixture: Fixture, tmp_path: Path) -> None:
    for provider in ("tokenops", "jenius", "hidream"):
        await fixture.block(provider).save("golden", overwrite=True)
    results = tmp_path / "results.jsonl"
    run = access.flow_at("prefect_genmedia.flows.batch.generate_batch")(
        **batch["options"], results=str(results), timeout_seconds=PATIENCE
    )
    complete = set(batch["again"].values()) == {"delivered"}
    assert await ending_of(run) == ("delivered" if complete else "BatchIncomplete")
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    assert {line["id"]: line["state"] for line in lines} == batch["again"]
    assert fixture.posts == batch["posts"]
    budgets = dict(fixture.query("SELECT name, reserved_jobs FROM genmedia_budgets"))
    for beginning, jobs in batch["reserved"].items():
        assert [count for name, count in budgets.items() if name.startswith(beginning)] == [jobs]


async def test_reconciling_delivers_all_that_is_at_the_provider_and_sends_nothing(fixture: Fixture) -> None:
    names = {name: f"golden-{number}" for number, name in enumerate(REPORTED["accounts"])}
    for account, name in names.items():
        await fixture.block(account).save(name, overwrite=True)
    before = fixture.rows()
    needs_a_person = await access.flow_at("prefect_genmedia.flows.reconcile.reconcile_jobs")(
        credentials=list(names.values())
    )
    rows = fixture.rows()
    waiting = {key for key, row in before.items() if row["state"] in ("submitted", "succeeded")}
    assert {rows[key]["state"] for key in waiting} == {"delivered"}
    unknown = {key for key, row in before.items() if row["state"] in ("unknown", "sending")}
    assert {rows[key]["state"] for key in unknown} == {"unknown"}
    assert needs_a_person == len(unknown)
    assert fixture.posts == 0
    others = before.keys() - waiting - unknown
    assert {key: rows[key] for key in others} == {key: before[key] for key in others}

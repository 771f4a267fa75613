"""Runs that an earlier commit has suspended go on, on a server and a ledger that it has left; nothing is paid again.

`make_suspended.py` wrote `suspended/`: a Prefect server's whole database (parameters, states, run inputs, artifacts,
Block documents), the ledger beside it, and what the server's runs have persisted.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import lzma
import pickle
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import access
import httpx
import pytest
import wire
from contents import contents, missing_from
from ledger_items import KEYS
from make_ledger import rows_of
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.events.worker import EventsWorker
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.flow_runs import aresume_flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from servers import until

pytestmark = pytest.mark.server

SUSPENDED = Path(__file__).parent / "suspended"
REPORTED: dict[str, Any] = json.loads((SUSPENDED / "suspended.json").read_text("utf-8"))
RUNS: dict[str, Any] = REPORTED["suspended"]
WAITING = [name for name in RUNS if RUNS[name]["pause_key"].startswith("genmedia-job-")]
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
LEFT_SECONDS = 3600.0
"""How long each suspension still lasts: more than that of a question with a fallback has passed, by its grace."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's database and the ledger, as if they had been left some minutes ago."""
    folder = tmp_path_factory.mktemp("suspended")
    (folder / "prefect.db").write_bytes(lzma.decompress((SUSPENDED / "prefect.sqlite.xz").read_bytes()))
    ends = (datetime.now(timezone.utc) + timedelta(seconds=LEFT_SECONDS)).isoformat().replace("+00:00", "Z")
    with contextlib.closing(sqlite3.connect(folder / "prefect.db")) as database, database:
        for key, text in database.execute("SELECT id, state_details FROM flow_run_state").fetchall():
            details = json.loads(text)
            if details["pause_timeout"] is not None:
                changed = json.dumps({**details, "pause_timeout": ends})
                database.execute("UPDATE flow_run_state SET state_details = ? WHERE id = ?", [changed, key])
    (folder / "ledger.db").write_bytes((SUSPENDED / "ledger.sqlite").read_bytes())
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as database, database:
        (last,) = database.execute("SELECT max(updated_at) FROM genmedia_jobs").fetchone()
        times = [row[1] for row in database.execute("PRAGMA table_info(genmedia_jobs)") if row[1].endswith("_at")]
        moved = ", ".join(f"{name} = {name} + {time.time() - last - 300}" for name in times)
        database.execute(f"UPDATE genmedia_jobs SET {moved}")
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[None]:
    with access.local_server(home) as running:
        # Its log would be sent on when it has stopped.
        with temporary_settings({PREFECT_API_URL: running.api, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield
        EventsWorker.drain_all(timeout=120)


@pytest.fixture
def provider(server: None, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The simulator, at the host that the Block document names, which knows the jobs."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(f"{PREFIX}LEDGER_URL", f"sqlite:///{home / 'ledger.db'}")
    monkeypatch.setenv(f"{PREFIX}ALLOW_PRIVATE_HOSTS", "true")
    monkeypatch.setenv(f"{PREFIX}POLL_LONGEST_SECONDS", "0.1")  # old jobs are polled seldom
    with access.few_frames(), access.simulated(KEYS) as simulator, wire.leading_to(simulator.url):
        simulator.world.settings.__dict__.update({"queue_seconds": 0.05, "run_seconds": 0.05, "subjects": 2})
        with sqlite3.connect(home / "ledger.db") as database:
            every = "SELECT provider_job_id, expectation FROM genmedia_jobs WHERE provider = 'tokenops'"
            jobs = [
                {"id": job, "provider": "tokenops", "key": KEYS[0], "body": {"expectation": json.loads(expectation)}}
                for job, expectation in database.execute(every)
            ]
        httpx.post(f"{simulator.url}/golden/seed", json=jobs, timeout=60).raise_for_status()
        yield simulator


def posts(simulator: Any) -> int:
    """How many submissions the provider has got."""
    report: dict[str, Any] = httpx.get(f"{simulator.url}/control/report").json()
    return sum(count for name, count in report["requests"].items() if name.endswith(".submit"))


async def run_of(name: str) -> Any:
    async with get_client() as client:
        return await client.read_flow_run(RUNS[name]["run"])


async def state_of(name: str) -> str:
    return str((await run_of(name)).state.name)


async def goes(name: str) -> Any:
    """What a worker does with a run: the deployment's flow with the stored parameters. None where it suspends."""
    run = await run_of(name)
    async with get_client() as client:
        deployment = await client.read_deployment(run.deployment_id)
    try:
        return await run_flow_async(access.flow_at(deployment.entrypoint), flow_run=run, parameters=run.parameters)
    except Pause:
        return None


async def reconcile() -> None:
    await access.flow_at("prefect_genmedia.flows.reconcile.reconcile_jobs")(credentials=["golden"])


async def galleries(name: str) -> int:
    """How often the subjects were shown."""
    own = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[RUNS[name]["run"]]),
        key=ArtifactFilterKey(any_=["genmedia-subjects"]),
    )
    async with get_client() as client:
        return len(await client.read_artifacts(artifact_filter=own))


def job_of(name: str, home: Path) -> dict[str, Any]:
    """The ledger's row of a waiting run's job."""
    return rows_of(home / "ledger.db")[RUNS[name]["pause_key"].removeprefix("genmedia-job-")]


async def test_every_run_is_suspended_with_the_key_that_wakes_it(server: None) -> None:
    for name, reported in RUNS.items():
        run = await run_of(name)
        assert run.state.name == "Suspended"
        assert run.state.state_details.pause_key == reported["pause_key"]
        assert run.parameters == reported["parameters"]


async def test_reconciling_resumes_what_waits_and_it_is_delivered_without_another_submission(
    provider: Any, home: Path
) -> None:
    await reconcile()
    assert {name: await state_of(name) for name in WAITING} == dict.fromkeys(WAITING, "Resuming")
    for name in WAITING:
        delivery = await goes(name)
        assert type(delivery) is access.VALUES["Delivery"]
        assert delivery.provider_job_id == job_of(name, home)["provider_job_id"]
        assert job_of(name, home)["state"] == "delivered"
    assert posts(provider) == 0


async def test_a_question_that_nobody_answered_in_time_is_answered_and_paid_once(provider: Any) -> None:
    name = "omnihuman, asking"
    await reconcile()
    assert await state_of(name) == "Resuming"
    assert type(await goes(name)) is access.VALUES["Delivery"]
    assert posts(provider) == 1
    assert await galleries(name) == 1


async def test_an_answered_question_means_whom_the_person_saw_and_the_run_goes_on_to_its_next_suspension(
    provider: Any,
) -> None:
    name = "omnihuman, asking and then waiting"
    await aresume_flow_run(RUNS[name]["run"], run_input={"subject": "1"})
    assert await goes(name) is None
    assert (await run_of(name)).state.state_details.pause_key.startswith("genmedia-job-")
    assert posts(provider) == 1
    job = list(provider.world.jobs.values())[-1]
    (sent,) = job.body["mask_urls"]
    masks = [file for file, stored in provider.world.files.items() if stored.media_type == "image/png"][-2:]
    assert sent.endswith(masks[1])
    # The provider takes as long as its machine needs for the video; a job that is not done is not woken.
    await asyncio.to_thread(until, lambda: provider.world.is_over(job) and job.video.done(), "the job is done")
    await reconcile()
    assert type(await goes(name)) is access.VALUES["Delivery"]
    assert posts(provider) == 1
    assert await galleries(name) == 1


@pytest.mark.parametrize("record", sorted((SUSPENDED / "results").iterdir()), ids=lambda path: path.name[:8])
def test_what_a_run_has_persisted_loads(record: Path) -> None:
    text = record.read_text("utf-8")
    stored = json.loads(text)["result"] if text.startswith("{") else text
    present = contents(pickle.loads(base64.b64decode(stored)))
    recorded = [
        ended["contents"] for ended in REPORTED["ended"].values() if ended["contents"]["class"] == present["class"]
    ]
    assert [missing_from(each, present) for each in recorded] == [[]]

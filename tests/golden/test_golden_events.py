"""Names of events and artifacts, and the callbacks' addresses: automations, dashboards and providers hold them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import access
import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server", "drained")]

FLOWS = "prefect_genmedia.flows"
JIMENG = f"{FLOWS}.jimeng.jimeng_video"
BATCH = f"{FLOWS}.batch.generate_batch"
JOB_RESOURCE = {
    "prefect.resource.id",
    "prefect.resource.name",
    "genmedia.provider",
    "genmedia.kind",
    "genmedia.provider-job-id",
    "genmedia.project",
    "genmedia.tags",
}


@pytest.fixture
async def drained(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Events go to a client that keeps them."""
    await _sent()
    AssertingEventsClient.reset()
    monkeypatch.setattr(EventsWorker, "_client_override", (AssertingEventsClient, ()))
    yield
    await _sent()
    AssertingEventsClient.reset()


async def _sent() -> None:
    sending = EventsWorker.drain_all(timeout=120)
    if sending is not None:
        await sending


async def events() -> dict[str, Any]:
    """What the package has emitted, by the events' names."""
    await _sent()
    every = [event for client in AssertingEventsClient.all for event in client.events]
    return {event.event: event for event in every if event.event.startswith("genmedia.")}


class Ran:
    """A flow run that has ended, however it did."""

    def __init__(self, state: Any) -> None:
        self.state = state

    @classmethod
    async def of(cls, entrypoint: str, **parameters: Any) -> Ran:
        return cls(await access.flow_at(entrypoint)(**parameters, return_state=True))

    async def artifacts(self) -> set[str]:
        """The keys of what its page shows."""
        return await artifacts_of(self.state.state_details.flow_run_id)


async def artifacts_of(run_id: Any) -> set[str]:
    own = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=own)
    return {each.key for each in found if each.key}  # Prefect's own, of results, have no key


def lake(credentials: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": "a lake", "model": "jimeng-video-3.0-720P", "credentials": credentials, **more}


async def the_job() -> Any:
    async with access.ledger_at(_ledger()) as ledger:
        (job,) = await ledger.jobs()
    return job


def _ledger() -> Path:
    return Path(access.settings().ledger.removeprefix("sqlite:///"))


async def test_a_delivered_job(simulator: Any, credentials: Any) -> None:
    simulator.world.settings.run_seconds = 3.0  # long enough for a progress bar
    with access.few_frames():
        ran = await Ran.of(JIMENG, **lake(credentials))
    assert ran.state.is_completed()
    reported = await events()
    assert reported.keys() == {"genmedia.job.submitted", "genmedia.job.changed", "genmedia.job.delivered"}
    assert {event.resource.id for event in reported.values()} == {f"genmedia.job.{(await the_job()).key}"}
    assert all(event.resource.root.keys() == JOB_RESOURCE for event in reported.values())
    assert reported["genmedia.job.submitted"].payload.keys() == {"state"}
    assert reported["genmedia.job.changed"].payload.keys() == {"state", "provider_status", "phase"}
    assert reported["genmedia.job.delivered"].payload.keys() == {"state", "uri", "sha256"}
    assert await ran.artifacts() == {"genmedia-jimeng", "genmedia-progress"}


@pytest.mark.parametrize(
    ("fault", "event", "payload"),
    [
        ("fail_internal", "genmedia.job.failed", {"state", "error", "message"}),
        ("content_corrupt", "genmedia.job.undelivered", {"state", "error", "message"}),
        ("accept_then_drop", "genmedia.job.unknown", {"state", "message"}),
    ],
)
async def test_what_goes_wrong_with_a_job(
    fault: str, event: str, payload: set[str], simulator: Any, credentials: Any
) -> None:
    simulator.order(fault, times=9)
    with access.few_frames():
        ran = await Ran.of(JIMENG, **lake(credentials))
    reported = await events()
    assert reported.keys() - {"genmedia.job.submitted", "genmedia.job.changed"} == {event}
    assert reported[event].payload.keys() == payload
    assert await ran.artifacts() - {"genmedia-progress"} == {"genmedia-failure"}


async def test_a_persons_decision(simulator: Any, credentials: Any) -> None:
    simulator.order("accept_then_drop")
    await Ran.of(JIMENG, **lake(credentials))
    key = (await the_job()).key
    await Ran.of(f"{FLOWS}.decide.decide_job", job=key, decision="abandon")
    decided = (await events())["genmedia.job.decided"]
    assert decided.payload == {"state": "abandoned", "decision": "abandon"}


async def test_a_cancelled_run_and_reconciling(simulator: Any, credentials: Any) -> None:
    simulator.order("stuck")
    running = asyncio.create_task(access.flow_at(JIMENG)(**lake(credentials, idempotency_key="golden")))
    while "genmedia.job.changed" not in await events():
        await asyncio.sleep(0.05)
    running.cancel()
    with contextlib.suppress(BaseException):
        await running
    assert "genmedia.job.detached" in await events()
    job = await the_job()
    assert await artifacts_of(job.flow_run_id) >= {"genmedia-jimeng"}
    ran = await Ran.of(f"{FLOWS}.reconcile.reconcile_jobs", credentials=["nobody"])
    assert await ran.artifacts() == {"genmedia-reconcile"}


def table(*prompts: str) -> list[dict[str, str]]:
    return [{"id": words, "model": "jimeng-video-3.0-720P", "prompt": words} for words in prompts]


async def test_a_batch(simulator: Any, credentials: Any, tmp_path: Path) -> None:
    options = {"kind": "jimeng", "credentials": credentials, "batch_id": "golden", "output": str(tmp_path)}
    planned = await Ran.of(BATCH, table=table("one", "two"), **options, dry_run=True)
    assert await planned.artifacts() == {"genmedia-batch-plan"}
    simulator.order("fail_internal")
    with access.few_frames():
        stopped = await Ran.of(BATCH, table=table("one", "two"), **options, max_in_flight=1, canary=1)
        of_failures = {"genmedia-batch", "genmedia-batch-failures", "genmedia-batch-results", "genmedia-failure"}
        assert await stopped.artifacts() == of_failures
        done = await Ran.of(BATCH, table=table("one", "two"), **options)
    assert await done.artifacts() == {"genmedia-batch", "genmedia-batch-gallery", "genmedia-batch-results"}
    reported = await events()
    assert reported.keys() == {"genmedia.job.failed", "genmedia.batch.stopped"}
    assert reported["genmedia.batch.stopped"].resource.id == "genmedia.batch.golden"
    assert reported["genmedia.batch.stopped"].payload.keys() == {"error", "message", "rows"}


async def test_a_shard_of_a_batch(simulator: Any, credentials: Any, tmp_path: Path) -> None:
    """Its run is another machine's: what it leaves is read by the run that started it, of another version at times."""
    async with access.ledger_at(_ledger()) as ledger:
        mark = await ledger.fingerprint()
    shard = {"number": 1, "of": 1, "ledger": mark, "unfit": []}
    options = {"kind": "jimeng", "credentials": credentials, "batch_id": "golden", "output": str(tmp_path)}
    with access.few_frames():
        ran = await Ran.of(BATCH, table=table("one"), **options, shard=shard)
    assert ran.state.is_completed()
    assert await ran.artifacts() == {"genmedia-batch-shard", "genmedia-batch-shard-end"}


async def test_a_callback_has_the_address_that_the_provider_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a long random text"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET", secret)
    async with access.ledger_at(_ledger()) as ledger:
        job = await ledger.reserve(access.Job(key="7f3a00112233", identity="golden", provider="hidream"))
        sending = await ledger.move(job, access.JobState.SENDING) or job
        await ledger.move(sending, access.JobState.SUBMITTED, provider_job_id="b178")
    token = hmac.new(secret.encode(), job.key.encode(), hashlib.sha256).hexdigest()[:32]
    transport = httpx.ASGITransport(access.callback_receiver())
    async with httpx.AsyncClient(transport=transport, base_url="https://callbacks.example") as client:
        answer = await client.post(f"/callbacks/hidream/{job.key}/{token}", json={"main_task_id": "b178"})
    assert answer.status_code == 200
    notified = (await events())["genmedia.job.notified"]
    assert notified.payload.keys() == {"state", "provider_status"}

"""Reconciling: one job's trouble, of whatever kind, never keeps the paid jobs behind it from being collected."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import to_thread

from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core.reconcile import Finding, ReconcileContext, Standing, reconcile
from prefect_genmedia._media.storage import Target, target_at
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import Observation, Phase

TROUBLES = [
    ImportError("Install s3fs to access S3"),
    ValueError("Protocol not known: s4"),
    RuntimeError("Unable to locate credentials"),
    GenMediaError("The provider is not there."),
]


class World:
    """What reconciling sees; the job `first` meets a trouble at one place."""

    def __init__(self, place: str, trouble: Exception, standing: Standing) -> None:
        self.place, self.trouble, self.standing = place, trouble, standing

    def meet(self, place: str, job: str | None) -> None:
        if place == self.place and job == "first":
            raise self.trouble

    async def poll(self, provider_job_id: str) -> Observation:
        self.meet("poll", provider_job_id)
        if provider_job_id == "first":
            return Observation(Phase.SUCCEEDED, "done")
        return Observation(Phase.RUNNING, "running")

    @asynccontextmanager
    async def client_for(self, job: Job) -> AsyncIterator[Any]:
        self.meet("client_for", job.provider_job_id)
        yield self

    async def standing_of(self, job: Job) -> Standing:
        self.meet("standing_of", job.provider_job_id)
        return self.standing

    async def resume(self, job: Job) -> None:
        self.meet("resume", job.provider_job_id)

    async def target_of(self, output: str) -> Target:
        self.meet("target_of", output)
        return target_at(output)

    async def findings(self, ledger: Ledger) -> list[Finding]:
        around = ReconcileContext(self.client_for, self.standing_of, self.resume, self.target_of, "media")
        return [finding async for finding in reconcile(ledger, around)]


async def submitted(
    ledger: Ledger, name: str, output: str | None = None, account: str = "", expires_at: float | None = None
) -> Job:
    wanted = Job(key="", identity=name, provider="tokenops", flow_run_id="run", output=output, account=account)
    job = await ledger.reserve(wanted)
    sending = await ledger.move(job, JobState.SENDING) or job
    facts = {"provider_job_id": name, "expires_at": expires_at}
    return await ledger.move(sending, JobState.SUBMITTED, **facts) or sending


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("place", "standing"),
    [
        ("standing_of", "over"),
        ("client_for", "over"),
        ("poll", "over"),
        ("target_of", "over"),
        ("client_for", "suspended"),
        ("resume", "suspended"),
    ],
)
async def test_a_trouble_with_one_job_is_reported_and_the_next_is_taken_up(
    place: str, standing: Standing, trouble: Exception, ledger: Ledger
) -> None:
    await submitted(ledger, "first", output="first")
    await submitted(ledger, "second")
    findings = {each.job.provider_job_id: each for each in await World(place, trouble, standing).findings(ledger)}
    reported_by_the_wait = place == "poll" and isinstance(trouble, GenMediaError)
    assert ("still" if reported_by_the_wait else trouble.args[0]) in findings["first"].action
    assert findings["second"].action == "still running"
    if not isinstance(trouble, GenMediaError):
        assert findings["first"].next_step
        assert type(trouble).__name__ in findings["first"].action


@pytest.mark.parametrize("output", ["s4://bucket/media", "sftp://me:hunter2@store.example/media"])
async def test_a_place_that_cannot_be_is_reported_with_what_to_do_and_without_its_password(
    output: str, ledger: Ledger
) -> None:
    await submitted(ledger, "first", output=output)
    (finding,) = await World("", Exception(), "over").findings(ledger)
    assert finding.action.startswith("InvalidRequest: The output: ")
    assert finding.job.state is JobState.SUCCEEDED, "it is paid, and tried again by the next run"
    assert finding.next_step
    assert "hunter2" not in finding.action


async def test_what_a_trouble_quotes_is_reported_without_its_signature(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await submitted(ledger, "first")
    trouble = OSError("PUT https://me:hunter2@store.example/a.mp4?X-Amz-Signature=5ec2e7 was refused")
    (finding,) = await World("client_for", trouble, "over").findings(ledger)
    assert finding.action == "OSError: PUT https://store.example/a.mp4 was refused"
    assert "client_for" in caplog.text, "where it came from"
    assert "5ec2e7" not in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_run_that_is_cancelled_stops_reconciling(ledger: Ledger) -> None:
    class Cancelled(BaseException):
        """Stands for whatever ends a process."""

    await submitted(ledger, "first")
    trouble: Any = Cancelled()
    with pytest.raises(Cancelled):
        await World("client_for", trouble, "over").findings(ledger)


# --- A job that hangs ---


class Hanging(World):
    """The job `first` hangs at one place, until the test is over."""

    def __init__(self, place: str) -> None:
        super().__init__(place, Exception(), "over")
        self.released = threading.Event()
        self.met: list[str | None] = []

    async def poll(self, provider_job_id: str) -> Observation:
        self.met.append(provider_job_id)
        if (self.place, provider_job_id) == ("poll", "first"):
            await asyncio.Event().wait()
        return await super().poll(provider_job_id)

    async def target_of(self, output: str) -> Target:
        if (self.place, output) == ("storage", "first"):
            await to_thread.run_sync(self.released.wait)  # as a storage does it: in a thread that nobody can cancel
        return await super().target_of(output)


@pytest.fixture
def short_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_genmedia._core.reconcile.JOB_SECONDS", 0.5)
    monkeypatch.setattr("prefect_genmedia._core.reconcile.CLEANUP_SECONDS", 0.1)


@pytest.mark.usefixtures("short_box")
@pytest.mark.parametrize("place", ["poll", "storage"])
async def test_a_job_that_hangs_is_left_and_the_next_one_is_taken_up(place: str, ledger: Ledger) -> None:
    await submitted(ledger, "first", output="first", expires_at=1e10)
    await submitted(ledger, "second", expires_at=2e10)
    world = Hanging(place)
    try:
        findings = await asyncio.wait_for(world.findings(ledger), 120)
    finally:
        world.released.set()
    reported = {each.job.provider_job_id: each for each in findings}
    assert "was left" in reported["first"].action
    assert reported["first"].next_step
    assert reported["second"].action == "still running"
    (left,) = [job for job in await ledger.jobs() if job.provider_job_id == "first"]
    assert left.state in (JobState.SUBMITTED, JobState.SUCCEEDED), "the next run tries it again"


async def test_an_account_whose_jobs_hang_does_not_keep_the_jobs_of_another_waiting(ledger: Ledger) -> None:
    await submitted(ledger, "first", account="one")
    await submitted(ledger, "second", account="two")
    world = Hanging("poll")
    around = ReconcileContext(world.client_for, world.standing_of, world.resume, world.target_of, "media")
    findings = reconcile(ledger, around)
    finding = await asyncio.wait_for(anext(findings), 120)
    assert (finding.job.provider_job_id, finding.action) == ("second", "still running")
    await findings.aclose()  # type: ignore[attr-defined] # it is a generator


async def test_the_jobs_that_are_forgotten_first_are_taken_up_first(ledger: Ledger) -> None:
    await submitted(ledger, "later", expires_at=9e9)
    await submitted(ledger, "soon", expires_at=8e9)
    await submitted(ledger, "never told, older")  # forgotten within hours
    await submitted(ledger, "never told, newer")
    world = Hanging("nowhere")
    await world.findings(ledger)
    assert world.met == ["never told, older", "never told, newer", "soon", "later"]

"""Reconciling: one job's trouble, of whatever kind, never keeps the paid jobs behind it from being collected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core.reconcile import Finding, Standing, Surroundings, reconcile
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
        around = Surroundings(self.client_for, self.standing_of, self.resume, self.target_of, "media")
        return [finding async for finding in reconcile(ledger, around)]


async def submitted(ledger: Ledger, name: str, output: str | None = None) -> Job:
    job = await ledger.reserve(Job(key="", identity=name, provider="tokenops", flow_run_id="run", output=output))
    sending = await ledger.move(job, JobState.SENDING) or job
    return await ledger.move(sending, JobState.SUBMITTED, provider_job_id=name) or sending


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
async def test_a_trouble_with_one_job_is_told_and_the_next_is_taken_up(
    place: str, standing: Standing, trouble: Exception, ledger: Ledger
) -> None:
    await submitted(ledger, "first", output="first")
    await submitted(ledger, "second")
    findings = {each.job.provider_job_id: each for each in await World(place, trouble, standing).findings(ledger)}
    told_by_the_wait = place == "poll" and isinstance(trouble, GenMediaError)
    assert ("still" if told_by_the_wait else trouble.args[0]) in findings["first"].action
    assert findings["second"].action == "still running"
    if not isinstance(trouble, GenMediaError):
        assert findings["first"].next_step
        assert type(trouble).__name__ in findings["first"].action


@pytest.mark.parametrize("output", ["s4://bucket/media", "sftp://me:hunter2@store.example/media"])
async def test_a_place_that_cannot_be_is_told_with_what_to_do_and_without_its_password(
    output: str, ledger: Ledger
) -> None:
    await submitted(ledger, "first", output=output)
    (finding,) = await World("", Exception(), "over").findings(ledger)
    assert finding.action.startswith("InvalidRequest: The output: ")
    assert finding.job.state is JobState.SUCCEEDED, "it is paid, and tried again by the next run"
    assert finding.next_step
    assert "hunter2" not in finding.action


async def test_what_a_trouble_quotes_is_told_without_its_signature(
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

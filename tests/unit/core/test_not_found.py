"""A provider that does not find a job: the job stays submitted until its documented lifetime is over."""

from __future__ import annotations

from typing import Any

import pytest
from clocks import QuickClock

from prefect_genmedia._core import Job, JobState, Ledger, wait_for_job
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.decide import decide
from prefect_genmedia.errors import InvalidRequest, JobExpired, JobTimeout
from prefect_genmedia.providers.protocol import Observation, Phase

HOUR = 3600.0
ANOTHER_RUN = Asker("another")
NOT_FOUND = JobExpired("GET answered 404.", http_status=404)
DONE = Observation(Phase.SUCCEEDED, "completed")
NOT_FOUND_BY_WORD = Observation(Phase.FAILED, "not_found", failure=JobExpired("The provider reports 'not_found'."))


class Provider:
    """Answers each poll with the next answer, and further ones with the last."""

    def __init__(self, *answers: Observation | Exception) -> None:
        self.answers = list(answers)

    async def poll(self, provider_job_id: str) -> Observation:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


async def submitted(ledger: Ledger, clock: Clock, seconds_ago: float = 0.0, lifetime: float | None = None) -> Job:
    wanted = Job(key="", identity="i" * 64, provider="tokenops", model="m", scope="s", root_run_id="first")
    job = await ledger.move(await ledger.reserve(wanted), JobState.SENDING)
    assert job is not None
    accepted_at = clock.now() - seconds_ago
    ends = None if lifetime is None else accepted_at + lifetime
    job = await ledger.move(job, JobState.SUBMITTED, provider_job_id="107", submitted_at=accepted_at, expires_at=ends)
    assert job is not None
    return job


@pytest.mark.parametrize("answer", [NOT_FOUND, NOT_FOUND_BY_WORD], ids=["status code", "status word"])
async def test_a_job_that_is_not_found_for_minutes_ends_the_run_and_stays_submitted(
    answer: Any, ledger: Ledger, clock: QuickClock
) -> None:
    provider: Any = Provider(answer)
    with pytest.raises(JobExpired, match="stays submitted") as caught:
        await wait_for_job(ledger, provider, await submitted(ledger, clock), HOUR, clock=clock)
    assert not caught.value.retryable
    assert 180.0 <= clock.passed < 300.0
    (job,) = await ledger.jobs()
    assert job.state is JobState.SUBMITTED
    assert next_attempt(job, ANOTHER_RUN, clock.now()) is None


@pytest.mark.parametrize(
    ("lifetime", "hours", "ends"),
    [(None, 11.9, JobTimeout), (None, 12.1, JobExpired), (HOUR, 0.9, JobTimeout), (HOUR, 1.1, JobExpired)],
)
async def test_a_new_attempt_needs_the_end_of_the_documented_lifetime(
    lifetime: float | None, hours: float, ends: type[Exception], ledger: Ledger, clock: QuickClock
) -> None:
    provider: Any = Provider(NOT_FOUND)
    job = await submitted(ledger, clock, hours * HOUR, lifetime)
    with pytest.raises(ends):
        await wait_for_job(ledger, provider, job, 0.0, clock=clock)
    (job,) = await ledger.jobs()
    over = ends is JobExpired
    assert job.state is (JobState.UNDELIVERABLE if over else JobState.SUBMITTED)
    assert next_attempt(job, ANOTHER_RUN, clock.now()) == (2 if over else None)


async def test_a_row_that_an_earlier_version_gave_up_too_early_is_not_paid_again(
    ledger: Ledger, clock: QuickClock
) -> None:
    job = await submitted(ledger, clock, seconds_ago=HOUR)
    lost = await ledger.move(job, JobState.UNDELIVERABLE, error_kind="JobExpired")
    assert next_attempt(lost, ANOTHER_RUN, clock.now()) is None
    assert next_attempt(lost, ANOTHER_RUN, clock.now() + 12 * HOUR) == 2


async def test_a_job_that_is_found_again_is_delivered_like_any_other(ledger: Ledger, clock: QuickClock) -> None:
    provider: Any = Provider(*[NOT_FOUND] * 3, DONE)
    done = await wait_for_job(ledger, provider, await submitted(ledger, clock), HOUR, clock=clock)
    assert (done.state, done.error_kind) == (JobState.SUCCEEDED, None)


async def test_only_a_job_that_was_not_found_can_be_resubmitted_before_its_lifetime_is_over(
    ledger: Ledger, clock: QuickClock
) -> None:
    job = await submitted(ledger, clock, seconds_ago=60.0)
    with pytest.raises(InvalidRequest, match="nothing to resubmit"):
        await decide(ledger, job.key, "resubmit", by="test", clock=clock)
    provider: Any = Provider(NOT_FOUND)
    with pytest.raises(JobTimeout):
        await wait_for_job(ledger, provider, job, 0.0, clock=clock)
    settled = await decide(ledger, job.key, "resubmit", by="test", clock=clock)
    assert settled.state is JobState.UNDELIVERABLE
    assert next_attempt(settled, ANOTHER_RUN, clock.now() + 1.0) == 2

"""What may never cost twice, or be lost, because of one wrong word: refusals on the way, absences, moved files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from clocks import QuickClock
from jobs import submit_once

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Job, JobState, Ledger, PollPolicy, deliver, wait_for_job
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.pace import Refused
from prefect_genmedia._core.polling import HEARTBEAT_SECONDS
from prefect_genmedia._media.storage import target_at
from prefect_genmedia.errors import InvalidRequest, JobExpired, JobTimeout, StorageError, SubmissionUnknown
from prefect_genmedia.providers.protocol import MediaExpectation, Observation, Phase, ProviderClient
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

REQUEST = JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P")
HOUR = 3600.0
ANOTHER_RUN = Asker("another")


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
async def client(credentials: TokenOpsCredentials) -> AsyncIterator[ProviderClient]:
    async with credentials.client() as opened:
        yield opened


class Provider:
    """A provider of which each look gets the next answer, and further ones the last."""

    def __init__(self, *answers: Observation | Exception, clock: Clock, **moments: Observation) -> None:
        self.answers = list(answers)
        self.looks: list[float] = []
        self.clock = clock

    async def poll(self, provider_job_id: str) -> Observation:
        self.looks.append(self.clock.now())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


RUNNING = Observation(Phase.RUNNING, "running")
DONE = Observation(Phase.SUCCEEDED, "completed")


async def submitted(ledger: Ledger, seconds_ago: float = 0.0, **facts: Any) -> Job:
    """A job that was accepted so many seconds ago."""
    now = Clock().now()
    wanted = Job(key="", identity=f"{seconds_ago}{facts}", provider="tokenops", model="m", scope="s", **facts)
    job = await ledger.move(await ledger.reserve(wanted), JobState.SENDING)
    assert job is not None
    times = {"submitted_at": now - seconds_ago, "expires_at": now - seconds_ago + 12 * HOUR}
    job = await ledger.move(job, JobState.SUBMITTED, provider_job_id="107", **times)
    assert job is not None
    return job


# --- a file that is not there ---


async def finished(ledger: Ledger, client: ProviderClient, scope: str = "s") -> Job:
    job = await submit_once(ledger, client, REQUEST, scope=scope, root_run_id="first")
    return await wait_for_job(ledger, client, job, 600.0, PollPolicy(shortest=0.02, longest=0.1))


async def test_a_refused_download_is_no_reason_to_pay_again_while_the_provider_has_the_file(
    ledger: Ledger, client: ProviderClient, simulator: RunningSimulator, clock: QuickClock, tmp_path: Path
) -> None:
    job = await finished(ledger, client)
    target = target_at(str(tmp_path / "media"))
    simulator.order("content_gone", times=2)
    with pytest.raises(JobExpired, match=r"Nothing is paid again\."):
        await deliver(ledger, client, job, target)
    again = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second")
    assert (again.key, again.state) == (job.key, JobState.SUCCEEDED)
    clock.passed = 2 * HOUR
    with pytest.raises(JobExpired, match="new attempt"):
        await deliver(ledger, client, again, target, clock)
    lost = await ledger.get(job.key)
    assert lost is not None
    assert (lost.state, next_attempt(lost, ANOTHER_RUN, clock.now())) == (JobState.UNDELIVERABLE, 2)
    same_run = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="first")
    assert (same_run.key, simulator.accepted) == (job.key, 1)
    anew = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second", clock=clock)
    assert (anew.attempt, simulator.accepted) == (2, 2)


async def test_a_delivered_file_that_was_moved_is_never_paid_for_again(
    ledger: Ledger, client: ProviderClient, simulator: RunningSimulator, clock: QuickClock, tmp_path: Path
) -> None:
    target = target_at(str(tmp_path / "media"))
    job = await deliver(ledger, client, await finished(ledger, client), target)
    assert job.delivery is not None
    file, archive = Path(job.delivery.uri), tmp_path / "archive.mp4"
    file.rename(archive)
    clock.passed = 13 * HOUR
    simulator.order("content_gone")
    with pytest.raises(JobExpired, match=r"put the file back\. A new one is paid again"):
        await deliver(ledger, client, job, target, clock)
    lost = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="another", clock=clock)
    assert (lost.key, lost.state, next_attempt(lost, ANOTHER_RUN, clock.now())) == (
        job.key,
        JobState.UNDELIVERABLE,
        None,
    )
    archive.rename(file)
    healed = await deliver(ledger, client, lost, target, clock)
    assert (healed.state, healed.delivery, simulator.accepted) == (JobState.DELIVERED, job.delivery, 1)


async def test_a_storage_that_cannot_be_read_has_not_lost_the_file(
    ledger: Ledger, client: ProviderClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_at(str(tmp_path / "media"))
    job = await deliver(ledger, client, await finished(ledger, client), target)
    assert job.delivery is not None

    def broken(file: object) -> str:
        raise BlockingIOError("the disk is away")

    monkeypatch.setattr("prefect_genmedia._media.local.sha256_of", broken)
    with pytest.raises(StorageError, match="BlockingIOError"):
        await deliver(ledger, client, job, target)
    assert await ledger.get(job.key) == job


@pytest.mark.parametrize("state", [JobState.SUBMITTED, JobState.FAILED])
async def test_only_a_job_with_a_file_is_downloaded(
    state: JobState, ledger: Ledger, client: ProviderClient, tmp_path: Path
) -> None:
    job = await submitted(ledger)
    if state is JobState.FAILED:
        job = await ledger.move(job, state, error_kind="InvalidRequest", error_message="wait for it first") or job
    with pytest.raises(InvalidRequest, match="wait for it first"):
        await deliver(ledger, client, job, target_at(str(tmp_path)))
    assert await ledger.get(job.key) == job


def test_a_bad_file_is_fetched_anew_until_its_time_is_over_and_then_asked_for_anew() -> None:
    facts = {"identity": "i", "provider": "tokenops", "state": "undeliverable", "error_kind": "ResultInvalid"}
    job = Job(key="k", expires_at=Clock().now() + HOUR, **facts)
    assert next_attempt(job, ANOTHER_RUN, Clock().now()) is None
    late = job.model_copy(update={"expires_at": Clock().now() - 1.0})
    assert next_attempt(late, ANOTHER_RUN, Clock().now()) == 2


@pytest.mark.parametrize(("provider", "words"), [("tokenops", "provider's word"), ("jenius", "does not document")])
def test_what_a_failed_job_cost_is_reported_as_its_provider_documents_it(provider: str, words: str) -> None:
    job = Job(key="k", identity="i", provider=provider, state=JobState.FAILED, error_kind="GenerationFailed")
    assert words in str(job.failure())


# --- a job that is not found ---


async def test_a_job_that_is_not_found_for_a_moment_is_not_gone(ledger: Ledger, clock: QuickClock) -> None:
    missing = JobExpired("GET answered 404.")
    provider: Any = Provider(RUNNING, *[missing] * 8, RUNNING, *[missing] * 8, DONE, clock=clock)
    job = await submitted(ledger, seconds_ago=200.0)
    done = await wait_for_job(ledger, provider, job, HOUR, PollPolicy(longest=15.0, jitter=0.0), clock=clock)
    assert done.state is JobState.SUCCEEDED


async def test_a_job_that_is_not_found_for_minutes_is_gone(ledger: Ledger, clock: QuickClock) -> None:
    provider: Any = Provider(RUNNING, JobExpired("GET answered 404."), clock=clock)
    with pytest.raises(JobExpired):
        await wait_for_job(ledger, provider, await submitted(ledger), HOUR, clock=clock)
    assert 180.0 <= clock.passed < 240.0


@pytest.mark.parametrize(("hours", "ends"), [(1.0, JobTimeout), (13.0, JobExpired)])
async def test_a_single_look_believes_that_a_job_is_gone_when_its_time_is_over(
    hours: float, ends: type[Exception], ledger: Ledger, clock: QuickClock
) -> None:
    provider: Any = Provider(JobExpired("GET answered 404."), clock=clock)
    with pytest.raises(ends):
        await wait_for_job(ledger, provider, await submitted(ledger, hours * HOUR), 0.0, clock=clock)


# --- a poll that hangs ---


class Hanging:
    """A provider that never answers a poll."""

    def __init__(self) -> None:
        self.polls = 0

    async def poll(self, provider_job_id: str) -> Observation:
        self.polls += 1
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("seconds_ago", [0.0, HOUR], ids=["in time", "when its time is over"])
async def test_a_wait_ends_in_time_though_a_poll_hangs(
    seconds_ago: float, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_genmedia._core.polling.SINGLE_POLL_SECONDS", 0.2)
    provider: Any = Hanging()
    job = await submitted(ledger, seconds_ago)
    with pytest.raises(JobTimeout):
        await asyncio.wait_for(wait_for_job(ledger, provider, job, 0.5, PollPolicy(shortest=0.05)), 120)
    assert provider.polls == 1
    kept = await ledger.get(job.key)
    assert kept is not None
    assert kept.state is JobState.SUBMITTED


async def test_the_last_poll_of_a_wait_leaves_time_for_its_answer(ledger: Ledger, clock: QuickClock) -> None:
    provider: Any = Provider(RUNNING, clock=clock)
    job = await submitted(ledger)
    begun = clock.now()
    with pytest.raises(JobTimeout):
        await wait_for_job(ledger, provider, job, 600.0, clock=clock)
    assert 590.0 < provider.looks[-1] - begun < 596.0


# --- what is learned ---


async def test_what_was_found_done_late_teaches_nothing_about_usual_durations(
    ledger: Ledger, clock: QuickClock
) -> None:
    length = MediaExpectation(seconds=5.0)
    for number in range(3):
        job = await submitted(ledger, 10 * HOUR, label=str(number), expectation=length)
        # A wait only polls, so the stand-in has nothing else: ignored here and below.
        await wait_for_job(ledger, Provider(DONE, clock=clock), job, 20 * HOUR, clock=clock)  # type: ignore[arg-type]
    assert await ledger.typical_seconds("tokenops", "m", 5.0) is None
    for number in range(3):
        job = await submitted(ledger, label=f"watched {number}", expectation=length)
        await wait_for_job(ledger, Provider(RUNNING, DONE, clock=clock), job, HOUR, clock=clock)  # type: ignore[arg-type]
    assert await ledger.typical_seconds("tokenops", "m", 5.0) is not None


async def test_a_usual_duration_of_hours_is_not_slept_through(ledger: Ledger, clock: QuickClock) -> None:
    for number in range(3):
        job = await submitted(ledger, label=str(number))
        await ledger.move(job, JobState.SUCCEEDED, took_seconds=10 * HOUR)
    provider: Any = Provider(*[RUNNING] * 3, DONE, clock=clock)
    job = await submitted(ledger)
    begun = clock.now()
    heartbeats: list[float] = []
    note = ledger.note

    async def heard(noted: Job, **changes: object) -> Job | None:
        heartbeats.append(clock.now() - begun)
        return await note(noted, **changes)

    ledger.note = heard  # type: ignore[method-assign] # the real one, overheard
    await wait_for_job(ledger, provider, job, 12 * HOUR, clock=clock)
    assert [round(look - begun, -1) for look in provider.looks] == [120, 240, 480, 960]
    gaps = [later - earlier for earlier, later in zip([0.0, *heartbeats], heartbeats, strict=False)]
    assert max(gaps) <= 2 * HEARTBEAT_SECONDS + 1


# --- a ledger that is away, a task that is cancelled ---


def away(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    gone: Callable[[JobState], bool],
    written: bool = False,
) -> None:
    """Let the ledger fail so often when a job is to be moved to such a state; or do it, and lose the answer."""
    move, left = ledger.move, [times]

    async def failing(job: Job, state: JobState, **changes: object) -> Job | None:
        if gone(state) and left[0] > 0:
            left[0] -= 1
            if written:
                await move(job, state, **changes)
            raise ConnectionError("the database is away")
        return await move(job, state, **changes)

    monkeypatch.setattr(ledger, "move", failing)


async def test_an_accepted_job_is_written_down_when_the_ledger_is_back(
    ledger: Ledger,
    client: ProviderClient,
    simulator: RunningSimulator,
    clock: QuickClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away(ledger, monkeypatch, 3, lambda state: state is JobState.SUBMITTED)
    reported: list[str] = []
    job = await submit_once(ledger, client, REQUEST, scope="s", reported=reported, clock=clock)
    assert (job.state, simulator.accepted, len(reported)) == (JobState.SUBMITTED, 1, 3)
    assert f"accepted it as {job.provider_job_id}" in reported[0]


async def test_an_accepted_job_that_was_written_down_without_an_answer_is_taken_for_what_it_is(
    ledger: Ledger, client: ProviderClient, clock: QuickClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(ledger, monkeypatch, 1, lambda state: state is JobState.SUBMITTED, written=True)
    job = await submit_once(ledger, client, REQUEST, scope="s", clock=clock)
    assert (job.state, await ledger.get(job.key)) == (JobState.SUBMITTED, job)


async def test_that_nothing_was_sent_takes_back_only_the_mark_of_its_own_process(ledger: Ledger) -> None:
    reserved = await ledger.reserve(Job(key="", identity="i", provider="tokenops"))
    mine = await ledger.start_sending(reserved, None)
    assert isinstance(mine, Job)
    again = await ledger.unsend(mine)
    assert again is not None
    theirs = await ledger.start_sending(again, None)
    assert isinstance(theirs, Job)
    assert await ledger.unsend(mine) is None, "the answer of the first try was lost, and it is tried again"
    present = await ledger.get(mine.key)
    assert present is not None
    assert (present.state, present.send_token) == (JobState.SENDING, theirs.send_token)


async def test_an_accepted_job_that_cannot_be_written_down_is_reported_with_its_id(
    ledger: Ledger,
    client: ProviderClient,
    simulator: RunningSimulator,
    clock: QuickClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away(ledger, monkeypatch, 1000, lambda state: state is JobState.SUBMITTED)
    with pytest.raises(SubmissionUnknown) as caught:
        await submit_once(ledger, client, REQUEST, scope="s", clock=clock)
    (accepted,) = simulator.world.jobs
    assert f"jobs adopt {caught.value.job_key} {accepted}" in str(caught.value)


async def test_a_cancellation_before_the_first_byte_leaves_nothing_unknown(
    ledger: Ledger, client: ProviderClient, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started, may_start = ledger.start_sending, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any, **options: Any) -> Job | Refused | None:
        started.set()
        await may_start.wait()
        return await start(*arguments, **options)

    monkeypatch.setattr(ledger, "start_sending", slowly)
    submitting = asyncio.create_task(submit_once(ledger, client, REQUEST, scope="s"))
    await started.wait()
    submitting.cancel()
    may_start.set()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    (job,) = await ledger.jobs()
    assert (job.state, simulator.accepted) == (JobState.RESERVED, 0)

"""What a person decides about a submission: looked up at the provider first, and corrected where it was wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jobs import asking, session, submit_once

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobSpec, JobState, Ledger, PollPolicy, deliver, open_ledger, wait_for_job
from prefect_genmedia._core import submit_once as submit_spec
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.decide import decide, warning_about
from prefect_genmedia._core.model import LEGAL_MOVES, STALE_SENDING_SECONDS
from prefect_genmedia._core.reconcile import ReconcileContext, reconcile
from prefect_genmedia._core.session import JobHooks
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect import cards as card_module
from prefect_genmedia._prefect.cards import publish_failure_card
from prefect_genmedia.cli.app import app
from prefect_genmedia.errors import InvalidRequest, SubmissionUnknown
from prefect_genmedia.flows.decide import decide_job
from prefect_genmedia.providers.protocol import Observation, Phase, ProviderClient
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.text import escaped

REQUEST = JimengVideo(prompt="a lake at dawn", model="jimeng-video-3.0-720P")
POLICY = PollPolicy(shortest=0.02, longest=0.1)
PATIENCE = 600.0
MINUTES = 60.0


@pytest.fixture
async def client(credentials: TokenOpsCredentials) -> AsyncIterator[ProviderClient]:
    async with credentials.client() as opened:
        yield opened


class LaterClock(Clock):
    """The real time, later by what makes a submission stale."""

    def now(self) -> float:
        return super().now() + STALE_SENDING_SECONDS + 1.0


async def unknown(ledger: Ledger, client: Any, simulator: RunningSimulator, scope: str = "s") -> tuple[Job, str]:
    """A submission without an answer, and the id that the provider has given it."""
    before = set(simulator.world.jobs)
    simulator.order("accept_then_drop")
    with pytest.raises(SubmissionUnknown) as caught:
        await submit_once(ledger, client, REQUEST, scope=scope, root_run_id="first")
    job = await ledger.get(caught.value.job_key or "")
    assert job is not None
    (arrived,) = set(simulator.world.jobs) - before
    return job, arrived


async def elsewhere(client: Any, tmp_path: Path) -> str:
    """The id of a job that another program has sent for the same account."""
    async with open_ledger(f"sqlite:///{tmp_path / 'elsewhere.db'}") as other:
        job = await submit_once(other, client, REQUEST, scope="elsewhere")
    assert job.provider_job_id is not None
    return job.provider_job_id


async def row(ledger: Ledger, job: Job) -> Job:
    present = await ledger.get(job.key)
    assert present is not None
    return present


# --- adopting ---


async def test_an_id_that_the_provider_does_not_have_is_refused_and_changes_nothing(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, _ = await unknown(ledger, client, simulator)
    with pytest.raises(InvalidRequest, match="the provider does not have mistyped"):
        await decide(ledger, job.key, "adopt", "mistyped", client_for=asking(client))
    assert await row(ledger, job) == job


@pytest.mark.parametrize("fault", ["poll_503", "poll_html", "poll_drop", "poll_key_revoked"])
async def test_an_id_that_cannot_be_looked_up_is_refused_and_changes_nothing(
    fault: str, ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    simulator.order(fault, times=10)
    with pytest.raises(InvalidRequest, match="cannot be looked up"):
        await decide(ledger, job.key, "adopt", arrived, client_for=asking(client))
    assert await row(ledger, job) == job


@pytest.mark.parametrize("clients", [None, asking(None)], ids=["no way to ask", "no Block of the account"])
async def test_nothing_is_adopted_without_asking_the_provider(
    clients: Any, ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    with pytest.raises(InvalidRequest, match="cannot be looked up"):
        await decide(ledger, job.key, "adopt", arrived, client_for=clients)
    assert await row(ledger, job) == job


@pytest.mark.parametrize("typed", [" {} ", "\t{}\n", "\u200b{}\ufeff", "\u00a0{}\u3000"], ids=ascii)
async def test_blanks_around_a_pasted_id_are_no_part_of_it(
    typed: str, ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    adopted = await decide(ledger, f" {job.key}\n", "adopt", typed.format(arrived), client_for=asking(client))
    assert (adopted.state, adopted.provider_job_id) == (JobState.SUBMITTED, arrived)
    again = await decide(ledger, job.key, "adopt", arrived, client_for=asking(client))
    assert again == adopted, "adopting the same id again changes nothing"


async def test_an_adoption_is_corrected_until_something_was_observed_under_the_id(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    wrong = await elsewhere(client, tmp_path)
    await decide(ledger, job.key, "adopt", wrong, client_for=asking(client))
    corrected = await decide(ledger, job.key, "adopt", arrived, client_for=asking(client))
    done = await wait_for_job(ledger, client, corrected, PATIENCE, POLICY)
    assert (done.state, done.provider_job_id) == (JobState.SUCCEEDED, arrived)
    with pytest.raises(InvalidRequest, match="nothing to adopt"):
        await decide(ledger, job.key, "adopt", wrong, client_for=asking(client))


async def test_what_is_observed_under_an_id_that_was_corrected_meanwhile_is_not_written_down(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    wrong = await elsewhere(client, tmp_path)
    adopted = await decide(ledger, job.key, "adopt", wrong, client_for=asking(client))
    polled: list[str] = []

    class Provider:
        async def poll(self, provider_job_id: str) -> Observation:
            polled.append(provider_job_id)
            if len(polled) == 1:
                await decide(ledger, job.key, "adopt", arrived, client_for=asking(client))
            return Observation(Phase.SUCCEEDED, "completed")

    provider: Any = Provider()
    done = await wait_for_job(ledger, provider, adopted, PATIENCE, POLICY)
    assert polled == [wrong, arrived]
    assert (done.state, done.provider_job_id) == (JobState.SUCCEEDED, arrived)


async def test_an_id_that_a_provider_gave_is_not_replaced_by_a_persons(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    job = await submit_once(ledger, client, REQUEST, scope="s")
    with pytest.raises(InvalidRequest, match="nothing to adopt"):
        await decide(ledger, job.key, "adopt", await elsewhere(client, tmp_path), client_for=asking(client))


async def test_an_id_of_another_job_is_refused(ledger: Ledger, client: Any, simulator: RunningSimulator) -> None:
    other = await submit_once(ledger, client, REQUEST, scope="other")
    job, _ = await unknown(ledger, client, simulator)
    with pytest.raises(InvalidRequest, match=f"already belongs to job {other.key}"):
        await decide(ledger, job.key, "adopt", other.provider_job_id, client_for=asking(client))


async def test_of_two_people_who_adopt_the_same_id_at_once_one_gets_it(
    shared_ledger: str, client: Any, simulator: RunningSimulator
) -> None:
    async with open_ledger(shared_ledger) as ledger:
        jobs = [await unknown(ledger, client, simulator, scope) for scope in ("a", "b")]
        _, arrived = jobs[0]
        decisions = [decide(ledger, job.key, "adopt", arrived, client_for=asking(client)) for job, _ in jobs]
        ends = await asyncio.gather(*decisions, return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["InvalidRequest", "Job"]
        assert [job.provider_job_id for job in await ledger.jobs({JobState.SUBMITTED})] == [arrived]


async def test_a_rejected_job_is_adopted_and_delivered(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    simulator.order("refuse_invalid")
    with pytest.raises(InvalidRequest):
        await submit_once(ledger, client, REQUEST, scope="s")
    (rejected,) = await ledger.jobs({JobState.REJECTED})
    arrived = await elsewhere(client, tmp_path)
    adopted = await decide(ledger, rejected.key, "adopt", arrived, client_for=asking(client))
    assert (adopted.state, adopted.error_kind, await warning_about(ledger, adopted)) == (JobState.SUBMITTED, None, "")
    done = await wait_for_job(ledger, client, adopted, PATIENCE, POLICY)
    assert (await deliver(ledger, client, done, target_at(str(tmp_path / "out")))).state is JobState.DELIVERED


async def test_an_adopted_attempt_that_another_follows_warns_and_leaves_the_others_file(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    first, arrived = await unknown(ledger, client, simulator)
    await decide(ledger, first.key, "resubmit")
    target = target_at(str(tmp_path / "row.mp4"))
    second = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second")
    second = await deliver(ledger, client, await wait_for_job(ledger, client, second, PATIENCE, POLICY), target)
    adopted = await decide(ledger, first.key, "adopt", arrived, client_for=asking(client))
    assert f"Attempt 2 (job {second.key}, delivered) follows" in await warning_about(ledger, adopted)
    done = await wait_for_job(ledger, client, adopted, PATIENCE, POLICY)
    delivered = await deliver(ledger, client, done, target)
    assert delivered.delivery is not None
    assert second.delivery is not None
    assert [Path(each.delivery.uri).name for each in (second, delivered) if each.delivery] == [
        "row.mp4",
        f"row-{first.key}.mp4",
    ]
    assert (await deliver(ledger, client, second, target)).delivery == second.delivery


# --- accepted answers ---


class Events(JobHooks):
    """The names of the events that a session reports."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, what: str, job: Job, **payload: Any) -> None:
        self.names.append(what)


async def test_an_id_that_is_given_twice_is_recorded_with_a_note_and_an_event(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    simulator.order("accept_same_id", times=2)
    events = Events()
    jobs = []
    for scope in ("first", "second"):
        heard = session(ledger, client)
        heard.__dict__["hooks"] = events
        jobs.append(await submit_spec(heard, JobSpec(REQUEST, scope=scope)))
    first, second = jobs
    assert (first.provider_job_id, simulator.accepted) == (second.provider_job_id, 2)
    assert f"which job {first.key} has already" in (second.note or "")
    assert (first.note, events.names) == (None, ["id_repeated"])
    for job in jobs:
        done = await wait_for_job(ledger, client, job, PATIENCE, POLICY)
        assert (await deliver(ledger, client, done, target_at(str(tmp_path)))).state is JobState.DELIVERED
    with pytest.raises(InvalidRequest, match="name one by its key"):
        await decide(ledger, first.provider_job_id or "", "abandon")


class Held:
    """A client whose first accepted answer arrives when it is let go."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.accepted, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def submit(self, prepared: Any) -> Any:
        answer = await self.client.submit(prepared)
        self.accepted.set()
        await self.go_on.wait()
        return answer


async def late(ledger: Ledger, client: Any, *decisions: Any) -> tuple[Job, asyncio.Task[Job], Held]:
    """A submission whose answer is on its way while a person decides about it; the answer is let go by the caller."""
    held = Held(client)
    sending = asyncio.create_task(submit_once(ledger, held, REQUEST, scope="s", root_run_id="first"))
    await held.accepted.wait()
    (job,) = await ledger.jobs()
    for decision in decisions:
        await decide(ledger, job.key, decision, clock=LaterClock())
    return job, sending, held


async def test_an_answer_that_comes_after_a_resubmit_settles_the_job_if_nothing_was_sent_again(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, sending, held = await late(ledger, client, "resubmit")
    held.go_on.set()
    accepted = await sending
    assert (accepted.key, accepted.state, simulator.accepted) == (job.key, JobState.SUBMITTED, 1)
    assert "the provider: accepted it as" in (accepted.note or "")
    joined = await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second")
    assert (joined.key, simulator.accepted) == (job.key, 1)


async def test_an_answer_that_comes_after_the_next_attempt_is_stored_and_can_be_adopted(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, sending, held = await late(ledger, client, "resubmit")
    await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second")
    held.go_on.set()
    with pytest.raises(SubmissionUnknown, match=f"jobs adopt {job.key} ") as caught:
        await sending
    stored = await row(ledger, job)
    assert (stored.state, stored.provider_job_id) == (JobState.REJECTED, caught.value.provider_job_id)
    listed = [each async for each in reconcile(ledger, context(client))]
    assert f"jobs adopt {job.key} " in {each.job.key: each.next_step for each in listed}[job.key]
    adopted = await decide(ledger, job.key, "adopt", stored.provider_job_id, client_for=asking(client))
    assert (adopted.state, simulator.accepted) == (JobState.SUBMITTED, 2)


async def test_an_answer_that_comes_after_an_abandon_is_stored_and_the_job_stays_abandoned(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    simulator.order("accept_odd_id")
    job, sending, held = await late(ledger, client, "abandon")
    held.go_on.set()
    with pytest.raises(SubmissionUnknown, match="decided otherwise"):
        await sending
    stored = await row(ledger, job)
    assert stored.state is JobState.ABANDONED
    assert stored.provider_job_id in simulator.world.jobs
    with pytest.raises(InvalidRequest, match="adopt that id"):
        await decide(ledger, job.key, "adopt", await elsewhere(client, tmp_path), client_for=asking(client))
    as_shown = escaped(stored.provider_job_id or "")
    adopted = await decide(ledger, job.key, "adopt", as_shown, client_for=asking(client))
    assert (adopted.state, adopted.provider_job_id) == (JobState.SUBMITTED, stored.provider_job_id)


async def test_an_answer_that_comes_after_a_wrong_adoption_corrects_it(
    ledger: Ledger, client: Any, simulator: RunningSimulator, tmp_path: Path
) -> None:
    job, sending, held = await late(ledger, client)
    arrived = next(iter(simulator.world.jobs))
    wrong = await elsewhere(client, tmp_path)
    await decide(ledger, job.key, "adopt", wrong, client_for=asking(client), clock=LaterClock())
    held.go_on.set()
    accepted = await sending
    assert (accepted.state, accepted.provider_job_id) == (JobState.SUBMITTED, arrived)


def context(client: Any) -> ReconcileContext:
    async def alive(job: Job) -> Any:
        return "alive"

    async def never(*arguments: Any) -> Any:
        raise AssertionError

    return ReconcileContext(asking(client), alive, never, never, "media")


# --- undoing ---


@pytest.mark.parametrize("decision", ["abandon", "resubmit", "adopt"])
async def test_a_decision_that_nothing_has_come_of_is_undone(
    decision: Any, ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, arrived = await unknown(ledger, client, simulator)
    await decide(ledger, job.key, decision, arrived, client_for=asking(client))
    undone = await decide(ledger, job.key, "undo")
    kept = {"note", "updated_at"}
    assert undone.model_dump(exclude=kept) == job.model_dump(exclude=kept)
    assert [line.rpartition(": ")[2].split()[0] for line in (undone.note or "").splitlines()] == [decision, "undo"]
    with pytest.raises(InvalidRequest, match="no decision that can still be undone"):
        await decide(ledger, job.key, "undo")


async def test_a_job_that_was_abandoned_before_it_was_sent_is_sent_after_undo(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    account = str(client.account)
    reserved = await ledger.reserve(Job(key="", identity="i", provider="tokenops", account=account))
    await decide(ledger, reserved.key, "abandon")
    assert (await decide(ledger, reserved.key, "undo")).state is JobState.RESERVED


@pytest.mark.parametrize(("was_sent", "restored"), [(True, JobState.UNKNOWN), (False, JobState.RESERVED)])
async def test_what_an_earlier_version_abandoned_is_undone_without_a_payment(
    was_sent: bool, restored: JobState, ledger: Ledger
) -> None:
    job = await ledger.reserve(Job(key="", identity="i", provider="tokenops"))
    for state in [JobState.SENDING, JobState.UNKNOWN] if was_sent else []:
        job = await ledger.move(job, state) or job
    await ledger.move(job, JobState.ABANDONED)
    assert (await decide(ledger, job.key, "undo")).state is restored


async def test_a_resubmit_is_not_undone_once_the_next_attempt_is_there(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job, _ = await unknown(ledger, client, simulator)
    await decide(ledger, job.key, "resubmit")
    await submit_once(ledger, client, REQUEST, scope="s", root_run_id="second")
    with pytest.raises(InvalidRequest, match="already follows"):
        await decide(ledger, job.key, "undo")


async def test_a_wrong_resubmit_of_a_job_that_was_not_found_is_corrected(
    ledger: Ledger, client: Any, simulator: RunningSimulator
) -> None:
    job = await submit_once(ledger, client, REQUEST, scope="s")
    missing = await ledger.note(job, error_kind="JobExpired", error_message="GET answered 404.")
    assert missing is not None
    for correction in ("undo", "adopt"):
        assert (await decide(ledger, job.key, "resubmit")).state is JobState.UNDELIVERABLE
        restored = await decide(ledger, job.key, correction, job.provider_job_id, client_for=asking(client))
        assert (restored.state, restored.provider_job_id) == (JobState.SUBMITTED, job.provider_job_id)
        await ledger.note(restored, error_kind="JobExpired", error_message="GET answered 404.")
    assert simulator.accepted == 1


# --- the commands and the flow ---


async def command(*words: str) -> int:
    return await asyncio.to_thread(app, ["jobs", *words], result_action="return_int_as_exit_code_else_zero")


async def in_doubt(ledger: Ledger, name: str, batch: str = "spring", minutes_ago: float = 0.0) -> Job:
    scope = f"key:batch:{batch}:{name}"
    job = await ledger.reserve(Job(key="", identity=name, provider="tokenops", scope=scope, label=name))
    job = await ledger.move(job, JobState.SENDING, sent_at=time.time() - minutes_ago * MINUTES) or job
    return await ledger.move(job, JobState.UNKNOWN) or job


@pytest.mark.parametrize(
    ("words", "decided"),
    [
        (["--batch", "spring"], {"a", "b"}),
        (["--since", "30m"], {"a", "c"}),
        (["--batch", "spring", "--since", "0.5h"], {"a"}),
        (["--since", "1970-01-01"], {"a", "b", "c"}),
    ],
    ids=lambda each: " ".join(sorted(each)),
)
async def test_a_batch_or_a_time_chooses_the_jobs_that_are_decided_about(
    words: list[str], decided: set[str], ledger: Ledger
) -> None:
    for name, batch, minutes in (("a", "spring", 1), ("b", "spring", 90), ("c", "summer", 1)):
        await in_doubt(ledger, name, batch, minutes)
    await submit_nothing(ledger, "delivered")
    assert await command("abandon", *words) == 0
    assert {job.label for job in await ledger.jobs({JobState.ABANDONED})} == decided
    assert await command("undo", *words) == 0
    assert {job.label for job in await ledger.jobs({JobState.UNKNOWN})} == {"a", "b", "c"}
    assert await command("resubmit", *words) == 0
    assert {job.label for job in await ledger.jobs({JobState.REJECTED})} == decided


async def submit_nothing(ledger: Ledger, name: str) -> None:
    """A job of the batch that nothing is to be decided about."""
    await ledger.reserve(Job(key="", identity=name, provider="tokenops", scope=f"key:batch:spring:{name}", label=name))


async def test_a_key_that_is_refused_does_not_keep_the_others_from_being_decided_about(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = await in_doubt(ledger, "a"), await in_doubt(ledger, "b")
    with pytest.raises(SystemExit, match="1"):
        await command("abandon", first.key, "no-such-key", second.key)
    assert "no-such-key" in capsys.readouterr().err
    assert {job.key for job in await ledger.jobs({JobState.ABANDONED})} == {first.key, second.key}


@pytest.mark.parametrize("words", [[], ["3f2a", "--since", "2h"], ["--since", "yesterday"]], ids=" ".join)
async def test_jobs_are_named_or_chosen_and_a_time_is_one(words: list[str], ledger: Ledger) -> None:
    with pytest.raises(SystemExit, match="1"):
        await command("resubmit", *words)


@pytest.mark.usefixtures("prefect_server")
async def test_the_command_and_the_flow_ask_the_provider_with_a_stored_block(
    ledger: Ledger,
    client: Any,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = TokenOpsCredentials(api_key="sk-another-account", base_url=simulator.tokenops_url)
    await other.asave("another-account", overwrite=True)
    await credentials.asave("of-the-job", overwrite=True)
    (one, its), (two, theirs), (three, last) = [await unknown(ledger, client, simulator, each) for each in "123"]
    with pytest.raises(SystemExit, match="1"):
        await command("adopt", one.key, "mistyped")
    assert "the provider does not have mistyped" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        await command("adopt", one.key, its, "--credentials", "another-account")
    assert (await row(ledger, one)).state is JobState.UNKNOWN
    assert await command("adopt", one.key, its, two.key, f" {theirs} ") == 0
    with pytest.raises(InvalidRequest, match="does not have mistyped"):
        await decide_job(three.key, "adopt", "mistyped")
    assert await decide_job(three.key, "adopt", last) is JobState.SUBMITTED
    assert {job.provider_job_id for job in await ledger.jobs({JobState.SUBMITTED})} == {its, theirs, last}


# --- what is said about another attempt ---


def every_error() -> list[type[errors.GenMediaError]]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    return [each for each in kinds if issubclass(each, errors.GenMediaError)]


@pytest.mark.parametrize("scope", ["key:mine", "run:1"])
@pytest.mark.parametrize("state", list(LEGAL_MOVES))
async def test_a_card_never_says_that_a_run_joins_the_job_and_that_it_makes_a_new_attempt(
    state: JobState, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards: list[str] = []

    async def publish(key: str, markdown: str, description: str) -> None:
        cards.append(markdown)

    monkeypatch.setattr(card_module, "acreate_markdown_artifact", publish)
    for kind in every_error():
        for expires_at in (0.0, time.time() + 3600.0):
            facts = {"state": state, "scope": scope, "error_kind": kind.__name__, "expires_at": expires_at}
            job = Job(key="3f2a", identity="i", provider="tokenops", provider_job_id="4711", **facts)
            await publish_failure_card(job.failure(), job)
    for card in cards:
        assert ("joins this job" in card) + ("a new attempt" in card) <= 1
    assert any(
        "joins this job" in card or "a new attempt" in card or "same error" in card or "sends" in card for card in cards
    )


async def test_the_command_shows_what_the_card_says(
    ledger: Ledger, client: Any, simulator: RunningSimulator, capsys: pytest.CaptureFixture[str]
) -> None:
    job = await submit_once(ledger, client, REQUEST, scope="s")
    await ledger.note(job, error_kind="JobExpired", error_message="GET answered 404.")
    assert await command("show", job.key) == 0
    reported = " ".join(capsys.readouterr().out.split())
    assert "A run with the same request joins this job." in reported
    assert "a new attempt" not in reported

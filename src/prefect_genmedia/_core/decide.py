"""What a person decides about a submission that nobody else can settle."""

from __future__ import annotations

import getpass
from datetime import datetime, timezone
from typing import Literal

from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import LEGAL_MOVES, Job, JobState
from prefect_genmedia._core.submit import expire_stale_sending
from prefect_genmedia.errors import FieldProblem, InvalidRequest, JobExpired
from prefect_genmedia.providers.plugin import find_plugin
from prefect_genmedia.text import clean_text, id_problem, shown_id

Decision = Literal["adopt", "resubmit", "abandon"]

_TARGET: dict[Decision, JobState] = {
    "adopt": JobState.SUBMITTED,
    "resubmit": JobState.REJECTED,
    "abandon": JobState.ABANDONED,
}
_FROM: dict[Decision, frozenset[JobState]] = {
    "adopt": frozenset({JobState.UNKNOWN, JobState.ABANDONED}),
    "resubmit": frozenset({JobState.UNKNOWN}),
    "abandon": frozenset({JobState.UNKNOWN, JobState.RESERVED}),
}


async def decide(
    ledger: Ledger,
    name: str,
    decision: Decision,
    provider_job_id: str | None = None,
    by: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:
    """Carry out a person's decision.

    Parameters:
        ledger: the jobs.
        name: the job's key, or the beginning of it.
        decision: `adopt`: it did arrive, and this is the provider's id of it. `resubmit`: it never arrived, or the
            provider does not find it any more, and the next run may send it again. `abandon`: let it be; nothing sends
            it again in its scope.
        provider_job_id: the provider's id, for `adopt`.
        by: who decides; the operating system's user by default.
        clock: the time.

    Returns:
        The job as it is now.

    Raises:
        InvalidRequest: there is no such job, or it is not one to decide about.
    """
    job = await ledger.find(name)
    if job is None:
        raise _refusal("job", f"the ledger has no job {name!r}")
    job = await expire_stale_sending(ledger, job, clock) or job
    note = _note(job, decision, provider_job_id, by, clock)
    facts: dict[str, object]
    if decision == "resubmit" and job.is_missing:
        # It was accepted, and may be paid: it ends as what its provider no longer has.
        return await _carried_out(ledger, job, JobState.UNDELIVERABLE, note=note, expires_at=clock.now())
    if decision == "resubmit" and job.is_given_up:
        # The person has seen in the provider's console that it will not be finished.
        facts = {"error_kind": JobExpired.__name__, "expires_at": clock.now()}
        return await _carried_out(ledger, job, JobState.UNDELIVERABLE, note=note, **facts)
    if job.state not in _FROM[decision]:
        raise _refusal("job", f"{job.key} is {job.state.value}: there is nothing to {decision}")
    facts = {"note": note}
    if decision == "adopt":
        facts |= await _adoption(ledger, job, provider_job_id, clock)
    assert _TARGET[decision] in LEGAL_MOVES[job.state]  # the tables above agree with the job life
    return await _carried_out(ledger, job, _TARGET[decision], **facts)


async def _carried_out(ledger: Ledger, job: Job, state: JobState, **facts: object) -> Job:
    moved = await ledger.move(job, state, **facts)
    if moved is None:
        raise _refusal("job", f"{job.key} was changed by somebody else at this moment; look at it again")
    return moved


async def _adoption(ledger: Ledger, job: Job, provider_job_id: str | None, clock: Clock) -> dict[str, object]:
    if not provider_job_id or provider_job_id != provider_job_id.strip():
        raise _refusal("provider_job_id", "name the provider's id of the job, as its console shows it")
    if problem := id_problem(provider_job_id):
        raise _refusal("provider_job_id", f"it cannot be stored, since {problem}")
    other = await ledger.find(provider_job_id)
    if other is not None and other.key != job.key:
        raise _refusal("provider_job_id", f"{shown_id(provider_job_id)} already belongs to job {other.key}")
    facts: dict[str, object] = {"provider_job_id": provider_job_id, "error_kind": None, "error_message": None}
    plugin = find_plugin(job.provider)
    lifetime = plugin.job_lifetime_seconds if plugin else None
    if lifetime is not None:
        facts["expires_at"] = (job.sent_at or clock.now()) + lifetime
    # The provider accepted it when it was sent, not when a person found it.
    return facts | {"submitted_at": job.sent_at or clock.now()}


def _note(job: Job, decision: Decision, provider_job_id: str | None, by: str | None, clock: Clock) -> str:
    when = datetime.fromtimestamp(clock.now(), timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    words = f"{decision} {shown_id(provider_job_id)}" if decision == "adopt" else decision
    line = f"{when}, {clean_text(by or getpass.getuser(), 128)}: {words}"
    return f"{job.note}\n{line}" if job.note else line


def _refusal(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest.of("The decision", [FieldProblem(field, problem)])

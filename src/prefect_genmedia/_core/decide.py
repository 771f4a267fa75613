"""Applies and corrects a person's decision about a submission.

A decision is one transaction, which stores the previous values of the fields that it changes. `undo` restores them as
long as the decision has had no effect.
"""

from __future__ import annotations

import getpass
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, select

from prefect_genmedia._core.accepted import (
    NOTHING_OBSERVED,
    change,
    is_correctable,
    locked,
    note_line,
    noted,
    others_with_id,
    undoable,
)
from prefect_genmedia._core.attempts import batch_scope
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import ACCEPTED, Job, JobState
from prefect_genmedia._core.polling import client_of
from prefect_genmedia._core.reconcile import ClientFor
from prefect_genmedia._core.statements import JOBS, followed, job_of
from prefect_genmedia._core.submit import expire_stale_sending
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, JobExpired
from prefect_genmedia.providers.plugin import find_plugin
from prefect_genmedia.text import escaped, id_problem, shown_id

Decision = Literal["adopt", "resubmit", "abandon", "undo"]

_FROM: dict[Decision, frozenset[JobState]] = {
    "adopt": frozenset({JobState.UNKNOWN, JobState.ABANDONED, JobState.REJECTED}),
    "resubmit": frozenset({JobState.UNKNOWN}),
    "abandon": frozenset({JobState.UNKNOWN, JobState.RESERVED}),
    "undo": frozenset(),
}
"""The states in which a decision is always possible."""

_NO_ERROR: dict[str, Any] = {"error_kind": None, "error_message": None, "error_code": None}


@dataclass(frozen=True)
class _Wish:
    """A decision about one job, with the facts to record."""

    decision: Decision
    provider_job_id: str
    by: str
    now: float

    @property
    def line(self) -> str:
        """Returns the line to add to the job's note."""
        words = f"{self.decision} {shown_id(self.provider_job_id)}" if self.provider_job_id else self.decision
        return note_line(self.by, words, self.now)


async def decide(
    ledger: Ledger,
    name: str,
    decision: Decision,
    provider_job_id: str | None = None,
    by: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
    client_for: ClientFor | None = None,
) -> Job:
    """Carry out a person's decision.

    Args:
        ledger: the jobs.
        name: the job's key, or a prefix of it.
        decision: `adopt`: the submission arrived, and has this provider id; may be repeated with another id until a
            poll has found something under the first. `resubmit`: the submission never arrived, or the provider no
            longer finds the job; the next run may send it again. `abandon`: give the job up; nothing sends it again in
            its scope. `undo`: revert the last decision, if it has had no effect.
        provider_job_id: the provider's id, for `adopt`.
        by: who decides; the operating system's user by default.
        clock: the time source.
        client_for: opens the client of the job's account, for `adopt`: the id is polled once, which is free.

    Returns:
        The job as it is now; see `warning_about`.

    Raises:
        InvalidRequest: there is no such job, its state allows no such decision, the provider does not have the id, or
            another job has it.
    """
    job = await _named(ledger, _stripped(name))
    job = await expire_stale_sending(ledger, job, clock) or job
    wish = _Wish(
        decision,
        _typed_id(provider_job_id, job.provider_job_id) if decision == "adopt" else "",
        by or getpass.getuser(),
        clock.now(),
    )
    if decision == "adopt" and not _is_adopted_already(job, wish):
        _check_adoptable(job, wish.provider_job_id)
        await _look_up(job, wish.provider_job_id, client_for)
    return await ledger.transact(lambda connection: _carry_out(connection, job, wish))


async def _named(ledger: Ledger, name: str) -> Job:
    """Returns the single job that matches a name."""
    job = await ledger.find(name)
    if job is None:
        raise _refusal("job", f"the ledger has no job {name!r}")
    if not job.key.startswith(name):  # found by the provider's id, which may not be unique
        same = map(job_of, await ledger.query(select(JOBS).where(JOBS.c.provider_job_id == job.provider_job_id)))
        keys = sorted(each.key for each in same)
        if len(keys) > 1:
            raise _refusal("job", f"jobs {', '.join(keys)} have the id {job.shown_id}: name one by its key")
    return job


async def warning_about(ledger: Ledger, job: Job) -> str:
    """Returns a warning about a job that is at its provider although a later attempt exists.

    Args:
        ledger: the jobs.
        job: the job.

    Returns:
        One sentence; empty if there is nothing to warn about.
    """
    if job.state not in ACCEPTED:
        return ""
    later = await ledger.successor(job)
    if later is None:
        return ""
    return (
        f"Attempt {later.attempt} (job {later.key}, {later.state.value}) follows this one, and each of them may be "
        f"paid. The file of this one gets a name with its key {job.key}."
    )


# --- adopting ---


def _stripped(typed: str) -> str:
    """Removes surrounding white space and invisible characters from typed or pasted text."""
    ends = [index for index, each in enumerate(typed) if not each.isspace() and unicodedata.category(each) != "Cf"]
    return typed[ends[0] : ends[-1] + 1] if ends else ""


def _typed_id(provider_job_id: str | None, stored: str | None) -> str:
    """Returns the id that a person means. Commands show the stored id escaped, so its escaped form is accepted, too."""
    typed = _stripped(provider_job_id or "")
    if stored is not None and typed in (escaped(stored), _stripped(stored)):
        return stored
    if not typed:
        raise _refusal("provider_job_id", "name the provider's id of the job, as its console shows it")
    if problem := id_problem(typed):
        raise _refusal("provider_job_id", f"it cannot be stored, since {problem}")
    return typed


def _is_adopted_already(job: Job, wish: _Wish) -> bool:
    is_lost = job.state is JobState.UNDELIVERABLE and undoable(job) == "resubmit"
    return job.state in ACCEPTED and job.provider_job_id == wish.provider_job_id and not is_lost


def _check_adoptable(job: Job, provider_job_id: str) -> None:
    is_lost = job.state is JobState.UNDELIVERABLE and undoable(job) == "resubmit"
    if not (job.state in _FROM["adopt"] or is_correctable(job) or is_lost):
        theirs = f" as {job.shown_id}" if job.provider_job_id else ""
        raise _refusal("job", f"{job.key} is {job.state.value}{theirs}: there is nothing to adopt")
    is_certain = job.state is not JobState.UNKNOWN  # an id that came with an error may not be one
    if is_certain and job.provider_job_id not in (None, provider_job_id) and not is_correctable(job):
        raise _refusal("provider_job_id", f"the provider accepted job {job.key} as {job.shown_id}: adopt that id")


async def _look_up(job: Job, provider_job_id: str, client_for: ClientFor | None) -> None:
    """Check that the provider has the id: a mistyped id would be polled until the job's lifetime is over.

    Raises:
        InvalidRequest: the provider does not have it, or cannot be asked.
    """
    shown = shown_id(provider_job_id)
    if client_for is None:
        raise _refusal("provider_job_id", f"{shown} cannot be looked up without credentials")
    async with client_for(job) as client:
        if client is None:
            problem = f"{shown} cannot be looked up: name a credentials Block of the job's account {job.account}"
            raise _refusal("credentials", problem)
        try:
            failure = (await client_of(client, job).poll(provider_job_id)).failure
        except GenMediaError as error:
            failure = error
            if not isinstance(error, JobExpired):
                problem = f"{shown} cannot be looked up, and nothing was changed: {error.message.removesuffix('.')}"
                raise _refusal("provider_job_id", problem) from None
    if isinstance(failure, JobExpired):
        raise _refusal("provider_job_id", f"the provider does not have {shown}. Nothing was changed")


def _adopt(connection: Connection, job: Job, wish: _Wish) -> Job:
    if _is_adopted_already(job, wish):
        return job
    _check_adoptable(job, wish.provider_job_id)
    others = others_with_id(connection, job, wish.provider_job_id)
    if others:
        problem = f"{shown_id(wish.provider_job_id)} already belongs to job {others[0].key}"
        raise _refusal("provider_job_id", problem)
    accepted_at = job.sent_at or wish.now  # when it was sent, not when a person found the id
    plugin = find_plugin(job.provider)
    lifetime = plugin.job_lifetime_seconds if plugin else None
    values = (
        _NO_ERROR
        | NOTHING_OBSERVED
        | {
            "state": JobState.SUBMITTED.value,
            "provider_job_id": wish.provider_job_id,
            "submitted_at": accepted_at,
            "expires_at": None if lifetime is None else accepted_at + lifetime,
        }
    )
    return _decided(connection, job, wish, values)


# --- the other decisions ---


def _resubmit(connection: Connection, job: Job, wish: _Wish) -> Job:
    if job.is_missing:
        # It was accepted and may be paid, so it ends as a job that its provider no longer has.
        return _decided(connection, job, wish, {"state": JobState.UNDELIVERABLE.value, "expires_at": wish.now})
    if job.is_given_up:
        # The person checked in the provider's console that it will not be finished.
        ended = {"error_kind": JobExpired.__name__, "expires_at": wish.now}
        return _decided(connection, job, wish, {"state": JobState.UNDELIVERABLE.value} | ended)
    _check_state(job, wish.decision)
    return _decided(connection, job, wish, {"state": JobState.REJECTED.value})


def _abandon(connection: Connection, job: Job, wish: _Wish) -> Job:
    _check_state(job, wish.decision)
    return _decided(connection, job, wish, {"state": JobState.ABANDONED.value})


def _undo(connection: Connection, job: Job, wish: _Wish) -> Job:
    """Restore the fields that the last decision changed, if it is still in force and has had no effect."""
    decision = undoable(job)
    stands = {
        "adopt": is_correctable(job),
        "resubmit": job.state in (JobState.REJECTED, JobState.UNDELIVERABLE),
        "abandon": job.state is JobState.ABANDONED,
    }
    if decision is None and job.state is JobState.ABANDONED:
        # Abandoned by an earlier version, which did not store the previous state.
        before: dict[str, Any] = {"state": (JobState.RESERVED if job.sent_at is None else JobState.UNKNOWN).value}
    elif decision is not None and stands[decision]:
        before = dict((job.before_decision or {})["fields"])
    else:
        raise _refusal("job", f"{job.key} is {job.state.value}: there is no decision that can still be undone")
    later = connection.execute(followed(job)).fetchone()
    if later is not None:
        raise _refusal("job", f"attempt {later.attempt} ({later.key}) already follows job {job.key}")
    return change(connection, job, **before, before_decision=None, note=noted(job, wish.line), updated_at=wish.now)


_DECISIONS: dict[Decision, Callable[[Connection, Job, _Wish], Job]] = {
    "adopt": _adopt,
    "resubmit": _resubmit,
    "abandon": _abandon,
    "undo": _undo,
}


def _carry_out(connection: Connection, read: Job, wish: _Wish) -> Job:
    job = locked(connection, read.key)
    if job is None:
        raise _refusal("job", f"{read.key} was deleted at this moment")
    if job.note is not None and job.note != read.note and job.note.endswith(wish.line):
        return job  # committed before, and only the answer was lost
    return _DECISIONS[wish.decision](connection, job, wish)


def _check_state(job: Job, decision: Decision) -> None:
    if job.state not in _FROM[decision]:
        raise _refusal("job", f"{job.key} is {job.state.value}: there is nothing to {decision}")


def _decided(connection: Connection, job: Job, wish: _Wish, values: dict[str, Any]) -> Job:
    """Record a decision with the previous values of its fields: for repeated adoptions, those before the first."""
    before = job.before_decision
    if before is None or wish.decision != "adopt" or not is_correctable(job):
        fields = job.model_dump(mode="json", include=set(values))
        before = {"decision": wish.decision, "fields": fields}
    return change(connection, job, **values, before_decision=before, note=noted(job, wish.line), updated_at=wish.now)


async def to_decide(ledger: Ledger, decision: Decision, batch: str | None, since: float | None) -> list[Job]:
    """Returns the jobs that a bulk decision applies to: unknown jobs, or abandoned jobs for `undo`.

    Args:
        ledger: the jobs.
        decision: the decision.
        batch: only jobs of this batch.
        since: only jobs that were sent at or after this time, in seconds since 1970.
    """
    for job in await ledger.jobs({JobState.SENDING}):
        await expire_stale_sending(ledger, job)
    states = {JobState.ABANDONED} if decision == "undo" else {JobState.UNKNOWN}
    found = await ledger.jobs(states)
    if batch is not None:
        found = [job for job in found if job.scope.startswith(batch_scope(batch))]
    return [job for job in found if since is None or (job.sent_at or job.created_at) >= since]


def _refusal(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest.of("The decision", [FieldProblem(field, problem)])

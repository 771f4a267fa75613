"""Deciding what asking for a result again sends: one rule for submissions, budgets and plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_genmedia._core.identity import BATCH_SCOPE, Identities
from prefect_genmedia._core.model import NEVER_PAID, Job, JobState, Rerun
from prefect_genmedia.errors import NEW_ATTEMPT, GenMediaError

if TYPE_CHECKING:
    from prefect_genmedia._core.ledger import Ledger


@dataclass(frozen=True)
class Asker:
    """Who asks for a result, as far as that decides about another attempt.

    Parameters:
        root_run_id: the root flow run, or the task run where there is no flow.
        ask_again: whether what failed earlier may be asked for anew at all.
        retried_by_person: whether that run was started again by a person, and not by its own automatic retries.
    """

    root_run_id: str | None
    ask_again: bool = True
    retried_by_person: bool = False


def next_attempt(job: Job | None, asker: Asker, now: float) -> int | None:
    """The number of the attempt that is sent if a result is asked for now.

    A refused submission cost nothing and may be repeated. What the provider had accepted is asked for again only by
    another run or by a person: an automatic retry would get the same failure once more.

    Parameters:
        job: the newest job of the result; None if there is none.
        asker: who asks.
        now: seconds since 1970.

    Returns:
        The attempt. None if nothing is sent: the job is joined, its failure is raised, or a person must decide.
    """
    if job is None:
        return 1
    if job.state is JobState.RESERVED:
        return job.attempt
    if not job.may_follow(now):
        return None
    is_asked_anew = job.root_run_id != asker.root_run_id or asker.retried_by_person
    if job.state is JobState.REJECTED or (asker.ask_again and is_asked_anew):
        return job.attempt + 1
    return None


def holds_payment(job: Job, now: float) -> bool:
    """Whether a job is paid, or may be, and no other attempt may follow it: a second job would pay a second time.

    Parameters:
        job: the job.
        now: seconds since 1970.
    """
    return job.state not in NEVER_PAID | {JobState.FAILED} and not job.may_follow(now)


def chosen(identities: Identities, newest: Iterable[Job], now: float) -> Job | None:
    """Of the jobs that one wanted result has under its several identities, the one that is asked for.

    What holds a payment comes first; then the job by the client's own key and base URL, as versions without accounts
    would find it.

    Parameters:
        identities: the identities of the wanted result.
        newest: the newest attempt under each identity that has one.
        now: seconds since 1970.
    """
    rank = {identity: position for position, identity in enumerate(identities.lookup)}
    found = [job for job in newest if job.identity in rank]
    return min(found, key=lambda job: (not holds_payment(job, now), rank[job.identity]), default=None)


async def rerun_after(ledger: Ledger, job: Job, now: float) -> Rerun:
    """What becomes of a new request for a job's result.

    Parameters:
        ledger: where jobs are recorded.
        job: any attempt at it.
        now: seconds since 1970.
    """
    return job.rerun(now) if await ledger.successor(job) is None else Rerun.FOLLOWED


def agreed_step(error: GenMediaError, rerun: Rerun | None) -> str:
    """What a person can do about an error, in agreement with what a new request does.

    An error does not know the ledger: what it says about another attempt may not hold for its job.

    Parameters:
        error: the error.
        rerun: what a new request for the job's result does; None if the error is about no job.
    """
    if rerun in (None, Rerun.NEW_ATTEMPT) or NEW_ATTEMPT not in error.next_step:
        return error.next_step
    return f"`prefect-genmedia jobs show {{job}}`. A run with the same request {rerun.value}."


def batch_scope(batch_id: str) -> str:
    """How the scope of every row of a batch begins.

    Parameters:
        batch_id: the batch.
    """
    return f"{BATCH_SCOPE}{batch_id}:"

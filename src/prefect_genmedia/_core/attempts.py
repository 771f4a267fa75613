"""Decides whether a repeated request sends a new attempt: one rule for submissions, budgets and plans."""

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
    """The facts about the requesting run that decide whether another attempt is allowed.

    Args:
        root_run_id: the root flow run, or the task run outside of flows.
        ask_again: whether a result that failed earlier may be requested again at all.
        retried_by_person: whether a person restarted the run, as opposed to an automatic retry.
    """

    root_run_id: str | None
    ask_again: bool = True
    retried_by_person: bool = False


def next_attempt(job: Job | None, asker: Asker, now: float) -> int | None:
    """Returns the number of the attempt that would be sent if a result were requested now.

    A refused submission cost nothing and may be repeated. A job that the provider accepted and then failed is requested
    again only by another run or by a person: an automatic retry would get the same failure again.

    Args:
        job: the newest job of the result; None if there is none.
        asker: the requesting run.
        now: seconds since 1970.

    Returns:
        The attempt. None if nothing is sent: the caller joins the job or raises its failure, or a person must decide.
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
    """Whether a job was or may have been paid, so that no other attempt may follow: a second job would pay twice.

    Args:
        job: the job.
        now: seconds since 1970.
    """
    return job.state not in NEVER_PAID | {JobState.FAILED} and not job.may_follow(now)


def chosen(identities: Identities, newest: Iterable[Job], now: float) -> Job | None:
    """Returns the job to use for a requested result that has jobs under several identities.

    A job that holds a payment comes first. Next comes the job under the client's own key and base URL, which versions
    without accounts would find.

    Args:
        identities: the identities of the requested result.
        newest: the newest attempt under each identity that has one.
        now: seconds since 1970.
    """
    rank = {identity: position for position, identity in enumerate(identities.lookup)}
    found = [job for job in newest if job.identity in rank]
    return min(found, key=lambda job: (not holds_payment(job, now), rank[job.identity]), default=None)


async def rerun_after(ledger: Ledger, job: Job, now: float) -> Rerun:
    """Returns what happens to a new request for a job's result.

    Args:
        ledger: where jobs are recorded.
        job: any attempt at the result.
        now: seconds since 1970.
    """
    return job.rerun(now) if await ledger.successor(job) is None else Rerun.FOLLOWED


def agreed_step(error: GenMediaError, rerun: Rerun | None) -> str:
    """Returns the next step for a person, consistent with what a new request would do.

    An error has no access to the ledger, so its own advice about another attempt may be wrong for its job.

    Args:
        error: the error.
        rerun: what a new request for the job's result does; None if the error is about no job.
    """
    if rerun in (None, Rerun.NEW_ATTEMPT) or NEW_ATTEMPT not in error.next_step:
        return error.next_step
    return f"`prefect-genmedia jobs show {{job}}`. A run with the same request {rerun.value}."


def batch_scope(batch_id: str) -> str:
    """Returns the prefix of the scope of every row of a batch.

    Args:
        batch_id: the batch.
    """
    return f"{BATCH_SCOPE}{batch_id}:"

"""Records a provider's acceptance of a job, even if a person has decided about the job in the meantime.

An accepted submission is paid, so it is always recorded. If another job has the same id, a note and an event are added.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update

from prefect_genmedia._core.accounts import normalized_base_url
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import ACCEPTED, Job, JobState
from prefect_genmedia._core.statements import HOLDING_ID, JOBS, LOCKED_BY_KEY, followed, job_of, lock_number
from prefect_genmedia._core.telemetry import note
from prefect_genmedia.errors import LedgerError, SubmissionUnknown
from prefect_genmedia.providers.plugin import find_plugin
from prefect_genmedia.providers.protocol import Accepted
from prefect_genmedia.text import clean_text, escaped, shown_id

logger = logging.getLogger(__name__)

NOTHING_OBSERVED: dict[str, Any] = {"provider_status": None, "running_at": None, "notified_at": None}
"""The initial values of the fields that record what polling an id returned."""

_NO_DECISION: dict[str, Any] = {"error_kind": None, "error_message": None, "error_code": None, "before_decision": None}


@dataclass(frozen=True)
class Recorded:
    """The result of recording an acceptance.

    Args:
        job: the job as it is now.
        event: the event to emit: the id is a duplicate, or the answer was late; None for no event.
        stands: whether the job is at the provider now; False if a person's decision stays in force.
    """

    job: Job
    event: Literal["id_repeated", "accepted_late"] | None = None
    stands: bool = True

    @property
    def message(self) -> str:
        """What happened, for the log: the last line of the job's note."""
        return "".join((self.job.note or "").splitlines()[-1:])


async def record_accepted(ledger: Ledger, job: Job, accepted: Accepted, clock: Clock) -> Recorded:
    """Record that the provider accepted a job, and its id.

    Args:
        ledger: where jobs are recorded.
        job: the job, as it was sent.
        accepted: the provider's answer.
        clock: the time source.

    Raises:
        LedgerError: the ledger cannot record it; it is safe to try again.
    """
    plugin = find_plugin(job.provider)
    lifetime = plugin.job_lifetime_seconds if plugin else None
    facts: dict[str, Any] = {
        "provider_job_id": accepted.provider_job_id,
        "provider_status": accepted.status,
        "price": accepted.price,
        "points_remaining": accepted.points_remaining,
        "evidence": dict(accepted.evidence) or None,
    }
    if lifetime is not None:
        facts["expires_at"] = clock.now() + lifetime
    submitted = await ledger.move(job, JobState.SUBMITTED, **facts)
    if submitted is None:
        # Another process considered this one dead, and a person may have decided since. This answer is certain.
        recorded = await ledger.transact(lambda connection: _late(connection, job, facts, clock.now()))
        if not recorded.stands:
            return recorded
        submitted = recorded.job
    try:
        return await ledger.transact(lambda connection: _repeated(connection, submitted, clock.now()))
    except LedgerError:  # the answer itself is recorded
        logger.warning("Whether another job has the id of job %s cannot be read", job.key, exc_info=True)
        return Recorded(submitted)


def accepted_otherwise(job: Job, provider_job_id: str) -> SubmissionUnknown:
    """Returns the error for a run whose job the provider accepted after a person had decided otherwise.

    Args:
        job: the job as it is now.
        provider_job_id: the id that the provider gave it.
    """
    typed = shlex.quote(escaped(provider_job_id))
    return SubmissionUnknown(
        f"The provider accepted it as {shown_id(provider_job_id)}, but the job is {job.state.value}: "
        "it was decided otherwise meanwhile.",
        paid="the submission was accepted",
        next_step=f"`prefect-genmedia jobs adopt {{job}} {typed}` delivers it.",
    ).about(job.key, provider_job_id)


async def accepted_too_late(ledger: Ledger, now: float) -> list[Job]:
    """Returns the jobs that the provider accepted after a person had decided otherwise, and that it may still have.

    Args:
        ledger: where jobs are recorded.
        now: seconds since 1970.
    """
    decided = JOBS.c.state.in_([JobState.REJECTED.value, JobState.ABANDONED.value])
    # An id that came with an error and was looked up by a person has no status.
    accepted = (JOBS.c.provider_job_id.is_not(None), JOBS.c.provider_status.is_not(None))
    rows = await ledger.query(select(JOBS).where(decided, *accepted))
    return [job for job in map(job_of, rows) if not job.is_over(now)]


def _late(connection: Connection, sent: Job, facts: dict[str, Any], now: float) -> Recorded:
    """Record an answer for a job whose row this process no longer holds as `sending`."""
    job, provider_job_id = locked(connection, sent.key), facts["provider_job_id"]
    if job is None:
        return Recorded(sent, "accepted_late", stands=False)
    if job.provider_job_id == provider_job_id and undoable(job) != "adopt":
        return Recorded(job, stands=job.state in ACCEPTED)  # committed before; only the answer was lost
    line = note_line("the provider", f"accepted it as {shown_id(provider_job_id)}, after {job.state.value}", now)
    facts = {**facts, "note": noted(job, line), "updated_at": now}
    if _may_be_accepted(connection, job):
        settled = facts | _NO_DECISION | {"state": JobState.SUBMITTED.value, "submitted_at": now}
        return Recorded(change(connection, job, **settled), "accepted_late")
    kept = facts if job.provider_job_id is None else {"note": facts["note"]}
    return Recorded(change(connection, job, **kept), "accepted_late", stands=job.provider_job_id == provider_job_id)


def _may_be_accepted(connection: Connection, job: Job) -> bool:
    """Whether a certain answer overrides a person's decision. A decision that has had an effect stays in force."""
    if job.state is JobState.REJECTED:  # a person considered it lost, and nothing was sent in its place yet
        return connection.execute(followed(job)).fetchone() is None
    return is_correctable(job) or job.state in (JobState.UNKNOWN, JobState.RESERVED, JobState.SENDING)


def _repeated(connection: Connection, job: Job, now: float) -> Recorded:
    """Record in the job's note that another job has the same id."""
    present = locked(connection, job.key) or job  # lock the row before the id: the same order as in `adopt`
    others = others_with_id(connection, job, job.provider_job_id or "")
    keys = ", ".join(each.key for each in others[:_NAMED])
    words = f"gave it the id {job.shown_id}, which job {keys} has already"
    if not others or words in (present.note or ""):
        return Recorded(job)
    line = note_line("the provider", words, now)
    return Recorded(change(connection, present, note=noted(present, line)), "id_repeated")


_NAMED = 3
"""The maximum number of other jobs that a note names."""


def note_line(who: str, words: str, now: float) -> str:
    """One line of a job's note.

    Args:
        who: who decided or found something.
        words: what.
        now: seconds since 1970.
    """
    when = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when}, {clean_text(who, 128)}: {words}"


def noted(job: Job, line: str) -> str:
    """A job's note with one more line.

    Args:
        job: the job.
        line: the line.
    """
    return f"{job.note}\n{line}" if job.note else line


def is_correctable(job: Job) -> bool:
    """Whether the job's id was given by a person, and no poll has found anything under it yet.

    Args:
        job: the job.
    """
    return (
        job.state is JobState.SUBMITTED
        and undoable(job) == "adopt"
        and all(getattr(job, name) is None for name in NOTHING_OBSERVED)
    )


def locked(connection: Connection, key: str) -> Job | None:
    """Returns a job, with its row locked until the transaction ends. SQLite needs no lock: it has a single writer.

    Args:
        connection: inside a transaction.
        key: the job's key.
    """
    row = connection.execute(LOCKED_BY_KEY, {"key": key}).fetchone()
    return None if row is None else job_of(row)


def change(connection: Connection, job: Job, **values: Any) -> Job:
    """Set fields of a locked job in any state.

    Args:
        connection: inside a transaction.
        job: the job.
        **values: the columns.
    """
    statement = update(JOBS).where(JOBS.c.key == job.key).values(**values).returning(*JOBS.c)
    changed = job_of(connection.execute(statement).fetchone())
    note(connection, job.state, changed)
    return changed


def others_with_id(connection: Connection, job: Job, provider_job_id: str) -> list[Job]:
    """Returns the other jobs at the same provider and base URL that have this id.

    Other transactions that record an id wait until this one ends.

    Args:
        connection: inside a transaction.
        job: the job.
        provider_job_id: the id.
    """
    if connection.dialect.name == "postgresql":
        name = f"id {job.provider} {provider_job_id}"
        connection.execute(select(func.pg_advisory_xact_lock(lock_number(name))))
    named = {"provider": job.provider, "provider_job_id": provider_job_id}
    found = map(job_of, connection.execute(HOLDING_ID, named))
    return [each for each in found if each.key != job.key and _base_url(each) == _base_url(job)]


def _base_url(job: Job) -> str:
    return normalized_base_url(job.account.partition("@")[2])


def undoable(job: Job) -> str | None:
    """Returns the decision that `undo` would revert.

    Args:
        job: the job.
    """
    return (job.before_decision or {}).get("decision")

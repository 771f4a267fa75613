"""The ledger's SQL statements, and the conversion of its rows to jobs."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Row, Select, and_, bindparam, func, or_, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.dml import ReturningUpdate

from prefect_genmedia._core import schema
from prefect_genmedia._core.model import FORGOTTEN_SECONDS, STALE_SENDING_SECONDS, Job, JobState

# The statements of the job lifecycle are built once: building one takes longer than executing it.
JOBS = schema.jobs
BY_KEY = select(JOBS).where(JOBS.c.key == bindparam("key")).limit(1)
LOCKED_BY_KEY = select(JOBS).where(JOBS.c.key == bindparam("key")).with_for_update()
HOLDING_ID = select(JOBS).where(
    JOBS.c.provider_job_id == bindparam("provider_job_id"), JOBS.c.provider == bindparam("provider")
)
"""Selects the jobs of a provider that have an id, at any of its base URLs."""
NEWEST = select(JOBS).where(JOBS.c.identity == bindparam("identity")).order_by(JOBS.c.attempt.desc()).limit(1)
TOOK = (
    select(JOBS.c.took_seconds)
    .where(JOBS.c.provider == bindparam("provider"), JOBS.c.model == bindparam("model"))
    .where(JOBS.c.took_seconds.is_not(None))
    .order_by(JOBS.c.succeeded_at.desc())
    .limit(50)
)
TOOK_OF_LENGTH = TOOK.where(
    JOBS.c.expectation["seconds"].as_float().between(bindparam("shortest"), bindparam("longest"))
)
TYPICAL_FRESH_SECONDS = 2.0
"""How long a computed typical duration is reused, in seconds: the jobs of a batch share it."""

RESERVE = {
    "sqlite": JOBS.insert().prefix_with("OR IGNORE").returning(*JOBS.c),
    "postgresql": postgresql.insert(JOBS)
    .on_conflict_do_nothing(index_elements=["identity", "attempt"])
    .returning(*JOBS.c),
}


def took_query(provider: str, model: str, length_seconds: float | None) -> tuple[Select[Any], dict[str, Any]]:
    """Returns the query for the durations of the last jobs that were polled throughout, with its values.

    Args:
        provider: the provider's name.
        model: the provider's model.
        length_seconds: the result's duration; jobs within a factor of 1.5 count. None for any duration.
    """
    values: dict[str, Any] = {"provider": provider, "model": model}
    if not length_seconds:
        return TOOK, values
    return TOOK_OF_LENGTH, values | {"shortest": length_seconds / 1.5, "longest": length_seconds * 1.5}


TIME_OF_STATE = {
    JobState.SENDING: "sent_at",
    JobState.SUBMITTED: "submitted_at",
    JobState.SUCCEEDED: "succeeded_at",
    JobState.DELIVERED: "delivered_at",
}
"""The field that holds the time when a job reached a state."""

ROWS_AT_ONCE = 2000
"""Number of batch rows read at once; other operations of this process wait during the read."""

NEW = "new_"
"""Prefix of the parameters that an update sets, because the same field may also be in its condition."""


@functools.cache
def update_of(names: tuple[str, ...]) -> ReturningUpdate[Any]:
    """Sets fields of one job, if it still has the state and provider id with which it was read.

    A person may correct the id of a job during a wait; the poll result of the old id must then not be recorded.

    Args:
        names: the fields.
    """
    its_id = bindparam("its_id", type_=JOBS.c.provider_job_id.type)
    where = and_(JOBS.c.key == bindparam("its_key"), JOBS.c.state == bindparam("its_state"))
    where = and_(where, JOBS.c.provider_job_id.is_not_distinct_from(its_id))
    values = {name: bindparam(NEW + name, type_=JOBS.c[name].type) for name in names}
    return update(JOBS).where(where).values(values).returning(*JOBS.c)


WHICH_POSTGRESQL = text("SELECT system_identifier::text, current_database(), current_schema() FROM pg_control_system()")


def count_in_flight(account: str, now: float) -> Select[Any]:
    """Counts `sending` and `submitted` jobs, without those of dead processes and those that expired at the provider.

    Args:
        account: one of the account's texts.
        now: the current time, in seconds since 1970.
    """
    jobs = schema.jobs.alias()
    sending = and_(jobs.c.state == JobState.SENDING.value, jobs.c.sent_at > now - STALE_SENDING_SECONDS)
    ends = func.coalesce(jobs.c.expires_at, jobs.c.submitted_at + FORGOTTEN_SECONDS)
    submitted = and_(jobs.c.state == JobState.SUBMITTED.value, ends > now)
    return select(func.count()).select_from(jobs).where(same_account(jobs.c.account, account), or_(sending, submitted))


def columns_of(job: Job) -> dict[str, Any]:
    """Converts a job to values of the table's columns.

    Args:
        job: the job.
    """
    return job.model_dump(mode="json")


def plain(changes: dict[str, Any]) -> dict[str, Any]:
    """Converts changed fields to values of their columns.

    Args:
        changes: fields of `Job`, by name.
    """
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in changes.items()
    }


def job_of(row: Row[Any] | None) -> Job:
    """Converts a row of the ledger to a job.

    Args:
        row: the row.

    Raises:
        LookupError: there is no row.
    """
    if row is None:
        raise LookupError("the ledger's row has vanished")
    job = Job.model_validate(dict(row._mapping))
    # Every field is set. A separate set of names per job would take a third of its memory; a batch holds all its jobs.
    object.__setattr__(job, "__pydantic_fields_set__", _ALL_FIELDS)
    return job


_ALL_FIELDS = set(Job.model_fields)


def same_account(column: ColumnElement[str], account_text: str) -> ColumnElement[bool]:
    """Returns the condition that two account texts represent the same account.

    Args:
        column: the column with one text.
        account_text: the other text.
    """
    mine, its = schema.account_tokens.alias(), schema.account_tokens.alias()
    texts = select(its.c.token).join(mine, mine.c.account_id == its.c.account_id).where(mine.c.token == account_text)
    return or_(column == account_text, column.in_(texts))


def followed(job: Job) -> Select[Any]:
    """Selects the newest attempt that follows a job.

    Args:
        job: the job.
    """
    later = (JOBS.c.identity == job.identity, JOBS.c.attempt > job.attempt)
    return select(JOBS).where(*later).order_by(JOBS.c.attempt.desc()).limit(1)


def lock_number(name: str) -> int:
    """Returns the number of an advisory lock in PostgreSQL: a signed 64-bit integer.

    Args:
        name: the lock's name.
    """
    return int.from_bytes(hashlib.sha256(f"genmedia {name}".encode()).digest()[:8], "big", signed=True)

"""Job look-up for users: lists by filter, and single jobs by key, id or prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core.attempts import batch_scope
from prefect_genmedia._core.identity import BATCH_SCOPE
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.statements import JOBS, job_of
from prefect_genmedia.text import storable

NEEDS_A_PERSON = frozenset({JobState.UNKNOWN})
"""States that only a person's decision can end."""


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are listed. Conditions that are None or empty do not apply.

    Args:
        states: only jobs in one of these states.
        provider: only jobs of this provider.
        since: only jobs that were sent (or, if never sent, recorded) at or after this time, in seconds since 1970.
        batch: only jobs of this batch.
        run: only jobs of this flow run or its subflow runs: its id, or a prefix of it.
        label: only jobs whose label contains this text, case-insensitive.
    """

    states: frozenset[JobState] = frozenset()
    provider: str | None = None
    since: float | None = None
    batch: str | None = None
    run: str | None = None
    label: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yields the conditions on the ledger's rows."""
        if self.states:
            yield JOBS.c.state.in_([state.value for state in self.states])
        if self.provider is not None:
            yield JOBS.c.provider == storable(self.provider)
        if self.since is not None:
            yield func.coalesce(JOBS.c.sent_at, JOBS.c.created_at) >= self.since
        if self.batch is not None:
            yield JOBS.c.scope.startswith(storable(batch_scope(self.batch)), autoescape=True)
        if self.run is not None:
            yield _of_run(storable(self.run))
        if self.label is not None:
            yield JOBS.c.label.icontains(storable(self.label), autoescape=True)


async def list_jobs(ledger: Ledger, wanted: JobFilter, limit: int) -> tuple[list[Job], int]:
    """Lists jobs that need a person first, then jobs at a provider by expiry, then the rest, newest first.

    Args:
        ledger: the jobs.
        wanted: the filter.
        limit: at most this many.

    Returns:
        The jobs, and how many there are without the limit.
    """
    conditions = list(wanted.conditions())
    found = await ledger.query(select(JOBS).where(*conditions).order_by(*_by_urgency()).limit(limit))
    count = await ledger.query(select(func.count()).select_from(JOBS).where(*conditions))
    return [job_of(row) for row in found], int(count[0][0])


def _by_urgency() -> list[ColumnElement[Any]]:
    is_at_provider = JOBS.c.state.in_([state.value for state in AT_PROVIDER])
    group = case((JOBS.c.state.in_([state.value for state in NEEDS_A_PERSON]), 0), (is_at_provider, 1), else_=2)
    return [group, case((is_at_provider, JOBS.c.expires_at)).asc().nulls_last(), JOBS.c.created_at.desc()]


@dataclass(frozen=True)
class Matches:
    """The jobs that match a name.

    Args:
        jobs: the jobs, the newest first.
        exact: whether the whole name matched; if False, the name is a prefix.
    """

    jobs: list[Job]
    exact: bool


MOST_MATCHES = 1000
"""Maximum number of jobs read for one name: a batch's run may have thousands."""


async def matching_jobs(ledger: Ledger, name: str) -> Matches:
    """Returns the jobs with this key, provider id, batch row id or flow run id, or with one that begins with the name.

    Of several attempts at one result, only the newest is returned.

    Args:
        ledger: the jobs.
        name: what a person typed.
    """
    name = storable(name.strip())
    job = await ledger.get(name) if name else None
    if job is not None or not name:
        return Matches([job] if job else [], exact=True)
    is_row = JOBS.c.scope.startswith(BATCH_SCOPE, autoescape=True)
    ids = (JOBS.c.provider_job_id, JOBS.c.flow_run_id, JOBS.c.root_run_id)
    exact = or_(and_(is_row, JOBS.c.label == name), *(column == name for column in ids))
    beginning = or_(
        and_(is_row, JOBS.c.label.startswith(name, autoescape=True)),
        *(column.startswith(name, autoescape=True) for column in (JOBS.c.key, *ids)),
    )
    if found := _newest(await ledger.query(_first(exact)), name):
        return Matches(found, exact=True)
    return Matches(_newest(await ledger.query(_first(beginning)), ""), exact=False)


def _first(condition: ColumnElement[bool]) -> Select[Any]:
    order = (JOBS.c.created_at.desc(), JOBS.c.attempt.desc())
    return select(JOBS).where(condition).order_by(*order).limit(MOST_MATCHES)


def _newest(rows: Any, provider_job_id: str) -> list[Job]:
    """Drops earlier attempts at the same result, except a job that itself has the id."""
    found: dict[str, Job] = {}
    for job in map(job_of, rows):
        found.setdefault(job.key if job.provider_job_id == provider_job_id else job.identity, job)
    return list(found.values())


def _of_run(run: str) -> ColumnElement[bool]:
    columns = (JOBS.c.flow_run_id, JOBS.c.root_run_id)
    return or_(*(column.startswith(run, autoescape=True) for column in columns))

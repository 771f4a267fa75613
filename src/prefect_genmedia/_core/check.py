"""Checks a ledger: database integrity, valid rows, accounts, budgets, and the digests of delivered files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError
from sqlalchemy import Connection, func, select, text

from prefect_genmedia._core import schema
from prefect_genmedia._core.budgets import REPLACED
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.statements import JOBS, job_of
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.text import clean_text, shown_id

DigestOf = Callable[[str], Awaitable[str | None]]
"""SHA-256 of a delivered file, by its URI; None if there is no such file."""

_AT_ONCE = 500
_NEEDED: dict[JobState, tuple[str, ...]] = {
    JobState.SENDING: ("sent_at",),
    JobState.SUBMITTED: ("provider_job_id", "submitted_at"),
    JobState.SUCCEEDED: ("provider_job_id", "submitted_at"),
    JobState.DELIVERED: ("provider_job_id", "delivery"),
    JobState.UNDELIVERABLE: ("provider_job_id",),
    JobState.FAILED: ("provider_job_id",),
    JobState.UNKNOWN: ("error_kind",),
}
"""The fields that a job must have in each state."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        about: the job's key, or what else it is about.
        problem: what is wrong, in words.
    """

    about: str
    problem: str


@dataclass
class CheckReport:
    """The result of a check.

    Args:
        states: number of jobs in each state.
        pruned: number of pruned jobs among them.
        files: number of delivered files that were read.
        problems: the problems found.
    """

    states: dict[str, int] = field(default_factory=dict)
    pruned: int = 0
    files: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(self.states.values())

    def count(self, state: str) -> None:
        """Count a job.

        Args:
            state: its state.
        """
        self.states[state] = self.states.get(state, 0) + 1


async def check_ledger(ledger: Ledger, digest_of: DigestOf | None = None) -> CheckReport:
    """Check a ledger without changing anything.

    Args:
        ledger: the ledger.
        digest_of: computes the digest of a delivered file; None skips the files.

    Raises:
        LedgerError: it cannot be read.
    """
    report = CheckReport()
    if ledger.database.dialect == "sqlite":
        rows = await ledger.query(text("PRAGMA integrity_check"))  # type: ignore[arg-type]
        report.problems += [Problem("database", str(row[0])) for row in rows if row[0] != "ok"]
    async for job in _jobs(ledger, report):
        report.count(job.state.value)
        report.pruned += job.pruned_at is not None
        report.problems += [Problem(job.key, words) for words in _illegal(job)]
        if digest_of is not None and job.state is JobState.DELIVERED and job.delivery is not None:
            for file in (job.delivery, *job.delivery.others):
                report.files += 1
                report.problems += [Problem(job.key, words) for words in await _changed(file, digest_of)]
    report.problems += await ledger.transact(_between_rows)
    return report


async def _jobs(ledger: Ledger, report: CheckReport) -> AsyncIterator[Job]:
    """Yields every job that can be read, in groups; unreadable rows are added to the report as problems."""
    last = ""
    while rows := await ledger.query(select(JOBS).where(JOBS.c.key > last).order_by(JOBS.c.key).limit(_AT_ONCE)):
        last = rows[-1].key
        for row in rows:
            try:
                job = job_of(row)
            except ValidationError as error:
                fields = ", ".join(sorted({".".join(map(str, each["loc"])) for each in error.errors()}))
                report.count("unreadable")
                report.problems.append(Problem(row.key, f"the row cannot be right: {clean_text(fields)}"))
            else:
                yield job


def _illegal(job: Job) -> Iterator[str]:
    for name in _NEEDED.get(job.state, ()):
        if getattr(job, name) is None:
            yield f"it is {job.state.value} and has no {name}"
    if job.attempt < 1:
        yield f"its attempt is {job.attempt}"
    if job.cost_micros is not None and job.cost_micros < 0:
        yield "its cost is negative"


async def _changed(file: Delivery, digest_of: DigestOf) -> Iterator[str]:
    try:
        digest = await digest_of(file.uri)
    except GenMediaError as error:
        return iter([f"{file.uri} cannot be read: {error.message}"])
    if digest is None:
        return iter([f"{file.uri} does not exist"])
    return iter([] if digest == file.sha256 else [f"{file.uri} has other bytes than were delivered"])


def _between_rows(connection: Connection) -> list[Problem]:
    """Finds problems that involve several rows."""
    problems = []
    attempts = select(JOBS.c.identity, func.max(JOBS.c.attempt).label("last"), func.count().label("rows"))
    gaps = attempts.group_by(JOBS.c.identity).having(func.max(JOBS.c.attempt) != func.count())
    for row in connection.execute(gaps):
        words = f"attempts are missing: the last is {row.last}, and there are {row.rows}"
        problems.append(Problem(f"identity {row.identity[:12]}", words))
    accounts, held = schema.accounts, schema.reservations
    ids = select(accounts.c.id)
    for column in (JOBS.c.account_id, schema.account_tokens.c.account_id, accounts.c.merged_into):
        strays = select(column).distinct().where(column.is_not(None), column.not_in(ids))
        problems += [
            Problem(f"account {shown_id(row[0])}", f"is named by {column.table.name} and does not exist")
            for row in connection.execute(strays)
        ]
    sums = select(func.count(), func.coalesce(func.sum(held.c.micros), 0))
    for budget in connection.execute(select(schema.budgets)):
        counts = held.c.budget == budget.name, held.c.micros != REPLACED
        jobs, micros = connection.execute(sums.where(*counts)).one()
        if (jobs, int(micros)) != (budget.reserved_jobs, budget.reserved_micros):
            words = f"counts {budget.reserved_jobs} jobs as reserved, and there are {jobs} reservations"
            problems.append(Problem(f"budget {budget.name}", words))
    return problems

"""Asking a person before much is paid: what a run has committed, what was approved, and every question with its answer.

The unit is the root run. What it has sent and what it is about to send are added up, so many small results ask as one
large one does. An approval is a limit for that sum: a run that is started again is asked only for more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, func, not_, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.account_budgets import micros_column
from prefect_genmedia._core.caps import shown_amount
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import NEVER_PAID, JobState
from prefect_genmedia._core.statements import JOBS
from prefect_genmedia.errors import NotConfirmed
from prefect_genmedia.prices import CURRENCY, from_micros, in_micros, limit_in_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.text import clean_text, counted

Answer = Literal["approved", "rejected", "timeout"]

_TABLE = schema.confirmations


@dataclass(frozen=True)
class Costs:
    """What some jobs cost, estimated.

    Parameters:
        jobs: how many jobs.
        micros: the sum of those with a price, in millionths.
        unpriced: how many of them have no price.
    """

    jobs: int = 0
    micros: int = 0
    unpriced: int = 0

    @classmethod
    def of(cls, costs: Iterable[Decimal | None]) -> Costs:
        """Add up what jobs cost.

        Parameters:
            costs: CNY of each job; None where no price is known.
        """
        found = list(costs)
        priced = [in_micros(cost) for cost in found if cost is not None]
        return cls(len(found), sum(priced), len(found) - len(priced))

    def __add__(self, other: Costs) -> Costs:
        """The sum of both."""
        return Costs(self.jobs + other.jobs, self.micros + other.micros, self.unpriced + other.unpriced)

    def __str__(self) -> str:
        """In words, such as `about 120.00 CNY (estimate) for 3 jobs, 1 of them without a price`."""
        of_them = f", {self.unpriced} of them without a price" if self.unpriced else ""
        return f"about {shown_amount(from_micros(self.micros))} (estimate) for {counted(self.jobs, 'job')}{of_them}"

    def fits(self, limit: Costs) -> bool:
        """Whether another sum allows this one; how many jobs it is for does not matter.

        Parameters:
            limit: the other sum.
        """
        return self.micros <= limit.micros and self.unpriced <= limit.unpriced


@dataclass(frozen=True)
class Question:
    """One question to a person.

    Parameters:
        id: its id; the same run that asks for the same sum asks the same question.
        root_run_id: the run that would pay.
        flow_run_id: the run that waits for the answer; None outside of flows.
        title: what it is about.
        due: what would be sent now.
        limit: what the root run would have committed then; an approval allows so much.
        above_micros: the limit above which is asked.
        asked_at: when, in seconds since 1970.
        expires_at: when no answer is a no.
        answer: the answer, if there is one.
        decided_by: who gave it.
    """

    id: str
    root_run_id: str
    flow_run_id: str | None
    title: str
    due: Costs
    limit: Costs
    above_micros: int
    asked_at: float
    expires_at: float
    answer: Answer | None = None
    decided_by: str | None = None

    @property
    def reason(self) -> str:
        """Why it is asked, in a sentence."""
        above = shown_amount(from_micros(self.above_micros))
        before = self.limit.micros - self.due.micros
        parts = [f"This would cost {self.due}."]
        if before:
            parts.append(f"This run has committed about {shown_amount(from_micros(before))} (estimate) before.")
        if self.due.unpriced:
            parts.append("A job without a price is always asked about.")
        return " ".join([*parts, f"Confirmation is asked above {above}."])

    def has_expired(self, now: float) -> bool:
        """Whether it is too late for an answer.

        Parameters:
            now: seconds since 1970.
        """
        return self.answer is None and now >= self.expires_at

    def refusal(self) -> NotConfirmed:
        """The error of a run whose question was answered with no, or not in time."""
        by = f" by {self.decided_by}" if self.decided_by else ""
        how = f"was rejected{by}" if self.answer == "rejected" else "was not confirmed in time, which means no"
        return NotConfirmed(f"{self.title}: {self.due} {how}. Nothing was sent for it.")


def needed(
    connection: Connection, root_run_id: str | None, due: Costs, above_micros: int, but: str = ""
) -> Costs | None:
    """What a root run would have committed with some jobs, if a person must confirm that first.

    Parameters:
        connection: inside a transaction.
        root_run_id: the root run; None counts nothing that was sent before.
        due: the jobs.
        above_micros: the limit above which is asked, in millionths.
        but: the key of a job that is not counted, since it is one of those.

    Returns:
        The sum; None if nothing needs to be confirmed.
    """
    if not due.jobs:
        return None
    total = due + _committed(connection, root_run_id, but)
    if total.micros <= above_micros and not due.unpriced:
        return None
    approved = select(_TABLE.c.limit_micros, _TABLE.c.limit_unpriced)
    rows = connection.execute(approved.where(_TABLE.c.root_run_id == root_run_id, _TABLE.c.answer == "approved"))
    if any(total.fits(Costs(0, row.limit_micros, row.limit_unpriced)) for row in rows):
        return None
    return total


def _committed(connection: Connection, root_run_id: str | None, but: str) -> Costs:
    """What a root run has sent that was paid, or may be."""
    if root_run_id is None:
        return Costs()
    free = and_(JOBS.c.state == JobState.FAILED.value, JOBS.c.provider.in_(sorted(providers_with_free_failures())))
    never = JOBS.c.state.in_(sorted(state.value for state in NEVER_PAID))
    micros = micros_column()
    sums = select(func.count(), func.coalesce(func.sum(micros), 0), func.count(micros))
    jobs, total, priced = connection.execute(
        sums.where(JOBS.c.root_run_id == root_run_id, not_(never), not_(free), JOBS.c.key != but)
    ).one()
    return Costs(int(jobs), int(total), int(jobs) - int(priced))


def check_confirmed(
    connection: Connection, root_run_id: str | None, micros: int | None, above: Decimal, key: str = ""
) -> None:
    """Refuse a job that a person must confirm first. Call it in the transaction that takes the job to `sending`.

    Parameters:
        connection: inside a transaction.
        root_run_id: the root run that asks for it.
        micros: its estimated cost in millionths; None if no price is known.
        above: the limit above which is asked, in CNY.
        key: the job's key, if it has one.

    Raises:
        NotConfirmed: nobody has confirmed it.
    """
    due = Costs(1, micros or 0, int(micros is None))
    total = needed(connection, root_run_id, due, limit_in_micros(above), key)
    if total is not None:
        raise NotConfirmed(
            f"{str(due).capitalize()} would bring this run to {total}; above {shown_amount(above)}, and without a "
            "price, a person must confirm it first. Nothing was sent."
        )


async def ask(ledger: Ledger, question: Question) -> Question:
    """Write a question down, unless it was asked before.

    Parameters:
        ledger: where it is recorded.
        question: the question.

    Returns:
        The question as it was asked first, with its answer if there is one.
    """

    def write(connection: Connection) -> Question:
        connection.execute(schema.insert_new(connection, _TABLE).values(**_columns(question)))
        return _question(connection.execute(select(_TABLE).where(_TABLE.c.id == question.id)).one())

    return await ledger.transact(write)


async def decide(
    ledger: Ledger, question: Question, answer: Answer, by: str = "", up_to: Decimal | None = None
) -> Question:
    """Write an answer down; the first one counts.

    Parameters:
        ledger: where it is recorded.
        question: the question.
        answer: the answer.
        by: who gave it.
        up_to: an approval for more than was asked for, in CNY; None for what was asked for.
    """
    values: dict[str, Any] = {"answer": answer, "decided_at": ledger.now(), "decided_by": clean_text(by, 128) or None}
    if up_to is not None:
        values["limit_micros"] = max(limit_in_micros(up_to), question.limit.micros)
    unanswered = update(_TABLE).where(_TABLE.c.id == question.id, _TABLE.c.answer.is_(None))

    def write(connection: Connection) -> Question:
        connection.execute(unanswered.values(**values))
        return _question(connection.execute(select(_TABLE).where(_TABLE.c.id == question.id)).one())

    return await ledger.transact(write)


async def questions(ledger: Ledger, *, unanswered: bool = True, limit: int = 50) -> list[Question]:
    """Questions, the newest first.

    Parameters:
        ledger: the ledger.
        unanswered: only those that can still be answered.
        limit: at most this many.
    """
    statement = select(_TABLE).order_by(_TABLE.c.asked_at.desc()).limit(limit)
    if unanswered:
        statement = statement.where(_TABLE.c.answer.is_(None), _TABLE.c.expires_at > ledger.now())
    return [_question(row) for row in await ledger.query(statement)]


def question_id(run_ids: Sequence[str | None], total: Costs, above_micros: int, restarted_at: float | None) -> str:
    """The id of a question: a run that crashed asks the same one; one that a person started again asks another.

    Parameters:
        run_ids: the root run, and the run that asks.
        total: what the root run would have committed.
        above_micros: the limit above which is asked.
        restarted_at: when a person last started the run again.
    """
    parts = (*run_ids, total.micros, total.unpriced, above_micros, restarted_at)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def _columns(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "root_run_id": question.root_run_id,
        "flow_run_id": question.flow_run_id,
        "title": clean_text(question.title),
        "jobs": question.due.jobs,
        "due_micros": question.due.micros,
        "unpriced": question.due.unpriced,
        "above_micros": question.above_micros,
        "limit_micros": question.limit.micros,
        "limit_unpriced": question.limit.unpriced,
        "currency": CURRENCY,
        "asked_at": question.asked_at,
        "expires_at": question.expires_at,
    }


def _question(row: Row[Any]) -> Question:
    return Question(
        id=row.id,
        root_run_id=row.root_run_id,
        flow_run_id=row.flow_run_id,
        title=row.title,
        due=Costs(row.jobs, row.due_micros, row.unpriced),
        limit=Costs(row.jobs, row.limit_micros, row.limit_unpriced),
        above_micros=row.above_micros,
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        answer=row.answer,
        decided_by=row.decided_by,
    )

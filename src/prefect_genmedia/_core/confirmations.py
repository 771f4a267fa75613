"""Confirmation by a person before a large payment: a run's committed costs, approvals, questions and their answers.

The unit is the root run. Its sent jobs and the jobs it is about to send are added up, so many small results need
confirmation just as one large result does. An approval is a limit for that sum: a restarted run asks again only if it
needs more.
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
    """The estimated cost of a set of jobs.

    Args:
        jobs: number of jobs.
        micros: total cost of the jobs with a price, in millionths.
        unpriced: number of jobs without a price.
    """

    jobs: int = 0
    micros: int = 0
    unpriced: int = 0

    @classmethod
    def of(cls, costs: Iterable[Decimal | None]) -> Costs:
        """Add up the costs of jobs.

        Args:
            costs: cost of each job in CNY; None if no price is known.
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
        """Whether these costs are within a limit. The number of jobs is not compared.

        Args:
            limit: the limit.
        """
        return self.micros <= limit.micros and self.unpriced <= limit.unpriced


@dataclass(frozen=True)
class Question:
    """A request for confirmation by a person.

    Args:
        id: its id; the same run with the same sum produces the same id.
        root_run_id: the run that would pay.
        flow_run_id: the run that waits for the answer; None outside of flows.
        title: what the payment is for.
        due: the costs that would be sent now.
        limit: the root run's total committed costs including `due`; an approval allows this sum.
        above_micros: the threshold above which confirmation is required.
        asked_at: when it was asked, in seconds since 1970.
        expires_at: when a missing answer counts as a refusal.
        answer: the answer, if there is one.
        decided_by: who answered.
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
        """Returns one sentence on why confirmation is required."""
        above = shown_amount(from_micros(self.above_micros))
        before = self.limit.micros - self.due.micros
        parts = [f"This would cost {self.due}."]
        if before:
            parts.append(f"This run has committed about {shown_amount(from_micros(before))} (estimate) before.")
        if self.due.unpriced:
            parts.append("A job without a price is always asked about.")
        return " ".join([*parts, f"Confirmation is asked above {above}."])

    def has_expired(self, now: float) -> bool:
        """Whether the time to answer is over.

        Args:
            now: seconds since 1970.
        """
        return self.answer is None and now >= self.expires_at

    def refusal(self) -> NotConfirmed:
        """Returns the error for a run whose question was refused, or not answered in time."""
        by = f" by {self.decided_by}" if self.decided_by else ""
        how = f"was rejected{by}" if self.answer == "rejected" else "was not confirmed in time, which means no"
        return NotConfirmed(f"{self.title}: {self.due} {how}. Nothing was sent for it.")


@dataclass(frozen=True)
class Part:
    """A part of a root run that asks: approvals that others of its parts wait to use are not its own.

    Args:
        flow_run_id: its flow run.
        title: what it asks about. A part that begins again may have another flow run, and asks about the same.
    """

    flow_run_id: str
    title: str


def needed(
    connection: Connection,
    root_run_id: str | None,
    due: Costs,
    above_micros: int,
    but: str = "",
    part: Part | None = None,
) -> Costs | None:
    """Returns a root run's total costs including some jobs, if a person must confirm them first.

    What was approved for other parts of the run, and is not sent yet, counts as committed: batches of one run may go at
    once, and each of them sends all that was approved for it.

    Args:
        connection: inside a transaction.
            root_run_id: the root run; None counts nothing that was sent before.
        due: the jobs.
        above_micros: the limit above which is asked, in millionths.
        but: the key of a job that is not counted, since it is one of those.
        part: who asks; None leaves out what was approved for others.

    Returns:
        The sum; None if nothing needs to be confirmed.
    """
    if not due.jobs:
        return None
    total = due + _committed(connection, root_run_id, but)
    if part is not None:
        total += _approved_for_others(connection, root_run_id, part)
    if total.micros <= above_micros and not due.unpriced:
        return None
    approved = select(_TABLE.c.limit_micros, _TABLE.c.limit_unpriced)
    rows = connection.execute(approved.where(_TABLE.c.root_run_id == root_run_id, _TABLE.c.answer == "approved"))
    if any(total.fits(Costs(0, row.limit_micros, row.limit_unpriced)) for row in rows):
        return None
    return total


def _committed(connection: Connection, root_run_id: str | None, but: str) -> Costs:
    """Returns the costs of a root run's jobs that were or may be paid."""
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


def _approved_for_others(connection: Connection, root_run_id: str | None, part: Part) -> Costs:
    """What was approved for other parts of a root run and is not sent yet, as far as the ledger tells."""
    others = (_TABLE.c.flow_run_id != part.flow_run_id, _TABLE.c.title != clean_text(part.title))
    approved = select(_TABLE).where(_TABLE.c.root_run_id == root_run_id, _TABLE.c.answer == "approved", *others)
    questions = [_question(row) for row in connection.execute(approved)]
    if not questions:
        return Costs()
    since = min(question.asked_at for question in questions)
    micros = micros_column()
    sent = select(func.count(), func.coalesce(func.sum(micros), 0), func.count(micros)).where(
        JOBS.c.root_run_id == root_run_id,
        JOBS.c.sent_at >= since,
        JOBS.c.flow_run_id.is_distinct_from(part.flow_run_id),
    )
    jobs, total, priced = connection.execute(sent).one()
    due = sum((question.due for question in questions), Costs())
    left = (due.jobs - jobs, due.micros - int(total), due.unpriced - (jobs - priced))
    return Costs(*(max(each, 0) for each in left))


def check_confirmed(
    connection: Connection, root_run_id: str | None, micros: int | None, above: Decimal, key: str = ""
) -> None:
    """Refuse a job that a person must confirm first. Call it in the transaction that moves the job to `sending`.

    Args:
        connection: inside a transaction.
        root_run_id: the root run that requests it.
        micros: its estimated cost in millionths; None if no price is known.
        above: the threshold above which confirmation is required, in CNY.
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
    """Record a question, unless it was asked before.

    Args:
        ledger: where it is recorded.
        question: the question.

    Returns:
        The question as first recorded, with its answer if there is one.
    """

    def write(connection: Connection) -> Question:
        connection.execute(schema.insert_new(connection, _TABLE).values(**_columns(question)))
        return _question(connection.execute(select(_TABLE).where(_TABLE.c.id == question.id)).one())

    return await ledger.transact(write)


async def decide(
    ledger: Ledger, question: Question, answer: Answer, by: str = "", up_to: Decimal | None = None
) -> Question:
    """Record an answer. Only the first answer counts.

    Args:
        ledger: where it is recorded.
        question: the question.
        answer: the answer.
        by: who answered.
        up_to: the approved sum in CNY, if it is more than was asked for; None approves what was asked for.
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
    """Lists questions, newest first.

    Args:
        ledger: the ledger.
        unanswered: only questions that can still be answered.
        limit: at most this many.
    """
    statement = select(_TABLE).order_by(_TABLE.c.asked_at.desc()).limit(limit)
    if unanswered:
        statement = statement.where(_TABLE.c.answer.is_(None), _TABLE.c.expires_at > ledger.now())
    return [_question(row) for row in await ledger.query(statement)]


def question_id(run_ids: Sequence[str | None], total: Costs, above_micros: int, restarted_at: float | None) -> str:
    """Returns the id of a question: the same one after a crash, a new one after a person restarted the run.

    Args:
        run_ids: the root run, and the run that asks.
        total: the root run's total committed costs.
        above_micros: the threshold above which confirmation is required.
        restarted_at: when a person last restarted the run.
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

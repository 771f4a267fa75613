"""Reviews of a batch's delivered results: what people decided, and which batches wait for a decision.

A decision is about one job, so it never holds for a later result of the row. A decision to regenerate fixes the next
variant of the row under the job's key: any run that acts on it, now or after a crash, requests the same variant.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, Select, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.attempts import batch_scope, chain_of
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.regenerate import standing_variant
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.text import clean_text

Verdict = Literal["accept", "reject", "regenerate"]
"""What a person decides about a result. `regenerate` rejects it, and asks for a new one."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Answer = Literal["answered", "stopped", "timeout"]

REASON_CHARACTERS = 1000
REVIEWER_CHARACTERS = 128

_DECISIONS, _QUESTIONS = schema.reviews, schema.review_questions


@dataclass(frozen=True)
class Decision:
    """What a person decided about a row's result.

    Args:
        job_key: the result's job.
        row_digest: the row's digest; see `row_digest`.
        decision: the decision.
        reviewer: who decided.
        reason: why.
        decided_at: when, in seconds since 1970; set when it is recorded.
    """

    job_key: str
    row_digest: str
    decision: Verdict
    reviewer: str
    reason: str = ""
    decided_at: float = 0.0

    @property
    def word(self) -> str:
        """The decision in the table of results and on the report's page, such as `accepted`."""
        return {"accept": "accepted", "reject": "rejected", "regenerate": "regenerate"}[self.decision]

    @property
    def is_accepted(self) -> bool:
        """Whether the result counts as delivered."""
        return self.decision == "accept"


@dataclass(frozen=True)
class ReviewQuestion:
    """A batch that waits, or has waited, for a review.

    Args:
        id: its id; the same run with the same results to review has the same id.
        batch_id: the batch.
        root_run_id: the root run.
        flow_run_id: the run that waits.
        job_keys: the jobs whose results are to be reviewed.
        asked_at: when it was asked, in seconds since 1970.
        expires_at: when a missing answer stops the batch.
        answer: how it ended; None while it waits.
        answered_by: who answered.
    """

    id: str
    batch_id: str
    root_run_id: str
    flow_run_id: str
    job_keys: Sequence[str]
    asked_at: float
    expires_at: float
    answer: Answer | None = None
    answered_by: str | None = None


@dataclass(frozen=True)
class ReviewState:
    """What is known about the review of a batch.

    Args:
        decisions: the last decision about each job that has one, by job key.
        waiting: the keys of the jobs that a run waits for a decision about.
    """

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    waiting: Set[str] = frozenset()


def row_digest(batch_id: str, row_id: str) -> str:
    """Returns a digest of a row that fits into an index, because ids may be long.

    Args:
        batch_id: the batch's name.
        row_id: the row's id.
    """
    return _digest(f"{batch_scope(batch_id)}{row_id}")


def requester_of(job_key: str) -> str:
    """Returns the name under which `fix_variants` records the variant that replaces a job's result.

    Args:
        job_key: the job that a person wants to be replaced.
    """
    return f"review-{job_key}"


async def record(ledger: Ledger, batch_id: str, decisions: Sequence[Decision]) -> int:
    """Record decisions in one transaction. The last decision about a job counts; the earlier ones are kept.

    Args:
        ledger: where they are recorded.
        batch_id: the batch.
        decisions: the decisions; one that repeats a job's last decision is not recorded again.

    Returns:
        The number of decisions that are new.
    """
    now, batch = ledger.now(), _digest(batch_scope(batch_id))
    clean = [_cleaned(each, now) for each in decisions]

    def write(connection: Connection) -> int:
        return sum(_recorded(connection, batch, each) for each in clean)

    return await ledger.transact(write)


def _cleaned(decision: Decision, now: float) -> Decision:
    return replace(
        decision,
        reviewer=clean_text(decision.reviewer, REVIEWER_CHARACTERS).strip(),
        reason=clean_text(unsigned_text(decision.reason), REASON_CHARACTERS).strip(),
        decided_at=now,
    )


def _recorded(connection: Connection, batch: str, decision: Decision) -> bool:
    while True:
        own = select(_DECISIONS).where(_DECISIONS.c.job_key == decision.job_key)
        last = connection.execute(own.order_by(_DECISIONS.c.number.desc()).limit(1)).first()
        if last is not None and replace(_decision(last), decided_at=decision.decided_at) == decision:
            return False
        number = 1 if last is None else last.number + 1
        new = schema.insert_new(connection, _DECISIONS).values(number=number, batch_digest=batch, **vars(decision))
        # On PostgreSQL another process may insert the same number concurrently; then nothing is inserted here.
        if connection.execute(new).rowcount:
            return True


async def decisions_of(ledger: Ledger, batch_id: str) -> list[Decision]:
    """Returns the last decision about each job of a batch that has one, oldest first.

    Args:
        ledger: where they are recorded.
        batch_id: the batch.
    """
    its = _DECISIONS.c.batch_digest == _digest(batch_scope(batch_id))
    rows = await ledger.query(select(_DECISIONS).where(its).order_by(_DECISIONS.c.number))
    last = {row.job_key: _decision(row) for row in rows}
    return sorted(last.values(), key=lambda each: each.decided_at)


async def ask(ledger: Ledger, question: ReviewQuestion) -> ReviewQuestion:
    """Record a question, unless it was asked before; returns the recorded one, with its answer if there is one.

    Args:
        ledger: where it is recorded.
        question: the question.
    """
    values = {**vars(question), "batch_digest": _digest(batch_scope(question.batch_id))}

    def write(connection: Connection) -> ReviewQuestion:
        connection.execute(schema.insert_new(connection, _QUESTIONS).values(**values))
        return _question(connection.execute(select(_QUESTIONS).where(_QUESTIONS.c.id == question.id)).one())

    return await ledger.transact(write)


async def close(
    ledger: Ledger, question: ReviewQuestion, how: Answer, by: str = "", decisions: Sequence[Decision] = ()
) -> None:
    """Record how a question ended, and what was decided, in one transaction. Only the first answer counts.

    Args:
        ledger: where it is recorded.
        question: the question.
        how: how it ended.
        by: who answered.
        decisions: the decisions of the answer.
    """
    now, batch = ledger.now(), _digest(batch_scope(question.batch_id))
    clean = [_cleaned(each, now) for each in decisions]
    unanswered = update(_QUESTIONS).where(_QUESTIONS.c.id == question.id, _QUESTIONS.c.answer.is_(None))
    values = {"answer": how, "answered_at": now, "answered_by": clean_text(by, REVIEWER_CHARACTERS) or None}

    def write(connection: Connection) -> None:
        connection.execute(unanswered.values(**values))
        for each in clean:
            _recorded(connection, batch, each)

    await ledger.transact(write)


async def has_stopped(ledger: Ledger, batch_id: str, root_run_id: str, restarted_at: float | None) -> bool:
    """Whether a review has stopped a batch in this root run; its automatic retries do not ask again.

    Args:
        ledger: where questions are recorded.
        batch_id: the batch.
        root_run_id: the root run.
        restarted_at: when a person last restarted the run; earlier answers do not count.
    """
    its = (_QUESTIONS.c.batch_digest == _digest(batch_scope(batch_id)), _QUESTIONS.c.root_run_id == root_run_id)
    stopped = (_QUESTIONS.c.answer.in_(("stopped", "timeout")), _QUESTIONS.c.asked_at > (restarted_at or 0.0))
    return bool(await ledger.query(select(_QUESTIONS.c.id).where(*its, *stopped).limit(1)))


async def waiting(ledger: Ledger, batch_id: str | None = None) -> list[ReviewQuestion]:
    """Returns the questions that can still be answered, newest first.

    Args:
        ledger: where they are recorded.
        batch_id: of this batch only; None for all.
    """
    statement: Select[Any] = select(_QUESTIONS).where(
        _QUESTIONS.c.answer.is_(None), _QUESTIONS.c.expires_at > ledger.now()
    )
    if batch_id is not None:
        statement = statement.where(_QUESTIONS.c.batch_digest == _digest(batch_scope(batch_id)))
    return [_question(row) for row in await ledger.query(statement.order_by(_QUESTIONS.c.asked_at.desc()))]


async def review_state(ledger: Ledger, batch_id: str) -> ReviewState:
    """Returns what is decided about a batch's results, and what waits for a decision.

    Args:
        ledger: where decisions and questions are recorded.
        batch_id: the batch.
    """
    decisions = {each.job_key: each for each in await decisions_of(ledger, batch_id)}
    asked = {key for question in await waiting(ledger, batch_id) for key in question.job_keys}
    return ReviewState(decisions, frozenset(asked - decisions.keys()))


def question_id(run_ids: Sequence[str], batch_id: str, job_keys: Iterable[str], restarted_at: float | None) -> str:
    """Returns the id of a question: the same one after a crash, a new one after a person restarted the run.

    Args:
        run_ids: the root run, and the run that asks.
        batch_id: the batch.
        job_keys: the jobs whose results are to be reviewed.
        restarted_at: when a person last restarted the run.
    """
    return _digest("\n".join([*run_ids, batch_id, *sorted(job_keys), str(restarted_at)]))[:32]


def standing_jobs(jobs: Iterable[Job]) -> dict[str, Job]:
    """Returns the job whose result counts as its row's, by row id; see `standing_variant`.

    The first step of a chain decides which variant counts, and the newest step of that variant has the result.

    Args:
        jobs: the newest job under each identity of the steps of a batch's rows.
    """
    now = SYSTEM_CLOCK.now()
    firsts: defaultdict[str, dict[int, Job]] = defaultdict(dict)
    newest: dict[tuple[str, int], Job] = {}
    for job in sorted(jobs, key=lambda each: each.created_at):
        newest[job.label, job.variant] = job
        if chain_of(job.scope)[1] == 1:
            firsts[job.label][job.variant] = job
    found: dict[str, Job] = {}
    for row_id, its in firsts.items():
        variant = standing_variant(its, now)
        found[row_id] = newest[row_id, variant if variant in its else max(its)]
    return found


def _decision(row: Row[Any]) -> Decision:
    return Decision(**{name: getattr(row, name) for name in Decision.__dataclass_fields__})


def _question(row: Row[Any]) -> ReviewQuestion:
    return ReviewQuestion(**{name: getattr(row, name) for name in ReviewQuestion.__dataclass_fields__})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

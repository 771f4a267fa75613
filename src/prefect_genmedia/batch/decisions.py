"""Reads a file of decisions about a batch's results, records them, and lets the run that waits for them go on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from prefect_genmedia._core.attempts import batch_scope, chain_of
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.reviews import (
    REASON_CHARACTERS,
    REVIEWER_CHARACTERS,
    Decision,
    ReviewQuestion,
    Verdict,
    decisions_of,
    record,
    row_digest,
    standing_jobs,
    waiting,
)
from prefect_genmedia._prefect.asking import resume
from prefect_genmedia.batch.cells import id_text
from prefect_genmedia.batch.report import shown_value
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.text import counted, escaped

MOST_BYTES = 64 * 1024 * 1024
"""Maximum size of a decisions file."""

_SUBJECT = "The decisions file"


def _text(value: Any) -> Any:
    """Read a number as text: an id may be written as one."""
    return id_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class DecisionLine(BaseModel):
    """One line of a decisions file: what a person decided about a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Annotated[str, BeforeValidator(_text), Field(min_length=1)]
    decision: Verdict
    reason: str = Field(default="", max_length=REASON_CHARACTERS)
    reviewer: str = Field(default="", max_length=REVIEWER_CHARACTERS)
    batch: str = ""
    job: str = ""


@dataclass(frozen=True)
class Applied:
    """What became of the decisions about one batch.

    Args:
        batch_id: the batch.
        decisions: the decisions.
        new: how many of them the ledger did not have.
        runs: one sentence for each run that waits for a review of the batch.
    """

    batch_id: str
    decisions: Sequence[Decision]
    new: int
    runs: Sequence[str] = field(default=())


async def apply_decisions(ledger: Ledger, file: Path, batch_id: str, reviewer: str, *, resumes: bool) -> list[Applied]:
    """Record the decisions of a file, and resume each run whose results are all decided.

    Args:
        ledger: where jobs and decisions are recorded.
        file: the file, as the report page exports it: JSON lines.
        batch_id: the batch of lines that do not name one.
        reviewer: the reviewer of lines that do not name one.
        resumes: whether a Prefect server can be asked to resume runs.

    Raises:
        InvalidRequest: the file has problems; all of them are named, and nothing is recorded.
    """
    lines, problems = _parsed(file, batch_id)
    by_batch: defaultdict[str, list[tuple[int, DecisionLine]]] = defaultdict(list)
    for number, line in lines:
        by_batch[line.batch or batch_id].append((number, line))
    found: dict[str, list[Decision]] = {}
    for name, its in by_batch.items():
        jobs = await _jobs(ledger, name)
        if not jobs:
            problems.append(FieldProblem("batch", f"the ledger has no job of a batch {escaped(name)!r}"))
            continue
        found[name], wrong = _checked(name, its, jobs, reviewer)
        problems += wrong
    if problems:
        raise InvalidRequest.of(_SUBJECT, sorted(problems, key=_line_of))
    return [await _applied(ledger, name, its, resumes) for name, its in found.items()]


def _parsed(file: Path, batch_id: str) -> tuple[list[tuple[int, DecisionLine]], list[FieldProblem]]:
    """Returns the valid lines with their numbers, and the problems of the others."""
    lines, problems = [], []
    for number, text in _lines(file):
        try:
            value = json.loads(text)
            line = DecisionLine.model_validate(value, strict=True)
        except ValidationError as error:
            wrong = InvalidRequest.from_validation(_SUBJECT, error).problems
            problems += [FieldProblem(f"line {number}.{each.field}".rstrip("."), each.problem) for each in wrong]
        except (ValueError, RecursionError):
            problems.append(FieldProblem(f"line {number}", "is not JSON"))
        else:
            lines.append((number, line))
            if line.decision == "reject" and not line.reason.strip():
                problems.append(FieldProblem(f"line {number}.reason", "is missing: a rejection needs one"))
            if not line.batch and not batch_id:
                problems.append(FieldProblem(f"line {number}.batch", "is missing: name the batch here or with --batch"))
    if not lines and not problems:
        problems.append(FieldProblem("", "has no decision"))
    return [(number, line) for number, line in lines if line.batch or batch_id], problems


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers from 1."""
    if file.stat().st_size > MOST_BYTES:
        raise InvalidRequest.of(_SUBJECT, [FieldProblem("", f"is larger than {MOST_BYTES:,} bytes")])
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest.of(_SUBJECT, [FieldProblem("", "is not UTF-8")]) from None
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


async def _jobs(ledger: Ledger, batch_id: str) -> list[Job]:
    """Returns the newest job under each identity of the steps of a batch's rows."""
    prefix = batch_scope(batch_id)
    # The name of one batch may be a prefix of another's.
    newest = (await ledger.newest_in(prefix)).values()
    return [job for job in newest if chain_of(job.scope)[0] == f"{prefix}{job.label}"]


def _checked(
    batch_id: str, lines: Sequence[tuple[int, DecisionLine]], jobs: Sequence[Job], reviewer: str
) -> tuple[list[Decision], list[FieldProblem]]:
    """Match each line with the present result of its row."""
    standing = standing_jobs(jobs)
    rows_of_jobs = {job.key: job.label for job in jobs}
    decisions: dict[str, Decision] = {}
    problems = []
    for number, line in lines:
        row_id = rows_of_jobs.get(line.job, line.row)
        if (wrong := _problem(line, row_id, standing)) is None and row_id in decisions:
            wrong = FieldProblem("row", "is named more than once")
        if wrong is not None:
            problems.append(FieldProblem(f"line {number}.{wrong.field}", wrong.problem))
            continue
        by, digest = line.reviewer.strip() or reviewer, row_digest(batch_id, row_id)
        decisions[row_id] = Decision(standing[row_id].key, digest, line.decision, by, line.reason)
    return list(decisions.values()), problems


def _problem(line: DecisionLine, row_id: str, standing: Mapping[str, Job]) -> FieldProblem | None:
    """Returns why a decision cannot be about the row's present result; None if it can."""
    job = standing.get(row_id)
    if job is None or (line.row not in (row_id, shown_value(row_id))):
        return FieldProblem("row", f"{escaped(line.row, 60)!r} is no row of the batch that has a job")
    if line.job and job.key != line.job:
        return FieldProblem("job", f"is not the present result of row {escaped(row_id, 60)!r}, which is job {job.key}")
    if job.state is not JobState.DELIVERED:
        return FieldProblem("row", f"{escaped(row_id, 60)!r} has no delivered file: its job is {job.state.value}")
    return None


def _line_of(problem: FieldProblem) -> int:
    digits = problem.field.removeprefix("line ").partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


async def _applied(ledger: Ledger, batch_id: str, decisions: Sequence[Decision], resumes: bool) -> Applied:
    new = await record(ledger, batch_id, decisions)
    decided = {each.job_key for each in await decisions_of(ledger, batch_id)}
    runs = [
        await _resumed(question, len(set(question.job_keys) - decided), decisions[0].reviewer, resumes)
        for question in await waiting(ledger, batch_id)
    ]
    return Applied(batch_id, decisions, new, runs)


async def _resumed(question: ReviewQuestion, left: int, reviewer: str, resumes: bool) -> str:
    """Resume a run if nothing is left to decide; returns what it does now, in one sentence."""
    run = f"Run {question.flow_run_id}"
    if left:
        return f"{run} still waits: {counted(left, 'row')} of {len(question.job_keys)} not decided."
    if not resumes:
        return f"{run} waits, and no Prefect server answers here: press Resume in the UI, and name no rows."
    problem = await resume(UUID(question.flow_run_id), {"reviewer": reviewer})
    if problem is None:
        return f"{run} goes on."
    return f"{run} does not wait now ({problem}): run the batch again, or this command when it waits."

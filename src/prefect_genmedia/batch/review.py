"""Reviews: a batch pauses until a person has accepted, rejected or regenerated the results under review."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.confirmations import Costs
from prefect_genmedia._core.model import JobState
from prefect_genmedia._core.reviews import (
    Answer,
    Decision,
    ReviewQuestion,
    Verdict,
    ask,
    close,
    decisions_of,
    has_stopped,
    question_id,
    requester_of,
    row_digest,
)
from prefect_genmedia._prefect.asking import Asked, reply_to
from prefect_genmedia._prefect.confirm import Plan, confirm, confirm_limit
from prefect_genmedia._prefect.run import restarted_at, root_run_id
from prefect_genmedia.batch.known import steps_to_submit
from prefect_genmedia.batch.review_form import ARTIFACT_KEY, ReviewForm, description_of, instructions
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.spec import BatchSpec
from prefect_genmedia.errors import FieldProblem, InvalidRequest, ReviewStop
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import BULLET, WORDS_CHARACTERS, clean_text, counted

if TYPE_CHECKING:
    from prefect_genmedia.batch.scheduler import BatchScheduler

PAUSE_KEY = "genmedia-review-"
"""Prefix of a pause's key; the question's id follows."""


def check_review(spec: BatchSpec) -> None:
    """Refuse a review of canary rows in a batch without canary rows.

    Args:
        spec: the batch's options.

    Raises:
        InvalidRequest: there is nothing to review.
    """
    if spec.review == "canary" and not spec.limits.canary and spec.sharding.shard is None:
        problem = "is 'canary', and the batch has no canary rows: set canary to their number"
        raise InvalidRequest.of("The batch", [FieldProblem("review", problem)])


def rows_under_review(rule: str, rows: Sequence[Row], canary: int) -> list[Row]:
    """Returns the rows that a rule puts under review: the same ones in every run with the same table.

    A share of the rows is spread evenly over the table, and begins with its first row.

    Args:
        rule: `canary`, `all`, or a share such as `0.1`.
        rows: the rows in the table's order.
        canary: the number of canary rows.
    """
    if rule == "canary":
        return list(rows[:canary])
    if rule == "all":
        return list(rows)
    count = min(max(math.ceil(Decimal(rule) * len(rows)), 1), len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


class _AllDecided(Exception):
    """Every row under review was decided, with a decisions file, before the run paused."""


class Review:
    """The review of one batch.

    Args:
        run: the batch.
        publish: writes the report page, the gallery and the tables; returns the report's path or link.
    """

    def __init__(self, run: BatchScheduler, publish: Callable[[], Awaitable[str | None]]) -> None:
        self._run = run
        self._publish = publish
        self._rule = run.spec.review
        self._rows = rows_under_review(self._rule, run.rows, run.spec.limits.canary)
        self._ids = {row.id for row in self._rows}

    async def ahead(self, rest: Sequence[Row]) -> list[Row]:
        """Run the rows under review before the others, and wait for the review.

        Args:
            rest: the rows that have not been run.

        Returns:
            The rows that are left, which must not be started if the batch's `stop` is set.
        """
        run = self._run
        if self._rule == "all":
            return list(rest)
        first = [row for row in rest if row.id in self._ids]
        left = [row for row in rest if row.id not in self._ids]
        if first:
            # Jobs that are already at the provider may hold the in-flight slots that these rows wait for.
            joined = [row for row in left if run.turn(row) == 0]
            left = left[len(joined) :]
            await run.run_rows([*joined, *first])
        await self._until_decided(self._rows)
        if left and run.stop is None and not any(self._is_accepted(row) for row in self._rows):
            run.end_early(
                ReviewStop(
                    f"None of the {counted(len(self._rows), 'row')} under review is accepted: the other "
                    f"{counted(len(left), 'row')} were not begun.",
                    next_step="regenerate these rows, or change them, then run the batch again: what is delivered is "
                    "not paid again.",
                )
            )
        return left

    async def afterwards(self) -> None:
        """Wait for the review of the rows that could not be reviewed ahead, and of rows that a person regenerates."""
        ids = {row.id for row in self._rows} | await self._regenerated()
        await self._until_decided([row for row in self._run.rows if row.id in ids])

    async def _regenerated(self) -> set[str]:
        """Returns the ids of the rows of which a person has regenerated a result, or wants to."""
        name = self._run.name
        decisions = await decisions_of(self._run.jobs.ledger, name)
        digests = {each.row_digest for each in decisions if each.decision == "regenerate"}
        return {row.id for row in self._run.rows if row_digest(name, row.id) in digests} if digests else set()

    async def _until_decided(self, rows: Sequence[Row]) -> None:
        """Regenerate what a person wants to be regenerated, and ask, until every delivered result is decided."""
        run = self._run
        if run.stop is None and await has_stopped(run.jobs.ledger, run.name, root_run_id(), await restarted_at()):
            run.end_early(ReviewStop("The review has stopped this run before."))
        while run.stop is None:
            run.results.take_reviews(await decisions_of(run.jobs.ledger, run.name))
            if again := [row for row in rows if self._decided(row) == "regenerate"]:
                await self._regenerate(again)
            elif undecided := [row for row in rows if self._is_delivered(row) and self._decided(row) is None]:
                await self._ask(undecided)
            else:
                return

    def _is_delivered(self, row: Row) -> bool:
        return self._run.results.of(row.id).state == JobState.DELIVERED.value

    def _decided(self, row: Row) -> Verdict | None:
        """Returns the decision about the row's present result; None if there is none."""
        decision = self._run.results.review_of(row.id) if self._is_delivered(row) else None
        return decision.decision if decision is not None else None

    def _is_accepted(self, row: Row) -> bool:
        return self._decided(row) == "accept"

    async def _regenerate(self, rows: Sequence[Row]) -> None:
        """Request a new result of each row. After a crash the same variant is requested, and its job is joined."""
        run = self._run
        requesters = {row.id: requester_of(self._job_key(row)) for row in rows}
        run.known.update(await run.jobs.renew(rows, requesters))
        due = {row.id: requests for row in rows if (requests := self._due(row))}
        get_run_logger().info(
            "Batch %s: %s regenerated after the review, %d to be paid", run.name, counted(len(rows), "row"), len(due)
        )
        above = confirm_limit(run.spec.money.confirm_above)
        if above is not None:
            costs = Costs.of([await run.estimate(request) for requests in due.values() for request in requests])
            title = f"Batch {clean_text(run.name, WORDS_CHARACTERS)}: {counted(len(due), 'row')} to regenerate"
            await confirm(Plan(title, costs), above)
        await run.run_rows(rows)

    def _due(self, row: Row) -> list[GenerationRequest]:
        """Returns the requests of the steps that a run of the row would send."""
        run = self._run
        steps = steps_to_submit(row, run.known.get(row.id, ()), run.asker, SYSTEM_CLOCK.now())
        return [row.requests[number - 1] for number in steps]

    async def _ask(self, rows: Sequence[Row]) -> None:
        """Ask about these rows, and record what a person decides."""
        run = self._run
        question = await self._question(rows)
        reply = await self._reply(question, rows)
        if reply is None:
            await close(run.jobs.ledger, question, "timeout")
            self._emit(question, "timeout")
            run.end_early(ReviewStop(f"Nobody reviewed {counted(len(rows), 'row')} in time, which means stop."))
            return
        decided = {each.job_key for each in await decisions_of(run.jobs.ledger, run.name)}
        decisions = [
            each
            for row, each in zip(rows, self._decisions(reply, rows), strict=True)
            if row.id in reply.named() or each.job_key not in decided
        ]
        how: Answer = "stopped" if reply.afterwards == "stop" else "answered"
        await close(run.jobs.ledger, question, how, reply.reviewer, decisions)
        run.results.take_reviews(await decisions_of(run.jobs.ledger, run.name))
        self._emit(question, how, reply.reviewer, rows)
        if how == "stopped":
            run.end_early(
                ReviewStop(f"{clean_text(reply.reviewer, WORDS_CHARACTERS)} stopped the batch in its review.")
            )

    async def _question(self, rows: Sequence[Row]) -> ReviewQuestion:
        """Returns the question from the ledger, or records it; a run that crashed during the wait finds it."""
        ledger, name = self._run.jobs.ledger, self._run.name
        now, keys, run_ids = ledger.now(), [self._job_key(row) for row in rows], (root_run_id(), str(flow_run.id))
        return await ask(
            ledger,
            ReviewQuestion(
                id=question_id(run_ids, name, keys, await restarted_at()),
                batch_id=name,
                root_run_id=run_ids[0],
                flow_run_id=run_ids[1],
                job_keys=keys,
                asked_at=now,
                expires_at=now + current_settings().review_timeout_seconds,
            ),
        )

    async def _reply(self, question: ReviewQuestion, rows: Sequence[Row]) -> ReviewForm | None:
        """Returns the submitted form, once it names only rows under review; None if nobody answers in time."""
        results = [self._run.results.of(row.id) for row in rows]
        problems: list[str] = []
        for attempt in itertools.count():

            async def before(is_first: bool, said: Sequence[str] = tuple(problems), number: int = attempt) -> None:
                await self._show(question, rows, said, is_new=is_first and number == 0)

            key = f"{PAUSE_KEY}{question.id}" + (f"-again-{attempt}" if attempt else "")
            description = description_of(self._run.name, results, problems)
            try:
                reply = await reply_to(Asked(key, ReviewForm, description, question.expires_at, before))
            except _AllDecided as decided:
                return ReviewForm(reviewer=str(decided))
            if reply is None:
                return None
            problems = reply.problems({row.id for row in rows})
            if not problems:
                return reply
            get_run_logger().error("The review is not taken: %s", BULLET.join(problems))
        raise AssertionError("the loop returns")

    async def _show(self, question: ReviewQuestion, rows: Sequence[Row], problems: Sequence[str], is_new: bool) -> None:
        """Write the report page and the gallery, and say how to answer, before the run pauses."""
        name = self._run.name
        await self._run.results.save(now=True)
        report = await self._publish()
        await acreate_markdown_artifact(
            key=ARTIFACT_KEY,
            markdown=instructions(name, [self._run.results.of(row.id) for row in rows], report, problems),
            description=f"Review: {counted(len(rows), 'row')} of {clean_text(name, WORDS_CHARACTERS)}",
        )
        get_run_logger().warning(
            "Batch %s: %s for a review: resume this run, or export the decisions from the report%s and type "
            "`prefect-genmedia review apply FILE`",
            name,
            f"{counted(len(rows), 'row')} {'waits' if len(rows) == 1 else 'wait'}",
            f" {report}" if report else "",
        )
        if is_new:
            self._emit(question, "asked")
        # The report page was there before the pause, which a command can only end when it has begun.
        decided = {each.job_key: each for each in await decisions_of(self._run.jobs.ledger, name)}
        if decided.keys() >= set(question.job_keys):
            raise _AllDecided(decided[question.job_keys[0]].reviewer)

    def _decisions(self, reply: ReviewForm, rows: Iterable[Row]) -> list[Decision]:
        name, reason = self._run.name, reply.reason
        return [
            Decision(
                job_key=self._job_key(row),
                row_digest=row_digest(name, row.id),
                decision=reply.verdict_of(row.id),
                reviewer=reply.reviewer,
                reason=reason if row.id in reply.named() else "",
            )
            for row in rows
        ]

    def _job_key(self, row: Row) -> str:
        return self._run.results.of(row.id).job_key or ""

    def _emit(self, question: ReviewQuestion, what: str, by: str = "", rows: Sequence[Row] = ()) -> None:
        """Emit an event for automations, once per question and answer."""
        words = [self._decided(row) or "" for row in rows]
        emit_event(
            event=f"genmedia.review.{what}",
            resource={
                "prefect.resource.id": f"genmedia.batch.{question.batch_id}",
                "prefect.resource.name": clean_text(question.batch_id, WORDS_CHARACTERS),
            },
            related=[{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}],
            payload={
                "question": question.id[:8],
                "rows": len(question.job_keys),
                "decisions": {word: words.count(word) for word in dict.fromkeys(words)},
                "by": clean_text(by, WORDS_CHARACTERS),
            },
        )

"""What a person sees and answers in the Prefect UI when a batch waits for its review."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import Literal

from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field

from prefect_genmedia._core.reviews import REASON_CHARACTERS, REVIEWER_CHARACTERS, Verdict
from prefect_genmedia._prefect.markdown import code, escape, link
from prefect_genmedia.batch.result import Result
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text, counted

ARTIFACT_KEY = "genmedia-review"

SHOWN_ROWS = 30
"""Maximum number of rows that the form and the artifact list; the report page has all of them."""


class ReviewForm(RunInput):
    """What a person decides. A row under review that is not named is accepted, unless it was decided before."""

    reviewer: str = Field(
        min_length=1, max_length=REVIEWER_CHARACTERS, title="Reviewer", description="Your name, for the record."
    )
    reject: list[str] = Field(
        default=[],
        title="Rows to reject",
        description="Ids of the rows to reject. Their files stay, and do not count as delivered.",
    )
    regenerate: list[str] = Field(
        default=[],
        title="Rows to regenerate",
        description="Ids of the rows to reject and generate again: each is paid again, within the budget.",
    )
    reason: str = Field(
        default="",
        max_length=REASON_CHARACTERS,
        title="Reason",
        description="Why these rows are rejected or regenerated; required for rows to reject.",
    )
    afterwards: Literal["go on", "stop"] = Field(
        default="go on",
        title="Afterwards",
        description="Stop: the decisions are recorded and this run sends nothing more; a new run goes on.",
    )

    def named(self) -> set[str]:
        """Returns the ids of the rows that the person named."""
        return {*self.reject, *self.regenerate}

    def verdict_of(self, row_id: str) -> Verdict:
        """Returns the decision about a row. A row that is to be rejected and regenerated is regenerated.

        Args:
            row_id: the row.
        """
        if row_id in self.regenerate:
            return "regenerate"
        return "reject" if row_id in self.reject else "accept"

    def problems(self, ids: Set[str]) -> list[str]:
        """Returns why the answer cannot be taken, each in one sentence; empty if it can.

        Args:
            ids: the rows under review.
        """
        found = []
        if not self.reviewer.strip():
            found.append("The reviewer's name is missing.")
        if self.reject and not self.reason.strip():
            found.append("The reason is missing: it is required for rows to reject.")
        found += [f"No row {clean_text(each, 60)!r} is under review." for each in sorted(self.named() - ids)]
        return found


def description_of(batch_id: str, results: Sequence[Result], problems: Collection[str] = ()) -> str:
    """Returns the text above the form.

    Args:
        batch_id: the batch.
        results: the results under review.
        problems: why the last answer could not be taken.
    """
    parts = [
        *(f"**{escape(each)}**" for each in problems),
        f"**{escape(clean_text(batch_id, WORDS_CHARACTERS))}**: {counted(len(results), 'row')} under review. Their "
        f"files are on the report page and in the gallery, both on this run's page (artifact {code(ARTIFACT_KEY)}).",
        "\n".join(_row(each) for each in results[:SHOWN_ROWS]),
        f"And {len(results) - SHOWN_ROWS} more." if len(results) > SHOWN_ROWS else "",
        "**Every row that you do not name is accepted.** No answer in time means stop.",
    ]
    return "\n\n".join(part for part in parts if part)


def instructions(batch_id: str, results: Sequence[Result], report: str | None, problems: Sequence[str] = ()) -> str:
    """Returns the artifact: what is under review, and how to answer in both UIs and on the command line.

    Args:
        batch_id: the batch.
        results: the results under review.
        report: path or URL of the report page; None if it could not be written.
        problems: why the last answer could not be taken.
    """
    run = url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None
    page = f"[the run's page]({run})" if run else "the run's page"
    where = f"{link(report)}" if report else "the report page could not be written; see the run's log"
    table = ["| row | seconds | file |", "| --- | --- | --- |", *map(_line, results[:SHOWN_ROWS])]
    more = f"\nAnd {len(results) - SHOWN_ROWS} more." if len(results) > SHOWN_ROWS else ""
    return "\n".join(
        [
            f"# Review of {escape(clean_text(batch_id, WORDS_CHARACTERS))}",
            "",
            *(f"**{escape(each)}**\n" for each in problems),
            f"{counted(len(results), 'row')} under review. Nothing more is sent until they are decided.",
            "",
            f"Report page: {where}. The artifact {code('genmedia-batch-gallery')} has the pictures.",
            "",
            "In the Prefect UI:",
            "",
            f"1. Open {page}.",
            "2. Press **Resume** at the top right; in the second UI it is in the menu **⋮** there.",
            "3. Name the rows to reject or to regenerate; the others are accepted. Press **Submit**; in the second UI, "
            "**Resume**.",
            "",
            "Or on the report page: press **Review**, decide row by row, press **Export decisions**, and type "
            f"{code('prefect-genmedia review apply FILE')}.",
            "",
            *table,
            more,
        ]
    )


def _row(result: Result) -> str:
    watched = f" {link(result.watch_url)}" if result.watch_url else ""
    return f"- {code(clean_text(result.id, WORDS_CHARACTERS))}{watched}"


def _line(result: Result) -> str:
    file = link(result.watch_url) if result.watch_url else escape(result.path or "")
    return f"| {escape(clean_text(result.id, WORDS_CHARACTERS))} | {result.seconds or 0.0:.1f} | {file} |"

"""What a batch shows in the Prefect UI: one progress bar, one table of failures, one plan, and a gallery on pages whose
size is bounded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from anyio import to_thread
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from prefect_genmedia import errors
from prefect_genmedia._core.attempts import agreed_step
from prefect_genmedia._core.model import AT_PROVIDER, JobState, Rerun
from prefect_genmedia._prefect.cards import thumbnail
from prefect_genmedia._prefect.markdown import cell, code, escape
from prefect_genmedia._prefect.targets import read_file
from prefect_genmedia._prefect.terminal import Bar
from prefect_genmedia.batch.results import IN_FLIGHT, INVALID, NOT_SENT, Result, Results, words_of
from prefect_genmedia.batch.row_task import ROW, ROW_TASK
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import counted, escaped

PROGRESS_SECONDS = 2.0
"""The progress bar moves at most this often, in seconds: an update costs 7 ms."""

_COUNTING_SHARE = 100
"""The rows are counted for a hundredth of the time at most, however many there are."""

QUIET_FROM = 100
"""From so many rows on, rows log warnings and errors only: nobody reads a thousand times that all is well."""

PLAN_ROWS = 1000
"""Rows that the table of a dry run spells out."""

_DONE = frozenset({JobState.DELIVERED.value, INVALID})


class Progress:
    """A progress bar, updated only when something has changed.

    Parameters:
        name: whose progress it is.
        results: what is counted.
        bar: the one in the terminal, if there is one.
        key: the artifact's key.
        beat_seconds: it is also updated at least this often, in seconds, to show that the run lives.
    """

    def __init__(
        self, name: str, results: Results, bar: Bar, key: str = "genmedia-batch", beat_seconds: float = float("inf")
    ) -> None:
        """Show nothing yet."""
        self._name = name
        self._bar = bar
        self._results = results
        self._key = key
        self._beat_seconds = beat_seconds
        self._artifact: UUID | None = None
        self._shown: tuple[float, str] | None = None
        self._shown_at = float("-inf")
        self._pause = PROGRESS_SECONDS

    async def show(self, now: bool = False) -> None:
        """Bring the bar up to date, if it is time or `now`."""
        begun = time.monotonic()
        age = begun - self._shown_at
        if not now and age < self._pause:
            return
        percent, words = self._state()
        self._pause = max(PROGRESS_SECONDS, _COUNTING_SHARE * (time.monotonic() - begun))
        if (percent, words) == self._shown and age < self._beat_seconds:
            return
        self._shown, self._shown_at = (percent, words), time.monotonic()
        self._bar.show(percent, words)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(percent, key=self._key, description=escape(words))
        else:
            await aupdate_progress_artifact(self._artifact, percent, escape(words))

    def _state(self) -> tuple[float, str]:
        counts = self._results.counts()
        total = sum(counts.values())
        waiting = counts[NOT_SENT] + counts[IN_FLIGHT]
        percent = 100.0 * (total - waiting) / total if total else 100.0
        return round(percent, 1), f"{self._name}: {summary_of(self._results)}"


def summary_of(results: Results) -> str:
    """Counts and cost in one line."""
    counts = results.counts()
    others = sum(number for state, number in counts.items() if state not in (*_DONE, NOT_SENT, IN_FLIGHT))
    parts = [f"{counts[JobState.DELIVERED.value]} of {sum(counts.values())} delivered"]
    if counts[IN_FLIGHT]:
        parts.append(f"{counts[IN_FLIGHT]} in flight")
    if others:
        parts.append(f"{others} without a file")
    if counts[NOT_SENT]:
        parts.append(f"{counts[NOT_SENT]} not sent")
    if counts[INVALID]:
        parts.append(f"{counts[INVALID]} invalid")
    if cost := results.cost():
        parts.append(f"about {cost:.2f} {CURRENCY} (estimate)")
    return " · ".join(parts)


async def publish_failures(batch_id: str, results: Results) -> None:
    """Show what went wrong, grouped by error, most frequent first.

    Parameters:
        batch_id: the batch's name.
        results: what became of its rows.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results.all():
        if result.error_kind and result.state not in (JobState.DELIVERED.value,):
            groups.setdefault((result.error_kind, result.state), []).append(result)
    if not groups:
        return
    table = [
        {
            "error": cell(kind),
            "state": cell(state),
            "rows": len(rows),
            "for example": cell(", ".join(row.id for row in rows[:5])),
            "next": cell(_next_step(kind, state, [row.job_key for row in rows])),
            "message": cell((rows[0].error_message or "")[:500]),
            "job": cell(rows[0].job_key or ""),
        }
        for (kind, state), rows in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    await acreate_table_artifact(
        key="genmedia-batch-failures",
        table=table,
        description=escape(f"{batch_id} · {counted(sum(map(len, groups.values())), 'row')} without a file"),
    )


def _next_step(kind: str, state: str, job_keys: Sequence[str | None]) -> str:
    """What a person does about rows that ended with an error of this kind, their jobs in this state."""
    error = getattr(errors, kind, None)
    if not (isinstance(error, type) and issubclass(error, GenMediaError)):
        return ""  # not one of ours
    ended: GenMediaError = error()
    is_at_provider = state in {each.value for each in AT_PROVIDER}
    ended.next_step = agreed_step(ended, Rerun.JOINED if is_at_provider else None)
    return ended.next_step_for(job_keys[0] if len(job_keys) == 1 else None)


async def publish_plan(batch_id: str, plan: Sequence[dict[str, object]], words: str) -> None:
    """Show what a dry run found; of very many rows the first ones.

    Parameters:
        batch_id: the batch's name.
        plan: a row of the table for each row of the batch.
        words: what stands above the table.
    """
    table = [
        {name: cell(value) if isinstance(value, str) else value for name, value in line.items()}
        for line in plan[:PLAN_ROWS]
    ]
    if len(plan) > PLAN_ROWS:
        table.append({"row": f"and {len(plan) - PLAN_ROWS} more"})
    await acreate_table_artifact(key="genmedia-batch-plan", table=table, description=escape(f"{batch_id} · {words}"))


@contextmanager
def quiet_rows(count: int) -> Iterator[None]:
    """Keep what goes well out of the rows' logs, in a batch of many; events and the table of results still tell it.

    A row's lines in the flow run's log begin with the row's id: they are among those of all rows.
    """

    def is_worth_it(record: logging.LogRecord) -> bool:
        row, task_name = ROW.get(), getattr(record, "task_name", None)
        if (row or task_name == ROW_TASK) and record.levelno < logging.WARNING and count >= QUIET_FROM:
            return False
        if row and task_name is None:
            record.msg, record.args = f"{escaped(row)}: {record.getMessage()}", None
        return True

    loggers = [logging.getLogger(name) for name in ("prefect.task_runs", "prefect.flow_runs")]
    for logger in loggers:
        logger.addFilter(is_worth_it)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_worth_it)


KEY = "genmedia-batch-gallery"
"""Artifact key of the first page; the second one's ends in -2, and so on."""

PAGE_FRAMES = 48
"""Poster frames on a page: its text holds the pictures, some 8 kB each."""

PAGE_BYTES = 1_000_000
"""A page's text is no larger: pictures that would not fit begin another page."""

MOST_PAGES = 21
"""A thousand frames: nobody looks at more, and the server keeps them all."""

COLUMNS = 4
WIDTH = 200
"""Pixels of a frame; it is twice as high at most."""

_SHOWN_EXTRA = 160
"""Characters of the user's own columns below a frame."""

_READ_AT_ONCE = 8


async def publish_gallery(batch_id: str, summary: str, delivered: Sequence[Result], location: str | None) -> None:
    """Show the delivered files' poster frames, an artifact a page.

    Parameters:
        batch_id: the batch's name.
        summary: what became of it, in a line.
        delivered: the rows with a file, in the order to show them in.
        location: where the table of results is.
    """
    shown, number = 0, 0
    async for page in _pages(delivered):
        number += 1
        first, shown = shown + 1, shown + len(page)
        lines = [f"# {escape(batch_id)}", "", escape(summary), "", f"Files {first} to {shown} of {len(delivered)}.", ""]
        if number == MOST_PAGES and shown < len(delivered):
            lines[4] += f" This is the last page; all of them stand in {code(location)}."
        await acreate_markdown_artifact(
            key=KEY if number == 1 else f"{KEY}-{number}",
            markdown="\n".join([*lines, *_table(page)]) + "\n",
            description=f"{escape(batch_id)} · files {first} to {shown} of {len(delivered)}",
        )
        if number == MOST_PAGES:
            return


async def _pages(delivered: Sequence[Result]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    size = 0
    async for frame in _cells(delivered):
        if page and (len(page) == PAGE_FRAMES or size + len(frame) > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(frame)
        size += len(frame)
    if page:
        yield page


async def _cells(delivered: Sequence[Result]) -> AsyncIterator[str]:
    for begin in range(0, len(delivered), _READ_AT_ONCE):
        for frame in await asyncio.gather(*map(_cell, delivered[begin : begin + _READ_AT_ONCE])):
            yield frame


async def _cell(result: Result) -> str:
    content = await read_file(result.poster_uri) if result.poster_uri else None
    picture = await to_thread.run_sync(thumbnail, content, WIDTH) if content else None
    name = escape(result.id)
    own = f"<br>not sent: {escape(words_of(result.extra)[:_SHOWN_EXTRA])}" if result.extra else ""
    return (f"![{name}]({picture})<br>" if picture else "") + f"{name} · {result.seconds or 0.0:.1f} s{own}"


def _table(page: Sequence[str]) -> list[str]:
    first, *others = (page[begin : begin + COLUMNS] for begin in range(0, len(page), COLUMNS))
    # The first files are the table's head: an empty one shows as a bar.
    return [_line(first), _line(["---"] * len(first)), *map(_line, others)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""A batch's artifacts in the Prefect UI besides its gallery: a progress bar; tables of failures, results and plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact

from prefect_genmedia import errors
from prefect_genmedia._core.attempts import agreed_step
from prefect_genmedia._core.model import AT_PROVIDER, JobState, Rerun
from prefect_genmedia._prefect.cards import DESCRIPTION_CHARACTERS
from prefect_genmedia._prefect.markdown import cell, escape, link_cell
from prefect_genmedia._prefect.terminal import Bar
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.results import IN_FLIGHT, INVALID, NOT_SENT, Result, Results
from prefect_genmedia.batch.row_task import ROW, ROW_TASK
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text, counted, cut_at_word, escaped

PROGRESS_SECONDS = 2.0
"""Minimum interval between two updates of the progress bar, in seconds: an update costs 7 ms."""

_COUNTING_SHARE = 100
"""Counting rows takes at most a hundredth of the time, however many there are."""

QUIET_FROM = 100
"""From this many rows on, rows log only warnings and errors: nobody reads a thousand lines of success."""

RESULT_ROWS = 1000
"""Maximum number of rows in the table of results on the run's page; its file has all of them."""

SHOWN_MESSAGE = 160
"""Maximum characters of an error's message in the table of failures."""

SHOWN_ERROR = 60
"""Maximum characters of an error in the table of results, so that the other columns stay visible in the UI."""

_NAME_IN_TERMINAL = 24
"""Characters of the batch's name beside the bar in a terminal: the counts need the room."""

_DONE = frozenset({JobState.DELIVERED.value, INVALID})


class Progress:
    """A progress bar, updated only when something has changed.

    Args:
        name: the name shown beside the bar.
        results: the results to count.
        bar: the progress bar in the terminal.
        key: the artifact's key.
        heartbeat_seconds: maximum interval between two updates, in seconds, which show that the run is alive.
    """

    def __init__(
        self,
        name: str,
        results: Results,
        bar: Bar,
        key: str = "genmedia-batch",
        heartbeat_seconds: float = float("inf"),
    ) -> None:
        self._name = name
        self._bar = bar
        self._results = results
        self._key = key
        self._heartbeat_seconds = heartbeat_seconds
        self._artifact: UUID | None = None
        self._shown: tuple[float, str] | None = None
        self._shown_at = float("-inf")
        self._pause = PROGRESS_SECONDS

    async def show(self, now: bool = False) -> None:
        """Update the bar if the interval has passed, or if `now` is set."""
        begun = time.monotonic()
        age = begun - self._shown_at
        if not now and age < self._pause:
            return
        percent, words = self._state()
        self._pause = max(PROGRESS_SECONDS, _COUNTING_SHARE * (time.monotonic() - begun))
        if (percent, words) == self._shown and age < self._heartbeat_seconds:
            return
        self._shown, self._shown_at = (percent, words), time.monotonic()
        self._bar.show(percent, f"{cut_at_word(self._name, _NAME_IN_TERMINAL)}: {counts_of(self._results)}")
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
    cost = results.cost()
    return " · ".join([counts_of(results), *([f"about {cost:.2f} {CURRENCY} (estimate)"] if cost else [])])


def counts_of(results: Results) -> str:
    """How many rows are where, in one line."""
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
    return " · ".join(parts)


async def publish_failures(batch_id: str, results: Results) -> None:
    """Publish the failures, grouped by error, most frequent first.

    Args:
        batch_id: the batch's name.
        results: the results of its rows.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results.all():
        if result.error_kind and result.state not in (JobState.DELIVERED.value,):
            groups.setdefault((result.error_kind, result.state), []).append(result)
    if not groups:
        return
    table = [
        {
            "rows": len(rows),
            "error": cell(kind),
            "for example": cell(cut_at_word(", ".join(row.id for row in rows[:5]), SHOWN_ERROR)),
            "what happened": cell(cut_at_word(rows[0].error_message or "", SHOWN_MESSAGE)),
            "state": cell(state),
            "job": cell(rows[0].job_key or ""),
            "next": cell(_next_step(kind, state, [row.job_key for row in rows])),
        }
        for (kind, state), rows in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    await acreate_table_artifact(
        key="genmedia-batch-failures",
        table=table,
        description=escape(f"{batch_id} · {counted(sum(map(len, groups.values())), 'row')} without a file"),
    )


def _next_step(kind: str, state: str, job_keys: Sequence[str | None]) -> str:
    """Returns the next step for rows that ended with an error of this kind and with jobs in this state."""
    error = getattr(errors, kind, None)
    if not (isinstance(error, type) and issubclass(error, GenMediaError)):
        return ""  # not an error of this package
    ended: GenMediaError = error()
    is_at_provider = state in {each.value for each in AT_PROVIDER}
    ended.next_step = agreed_step(ended, Rerun.JOINED if is_at_provider else None)
    return ended.next_step_for(job_keys[0] if len(job_keys) == 1 else None)


async def publish_results(batch_id: str, results: Results) -> None:
    """Publish the result of each row, rows without a file first; for large batches only the first rows.

    Args:
        batch_id: the batch's name.
        results: the results of its rows.
    """
    rows = sorted(results.all(), key=lambda row: row.state == JobState.DELIVERED.value)
    if not rows:
        return
    table = [_result_line(row, results) for row in rows[:RESULT_ROWS]]
    if len(rows) > RESULT_ROWS:
        more = f"and {len(rows) - RESULT_ROWS} more, all of them in {results.location or 'the table of results'}"
        table.append({"row": cell(more)})
    await acreate_table_artifact(
        key="genmedia-batch-results",
        table=table,
        description=escape(cut_at_word(f"{batch_id} · {summary_of(results)}", DESCRIPTION_CHARACTERS)),
    )


def _result_line(row: Result, results: Results) -> dict[str, object]:
    error = ": ".join(filter(None, (row.error_kind, row.error_message)))
    line: dict[str, object] = {
        "row": cell(row.id),
        "state": cell(row.state),
        "file": link_cell(row.watch_url) if row.watch_url else cell(row.path or ""),
        "error": cell(cut_at_word(error, SHOWN_ERROR)),
        "seconds": row.seconds,
        f"estimated {CURRENCY}": row.estimated_cost,
        "job": cell(row.job_key or ""),
    }
    words = results.carried.words(row.extra)
    return line if words is None else line | {"not sent": cell(cut_at_word(words, SHOWN_MESSAGE))}


async def publish_plan(batch_id: str, plan: Sequence[dict[str, object]], words: str, more: int = 0) -> None:
    """Publish the plan of a dry run; for large batches only the first rows.

    Args:
        batch_id: the batch's name.
        plan: the table's rows, one for each of the batch's first rows.
        words: the text above the table.
        more: the number of further rows in the batch.
    """
    table = [{name: cell(value) if isinstance(value, str) else value for name, value in line.items()} for line in plan]
    if more:
        table.append({"row": f"and {more} more"})
    await acreate_table_artifact(
        key="genmedia-batch-plan",
        table=table,
        description=escape(cut_at_word(f"{batch_id} · {words}", DESCRIPTION_CHARACTERS)),
    )


@contextmanager
def quiet_rows(count: int) -> Iterator[None]:
    """Log one line per failed row, with a traceback only if the log level is debug.

    In a batch of many rows, successes are not logged: they are in the events and the table of results. A row's lines in
    the flow run's log begin with the row's id, because the log contains the lines of all rows.
    """
    loggers = [logging.getLogger(name) for name in ("prefect.task_runs", "prefect.flow_runs")]

    def is_worth_it(record: logging.LogRecord) -> bool:
        row, task_name = ROW.get(), getattr(record, "task_name", None)
        if not row and task_name != ROW_TASK:
            return True
        if record.levelno < logging.WARNING and count >= QUIET_FROM:
            return False
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = _failed_line(record, record.exc_info[1]), ()
            if not loggers[0].isEnabledFor(logging.DEBUG):
                record.exc_info = record.exc_text = None
        if task_name is None:
            record.msg, record.args = f"{escaped(row)}: {record.getMessage()}", None
        return not record.getMessage().startswith("Finished in state")  # the previous line says why

    for logger in loggers:
        logger.addFilter(is_worth_it)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_worth_it)


def _failed_line(record: logging.LogRecord, error: BaseException) -> str:
    kind, words = type(error).__name__, str(error)
    if isinstance(error, GenMediaError):
        kind, words = error.kind, error.message
    line = f"Row {getattr(record, 'task_run_name', '')}: {kind}: {unsigned_text(words)}"
    return cut_at_word(clean_text(line), WORDS_CHARACTERS)

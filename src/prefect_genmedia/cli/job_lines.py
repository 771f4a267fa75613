"""A job as a line: cut to the terminal's width for people, whole for programs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia.cli.ledger import span
from prefect_genmedia.text import escaped, iso_time

_COLOURS = {
    JobState.DELIVERED: "green",
    JobState.UNKNOWN: "bold red",
    JobState.FAILED: "red",
    JobState.REJECTED: "red",
    JobState.UNDELIVERABLE: "red",
    JobState.ABANDONED: "dim",
}


def print_jobs(console: Console, jobs: Sequence[Job], now: float) -> None:
    """Print one line a job.

    Args:
        console: where to; whether it is a terminal decides.
        jobs: the jobs.
        now: seconds since 1970.
    """
    if console.is_terminal:
        console.print(_table(jobs, now))
        return
    for job in jobs:
        cells = (job.key, job.state.value, _title(job), iso_time(job.created_at) or "", job.shown_id, _ending(job))
        console.out("  ".join(map(escaped, cells)), highlight=False)


def _table(jobs: Sequence[Job], now: float) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, expand=True)
    for name in ("key", "state"):  # in a narrow terminal, too, a key can be copied and a state be read
        table.add_column(name, no_wrap=True)
    table.add_column("kind · label", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("age", no_wrap=True, justify="right")
    table.add_column("file or error", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        state = Text(job.state.value, _COLOURS.get(job.state, "cyan"))
        ending = Text(escaped(_brief_ending(job, now)))
        table.add_row(Text(escaped(job.key)), state, Text(escaped(_title(job))), span(now - job.created_at), ending)
    return table


def _title(job: Job) -> str:
    return " · ".join(filter(None, (job.kind or job.provider, job.label)))


def _ending(job: Job) -> str:
    if job.delivery is not None:
        return job.delivery.uri
    return ": ".join(filter(None, (job.error_kind, job.error_message)))


def _brief_ending(job: Job, now: float) -> str:
    """The file's name or the error, or what is urgent about a job at its provider."""
    if job.delivery is not None:
        return job.delivery.uri.rstrip("/").rpartition("/")[2]
    if job.state in AT_PROVIDER and job.expires_at is not None:
        left = job.expires_at - now
        return f"expires in {span(left)}" if left > 0 else "has expired"
    return _ending(job)

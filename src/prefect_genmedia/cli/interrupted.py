"""What a command that pays says when Ctrl-C ends it: what was sent, what it costs, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.markup import escape

from prefect_genmedia._core.lookup import JobFilter, list_jobs
from prefect_genmedia._core.model import AT_PROVIDER, NEVER_PAID, TAKEN, Job, JobState
from prefect_genmedia.cli.console import command_console
from prefect_genmedia.cli.ledger import run_on_ledger
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import counted

_MOST_JOBS = 100_000

_AGAIN = "The same command again goes on from here: it joins these jobs, and pays none of them again."


@contextmanager
def closing_sentence(wanted: JobFilter) -> Iterator[None]:
    """Print the state of the command's jobs if Ctrl-C ends the block.

    Args:
        wanted: which jobs are the command's.
    """
    try:
        yield
    except KeyboardInterrupt:
        jobs, _ = run_on_ledger(lambda ledger: list_jobs(ledger, wanted, _MOST_JOBS))
        command_console(stderr=True).print(f"[yellow]{escape(_sentence(jobs))}[/]", highlight=False, soft_wrap=True)
        raise


def _sentence(jobs: Sequence[Job]) -> str:
    if all(job.state in NEVER_PAID for job in jobs):
        return "Stopped: nothing was sent, and nothing is paid. The same command again begins anew."
    taken = [job for job in jobs if job.state in TAKEN]
    groups = {
        "delivered": sum(job.state is JobState.DELIVERED for job in taken),
        "at the provider": sum(job.state in AT_PROVIDER for job in taken),
        "without a usable file": sum(job.state is JobState.UNDELIVERABLE for job in taken),
    }
    unknown = sum(job.state in (JobState.SENDING, JobState.UNKNOWN) for job in jobs)
    failed = sum(job.state is JobState.FAILED for job in jobs)
    cost = sum(job.estimated_cost or 0.0 for job in taken)
    parts = ["Stopped."]
    if taken:
        words = ", ".join(f"{number} {word}" for word, number in groups.items() if number)
        about = f", about {cost:.2f} {CURRENCY} (estimate)" if cost else ""
        parts.append(f"Paid: {counted(len(taken), 'job')} ({words}){about}.")
    if unknown:
        parts.append(f"Perhaps paid: {counted(unknown, 'job')}, see `prefect-genmedia jobs list --state unknown`.")
    if failed:
        parts.append(
            f"Failed at the provider: {counted(failed, 'job')}, see `prefect-genmedia jobs list --state failed`."
        )
    return " ".join([*parts, _AGAIN])

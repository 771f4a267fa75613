"""`prefect-genmedia jobs …`: looking into the ledger, and settling what only a person can."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.table import Table

from prefect_genmedia._core.attempts import agreed_step, rerun_after
from prefect_genmedia._core.decide import warning_about
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.lookup import JobFilter, list_jobs, matching_jobs
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState, Rerun
from prefect_genmedia._core.rounds import NEXT_STEP, Health, health
from prefect_genmedia._prefect.links import watch_urls
from prefect_genmedia.cli.console import ProviderName, Switch, command_console, stop
from prefect_genmedia.cli.decisions import abandon, adopt, resubmit, undo
from prefect_genmedia.cli.export import export
from prefect_genmedia.cli.job_lines import print_jobs
from prefect_genmedia.cli.ledger import moment, name_ledger, plain_job, print_ledger_url, run_on_ledger
from prefect_genmedia.cli.prune import prune
from prefect_genmedia.text import counted, escaped, json_text

app = App(name="jobs")
for command in (adopt, resubmit, abandon, undo, export, prune):
    app.command(command)

AsJson = Annotated[Switch, Parameter(name="--json")]


@app.command(name="list")
def list_all(
    *,
    state: Annotated[tuple[JobState, ...], Parameter(negative="", show_default=False)] = (),
    provider: ProviderName | None = None,
    since: str | None = None,
    batch: str | None = None,
    run: str | None = None,
    label: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs: those that need you, then those at a provider by expiry, then the newest.

    A terminal gets one line a job, cut to its width; a file or a pipe gets whole values.

    For example:
    ```
    prefect-genmedia jobs list --state unknown --state failed
    prefect-genmedia jobs list --batch spring-campaign --since 2h
    ```
    Next: `prefect-genmedia jobs show KEY` shows all about one of them.

    Parameters
    ----------
    state
        Only jobs in this state; may be given several times.
    provider
        Only jobs of this provider.
    since
        Only jobs that were sent since then, such as `2h`, `3d` or `2026-05-01T10:00`, in UTC.
    batch
        Only jobs of this batch.
    run
        Only jobs of this flow run: its id, or the beginning of it.
    label
        Only jobs whose label contains this.
    limit
        At most this many, from 1.
    as_json
        Print JSON, one array.
    """
    after = None if since is None else moment(since)
    wanted = JobFilter(states=frozenset(state), provider=provider, since=after, batch=batch, run=run, label=label)
    found, count = run_on_ledger(lambda ledger: list_jobs(ledger, wanted, limit))
    _warn_of_overdue(*run_on_ledger(_health))
    if as_json:
        _print_json([plain_job(job) for job in found])
    elif found:
        print_jobs(command_console(), found, time.time())
    else:
        limited = wanted != JobFilter()
        command_console().print(f"The ledger has no {'such ' if limited else ''}jobs{'' if limited else ' yet'}.")
    if len(found) < count:
        more = f"{len(found)} of {counted(count, 'job')}; see more with --limit {count}."
        command_console(stderr=True).print(more, highlight=False)
    print_ledger_url()


async def _health(ledger: Ledger) -> tuple[Health, bool]:
    """Health of reconcile as the ledger has it, and whether the Prefect server has the event that it is overdue.

    It is not overdue where no job waits to be collected.
    """
    found = await health(ledger)
    if found.is_overdue and not await ledger.jobs({JobState.SENDING, *AT_PROVIDER}, limit=1):
        return Health(found.now, found.started_at, found.now), False
    if not found.is_overdue:
        return found, False
    from prefect_genmedia._prefect.reconcile import emit_overdue, server_answers  # Prefect: seconds, and only here

    if not await server_answers():
        return found, False
    await emit_overdue(ledger, found)
    return found, True


def _warn_of_overdue(found: Health, is_emitted: bool) -> None:
    """Warn on standard error: standard output is for programs."""
    if found.is_overdue:
        event = " The event genmedia.reconcile.overdue was emitted." if is_emitted else ""
        text = f"{found} Jobs whose runs are gone expire. Next: {NEXT_STEP}{event}"
        command_console(stderr=True).print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)


@app.command
def show(job: str, /, *, as_json: AsJson = False) -> None:
    """Show all that is known about a job, or list the jobs of a flow run or of a row.

    For example:
    ```
    prefect-genmedia jobs show 3f2a
    ```
    Next: what a person must do, if anything, stands at the end.

    Parameters
    ----------
    job
        The job's key, the provider's id, the row's id in its batch, the flow run's id, or the beginning of one of them.
    as_json
        Print JSON: the job, or an array of the jobs of a flow run.
    """
    matches = run_on_ledger(lambda ledger: matching_jobs(ledger, job))
    if not matches.jobs:
        stop(f"The ledger has no job {job!r}. It is {name_ledger()}.")
    if len(matches.jobs) > 1:
        _show_several(job, matches.jobs, matches.exact, as_json)
        return
    (found,) = matches.jobs
    if as_json:
        _print_json(plain_job(found))
        return
    _show(found, *run_on_ledger(lambda ledger: _prospects(ledger, found)))
    print_ledger_url()


def _show_several(name: str, jobs: list[Job], exact: bool, as_json: bool) -> None:
    """List the jobs that a name stands for; one that is only the beginning of their names is refused."""
    if as_json and exact:
        _print_json([plain_job(job) for job in jobs])
        return
    print_jobs(command_console(stderr=not exact), jobs, time.time())
    if not exact:
        stop(f"{counted(len(jobs), 'job')} may be meant by {name!r}: give more of the name.")
    command_console(stderr=True).print(f"{counted(len(jobs), 'job')}; show one by its key.", highlight=False)
    print_ledger_url()


def _show(job: Job, again: Rerun, warning: str) -> None:
    console = command_console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in plain_job(job).items():
        if value not in (None, "", {}):
            table.add_row(f"[bold]{name}[/]", _shown(value if isinstance(value, str) else json_text(value)))
    console.print(table)
    for url in watch_urls(job.delivery) if job.delivery is not None else ():
        console.print(f"\nWatch: {escape(url)}", soft_wrap=True)
    if job.error_kind:
        error = job.failure()
        error.next_step = agreed_step(error, again)
        console.print(f"\nNext: {escape(error.next_step_for())}", soft_wrap=True)
    console.print(f"\nA run with the same request {again.value}.", soft_wrap=True)
    if warning:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


async def _prospects(ledger: Ledger, job: Job) -> tuple[Rerun, str]:
    """What becomes of the same request now, and a warning or nothing."""
    return await rerun_after(ledger, job, ledger.now()), await warning_about(ledger, job)


def _shown(text: str) -> str:
    """The text in a table of the terminal: square brackets are no markup, and control characters have no effect."""
    return escape("\n".join(map(escaped, text.split("\n"))))  # a note has a line for each decision


def _print_json(value: Any) -> None:
    print(json_text(value, indent=2))  # noqa: T201 - for programs, so no wrapping or colour

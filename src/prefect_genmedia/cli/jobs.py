"""`prefect-genmedia jobs …`: looking into the ledger, and settling what only a person can."""

from __future__ import annotations

import asyncio
import csv
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Column, Table

from prefect_genmedia._core.attempts import agreed_step, rerun_after
from prefect_genmedia._core.decide import Decision, decide, to_decide, warning_about
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState, Rerun
from prefect_genmedia._core.rounds import NEXT_STEP, Health, health
from prefect_genmedia.cli.console import ProviderName, Switch, command_console, stop
from prefect_genmedia.errors import GenMediaError, LedgerError
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import csv_cell, escaped, json_text

app = App(name="jobs")

AsJson = Annotated[Switch, Parameter(name="--json")]
Format = Annotated[Literal["csv", "jsonl"], Parameter(name="--format")]
Answer = TypeVar("Answer")

PATIENCE_SECONDS = 5.0
"""How long a command waits for a database that is away, in seconds."""

NEEDS_A_PERSON = frozenset({JobState.UNKNOWN})
"""States that only a person can end."""

_COLOURS = {
    JobState.DELIVERED: "green",
    JobState.UNKNOWN: "bold red",
    JobState.FAILED: "red",
    JobState.REJECTED: "red",
    JobState.UNDELIVERABLE: "red",
    JobState.ABANDONED: "dim",
}


@app.command(name="list")
def list_jobs(
    *,
    state: Annotated[tuple[JobState, ...], Parameter(negative="", show_default=False)] = (),
    provider: ProviderName | None = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs: those that need you, then those at a provider by expiry, then the newest.

    For example:
    ```
    prefect-genmedia jobs list --state unknown --state failed
    ```
    Next: `prefect-genmedia jobs show KEY` tells all about one of them.

    Parameters
    ----------
    state
        Only jobs in this state; may be given several times.
    provider
        Only jobs of this provider.
    limit
        At most this many.
    as_json
        Print JSON, one array.
    """
    found = _run(lambda ledger: _listed(ledger, frozenset(state) or frozenset(JobState), provider, limit))
    _warn_of_overdue(*_run(_health))
    if as_json:
        _print_json([_plain(job) for job in found])
        return
    # In a narrow terminal, too, a key can be copied and a state be read.
    whole = [Column(name, no_wrap=True) for name in ("key", "state")]
    table = Table(*whole, "kind", "request", "at the provider", "created", "expires", "file or error")
    for job in found:
        ending = job.delivery.uri if job.delivery else job.error_message or ""
        table.add_row(
            escape(job.key),
            f"[{_COLOURS.get(job.state, 'cyan')}]{job.state.value}[/]",
            escape(job.kind),
            _shown(job.label),
            _shown(job.shown_id),
            _time(job.created_at),
            _time(job.expires_at) if job.state in AT_PROVIDER else "",
            _shown(ending),
        )
    command_console().print(table if found else "The ledger has no such jobs.")


async def _health(ledger: Ledger) -> tuple[Health, bool]:
    """What the ledger tells about reconcile, and whether the Prefect server was told that it is overdue."""
    found = await health(ledger)
    if not found.is_overdue:
        return found, False
    from prefect_genmedia._prefect.reconcile import emit_overdue, server_answers  # Prefect: seconds, and only here

    if not await server_answers():
        return found, False
    await emit_overdue(ledger, found)
    return found, True


def _warn_of_overdue(found: Health, told: bool) -> None:
    """Warn on standard error: standard output is for programs."""
    if found.is_overdue:
        event = " The event genmedia.reconcile.overdue was emitted." if told else ""
        text = f"{found} Jobs whose runs are gone expire. Next: {NEXT_STEP}{event}"
        command_console(stderr=True).print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)


async def _listed(ledger: Ledger, states: frozenset[JobState], provider: str | None, limit: int) -> list[Job]:
    """What needs a person, then what is at a provider by expiry, then the newest of the rest."""
    listed: list[Job] = []
    for group in (NEEDS_A_PERSON, AT_PROVIDER, frozenset(JobState) - NEEDS_A_PERSON - AT_PROVIDER):
        if states & group:
            by_expiry = group is AT_PROVIDER
            listed += await ledger.jobs(states & group, provider, limit - len(listed), by_expiry=by_expiry)
    return listed


@app.command
def show(job: str, /, *, as_json: AsJson = False) -> None:
    """Show all that is known about a job.

    For example:
    ```
    prefect-genmedia jobs show 3f2a
    ```
    Next: what a person must do, if anything, stands at the end.

    Parameters
    ----------
    job
        The job's key, the beginning of it, or the provider's id.
    as_json
        Print JSON.
    """
    found, again, warning = _run(lambda ledger: _shown_job(ledger, job))
    if as_json:
        _print_json(_plain(found))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _plain(found).items():
        if value not in (None, "", {}):
            shown = _time(value) if name.endswith("_at") or name == "not_before" else value
            table.add_row(f"[bold]{name}[/]", _shown(shown if isinstance(shown, str) else json_text(shown)))
    command_console().print(table)
    if found.error_kind:
        error = found.failure()
        error.next_step = agreed_step(error, again)
        command_console().print(f"\nNext: {escape(error.next_step_for())}", soft_wrap=True)
    command_console().print(f"\nA run with the same request {again.value}.", soft_wrap=True)
    if warning:
        command_console().print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


@app.command
def adopt(
    job: str,
    provider_job_id: str,
    /,
    *more: str,
    credentials: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
) -> None:
    """Settle a submission: it did arrive, and this is the provider's id of it. The provider is asked for it first.

    For example:
    ```
    prefect-genmedia jobs adopt 3f2a 10762451179911711518
    ```
    Next: run the flow again, or let `reconcile_jobs` collect it. Adopt it again with another id if this was the wrong
    one.

    Parameters
    ----------
    job
        The job's key, or the beginning of it.
    provider_job_id
        The id that the provider's console shows.
    more
        Further jobs: a key and an id of each.
    credentials
        Name of a credentials Block to ask with; may be given several times. By default all that are stored.
    """
    if len(more) % 2:
        stop(f"Give a key and an id of each job: {more[-1]!r} stands alone.")
    words = (job, provider_job_id, *more)
    if _decided("adopt", list(zip(words[::2], words[1::2], strict=True)), credentials):
        command_console().print("Run the flow again, or let reconcile_jobs collect it.")


@app.command
def resubmit(*job: str, batch: str | None = None, since: str | None = None) -> None:
    """Settle submissions that never arrived, or that the provider does not find: the next run may send them again.

    For example:
    ```
    prefect-genmedia jobs resubmit 3f2a
    prefect-genmedia jobs resubmit --batch spring-campaign --since 2h
    ```
    Next: run the flow again: it sends the request as a new attempt.

    Parameters
    ----------
    job
        The jobs' keys, or the beginnings of them.
    batch
        Instead of keys: all unknown jobs of this batch.
    since
        Instead of keys: all unknown jobs that were sent since then, such as `2h`, `3d` or `2026-05-01T10:00`, in UTC.
    """
    if _decided_all("resubmit", job, batch, since):
        command_console().print("Run the flow again: it sends the request as a new attempt.")


@app.command
def abandon(*job: str, batch: str | None = None, since: str | None = None) -> None:
    """Let unknown submissions be: nothing sends them again in their scope.

    For example:
    ```
    prefect-genmedia jobs abandon 3f2a
    ```
    Next: for another result, use another idempotency key or variant. `prefect-genmedia jobs undo` takes it back.

    Parameters
    ----------
    job
        The jobs' keys, or the beginnings of them.
    batch
        Instead of keys: all unknown jobs of this batch.
    since
        Instead of keys: all unknown jobs that were sent since then, such as `2h`, `3d` or `2026-05-01T10:00`, in UTC.
    """
    _decided_all("abandon", job, batch, since)


@app.command
def undo(*job: str, batch: str | None = None, since: str | None = None) -> None:
    """Take back the last decision about jobs, if nothing has come of it: they are what they were before.

    For example:
    ```
    prefect-genmedia jobs undo 3f2a
    ```
    Next: decide again, or leave it.

    Parameters
    ----------
    job
        The jobs' keys, or the beginnings of them.
    batch
        Instead of keys: all abandoned jobs of this batch.
    since
        Instead of keys: all abandoned jobs that were sent since then, such as `2h`, `3d` or `2026-05-01T10:00`, in UTC.
    """
    _decided_all("undo", job, batch, since)


@app.command
def export(*, output: Path | None = None, file_format: Format = "csv") -> None:
    """Write the whole ledger as a table, for accounting.

    For example:
    ```
    prefect-genmedia jobs export --output ledger.csv
    ```

    Parameters
    ----------
    output
        File to write; standard output by default.
    file_format
        csv or jsonl.
    """
    rows = [_plain(job) for job in _run(lambda ledger: ledger.jobs())]
    if output is None:
        _write(rows, file_format, sys.stdout)
        return
    with output.open("w", newline="", encoding="utf-8") as file:
        _write(rows, file_format, file)


def _write(rows: Sequence[dict[str, Any]], file_format: str, file: Any) -> None:
    if file_format == "jsonl":
        file.writelines(f"{json_text(row)}\n" for row in rows)
        return
    writer = csv.DictWriter(file, list(Job.model_fields), extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json_text(value)
    return csv_cell(_lines(value)) if isinstance(value, str) else value


def _shown(text: str) -> str:
    """The text in a table of the terminal: square brackets are no markup, and control characters have no effect."""
    return escape(_lines(text))


def _lines(text: str) -> str:
    return "\n".join(map(escaped, text.split("\n")))  # a note has a line for each decision


def _decided_all(decision: Decision, keys: Sequence[str], batch: str | None, since: str | None) -> bool:
    """Decide about the jobs that were named, or that a filter finds; returns whether there were any."""
    if bool(keys) == (batch is not None or since is not None):
        stop("Name jobs by their keys, or choose them with --batch and --since.")
    if not keys:
        after = None if since is None else _moment(since)
        keys = [job.key for job in _run(lambda ledger: to_decide(ledger, decision, batch, after))]
        if not keys:
            command_console().print("The ledger has no such jobs.")
            return False
    return _decided(decision, [(key, None) for key in dict.fromkeys(keys)])


def _decided(
    decision: Decision, wishes: Sequence[tuple[str, str | None]], credentials: Sequence[str] = ()
) -> Literal[True]:
    """Decide about each job; one that is refused does not keep the others from being decided about."""
    refused = _run(lambda ledger: _each(ledger, decision, wishes, credentials))
    if refused:
        stop("\n".join(refused))
    return True


async def _each(
    ledger: Ledger, decision: Decision, wishes: Sequence[tuple[str, str | None]], credentials: Sequence[str]
) -> list[str]:
    console, refused = command_console(), []
    clients = None
    if decision == "adopt":
        from prefect_genmedia._prefect.session import stored_clients  # Prefect takes a second to import

        clients = stored_clients(ledger, credentials)
    for key, provider_job_id in wishes:
        try:
            job = await decide(ledger, key, decision, provider_job_id, client_for=clients)
        except LedgerError:
            raise
        except GenMediaError as error:
            refused.append(error.message)
            continue
        console.print(f"Job {job.key} is {job.state.value} now.", soft_wrap=True)
        if warning := await warning_about(ledger, job):
            console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    return refused


_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def _moment(typed: str) -> float:
    """A time as seconds since 1970: so many minutes, hours or days ago, or a date in ISO 8601, in UTC by default."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhd])", typed.strip()):
        return time.time() - float(match[1]) * _UNITS[match[2]]
    try:
        moment = datetime.fromisoformat(typed.strip().replace("Z", "+00:00"))
    except ValueError:
        stop(f"--since takes 30m, 2h, 3d or a date such as 2026-05-01T10:00, not {typed!r}.")
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


async def _shown_job(ledger: Ledger, name: str) -> tuple[Job, Rerun, str]:
    """A job, what becomes of the same request now, and a warning or nothing."""
    job = await ledger.find(name)
    if job is None:
        stop(f"The ledger has no job {name!r}.")
    return job, await rerun_after(ledger, job, ledger.now()), await warning_about(ledger, job)


def _run(work: Callable[[Ledger], Awaitable[Answer]]) -> Answer:
    async def opened() -> Answer:
        # A person waits: who starts again decides how long.
        async with open_ledger(current_settings().ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
            return await work(ledger)

    try:
        return asyncio.run(opened())
    except LedgerError as error:
        stop(f"{error.message} Next: {error.next_step}")
    except GenMediaError as error:
        stop(error.message)


def _print_json(value: Any) -> None:
    print(json_text(value, indent=2))  # noqa: T201 - for programs, so no wrapping or colour


def _plain(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")


def _time(value: float | None) -> str:
    return datetime.fromtimestamp(value, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") if value else ""

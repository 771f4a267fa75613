"""`prefect-genmedia jobs adopt`, `resubmit`, `abandon` and `undo`: what only a person can settle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape

from prefect_genmedia._core.decide import Decision, decide, to_decide, warning_about
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.reconcile import ClientFor
from prefect_genmedia.cli.console import command_console, stop
from prefect_genmedia.cli.ledger import moment, run_on_ledger
from prefect_genmedia.errors import GenMediaError, LedgerError


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


def _decided_all(decision: Decision, keys: Sequence[str], batch: str | None, since: str | None) -> bool:
    """Decide about the jobs that were named, or that a filter finds; returns whether there were any."""
    if bool(keys) == (batch is not None or since is not None):
        stop("Name jobs by their keys, or choose them with --batch and --since.")
    if not keys:
        after = None if since is None else moment(since)
        keys = [job.key for job in run_on_ledger(lambda ledger: to_decide(ledger, decision, batch, after))]
        if not keys:
            command_console().print("The ledger has no such jobs.")
            return False
    return _decided(decision, [(key, None) for key in dict.fromkeys(keys)])


def _decided(
    decision: Decision, wishes: Sequence[tuple[str, str | None]], credentials: Sequence[str] = ()
) -> Literal[True]:
    """Decide about each job; one that is refused does not keep the others from being decided about."""
    refused = run_on_ledger(lambda ledger: _each(ledger, decision, wishes, credentials))
    if refused:
        stop("\n".join(refused))
    return True


async def _each(
    ledger: Ledger, decision: Decision, wishes: Sequence[tuple[str, str | None]], credentials: Sequence[str]
) -> list[str]:
    console, refused = command_console(), []
    clients = await _clients(ledger, credentials) if decision == "adopt" else None
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


async def _clients(ledger: Ledger, credentials: Sequence[str]) -> ClientFor:
    """Opens the client of a job's account: with the stored Blocks, or without a server with the environment's keys."""
    from prefect_genmedia._prefect.reconcile import server_answers  # Prefect takes a second to import
    from prefect_genmedia._prefect.session import client_of, stored_clients
    from prefect_genmedia.deploy.documents import declared_credentials

    if await server_answers():
        return stored_clients(ledger, credentials)
    own = declared_credentials(os.environ)
    return lambda job: client_of(ledger, job, own)

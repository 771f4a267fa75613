"""A round of reconcile: takes over paid jobs that no run handles, and resumes suspended runs.

A round runs inside a flow run, or in its own process (`prefect-genmedia reconcile`). That process also works without a
Prefect server: it then uses only the ledger to find stalled jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import to_thread
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from prefect_genmedia._core.accounts import learn_accounts
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.reconcile import Finding, ReconcileContext, Standing, reconcile
from prefect_genmedia._core.rounds import AtWork, Health, begin_round
from prefect_genmedia._media.storage import Target, remove_stale_here
from prefect_genmedia._prefect.assets import emit_assets
from prefect_genmedia._prefect.cards import publish_reconcile_table
from prefect_genmedia._prefect.environment import resolved_output
from prefect_genmedia._prefect.restarts import restart_unbegun
from prefect_genmedia._prefect.run import emit_job_event
from prefect_genmedia._prefect.session import client_of, credentials_types
from prefect_genmedia._prefect.suspension import resume_run_of, standing_of, wake_sleepers
from prefect_genmedia._prefect.targets import SCHEME, target_of
from prefect_genmedia.errors import StorageError
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.plugin import loaded_parts
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import counted

T = TypeVar("T")

PART_SECONDS = 300.0
"""Timeout of each part of a round that needs Prefect, in seconds."""

STORAGE_SECONDS = 60.0
"""Timeout for removing stale files from a storage, in seconds."""

SERVER_SECONDS = 10.0
"""Timeout for the Prefect server's answer, in seconds; without one, the round continues without the server."""


@dataclass
class RoundReport:
    """The result of a round.

    Args:
        findings: what was found and done, one entry per job.
        at_work: another running round; this round then did nothing.
        runs: one line per flow run that was resumed or restarted.
    """

    findings: list[Finding] = field(default_factory=list)
    at_work: AtWork | None = None
    runs: list[str] = field(default_factory=list)

    @property
    def need_person(self) -> int:
        """Returns the number of jobs that need a person."""
        return sum(bool(finding.next_step) for finding in self.findings)


async def reconcile_all(credentials: Sequence[str]) -> list[Finding]:
    """Deliver the jobs whose runs have ended, nearest expiry first, and list those that need a person.

    Args:
        credentials: names of credentials Blocks, of any provider; a job is taken over with the Block of its account.

    Returns:
        What was found and done, one entry per job.
    """
    return (await run_round(await stored_blocks(credentials), scope_of(credentials))).findings


def scope_of(credentials: Sequence[str]) -> str:
    """Returns the scope of a round: two rounds of the same scope must not run concurrently.

    Args:
        credentials: names of credentials Blocks.
    """
    return ",".join(sorted(set(credentials)))


async def run_round(blocks: Sequence[ProviderCredentials], scope: str, *, server: bool = True) -> RoundReport:
    """Run one round, unless another one of the same scope is running. The ledger records its start and success.

    Args:
        blocks: the available credentials; a job is taken over with those of its account.
        scope: see `scope_of`.
        server: whether a Prefect server is available; without one, only the ledger is reconciled.

    Raises:
        LedgerError: the ledger is unavailable, or the round stalled and another one has begun.
    """
    async with open_ledger(current_settings().ledger) as ledger:
        async with begin_round(ledger, scope, _holder()) as begun:
            if isinstance(begun, AtWork):
                _logger().info("Another round of reconcile is at work (%s); this one does nothing", begun.holder)
                return RoundReport(at_work=begun)
            if server:
                await emit_reconcile_event("started", ledger)
            report = await _round(ledger, blocks, server)
        if server:
            facts = {"jobs": len(report.findings), "need_person": report.need_person, "runs": len(report.runs)}
            await emit_reconcile_event("succeeded", ledger, **facts)
    return report


async def emit_reconcile_event(what: str, ledger: Ledger, **payload: Any) -> None:
    """Emit `genmedia.reconcile.…` with the ledger as its resource, for automations.

    Args:
        what: the last part of the event's name.
        ledger: the ledger.
        **payload: further facts of the event.
    """
    resource = f"genmedia.reconcile.{await ledger.fingerprint()}"
    names = {"prefect.resource.id": resource, "prefect.resource.name": "reconcile"}
    emit_event(event=f"genmedia.reconcile.{what}", resource=names, payload=payload)


async def emit_overdue(ledger: Ledger, health: Health) -> None:
    """Emit `genmedia.reconcile.overdue`, after which the automation on reconcile waits for a success.

    Args:
        ledger: the ledger.
        health: the health of reconcile.
    """
    await emit_reconcile_event("overdue", ledger, message=str(health), succeeded_at=health.succeeded_at)


async def server_answers() -> bool:
    """Whether a Prefect server is configured and answers."""
    if get_current_settings().api.url is None:
        return False

    async def ask() -> bool:
        async with get_client() as client:
            return await client.api_healthcheck() is None

    try:
        return await asyncio.wait_for(ask(), SERVER_SECONDS)
    except Exception:  # any error means that the server cannot be used now
        return False


async def _round(ledger: Ledger, blocks: Sequence[ProviderCredentials], server: bool) -> RoundReport:
    """Reconcile the ledger, then run each part that needs Prefect; a failed part does not prevent the others.

    Raises:
        Exception: the error of the first failed part, after all parts have run.
    """
    report = RoundReport()
    parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("the ledger", lambda: _reconcile_ledger(ledger, blocks, server, report))
    ]
    if server:
        parts += [
            ("the table", lambda: _bounded(publish_reconcile_table(report.findings))),
            ("suspended runs", lambda: _bounded(_wake(ledger, report))),
            ("crashed runs", lambda: _bounded(_restart(report))),
            ("plug-ins", lambda: _bounded(_reconcile_plugins())),
        ]
    # Last: a storage that hangs must not prevent jobs from being collected.
    parts.append(("stale files", lambda: _remove_stale(ledger, target_of if server else _target_without_server)))
    failed: Exception | None = None
    for name, part in parts:
        try:
            await part()
        except Exception as error:
            _logger().warning("Reconcile: %s failed with %s", name, type(error).__name__)
            failed = failed or error
    if failed is not None:
        raise failed
    return report


async def _reconcile_ledger(
    ledger: Ledger, blocks: Sequence[ProviderCredentials], server: bool, report: RoundReport
) -> None:
    await ledger.transact(learn_accounts)  # of workers of earlier versions

    folder = await resolved_output(None, current_settings())
    target = target_of if server else _target_without_server
    standing = standing_of if server else _standing_without_server
    around = ReconcileContext(
        lambda job: client_of(ledger, job, blocks), standing, resume_run_of, target, folder, flow_run.id
    )
    async for finding in reconcile(ledger, around):
        report.findings.append(finding)
        _logger().info("Job %s (%s): %s", finding.job.shown_id, finding.job.key, finding.action)
        if server and finding.delivered:
            emit_job_event("delivered", finding.job, reconciled=True)
            emit_assets(finding.job)


async def _standing_without_server(job: Job) -> Standing:
    """Without a server the run's state is unknown: a job is stalled when its heartbeat in the ledger stops."""
    return "alive"


async def _target_without_server(output: str) -> Target:
    if output.startswith(SCHEME):
        raise StorageError("The output is a Prefect Block, and no Prefect server answers.", paid="the job")
    return await target_of(output)


async def _wake(ledger: Ledger, report: RoundReport) -> None:
    for name in await wake_sleepers(ledger):
        report.runs.append(f"Run {name} slept although its job has news, and was resumed")
        _logger().info(report.runs[-1])


async def _restart(report: RoundReport) -> None:
    for name in await restart_unbegun():
        report.runs.append(f"Run {name} had crashed before it began, and was started again")
        _logger().info(report.runs[-1])


def _holder() -> str:
    """Returns who reconciles, for display."""
    return flow_run.name or f"process {os.getpid()} on {socket.gethostname()}"


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return get_run_logger()
    except MissingContextError:  # not inside a flow run
        return logging.getLogger(__name__)


async def _remove_stale(ledger: Ledger, target: Callable[[str], Awaitable[Target]]) -> None:
    """Remove staged files of ended processes from the outputs of undelivered jobs."""
    jobs = await ledger.jobs({JobState.SENDING, *AT_PROVIDER, JobState.UNDELIVERABLE})
    folder = await resolved_output(None, current_settings())
    removed = 0
    for output in {folder, *(job.output for job in jobs if job.output)}:
        try:
            removed += await _bounded(_removed_at(output, target), STORAGE_SECONDS)
        except Exception as error:  # any error of a storage: the next round tries again
            _logger().warning("Stale files of an output cannot be removed: %s", type(error).__name__)
    removed += await to_thread.run_sync(remove_stale_here)
    if removed:
        _logger().info("Removed %s of processes that are gone", counted(removed, "staged file"))


async def _removed_at(output: str, target: Callable[[str], Awaitable[Target]]) -> int:
    storage = (await target(output)).storage
    return await to_thread.run_sync(storage.remove_stale, abandon_on_cancel=True)


async def _bounded(work: Coroutine[Any, Any, T], seconds: float = PART_SECONDS) -> T:
    """Run a part with a timeout: a part that hangs would hold the lease forever and block every other round."""
    return await asyncio.wait_for(work, seconds)


async def _reconcile_plugins() -> None:
    """Run the plug-ins' steps at the end of a reconcile. A failure of a plug-in does not affect the results."""
    logger = _logger()
    for name, hook in loaded_parts("reconcile").items():
        try:
            for line in await hook():
                logger.info(line)
        except Exception:
            logger.exception("The provider plug-in %r failed in its part of reconcile", name)


async def stored_blocks(names: Sequence[str]) -> list[ProviderCredentials]:
    """Returns the stored credentials Blocks with these names, of every provider.

    Args:
        names: their names.
    """
    found: list[ProviderCredentials] = []
    for block_type in credentials_types().values():
        for name in names:
            try:
                block = await block_type.aload(name)
            except ValueError:  # this provider has no Block of that name
                continue
            assert isinstance(block, ProviderCredentials)  # for the type checker
            found.append(block)
    if not found:
        # Not a failure: a fresh server has no jobs either, and a job without credentials is reported as such.
        _logger().warning("No credentials Block is named %s", " or ".join(map(repr, names)))
    return found

"""Reconciling: taking up the jobs whose runs are gone, before the provider forgets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from prefect_genmedia.errors import GenMediaError, JobTimeout
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.deliver import deliver
from prefect_genmedia.jobs.ledger import Ledger
from prefect_genmedia.jobs.model import AT_PROVIDER, Job, JobState
from prefect_genmedia.jobs.storage import target_at
from prefect_genmedia.jobs.submit import expire_stale_sending
from prefect_genmedia.jobs.wait import HEARTBEAT_SECONDS, wait_for_job
from prefect_genmedia.providers.protocol import ProviderClient

SILENT_SECONDS = 6 * HEARTBEAT_SECONDS
"""A job that nobody has touched for this long, in seconds, has lost its process, whatever its run's state says."""

RunIsOver = Callable[[str], Awaitable[bool]]
"""Whether a flow run has ended, by its id."""

ClientFor = Callable[[Job], AbstractAsyncContextManager[ProviderClient | None]]
"""Opens the client of a job's account; None where no credentials for it are at hand."""


@dataclass(frozen=True)
class Finding:
    """What reconciling found, and did, about one job.

    Parameters:
        job: the job as it is now.
        action: what was done, in a few words.
        next_step: what a person has to do; empty where nothing.
    """

    job: Job
    action: str
    next_step: str = ""


async def reconcile(
    ledger: Ledger,
    client_for: ClientFor,
    run_is_over: RunIsOver,
    default_output: str,
    flow_run_id: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncIterator[Finding]:
    """Deliver what was paid for and left behind, closest expiry first; then name what needs a person.

    Any number of these may run at once: each job is taken over by one of them.

    Parameters:
        ledger: the jobs.
        client_for: opens the client of a job's account.
        run_is_over: tells whether a flow run has ended.
        default_output: where files go whose run named no place.
        flow_run_id: the run that reconciles.
        clock: the time.
    """
    for job in await ledger.jobs({JobState.SENDING, *AT_PROVIDER}):
        finding = await _take_up(ledger, client_for, run_is_over, default_output, flow_run_id, job, clock)
        if finding is not None:
            yield finding
    for job in await ledger.jobs({JobState.UNKNOWN}):
        yield Finding(job, "left as it is", job.failure().next_step.format(job=job.key))


async def _take_up(
    ledger: Ledger,
    client_for: ClientFor,
    run_is_over: RunIsOver,
    default_output: str,
    flow_run_id: str | None,
    job: Job,
    clock: Clock,
) -> Finding | None:
    if job.state is JobState.SENDING:
        await expire_stale_sending(ledger, job, clock)  # then it is listed with the unknown ones
        return None
    if not await _is_orphan(job, run_is_over, clock):
        return None
    mine = await ledger.take_over(job, flow_run_id)
    if mine is None:
        return None
    async with client_for(mine) as client:
        if client is None:
            return Finding(mine, "no credentials", f"name the credentials Block of {mine.account}.")
        try:
            done = await wait_for_job(ledger, client, mine, timeout_seconds=0.0, clock=clock)
            delivered = await deliver(ledger, client, done, target_at(mine.output or default_output), clock)
        except JobTimeout:
            present = await ledger.get(mine.key) or mine
            return Finding(present, f"still {present.provider_status or 'at the provider'}")
        except GenMediaError as error:
            return Finding(await ledger.get(mine.key) or mine, f"{error.kind}: {error.message}", error.next_step)
    return Finding(delivered, "delivered")


async def _is_orphan(job: Job, run_is_over: RunIsOver, clock: Clock) -> bool:
    if clock.now() - job.updated_at > SILENT_SECONDS:
        return True
    return job.flow_run_id is not None and await run_is_over(job.flow_run_id)

"""Reconciling: taking up the jobs whose runs are gone, before the provider forgets them."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from prefect_genmedia._core.accepted import accepted_otherwise, accepted_too_late
from prefect_genmedia._core.attempts import agreed_step
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.deliver import deliver_once
from prefect_genmedia._core.figures import publish_figures
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import AT_PROVIDER, FORGOTTEN_SECONDS, Job, JobState
from prefect_genmedia._core.polling import HEARTBEAT_SECONDS, wait_for_job
from prefect_genmedia._core.submit import expire_stale_sending
from prefect_genmedia._media.storage import Target
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import GenMediaError, JobTimeout
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.text import clean_text

logger = logging.getLogger(__name__)

SILENT_SECONDS = 6 * HEARTBEAT_SECONDS
"""A job that nobody has touched for this long, in seconds, has lost its process, whatever its run's state says."""

JOB_SECONDS = 2100.0
"""The longest that reconciling spends on one job, in seconds: a download's total time, and what is before and after."""

CLEANUP_SECONDS = 5.0
"""How long a job that took too long may take to clean up, in seconds, before it is left to itself."""

Standing = Literal["alive", "suspended", "over"]
"""What became of the flow run that takes care of a job: it works, sleeps until the job is done, or has ended."""

StandingOf = Callable[[Job], Awaitable[Standing]]
"""Tells what became of a job's flow run."""

TargetOf = Callable[[str], Awaitable[Target]]
"""Reads where a file goes from what a run was given as its output."""

Resume = Callable[[Job], Awaitable[object]]
"""Wakes the flow run that sleeps until a job is done."""

ClientFor = Callable[[Job], AbstractAsyncContextManager[ProviderClient | None]]
"""Opens the client of a job's account; None where no credentials for it are at hand."""


@dataclass(frozen=True)
class Finding:
    """What reconciling found, and did, about one job.

    Parameters:
        job: the job as it is now.
        action: what was done, in a few words.
        next_step: what a person has to do; empty where nothing.
        delivered: whether it was this reconcile that delivered the job.
    """

    job: Job
    action: str
    next_step: str = ""
    delivered: bool = False


@dataclass(frozen=True)
class ReconcileContext:
    """What reconciling needs to know of the world outside the ledger.

    Parameters:
        client_for: opens the client of a job's account.
        standing_of: tells what became of a job's flow run.
        resume: wakes a flow run that sleeps until a job is done.
        target_of: reads a run's output.
        default_output: where files go whose run named no place.
        flow_run_id: the run that reconciles.
    """

    client_for: ClientFor
    standing_of: StandingOf
    resume: Resume
    target_of: TargetOf
    default_output: str
    flow_run_id: str | None = None


async def reconcile(ledger: Ledger, around: ReconcileContext, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Finding]:
    """Deliver what was paid for and left behind, closest expiry first; then name what needs a person.

    Any number of these may run at once: each job is taken over by one of them. The accounts do not wait for each other,
    and no job takes longer than `JOB_SECONDS`.

    Parameters:
        ledger: where jobs are recorded.
        around: what is to be known of the world outside the ledger.
        clock: the time source, also used to sleep.
    """
    accounts: dict[str, list[Job]] = {}
    for job in sorted(await ledger.jobs({JobState.SENDING, *AT_PROVIDER, JobState.UNDELIVERABLE}), key=_ends_at):
        if job.state is not JobState.UNDELIVERABLE or _may_come(job, clock):
            accounts.setdefault(job.account, []).append(job)
    found: asyncio.Queue[Finding | None] = asyncio.Queue()

    async def collect(jobs: Sequence[Job]) -> None:
        for job in jobs:
            finding = await _in_its_time(ledger, around, job, clock)
            if finding is not None:
                found.put_nowait(finding)

    workers = [asyncio.ensure_future(collect(jobs)) for jobs in accounts.values()]
    everything = asyncio.gather(*workers)
    everything.add_done_callback(lambda _: found.put_nowait(None))
    try:
        while workers and (finding := await found.get()) is not None:
            yield finding
        await everything
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for job in await ledger.jobs({JobState.UNKNOWN}):
        yield Finding(job, "left as it is", job.failure().next_step_for())
    for job in await accepted_too_late(ledger, clock.now()):
        step = accepted_otherwise(job, job.provider_job_id or "").next_step_for()
        yield Finding(job, "accepted after it was decided otherwise", step)
    await publish_figures(ledger)


def _may_come(job: Job, clock: Clock) -> bool:
    """Whether a gateway gave the job up that may still be finished."""
    return job.is_given_up and not job.is_over(clock.now())


def _ends_at(job: Job) -> float:
    """When the provider forgets the job; where it does not say, the oldest one is next."""
    if job.expires_at is not None:
        return job.expires_at
    return job.age_origin + FORGOTTEN_SECONDS


async def _in_its_time(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    """Take a job up, and leave it when its time is over.

    The work is a task of its own: a storage call that hangs in a thread cannot be cancelled, only left behind.
    """
    work = asyncio.ensure_future(_take_up(ledger, around, job, clock))
    try:
        await asyncio.wait({work}, timeout=JOB_SECONDS)
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=CLEANUP_SECONDS)
    if work.done() and not work.cancelled():
        return work.result()
    if not work.done():
        _LEFT.add(work)
        work.add_done_callback(_forget)
    step = "check the provider and the storage; the next run tries the job again."
    return Finding(job, f"took longer than {JOB_SECONDS:.0f} s and was left", step)


_LEFT: set[asyncio.Future[Finding | None]] = set()
"""What still runs although nobody waits for it: an event loop alone would not keep it."""


def _forget(work: asyncio.Future[Finding | None]) -> None:
    _LEFT.discard(work)
    if not work.cancelled() and (error := work.exception()) is not None:
        logger.warning("A job that was left ended with %s", type(error).__name__)


async def _take_up(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    """Whatever goes wrong with one job, those behind it must be collected before they expire."""
    try:
        return await _taken_up(ledger, around, job, clock)
    except GenMediaError as error:
        present = await _present(ledger, job)
        if _may_come(present, clock):
            return Finding(present, f"still {present.provider_status}")
        error.next_step = agreed_step(error, present.rerun(clock.now()))
        return Finding(present, f"{error.kind}: {error.message}", error.next_step_for(job.key))
    except Exception as error:
        return Finding(
            await _present(ledger, job), _described(error), "look into this; the next run tries the job again."
        )


async def _taken_up(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    if job.state is JobState.SENDING:
        await expire_stale_sending(ledger, job, clock)  # then it is listed with the unknown ones
        return None
    standing = await _standing(job, around, clock)
    if standing == "alive":
        return None
    mine = await ledger.take_over(job, job.flow_run_id if standing == "suspended" else around.flow_run_id)
    if mine is None:
        return None
    async with around.client_for(mine) as client:
        if client is None:
            return Finding(mine, "no credentials", f"name the credentials Block of {mine.account}.")
        settle = _wake if standing == "suspended" else _collect
        return await settle(ledger, client, around, mine, clock)


async def _collect(ledger: Ledger, client: ProviderClient, around: ReconcileContext, job: Job, clock: Clock) -> Finding:
    """Look once, and deliver what is done."""
    try:
        done = await wait_for_job(ledger, client, job, timeout_seconds=0.0, clock=clock)
        target = await around.target_of(job.output or around.default_output)
        delivered, made = await deliver_once(ledger, client, done, target, clock)
    except JobTimeout:
        return await _still_there(ledger, job)
    return Finding(delivered, "delivered" if made else "delivered by its run", delivered=made)


async def _wake(ledger: Ledger, client: ProviderClient, around: ReconcileContext, job: Job, clock: Clock) -> Finding:
    """Look once, and wake the run when there is news: it delivers, or fails, by itself."""
    try:
        await wait_for_job(ledger, client, job, timeout_seconds=0.0, clock=clock)
    except JobTimeout:
        return await _still_there(ledger, job)
    except GenMediaError as error:
        logger.info("Job %s failed, which its run will tell: %s", job.shown_id, error)
    await around.resume(job)
    return Finding(await _present(ledger, job), "its run was resumed")


async def _still_there(ledger: Ledger, job: Job) -> Finding:
    present = await _present(ledger, job)
    return Finding(present, f"still {present.provider_status or 'at the provider'}")


async def _present(ledger: Ledger, job: Job) -> Job:
    """The job as the ledger has it now, where it tells: the ledger may be what the trouble is about."""
    try:
        return await ledger.get(job.key) or job
    except Exception:
        return job


def _described(error: Exception) -> str:
    """An error that is not of ours, in words; where it came from stands in the log, without what it may quote."""
    described = f"{type(error).__name__}: {clean_text(unsigned_text(str(error)), 300)}"
    logger.warning("%s\n%s", described, "".join(traceback.format_tb(error.__traceback__)))
    return described


async def _standing(job: Job, around: ReconcileContext, clock: Clock) -> Standing:
    standing: Standing = await around.standing_of(job) if job.flow_run_id is not None else "alive"
    silent = clock.now() - job.updated_at > SILENT_SECONDS
    return "over" if standing == "alive" and silent else standing

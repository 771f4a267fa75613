"""Reconciles: takes over jobs whose runs have ended, before they expire at the provider."""

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

STALLED_SECONDS = 6 * HEARTBEAT_SECONDS
"""A job without a heartbeat for this long, in seconds, is stalled, regardless of its run's state."""

JOB_SECONDS = 2100.0
"""Maximum time for one job, in seconds: a download's total timeout, plus the steps before and after it."""

CLEANUP_SECONDS = 5.0
"""How long a job that exceeded its time may take to clean up, in seconds, before it is abandoned in the background."""

Standing = Literal["alive", "suspended", "over"]
"""The state of the flow run that handles a job: it runs, is suspended until the job is done, or has ended."""

StandingOf = Callable[[Job], Awaitable[Standing]]
"""Returns the state of a job's flow run."""

TargetOf = Callable[[str], Awaitable[Target]]
"""Resolves a run's output to the target of a file."""

Resume = Callable[[Job], Awaitable[object]]
"""Resumes the flow run that is suspended until a job is done."""

ClientFor = Callable[[Job], AbstractAsyncContextManager[ProviderClient | None]]
"""Opens the client of a job's account; None if no credentials for it are available."""


@dataclass(frozen=True)
class Finding:
    """The result of reconciling one job.

    Args:
        job: the job as it is now.
        action: a short description of what was done.
        next_step: what a person has to do; empty if nothing.
        delivered: whether this reconcile delivered the job.
    """

    job: Job
    action: str
    next_step: str = ""
    delivered: bool = False


@dataclass(frozen=True)
class ReconcileContext:
    """What reconciling needs from outside the ledger.

    Args:
        client_for: opens the client of a job's account.
        standing_of: returns the state of a job's flow run.
        resume: resumes a flow run that is suspended until a job is done.
        target_of: resolves a run's output.
        default_output: the output for jobs whose run gave none.
        flow_run_id: the run that reconciles.
    """

    client_for: ClientFor
    standing_of: StandingOf
    resume: Resume
    target_of: TargetOf
    default_output: str
    flow_run_id: str | None = None


async def reconcile(ledger: Ledger, around: ReconcileContext, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Finding]:
    """Deliver paid jobs that no run handles, nearest expiry first; then report the jobs that need a person.

    Any number of reconciles may run concurrently: each job is taken over by one of them. Accounts do not wait for each
    other, and no job takes longer than `JOB_SECONDS`.

    Args:
        ledger: where jobs are recorded.
        around: what is needed from outside the ledger.
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
    """Whether a gateway gave the job up, but it may still be finished."""
    return job.is_given_up and not job.is_over(clock.now())


def _ends_at(job: Job) -> float:
    """When the job expires at the provider; if that is not known, older jobs come first."""
    if job.expires_at is not None:
        return job.expires_at
    return job.age_origin + FORGOTTEN_SECONDS


async def _in_its_time(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    """Process a job, and stop waiting for it when its time is over.

    The work runs in a separate task, because a storage call that hangs in a thread cannot be cancelled, only abandoned.
    """
    work = asyncio.ensure_future(_process(ledger, around, job, clock))
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
"""Abandoned tasks that still run: the event loop alone holds no strong reference to them."""


def _forget(work: asyncio.Future[Finding | None]) -> None:
    _LEFT.discard(work)
    if not work.cancelled() and (error := work.exception()) is not None:
        logger.warning("A job that was left ended with %s", type(error).__name__)


async def _process(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    """Process a job and catch every error: the jobs after it must be collected before they expire."""
    try:
        return await _take_over(ledger, around, job, clock)
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


async def _take_over(ledger: Ledger, around: ReconcileContext, job: Job, clock: Clock) -> Finding | None:
    if job.state is JobState.SENDING:
        await expire_stale_sending(ledger, job, clock)  # then it is listed among the unknown jobs
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
    """Poll once, and deliver the job if it is done."""
    try:
        done = await wait_for_job(ledger, client, job, timeout_seconds=0.0, clock=clock)
        target = await around.target_of(job.output or around.default_output)
        delivered, made = await deliver_once(ledger, client, done, target, clock)
    except JobTimeout:
        return await _still_there(ledger, job)
    return Finding(delivered, "delivered" if made else "delivered by its run", delivered=made)


async def _wake(ledger: Ledger, client: ProviderClient, around: ReconcileContext, job: Job, clock: Clock) -> Finding:
    """Poll once, and resume the run if the job's state has changed: the run itself delivers, or fails."""
    try:
        await wait_for_job(ledger, client, job, timeout_seconds=0.0, clock=clock)
    except JobTimeout:
        return await _still_there(ledger, job)
    except GenMediaError as error:
        logger.info("Job %s failed; its run will report it: %s", job.shown_id, error)
    await around.resume(job)
    return Finding(await _present(ledger, job), "its run was resumed")


async def _still_there(ledger: Ledger, job: Job) -> Finding:
    present = await _present(ledger, job)
    return Finding(present, f"still {present.provider_status or 'at the provider'}")


async def _present(ledger: Ledger, job: Job) -> Job:
    """Returns the job from the ledger, or as it was read before if the ledger itself fails."""
    try:
        return await ledger.get(job.key) or job
    except Exception:
        return job


def _described(error: Exception) -> str:
    """Describes an unexpected error. The log has its traceback, without messages that may quote user data."""
    described = f"{type(error).__name__}: {clean_text(unsigned_text(str(error)), 300)}"
    logger.warning("%s\n%s", described, "".join(traceback.format_tb(error.__traceback__)))
    return described


async def _standing(job: Job, around: ReconcileContext, clock: Clock) -> Standing:
    standing: Standing = await around.standing_of(job) if job.flow_run_id is not None else "alive"
    is_stalled = clock.now() - job.updated_at > STALLED_SECONDS
    return "over" if standing == "alive" and is_stalled else standing

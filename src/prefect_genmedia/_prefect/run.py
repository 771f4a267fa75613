"""What the tasks share: when a retry is safe, whose run this is, and how a job's progress is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run

from prefect_genmedia._prefect.cards import publish_detached_card, publish_failure_card
from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.polling import WaitListener
from prefect_genmedia._core.session import JobHooks
from prefect_genmedia.providers.protocol import Observation
from prefect_genmedia.settings import current_settings

RETRIES = 3
"""How often a task is tried again where its error allows that."""

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Seconds between a task's attempts."""


def retry_if_safe(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the same call may be made again without a person: the error says so itself.

    A plain function, since Prefect never retries on callable objects or partials.

    Parameters:
        task: the task that failed.
        run: its run.
        state: how it failed.
    """
    error = state.data
    return isinstance(error, GenMediaError) and error.retryable


@asynccontextmanager
async def explained(retries: int) -> AsyncIterator[None]:
    """Show a failure that nothing repeats as a card on the run's page.

    Parameters:
        retries: how often the task around the block is retried.
    """
    try:
        yield
    except GenMediaError as error:
        if not error.retryable or int(task_run.run_count or 1) > retries:
            await publish_failure_card(error, await _job_of(error))
        raise


async def _job_of(error: GenMediaError) -> Job | None:
    """The job that an error is about, where the ledger tells."""
    if error.job_key is None:
        return None
    try:
        async with open_ledger(current_settings().ledger) as ledger:
            return await ledger.get(error.job_key)
    except Exception as trouble:  # the card is worth showing without it, and the error more than either
        get_run_logger().debug("The ledger does not tell about job %s: %r", error.job_key, trouble)
        return None


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """Spend the time that a provider asked for before a failed call is tried again."""
    try:
        yield
    except RateLimited as error:
        await asyncio.sleep(error.retry_after or 0.0)
        raise


def current_scope(idempotency_key: str | None) -> str:
    """What bounds "the same request": the user's key, the root flow run, or (outside of flows) the task run."""
    return f"key:{idempotency_key}" if idempotency_key else f"run:{root_run_id()}"


def root_run_id() -> str:
    """The root flow run, or the task run where there is no flow: what a rerun of a failed child flow shares with it."""
    return str(flow_run.root_flow_run_id if flow_run.id else task_run.id)


async def retried_by_person() -> bool:
    """Whether the root flow run was started again after its own automatic retries were used up."""
    if not flow_run.id:
        return False
    async with get_client() as client:
        run = await client.read_flow_run(UUID(root_run_id()))
    return run.run_count > (run.empirical_policy.retries or 0) + 1


def label_of(url: str) -> str:
    """The file name in a URL: what people call the input; never its query, which may hold a signature."""
    if url[:5].lower() == "data:":
        return "data"
    return unquote(PurePosixPath(urlsplit(url).path).name) or "input"


def job_run_name(verb: str) -> Callable[[], str]:
    """Name a task run by its verb and the job's id, so that a run's page tells which job it was."""

    def name() -> str:
        job = task_run.parameters["job"]
        return f"{verb} {job if isinstance(job, str) else job.provider_job_id or job.key}"

    return name


async def name_run_after(job: Job) -> None:
    """Put the provider's id into the flow run's name, where the name is one that our flows gave."""
    name = flow_run.name or ""
    if flow_run.id and name.startswith(f"{job.kind} · ") and job.provider_job_id and job.provider_job_id not in name:
        async with get_client() as client:
            await client.update_flow_run(UUID(str(flow_run.id)), name=f"{name} · {job.provider_job_id}")


def emit_job_event(what: str, job: Job, **payload: Any) -> None:
    """Emit `genmedia.job.…` with the job as its resource, for automations.

    Parameters:
        what: the last part of the event's name.
        job: the job.
        **payload: what else the event says; no secrets.
    """
    emit_event(
        event=f"genmedia.job.{what}",
        resource={
            "prefect.resource.id": f"genmedia.job.{job.key}",
            "prefect.resource.name": job.label or job.key,
            "genmedia.provider": job.provider,
            "genmedia.kind": job.kind,
            "genmedia.provider-job-id": job.provider_job_id or "",
        },
        payload={"state": job.state.value, **payload},
    )


async def tell_detached(job: Job) -> None:
    """Say, in the log, as an event and on the run's page, that a cancelled run leaves its paid job to be collected."""
    get_run_logger().warning(
        "This run was stopped, but job %s lives on at the provider and is paid; run again or let reconcile_jobs "
        "collect it (key %s)",
        job.provider_job_id,
        job.key,
    )
    emit_job_event("detached", job)
    # The card needs the server's answer, which a run that is being killed may not live to get.
    await asyncio.shield(asyncio.ensure_future(publish_detached_card(job)))


class RunListener:
    """Tells a job's progress in the run's log and as events; only on change."""

    def __init__(self) -> None:
        self.logger: logging.Logger | logging.LoggerAdapter[Any] = get_run_logger()

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """The wait begins."""
        if typical is not None:
            left = max(typical - elapsed, 0.0)
            self.logger.info(
                "Job %s: such jobs usually take %.0f s; about %.0f s are left", job.provider_job_id, typical, left
            )

    def changed(self, job: Job, observation: Observation) -> None:
        """The provider's word for the job is a new one."""
        word = observation.status
        if not observation.recognized:
            self.logger.warning("Job %s: unknown status %r, taken as still running", job.provider_job_id, word)
        elif observation.progress is not None:
            self.logger.info("Job %s: %s (%.0f %%)", job.provider_job_id, word, observation.progress)
        else:
            self.logger.info("Job %s: %s", job.provider_job_id, word)
        emit_job_event("changed", job, provider_status=word, phase=observation.phase.value)

    def advanced(self, job: Job, percent: float) -> None:
        """The provider's percentage is a new one: not worth a line of the log."""

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """A look failed; the job is not to blame."""
        self.logger.warning("Job %s: a look failed and is repeated: %s", job.provider_job_id, error.message)


class RunHooks(JobHooks):
    """Reports jobs in the run's log and as Prefect events.

    Parameters:
        progress: who is notified of a job's progress; None logs it.
    """

    def __init__(self, progress: WaitListener | None = None) -> None:
        """Report nothing yet."""
        self._progress = progress

    def event(self, what: str, job: Job, **payload: Any) -> None:
        """Emit `genmedia.job.…`."""
        emit_job_event(what, job, **payload)

    async def detached(self, job: Job) -> None:
        """Log it, emit an event, and show a card: the job continues at the provider."""
        await tell_detached(job)

    def listener(self) -> WaitListener:
        """Who is notified of a job's progress."""
        return self._progress or RunListener()

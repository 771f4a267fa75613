"""Functions shared by the tasks: safe retries, the run context, and reports of a job's progress."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun, TaskRunResult
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run
from prefect.states import Failed

from prefect_genmedia._core.attempts import agreed_step, rerun_after
from prefect_genmedia._core.caps import Facts
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.listener import WaitListener
from prefect_genmedia._core.model import Job, Rerun
from prefect_genmedia._core.session import JobHooks, RunContext
from prefect_genmedia._prefect.assets import emit_assets
from prefect_genmedia._prefect.attribution import RunAttribution
from prefect_genmedia._prefect.cards import publish_detached_card, publish_failure_card
from prefect_genmedia._prefect.history import SuspensionCheck, restarted_by_person_at
from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia.providers.inputs import is_public, local_path
from prefect_genmedia.providers.protocol import GenerationRequest, Observation, PreparedRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import clean_text, shown_id

RETRIES = 3
"""Maximum number of retries of a task, if its error allows them."""

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Delays between a task's attempts, in seconds."""


def retry_if_safe(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the same call may be retried automatically, according to the error.

    A plain function, because Prefect does not accept callable objects or partials here.

    Args:
        task: the task that failed.
        run: its run.
        state: its failed state.
    """
    error = state.data
    return isinstance(error, GenMediaError) and error.retryable


@asynccontextmanager
async def explained() -> AsyncIterator[None]:
    """Publish a failure card on the run's page, unless Prefect retries the running task."""
    try:
        yield
    except GenMediaError as error:
        if not await is_retried(error):
            job, rerun = await _recorded(error.job_key)
            error.next_step = agreed_step(error, rerun)  # for the log, too
            await publish_failure_card(error, job, rerun)
        raise


async def is_retried(error: GenMediaError) -> bool:
    """Whether Prefect retries the current task after this error, according to the task's actual options.

    Args:
        error: the error that the task is about to raise.
    """
    context, flow_context = TaskRunContext.get(), FlowRunContext.get()
    if context is None:
        return False
    flow_run_id = flow_context.flow_run.id if flow_context is not None and flow_context.flow_run is not None else None
    if context.task_run.flow_run_id != flow_run_id:
        return False  # the task that wraps a subflow: it is not what fails here
    if context.task_run.run_count > (context.task.retries or 0):
        return False
    condition = context.task.retry_condition_fn
    if condition is None:
        return True
    decision = condition(context.task, context.task_run, Failed(data=error, message=str(error)))
    return bool(await decision if inspect.isawaitable(decision) else decision)


async def recorded_job(key: str | None) -> Job | None:
    """Read a job for display: None if the ledger does not have it or cannot be read.

    Args:
        key: the job's key; None for no job.
    """
    job, _ = await _recorded(key)
    return job


async def _recorded(key: str | None) -> tuple[Job | None, Rerun | None]:
    """Read a job for display, and what a new request does; None if the ledger does not have it or cannot be read."""
    if not key:
        return None, None
    try:
        async with open_ledger(current_settings().ledger) as ledger:
            job = await ledger.get(key)
            return job, None if job is None else await rerun_after(ledger, job, ledger.now())
    except Exception as trouble:  # the display is useful without it
        get_run_logger().debug("Job %s cannot be read from the ledger: %r", key, trouble)
        return None, None


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """Wait for the time that a provider asked for before a failed call is retried."""
    try:
        yield
    except RateLimited as error:
        await asyncio.sleep(error.retry_after or 0.0)
        raise


def run_context() -> RunContext:
    """Returns the running flow or task as a `RunContext`."""
    return RunContext(flow_run.id, root_run_id(), restarted_at, suspension_check(), attribution=RunAttribution())


def root_run_id() -> str:
    """Returns the id of the root flow run, which a failed subflow and its rerun share.

    Outside of flows, this is the task run that called this package's task: its retries are the same run, whereas this
    package's tasks are new runs each time.
    """
    if flow_run.id:
        return str(flow_run.root_flow_run_id)
    context = TaskRunContext.get()
    callers = context.task_run.task_inputs.get("__parents__", []) if context is not None else []
    return str(next((caller.id for caller in callers if isinstance(caller, TaskRunResult)), task_run.id))


async def restarted_at() -> float | None:
    """Returns when a person last restarted the root flow run; see `restarted_by_person_at`."""
    return await restarted_by_person_at(root_run_id()) if flow_run.id else None


async def retried_by_person() -> bool:
    """Whether a person restarted the root flow run."""
    return await restarted_at() is not None


def suspension_check() -> SuspensionCheck:
    """Returns the check that ends the flow run in this process if the run was suspended from outside."""
    return SuspensionCheck(own_runs())


def own_runs() -> list[str]:
    """Returns the ids of the flow run and its root run; empty outside of flows."""
    return [str(flow_run.id), root_run_id()] if flow_run.id else []


def label_of(url: str) -> str:
    """Returns the file name in a URL as a name for the input, without the query, which may contain a signature."""
    if url[:5].lower() == "data:":
        return "data"
    path = None if is_public(url) else local_path(url)  # `#` and `?` belong to a path
    name = unquote(PurePosixPath(urlsplit(url).path).name) if path is None else path.name
    return clean_text(name).strip() or "input"


def run_name(verb: str, parameter: str) -> Callable[..., str]:
    """Returns a `task_run_name` function that joins a verb and a parameter's name or id, such as `wait 4711`.

    A callback with an argument `parameters` gets resolved values from Prefect. `prefect.runtime` has unresolved futures
    that were passed to `.submit` and `.map`.

    Args:
        verb: what the task does.
        parameter: name of the task's parameter; a job, a request or text.
    """

    def name(parameters: dict[str, Any]) -> str:
        value = parameters.get(parameter)
        if isinstance(value, Job):
            value = value.shown_id or value.key
        elif isinstance(value, GenerationRequest | PreparedRequest):
            value = value.kind
        # Anything else is an unresolved future: a paid job must not fail because of a name.
        return f"{verb} {shown_id(str(value))}" if isinstance(value, str | int) else verb

    return name


def emit_job_event(what: str, job: Job, **payload: Any) -> None:
    """Emit `genmedia.job.…` with the job as its resource, for automations.

    Args:
        what: the last part of the event's name.
        job: the job.
        **payload: further facts of the event; no secrets.
    """
    emit_event(
        event=f"genmedia.job.{what}",
        resource={
            "prefect.resource.id": f"genmedia.job.{job.key}",
            "prefect.resource.name": job.label or job.key,
            "genmedia.provider": job.provider,
            "genmedia.kind": job.kind,
            "genmedia.provider-job-id": job.shown_id,
            "genmedia.project": job.project or "",
            "genmedia.tags": ", ".join(job.tags or ()),
        },
        payload={"state": job.state.value, **payload},
    )


def emit_budget_event(what: str, facts: Facts) -> None:
    """Log that a limit is nearly reached or would be exceeded, and emit `genmedia.budget.…` for automations.

    Args:
        what: `warning` or `reached`.
        facts: the limit, what is spent and reserved, and when the period ends.
    """
    get_run_logger().warning(
        "The limit %s of %s %s: %g %s are spent and %g reserved of %g%s",
        facts["cap"],
        facts["of"],
        "does not hold another job" if what == "reached" else "is nearly reached",
        facts["spent"],
        facts["unit"],
        facts["reserved"],
        facts["limit"],
        f", until {facts['period_ends']}" if facts["period_ends"] else "",
    )
    emit_event(
        event=f"genmedia.budget.{what}",
        resource={
            "prefect.resource.id": f"genmedia.{facts['scope']}",
            "prefect.resource.name": str(facts["of"]),
            "genmedia.cap": str(facts["cap"]),
        },
        payload=dict(facts),
    )


async def report_detached(job: Job) -> None:
    """Report in the log, as an event and on the run's page that a cancelled run's paid job is left to reconcile."""
    get_run_logger().warning(
        "This run was stopped, but job %s lives on at the provider and is paid; run again or let reconcile_jobs "
        "collect it (key %s)",
        job.shown_id,
        job.key,
    )
    emit_job_event("detached", job)
    # The card needs the server's answer, and the run may be killed before it arrives.
    await asyncio.shield(asyncio.ensure_future(publish_detached_card(job)))


class RunListener:
    """Reports changes of a job's progress in the run's log and as events."""

    def __init__(self) -> None:
        self.logger: logging.Logger | logging.LoggerAdapter[Any] = get_run_logger()

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """Handle the beginning of the wait."""
        if typical is not None:
            left = max(typical - elapsed, 0.0)
            self.logger.info(
                "Job %s: such jobs usually take %.0f s; about %.0f s are left", job.shown_id, typical, left
            )

    def changed(self, job: Job, observation: Observation) -> None:
        """Handle a new status word."""
        word = observation.status
        if not observation.recognized:
            self.logger.warning("Job %s: unknown status %r, taken as still running", job.shown_id, word)
        elif observation.progress is not None:
            self.logger.info("Job %s: %s (%.0f %%)", job.shown_id, word, observation.progress)
        else:
            self.logger.info("Job %s: %s", job.shown_id, word)
        emit_job_event("changed", job, provider_status=word, phase=observation.phase.value)

    def advanced(self, job: Job, percent: float) -> None:
        """Ignore a new percentage: it is not logged."""

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """Handle a failed poll, which says nothing about the job."""
        self.logger.warning("Job %s: a poll failed and is repeated: %s", job.shown_id, error.message)


class RunHooks(JobHooks):
    """Reports jobs in the run's log and as Prefect events.

    Args:
        progress: the listener for a job's progress; None logs it.
    """

    def __init__(self, progress: WaitListener | None = None) -> None:
        self._progress = progress

    def event(self, what: str, job: Job, **payload: Any) -> None:
        """Emit `genmedia.job.…`."""
        emit_job_event(what, job, **payload)

    def budget(self, what: str, facts: Facts) -> None:
        """Log it, and emit `genmedia.budget.…`."""
        emit_budget_event(what, facts)

    def delivered(self, job: Job, made: bool) -> None:
        """Emit an asset event for each file."""
        emit_assets(job, made)

    async def detached(self, job: Job) -> None:
        """Log it, emit an event, and show a card: the job continues at the provider."""
        await report_detached(job)

    def listener(self) -> WaitListener:
        """Returns the listener for a job's progress."""
        return self._progress or RunListener()

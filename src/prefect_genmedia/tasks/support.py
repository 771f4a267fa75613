"""What the tasks share: when a retry is safe, whose run this is, and how a job's progress is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run

from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia.jobs.model import Job
from prefect_genmedia.providers.protocol import Observation

RETRY_DELAYS = [2.0, 10.0, 30.0]
"""Seconds between a task's attempts."""


def retry_if_safe(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the same call may be made again without a person: the error says so itself.

    A plain function, since Prefect never retries on callable objects or partials.
    """
    error = state.data
    return isinstance(error, GenMediaError) and error.retryable


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
    if idempotency_key:
        return f"key:{idempotency_key}"
    root = flow_run.root_flow_run_id if flow_run.id else None
    return f"run:{root}" if root else f"task:{task_run.id}"


def label_of(url: str) -> str:
    """The file name in a URL: what people call the input; never its query, which may hold a signature."""
    return unquote(PurePosixPath(urlsplit(url).path).name) or "input"


def emit_job_event(what: str, job: Job, **payload: Any) -> None:
    """Emit `genmedia.job.…` with the job as its resource, for automations."""
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


class RunListener:
    """Tells a job's progress in the run's log and as events; only on change."""

    def __init__(self) -> None:
        self.logger: logging.Logger | logging.LoggerAdapter[Any] = get_run_logger()

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

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """A look failed; the job is not to blame."""
        self.logger.warning("Job %s: a look failed and is repeated: %s", job.provider_job_id, error.message)

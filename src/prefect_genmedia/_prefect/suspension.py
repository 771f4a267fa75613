"""Waits without a process: the run suspends after submitting, and is resumed when its job is done."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound, Pause
from prefect.flow_runs import aresume_flow_run, asuspend_flow_run
from prefect.logging import get_run_logger

from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import FORGOTTEN_SECONDS, Job, JobState
from prefect_genmedia._core.reconcile import Standing
from prefect_genmedia._prefect.run import explained
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.settings import current_settings

Resumed = Literal["resumed", "not waiting"]


_PAUSE = "genmedia-job-"
_PAGE = 200
"""Number of runs per page of Prefect's server."""


def pause_key(job: Job) -> str:
    """Returns the key of a run's suspension for this job; a run suspends once per job."""
    return f"{_PAUSE}{job.key}"


async def check_can_suspend(**asked: bool) -> None:
    """Check that a run that will suspend can do so; call it in a flow, before anything is sent.

    Args:
        **asked: whether each of the flow's suspending parameters is set, by name.

    Raises:
        InvalidRequest: the run has no deployment, or another run's process waits for it, so nothing could restart it.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is not None and run.deployment_id is not None and run.parent_task_run_id is None:
        return
    problem = "for runs of deployments only, and not for subflows: nothing could start this run again"
    problems = [FieldProblem(name, problem) for name, wanted in asked.items() if wanted]
    if problems:
        async with explained():
            raise InvalidRequest.of("The run", problems)


async def must_suspend() -> bool:
    """Whether the flow run would not survive a pause, and must suspend to wait for a person.

    A run that pauses releases its deployment's concurrency slot. Its process still renews the slot's lease, fails, and
    ends the run some minutes later. A suspended run has no process, and takes a slot again when it is resumed. A
    subflow uses the slot of its parent, which continues to run.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
        return False
    async with get_client() as client:
        now = await client.read_flow_run(run.id)
        if now.state is not None and now.state.state_details.deployment_concurrency_lease_id is not None:
            return True
        # After an earlier pause, the states no longer contain the lease.
        deployment = await client.read_deployment(run.deployment_id)
    return deployment.global_concurrency_limit is not None


async def suspend_until_done(job: Job) -> None:
    """Suspend the flow run until its job is done; call it in a deployed flow, between submitting and waiting.

    `reconcile_jobs` (on a schedule) and `prefect-genmedia callbacks` resume the run. It then starts from its beginning
    in a new process, finds its job in the ledger, and continues. A run that is resumed before its job is done just
    waits, and so does a run whose job's callback has arrived.

    Raises:
        RuntimeError: the run has no deployment; `check_can_suspend` detects this before the job is paid.
    """
    if await _has_news(job):
        return
    get_run_logger().info("Job %s is at the provider; this run sleeps until it is done", job.shown_id)
    try:
        await asuspend_flow_run(timeout=int(FORGOTTEN_SECONDS), key=pause_key(job))
    except Pause:
        # A change before now found the run not yet suspended, so nothing was resumed; check the ledger again.
        await _resume_if_news(job)
        raise


async def _has_news(job: Job) -> bool:
    """Whether the job is no longer being made, or the provider has called back, so that a wait would end at once."""
    async with open_ledger(current_settings().ledger) as ledger:
        return _is_news(await ledger.get(job.key))


def _is_news(job: Job | None) -> bool:
    return job is not None and (job.state is not JobState.SUBMITTED or job.notified_at is not None)


async def _resume_if_news(job: Job) -> None:
    try:
        if await _has_news(job):
            await resume_run_of(job)
    except Exception as error:  # the run stays suspended; reconcile_jobs checks it, too
        get_run_logger().warning("Job %s was not polled again: %s", job.key, type(error).__name__)


async def standing_of(job: Job) -> Standing:
    """Returns the state of the run that handles a job."""
    try:
        async with get_client() as client:
            run = await client.read_flow_run(UUID(job.flow_run_id or ""))
    except (ObjectNotFound, ValueError):
        return "over"
    if run.state is None or run.state.is_final():
        return "over"
    if run.state.is_paused() and run.state.state_details.pause_key == pause_key(job):
        return "suspended"
    return "alive"


async def wake_sleepers(ledger: Ledger) -> list[str]:
    """Resume every suspended run whose job is no longer being made, or whose provider has called back.

    A job records only the run that last took it over. Another run may be suspended after joining the same job, or a run
    was not resumed because the server did not answer.

    Args:
        ledger: where jobs are recorded; runs suspended for jobs of other ledgers are not resumed.

    Returns:
        The names of the runs that were resumed.
    """
    woken = []
    for run in await sleeping_runs(_PAUSE):
        key = ((run.state and run.state.state_details.pause_key) or "").removeprefix(_PAUSE)
        if _is_news(await ledger.get(key)) and await resumed(run.id):
            woken.append(run.name)
    return woken


async def sleeping_runs(pause: str) -> list[FlowRun]:
    """Returns the runs that are suspended for one reason.

    Args:
        pause: the prefix of their suspension's key.
    """
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    found: list[FlowRun] = []
    async with get_client() as client:
        while True:
            page = await client.read_flow_runs(flow_run_filter=paused, limit=_PAGE, offset=len(found))
            found += page
            if len(page) < _PAGE:
                break
    return [run for run in found if run.state and (run.state.state_details.pause_key or "").startswith(pause)]


async def resume_run_of(job: Job) -> Resumed:
    """Resume the run that is suspended for a job, if one is."""
    if job.flow_run_id is None or await standing_of(job) != "suspended":
        return "not waiting"
    return "resumed" if await resumed(UUID(job.flow_run_id)) else "not waiting"


async def resumed(run_id: UUID, answer: dict[str, str] | None = None) -> bool:
    """Resume a run; returns False if it was resumed already, or it is too late.

    Args:
        run_id: the run.
        answer: the values of its form, if it waits for one.
    """
    try:
        await aresume_flow_run(run_id, run_input=answer)
    except (NotPausedError, FlowPauseTimeout, RuntimeError):
        return False
    return True

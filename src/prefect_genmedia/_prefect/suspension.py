"""Waiting without a process: the run suspends after submitting, and is resumed when its job is done."""

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
"""Runs that Prefect's server gives at once."""


def pause_key(job: Job) -> str:
    """The name of a run's suspension for this job; a run suspends for each job once."""
    return f"{_PAUSE}{job.key}"


async def check_can_suspend(**asked: bool) -> None:
    """Make sure that a run which shall suspend can; call it in a flow, before anything is sent.

    Parameters:
        **asked: the flow's parameters that suspend it, by name, and whether they do.

    Raises:
        InvalidRequest: the run has no deployment, or another run's process waits for it: nothing could start it again.
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
    """Whether the flow run would not survive a pause, and has to suspend to wait for a person.

    A run that pauses gives its deployment's concurrency slot back. Its process still renews the slot's lease, fails,
    and ends the run some minutes later. A suspended run has no process, and takes a slot again when it is resumed. The
    slot of a subflow is its parent's, which goes on running.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
        return False
    async with get_client() as client:
        now = await client.read_flow_run(run.id)
        if now.state is not None and now.state.state_details.deployment_concurrency_lease_id is not None:
            return True
        # The lease is not in the states after an earlier pause.
        deployment = await client.read_deployment(run.deployment_id)
    return deployment.global_concurrency_limit is not None


async def suspend_until_done(job: Job) -> None:
    """Suspend the flow run until its job is done; call it in a deployed flow, between submitting and waiting.

    `reconcile_jobs` (on a schedule) and `prefect-genmedia callbacks` resume the run. It then starts from its beginning
    in a new process, finds its job in the ledger, and goes on. A run that is resumed before its job is done just waits,
    and so does one whose job's callback has come.

    Raises:
        RuntimeError: the run has no deployment; `check_can_suspend` says so before the job is paid.
    """
    if await _has_news(job):
        return
    get_run_logger().info("Job %s is at the provider; this run sleeps until it is done", job.shown_id)
    try:
        await asuspend_flow_run(timeout=int(FORGOTTEN_SECONDS), key=pause_key(job))
    except Pause:
        # Whoever had news until now found the run awake, and resumed nothing; it stands in the ledger, so look again.
        await _resume_if_news(job)
        raise


async def _has_news(job: Job) -> bool:
    """Whether the job is past being made, or the provider has called back: then waiting finds out at once."""
    async with open_ledger(current_settings().ledger) as ledger:
        return _is_news(await ledger.get(job.key))


def _is_news(job: Job | None) -> bool:
    return job is not None and (job.state is not JobState.SUBMITTED or job.notified_at is not None)


async def _resume_if_news(job: Job) -> None:
    try:
        if await _has_news(job):
            await resume_run_of(job)
    except Exception as error:  # the run sleeps, and reconcile_jobs looks as well
        get_run_logger().warning("Job %s was not looked at once more: %s", job.key, type(error).__name__)


async def standing_of(job: Job) -> Standing:
    """What became of the run that takes care of a job."""
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
    """Resume every run that sleeps although there is news of its job.

    A job knows the run that last took it up. Another one may sleep for the same job, having joined it; or a run was not
    resumed when the news came, since the server did not answer.

    Parameters:
        ledger: tells what became of the jobs; runs that sleep for jobs of other ledgers are left alone.

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
    """The runs that sleep for one reason.

    Parameters:
        pause: how the key of their suspension begins.
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
    """Resume a run; False where somebody else was faster, or it is too late.

    Parameters:
        run_id: the run.
        answer: what its form asks for, where it waits for that.
    """
    try:
        await aresume_flow_run(run_id, run_input=answer)
    except (NotPausedError, FlowPauseTimeout, RuntimeError):
        return False
    return True

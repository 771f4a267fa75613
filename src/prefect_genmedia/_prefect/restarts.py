"""Restarts runs that crashed before they began, because of a failed image pull or a lost machine.

Such runs always have a run count of 0, so an automation on that count would restart a run with a broken image forever.
The history of the run's states shows how often it has crashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Scheduled

TAG = "genmedia"
"""Runs of deployments with this tag are restarted; a batch restarts its own shards."""

RECENT = timedelta(hours=6)
"""A run that crashed longer ago is not restarted, because its result may no longer be needed."""

_MESSAGE = "Started again by reconcile: it had crashed before it began."
_PAGE = 200


async def restart_unbegun() -> list[str]:
    """Restart each run (as the same run) that has crashed once and never began.

    Returns:
        The names of the runs.
    """
    restarted = []
    async with get_client() as client:
        for run in await _crashed_without_start(client):
            if not may_restart(await client.read_flow_run_states(run.id)):
                continue
            answer: OrchestrationResult[Any] = await client.set_flow_run_state(run.id, Scheduled(message=_MESSAGE))
            if answer.status is SetStateStatus.ACCEPT:
                restarted.append(run.name)
    return restarted


def may_restart(history: Sequence[State[Any]]) -> bool:
    """Whether a run's last state is its first crash, and it has never run.

    Args:
        history: all states that it had.
    """
    kinds = [state.type for state in sorted(history, key=lambda state: state.timestamp)]
    return kinds[-1:] == [StateType.CRASHED] and kinds.count(StateType.CRASHED) == 1 and StateType.RUNNING not in kinds


async def _crashed_without_start(client: PrefectClient) -> list[FlowRun]:
    crashed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        tags=FlowRunFilterTags(all_=[TAG]),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    since = datetime.now(timezone.utc) - RECENT
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=crashed, sort=FlowRunSort.END_TIME_DESC, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE or any(_crashed_at(run) < since for run in page):
            break
    return [run for run in found if run.run_count == 0 and _crashed_at(run) >= since]


def _crashed_at(run: FlowRun) -> datetime:
    return run.state.timestamp if run.state is not None else datetime.min.replace(tzinfo=timezone.utc)

"""The task runs of a batch's rows on the Prefect server: their pages, and those that ran in other flow runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.logging import get_run_logger
from prefect.utilities.urls import url_for

from prefect_genmedia._core.model import JobState
from prefect_genmedia.batch.result import Result
from prefect_genmedia.batch.results import Results
from prefect_genmedia.batch.row_task import ROW_TASK, row_of_run

PAGE = 200
"""Task runs per request: the server's default limit."""

RECORD_SECONDS = 2.0
"""Interval between two reads, in seconds: the server records task runs a moment after they happen."""

_READS = 3


def page_of(result: Result) -> str | None:
    """Returns the page of a row's task run in the Prefect UI; None if the row has no task run in this batch's run.

    Args:
        result: the row's result.
    """
    return url_for("task-run", obj_id=result.task_run_id) if result.task_run_id else None


async def link_rows(results: Results, flow_runs: Sequence[UUID], without: Set[str]) -> None:
    """Set the newest task run of each row that was processed in other flow runs.

    Args:
        results: the results of the rows.
        flow_runs: ids of the flow runs.
        without: ids of rows that need no task run; for the others it waits a few seconds until the server has them.
    """
    missing = {result.id: result for result in results.all() if result.task_run_id is None}
    delivered = {row_id for row_id, result in missing.items() if result.state == JobState.DELIVERED.value}
    try:
        async with get_client() as client:
            for attempt in range(_READS):
                if attempt:
                    await asyncio.sleep(RECORD_SECONDS)
                found = await _read(client, flow_runs, {result.id for result in results.all()})
                for row_id in missing.keys() & found.keys():
                    missing[row_id].task_run_id = found[row_id]
                if delivered - without <= found.keys():
                    return
    except Exception as error:  # the batch is done, and its artifacts are right without links
        get_run_logger().warning("The rows' task runs cannot be read: %s: %s", type(error).__name__, error)


async def _read(client: PrefectClient, flow_runs: Sequence[UUID], ids: Set[str]) -> dict[str, str]:
    """Returns the newest task run of each row, by row id; that of a chain's newest step."""
    found: dict[str, str] = {}
    filter_ = FlowRunFilter(id=FlowRunFilterId(any_=list(flow_runs)))
    page: list[TaskRun] = []
    offset = 0
    while flow_runs and (not offset or len(page) == PAGE):
        page = await client.read_task_runs(
            flow_run_filter=filter_, sort=TaskRunSort.EXPECTED_START_TIME_ASC, limit=PAGE, offset=offset
        )
        offset += PAGE
        of_rows = (run for run in page if run.task_key.startswith(f"{ROW_TASK}-"))
        found.update((row_of_run(run.name, ids), str(run.id)) for run in of_rows)
    return found

"""The names of a run's deployment and flow: whom its jobs are paid for where nobody says."""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

import anyio
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from prefect_genmedia._core.attribution import Attribution

READ_SECONDS = 10.0
"""How long the server may take for the names, in seconds: a job does not wait longer for a label."""

RETRY_SECONDS = 60.0
"""How long the names are not asked for again after the server did not tell them, in seconds."""

_MOST_RUNS = 1000

_logger = logging.getLogger(__name__)
_read: dict[str, Attribution] = {}
"""What was read, by root flow run: names of a run do not change."""


class RunAttribution:
    """Reads the names of the root flow run's deployment and flow, once a process."""

    def __init__(self) -> None:
        """Remember the running flow run; read nothing yet."""
        self._root = flow_run.root_flow_run_id if flow_run.id else None
        self._lock = asyncio.Lock()
        self._failed_at = float("-inf")

    async def __call__(self) -> Attribution:
        """The deployment's name, or else the flow's, as the project, and the flow's as a tag; outside of flows none."""
        if not self._root:
            return Attribution()
        async with self._lock:
            if self._root not in _read:
                if time.monotonic() - self._failed_at < RETRY_SECONDS:
                    return Attribution()
                found = await _names(self._root)
                if found is None:
                    self._failed_at = time.monotonic()
                    return Attribution()
                if len(_read) >= _MOST_RUNS:
                    _read.clear()
                _read[self._root] = found
            return _read[self._root]


async def _names(root: str) -> Attribution | None:
    try:
        with anyio.fail_after(READ_SECONDS):
            async with get_client() as client:
                run = await client.read_flow_run(UUID(root))
                flow = await client.read_flow(run.flow_id)
                deployment = await client.read_deployment(run.deployment_id) if run.deployment_id else None
    except Exception as trouble:  # a job is not held up by a label
        _logger.warning("The names of flow run %s cannot be read now: %s", root, type(trouble).__name__)
        return None
    return Attribution.of(deployment.name if deployment is not None else flow.name, [flow.name])

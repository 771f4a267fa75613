"""The default attribution of a run's jobs: the names of its deployment and flow."""

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
"""Timeout for reading the names from the server, in seconds: a job does not wait longer for a label."""

RETRY_SECONDS = 60.0
"""How long to wait before asking again after the server did not return the names, in seconds."""

_MOST_RUNS = 1000

_logger = logging.getLogger(__name__)
_read: dict[str, Attribution] = {}
"""Cached attributions by root flow run: the names of a run do not change."""


class RunAttribution:
    """Reads the names of the root flow run's deployment and flow, once per process."""

    def __init__(self) -> None:
        self._root = flow_run.root_flow_run_id if flow_run.id else None
        self._lock = asyncio.Lock()
        self._failed_at = float("-inf")

    async def __call__(self) -> Attribution:
        """Returns the deployment's or flow's name as project, and the flow's as tag; empty outside of flows."""
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
    except Exception as trouble:  # a label must not delay a job
        _logger.warning("The names of flow run %s cannot be read now: %s", root, type(trouble).__name__)
        return None
    return Attribution.of(deployment.name if deployment is not None else flow.name, [flow.name])

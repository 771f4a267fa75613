"""Noticing a ledger that would die with its machine."""

from __future__ import annotations

import os
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from prefect_genmedia.settings import GenMediaSettings

_warned: set[str] = set()


async def warn_of_mortal_ledger(settings: GenMediaSettings) -> None:
    """Warn once a process when the ledger is the default file and the run looks like it runs on a passing machine.

    Without the ledger nobody knows what was paid: a container that is thrown away takes the promise with it. Whoever
    has set a ledger has chosen its place.
    """
    url = settings.ledger
    if settings.ledger_url is not None or url in _warned:
        return
    _warned.add(url)
    reason = _container() or await _remote_work_pool()
    if reason:
        get_run_logger().warning(
            "The job ledger is a SQLite file, and this run is %s: when the machine goes, so does the record of "
            "what was paid. Set PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL to a PostgreSQL URL; Prefect's own will do.",
            reason,
        )


def _container() -> str | None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "in Kubernetes"
    if any(name in os.environ for name in ("ECS_CONTAINER_METADATA_URI_V4", "CLOUD_RUN_JOB", "K_SERVICE")):
        return "in a cloud container"
    return "in a container" if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() else None


async def _remote_work_pool() -> str | None:
    context = FlowRunContext.get()
    pool_name = context.flow_run.work_pool_name if context and context.flow_run else None
    if pool_name is None:
        return None
    try:
        async with get_client() as client:
            pool = await client.read_work_pool(pool_name)
    except ObjectNotFound:
        return None
    return None if pool.type == "process" else f"on the {pool.type} work pool {pool_name!r}"

"""Detects an ephemeral ledger (in a container) and ephemeral outputs (in a worker's folder)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError, ObjectNotFound
from prefect.logging import get_run_logger

from prefect_genmedia._media.storage import anywhere, is_relative
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.settings import GenMediaSettings

WARNED = ".warned"
"""Suffix of the marker file beside a ledger which shows that the user was warned."""


async def warn_of_ephemeral_ledger(settings: GenMediaSettings) -> None:
    """Warn, once per ledger, if the ledger is the default file on a machine that is probably ephemeral.

    If the ledger is lost with its container, the record of payments is lost, and jobs may be paid twice. There is no
    warning if the user has set the ledger, or if it is on a volume. A marker file beside the ledger records the
    warning, so the next container warns again.
    """
    file = Path(settings.ledger.removeprefix("sqlite:///"))
    marker = file.with_name(f"{file.name}{WARNED}")
    if settings.ledger_url is not None or marker.exists():
        return
    reason = (None if _is_on_volume(file.parent) else _container()) or await _remote_work_pool()
    if reason:
        with suppress(OSError):
            marker.touch(mode=0o600)
        run_logger().warning(
            "The job ledger is a SQLite file, and this run is %s: when the machine goes, so does the record of "
            "what was paid. Set PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL to a PostgreSQL URL; Prefect's own will do.",
            reason,
        )


def run_logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Returns the run's logger; outside of runs, such as in a command, the package's logger."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("prefect_genmedia")


def _is_on_volume(folder: Path) -> bool:
    """Whether a folder is on a different file system from the container, such as a mounted volume."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return existing.stat().st_dev != Path("/").stat().st_dev


def _container() -> str | None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "in Kubernetes"
    if any(name in os.environ for name in ("ECS_CONTAINER_METADATA_URI_V4", "CLOUD_RUN_JOB", "K_SERVICE")):
        return "in a cloud container"
    return "in a container" if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() else None


def named_output(output: str | None, settings: GenMediaSettings) -> dict[str, str]:
    """Returns a run's output, by the name of the parameter or setting that defines it.

    Args:
        output: the run's output; None uses the setting.
        settings: the settings.
    """
    return {"output": output} if output else {"the setting OUTPUT": settings.media_folder}


async def resolved_output(output: str | None, settings: GenMediaSettings) -> str:
    """Returns a run's output as a path or URL with the same meaning in any process.

    Args:
        output: the run's output; None uses the setting.
        settings: the settings.

    Raises:
        InvalidRequest: see `refuse_relative`.
    """
    await refuse_relative(named_output(output, settings))
    return anywhere(output or settings.media_folder)


async def lasting_output(output: str | None, settings: GenMediaSettings) -> str | None:
    """Returns a job's output as a path or URL with the same meaning in any process; None for the setting's output.

    Args:
        output: the run's output; None uses the setting.
        settings: the settings.

    Raises:
        InvalidRequest: see `refuse_relative`.
    """
    place = await resolved_output(output, settings)
    return place if output or place != settings.media_folder else None


async def refuse_relative(places: Mapping[str, str | None]) -> None:
    """Refuse relative paths in a run of a work pool: its working folder is deleted when the run ends.

    Runs of `.serve()` and plain scripts have no work pool and keep their folder.

    Args:
        places: paths and URLs, by the name of the parameter or setting; None is ignored.

    Raises:
        InvalidRequest: some are relative, and the run belongs to a work pool; the message names all of them.
    """
    relative = {name: place for name, place in places.items() if place is not None and is_relative(place)}
    if not relative or await _work_pool_name() is None:
        return
    why = "is relative, and a worker deletes its run's folder: give an absolute path or a storage URL"
    raise InvalidRequest.of("The run", [FieldProblem(name, f"{place!r} {why}") for name, place in relative.items()])


async def _work_pool_name() -> str | None:
    """Returns the work pool whose worker started this process; None if none did."""
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.work_pool_name:
        return context.flow_run.work_pool_name
    started = os.environ.get("PREFECT__FLOW_RUN_ID")  # a subflow has no work pool of its own
    if started is None:
        return None
    try:
        async with get_client() as client:
            return (await client.read_flow_run(UUID(started))).work_pool_name
    except (ObjectNotFound, ValueError):
        return None


async def _remote_work_pool() -> str | None:
    pool_name = await _work_pool_name()
    if pool_name is None:
        return None
    try:
        async with get_client() as client:
            pool = await client.read_work_pool(pool_name)
    except ObjectNotFound:
        return None
    return None if pool.type == "process" else f"on the {pool.type} work pool {pool_name!r}"

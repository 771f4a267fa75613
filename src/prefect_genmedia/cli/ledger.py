"""What the commands share that read the ledger: opening it, naming it, and times as people type and read them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from prefect_genmedia._core.caps import time_zone
from prefect_genmedia._core.database import shown_ledger
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia.cli.console import command_console, stop
from prefect_genmedia.cli.guard import ending_in_sentences
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import iso_time

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 5.0
"""How long a command waits for a database that is away, in seconds."""

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def run_on_ledger(work: Callable[[Ledger], Awaitable[Answer]]) -> Answer:
    """Open the ledger, and do something with it. A person waits: who starts again decides how long.

    Args:
        work: what is done.
    """

    async def opened() -> Answer:
        async with open_ledger(current_settings().ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
            return await work(ledger)

    with ending_in_sentences():
        return asyncio.run(opened())


def name_ledger() -> str:
    """The ledger that is read, for people: its URL without a password."""
    return shown_ledger(current_settings().ledger)


def print_ledger_url() -> None:
    """Print on standard error which ledger was read: standard output is for programs."""
    console = command_console(stderr=True)
    console.print(f"Ledger: {name_ledger()}", style="dim", markup=False, highlight=False, soft_wrap=True)


def moment(typed: str, zone: str = "UTC", option: str = "--since") -> float:
    """A time as seconds since 1970: so many minutes, hours or days ago, or a date in ISO 8601.

    Args:
        typed: what a person typed.
        zone: the time zone of a date without an offset.
        option: the option that it was typed for.
    """
    if match := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*([mhd])", typed.strip(), re.ASCII):
        return time.time() - float(match[1]) * _UNITS[match[2]]
    try:
        found = datetime.fromisoformat(typed.strip().replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=time_zone(zone))).timestamp()
    except (ValueError, OverflowError):
        stop(f"{option} takes 30m, 2h, 3d or a date such as 2026-05-01T10:00, not {typed!r}.")


def plain_job(job: Job) -> dict[str, Any]:
    """A job as JSON for programs: its times in ISO 8601, in UTC.

    Args:
        job: the job.
    """
    fields = job.model_dump(mode="json")
    return {name: iso_time(value) if _is_time(name) else value for name, value in fields.items()}


def _is_time(field: str) -> bool:
    return field.endswith("_at") or field == "not_before"


def span(seconds: float) -> str:
    """A length of time in one unit, such as `12 m`.

    Args:
        seconds: its length; a negative one counts as 0.
    """
    length = timedelta(seconds=max(seconds, 0.0))
    if length < timedelta(minutes=1):
        return f"{length.seconds} s"
    if length < timedelta(hours=1):
        return f"{length.seconds // 60} m"
    return f"{length.seconds // 3600} h" if length < timedelta(days=1) else f"{length.days} d"

"""Whether reconcile works: asked of the ledger and of the server's events, since either may be out of reach."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from anyio import to_thread
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient

from prefect_genmedia._core.database import ledger_target
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.rounds import NEXT_STEP, OVERDUE_SECONDS, Health, health
from prefect_genmedia._prefect.reconcile import emit_overdue
from prefect_genmedia.deploy.changes import Change, Outcome
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.settings import current_settings

LEDGER_NAME = "genmedia-ledger-url"
"""The Secret Block that containers take the ledger's database from."""

PATIENCE_SECONDS = 5.0
"""How long the ledger may be away until the server's events are asked alone, in seconds."""


async def reconcile_change(client: PrefectClient) -> Change:
    """The row about reconcile; where it is overdue, the event `genmedia.reconcile.overdue` is emitted.

    Args:
        client: the server.
    """
    if await _server_has_success(client):
        return Change("reconcile", "rounds", Outcome.WORKING, "succeeded within the last 20 minutes")
    try:
        found = await _health_of_ledger()
    except (LedgerError, OSError):
        found = None
    if found is None:
        problem = "the server has no success event of the last 20 minutes, and the ledger cannot be read from here"
        return Change("reconcile", "rounds", Outcome.OVERDUE, f"{problem}: {NEXT_STEP}")
    if found.is_overdue:
        return Change("reconcile", "rounds", Outcome.OVERDUE, f"{str(found).rstrip('.')}: {NEXT_STEP}")
    return Change("reconcile", "rounds", Outcome.WORKING, str(found))


async def _server_has_success(client: PrefectClient) -> bool:
    since = datetime.now(timezone.utc) - timedelta(seconds=OVERDUE_SECONDS)
    wanted = {
        "event": {"name": ["genmedia.reconcile.succeeded"]},
        "occurred": {"since": since.isoformat(), "until": datetime.now(timezone.utc).isoformat()},
    }
    answer = await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    return bool(answer.json()["total"])


async def _health_of_ledger() -> Health | None:
    """Health as the ledger has it; None if there is no ledger yet, since reading must not create one."""
    url = current_settings().ledger_url or await _stored_url() or current_settings().ledger
    target = ledger_target(url)
    if target.get_backend_name() == "sqlite" and not await to_thread.run_sync(Path(target.database or "").exists):
        return Health(time.time())
    async with open_ledger(url, patience_seconds=PATIENCE_SECONDS) as ledger:
        found = await health(ledger)
        if found.is_overdue:
            await emit_overdue(ledger, found)
        return found


async def _stored_url() -> str | None:
    try:
        secret: Any = await Secret.aload(LEDGER_NAME)
    except ValueError:
        return None
    return str(secret.get())

"""Pausing and resuming accounts, with the events that automations can react to."""

from __future__ import annotations

from prefect.events import emit_event

from prefect_genmedia._core.account_admin import pause_account, resume_account
from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia._core.ledger import Ledger


async def pause(ledger: Ledger, account: str, reason: str = "") -> AccountRecord:
    """Pause an account and emit `genmedia.account.paused`; see `pause_account`.

    Parameters:
        ledger: where accounts are recorded.
        account: its id or one of its names.
        reason: why.
    """
    record = await pause_account(ledger, account, reason)
    _emit("paused", record)
    return record


async def resume(ledger: Ledger, account: str) -> AccountRecord:
    """Resume an account and emit `genmedia.account.resumed`; see `resume_account`.

    Parameters:
        ledger: where accounts are recorded.
        account: its id or one of its names.
    """
    record = await resume_account(ledger, account)
    _emit("resumed", record)
    return record


def _emit(what: str, record: AccountRecord) -> None:
    emit_event(
        event=f"genmedia.account.{what}",
        resource={
            "prefect.resource.id": f"genmedia.account.{record.id}",
            "prefect.resource.name": record.names[0] if record.names else record.id,
            "genmedia.provider": record.provider,
        },
        payload={"by": record.paused_by, "reason": record.pause_reason},
    )

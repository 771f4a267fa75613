"""Old jobs lose their texts, and keep what stops a second payment; made for a schedule of a month."""

from __future__ import annotations

from prefect import flow

from prefect_genmedia._prefect.forms import run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia.tasks import prune_ledger


@flow(name="prune-jobs", flow_run_name=RunName(lambda: "prune"))
@run_form(older_than="Older than", label="Label contains", dry_run="Only show what would be pruned")
async def prune_jobs(
    older_than: str = "1y", label: str = "", idempotency_key: str = "", dry_run: bool = True, vacuum: bool = True
) -> int:
    """Drop the request and all texts of final jobs. It cannot be undone; nothing is paid again for it.

    Identity, state, account, provider id, cost, and the place and digest of the file stay. Jobs that are not final stay
    as they are. Every condition that is given must hold.

    Args:
        older_than: Only jobs that have not changed for so long: 90d, 12w or 1y. Empty for any age, where a label or a
            key is given.
        label: Only jobs whose label contains this, in capitals or not.
        idempotency_key: Only jobs of this key.
        dry_run: Only count the jobs.
        vacuum: Rewrite the database's file afterwards: until then, dropped texts may still be in it.

    Returns:
        How many jobs were pruned, or would be.

    Raises:
        InvalidRequest: no condition is given, or the age is not understood.
    """
    report = await prune_ledger(older_than, label, idempotency_key, dry_run=dry_run, vacuum=vacuum)
    return report.jobs

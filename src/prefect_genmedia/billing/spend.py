"""What was spent, for programs; `prefect-genmedia spend` prints the same."""

from __future__ import annotations

from datetime import datetime

from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.spend import SpendBy, SpendFilter, SpendLine, spend_by
from prefect_genmedia.billing.mapping import refusal
from prefect_genmedia.settings import current_settings


async def spend(
    by: SpendBy = "project",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
    project: str | None = None,
    tag: str | None = None,
) -> list[SpendLine]:
    """What was spent by each project, account, model or day, by the ledger of the settings: estimates, not bills.

    Args:
        by: what jobs are grouped by.
        since: only jobs that were sent from then on, with its time zone.
        until: only jobs that were sent before then.
        time_zone: where days begin, such as Asia/Shanghai.
        project: only jobs of this project; empty for those without one.
        tag: only jobs with this tag.

    Raises:
        InvalidRequest: a time has no time zone, or this machine does not know the one where days begin.
    """
    for name, at in (("since", since), ("until", until)):
        if at is not None and at.tzinfo is None:
            raise refusal("has no time zone", name, "The request")
    wanted = SpendFilter(
        since=None if since is None else since.timestamp(),
        until=None if until is None else until.timestamp(),
        zone=time_zone,
        project=project,
        tag=tag,
    )
    async with open_ledger(current_settings().ledger) as ledger:
        return await spend_by(ledger, by, wanted)

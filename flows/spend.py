"""What was spent in this month, against the accounts' caps; made for a schedule of a day. It sends and pays nothing."""

from __future__ import annotations

from prefect import flow

from prefect_genmedia._core.spend import SpendBy
from prefect_genmedia._prefect.forms import run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia._prefect.spending import SpendReport, make_report


@flow(name="report-spend", flow_run_name=RunName(lambda: "spend"))
@run_form(by="Group by", time_zone="Time zone")
async def report_spend(by: SpendBy = "project", time_zone: str = "UTC") -> SpendReport:
    """Show the month to date by project, account, model or day, and how near the accounts' caps are.

    From 80 % of a monthly cap on, the event `genmedia.budget.warning` is emitted: once for each cap and month, by this
    flow or by the run that reached it. Every sum is an estimate by the price table, not a bill.

    Args:
        by: What the bars are about.
        time_zone: Where the month and its days begin, such as Asia/Shanghai. Caps have a time zone of their own.

    Returns:
        The lines and caps; the chart is on the run's page.

    Raises:
        InvalidRequest: this machine does not know the time zone.
    """
    return await make_report(by, time_zone)

"""The report of `report_spend`: the month's spending so far and the caps, as a chart and as events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from prefect.artifacts import acreate_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia._core.account_budgets import is_first
from prefect_genmedia._core.caps import WARNING_SHARE, shown_amount
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.spend import (
    CapLine,
    SpendBy,
    SpendLine,
    caps_now,
    is_of_month,
    month_to_date,
    spend_by,
    totals,
)
from prefect_genmedia._prefect.markdown import clean
from prefect_genmedia._prefect.run import emit_budget_event
from prefect_genmedia._prefect.session import prices_of
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import bar, counted, iso_time

KEY = "genmedia-spend"

BAR_CHARACTERS = 30

MOST_LINES = 40
"""Maximum number of lines in a chart; smaller sums are combined into one line."""


class SpendReport(BaseModel):
    """What was spent in the present calendar month, and how near the accounts' caps are. Sums are estimates."""

    model_config = ConfigDict(frozen=True)

    since: str = Field(description="When the month began, in ISO 8601.")
    by: SpendBy = Field(description="What the lines are about.")
    lines: list[SpendLine] = Field(description="The largest sums first.")
    days: list[SpendLine] = Field(description="The same jobs by day.")
    caps: list[CapLine] = Field(description="Every cap that a saved Block gives an account.")
    warned: list[str] = Field(default_factory=list, description="Accounts whose caps an event was emitted about now.")

    @property
    def totals(self) -> list[SpendLine]:
        """Returns one line per currency."""
        return totals(self.lines)


async def make_report(by: SpendBy, zone: str) -> SpendReport:
    """Read the month's spending so far, publish a chart, and emit an event for each monthly cap that is nearly reached.

    Args:
        by: what the chart's bars are grouped by.
        zone: the time zone in which the month and its days begin. Caps have their own time zones.

    Raises:
        InvalidRequest: this machine has no data for the time zone.
    """
    settings = current_settings()
    async with open_ledger(settings.ledger) as ledger:
        wanted = month_to_date(ledger.now(), zone)
        report = SpendReport(
            since=iso_time(wanted.since) or "",
            by=by,
            lines=await spend_by(ledger, by, wanted),
            days=await spend_by(ledger, "day", wanted),
            caps=await caps_now(ledger, prices_of(settings)),
        )
        report = report.model_copy(update={"warned": await _warned(ledger, report.caps)})
    await acreate_markdown_artifact(key=KEY, markdown=chart(report), description=summary(report))
    return report


async def _warned(ledger: Ledger, caps: Sequence[CapLine]) -> list[str]:
    """Emit `genmedia.budget.warning` for each monthly cap from 80 % on, unless a run has done so this month."""
    warned = []
    for cap in caps:
        if cap.problem or not is_of_month(cap.facts) or cap.share < float(WARNING_SHARE):
            continue
        if await is_first(ledger, "warning", cap.facts):
            emit_budget_event("warning", cap.facts)
            warned.append(cap.account)
    return warned


def summary(report: SpendReport) -> str:
    """Returns the report in one sentence.

    Args:
        report: the report.
    """
    sums = ", ".join(shown_amount(total.cost, total.currency) for total in report.totals) or "nothing"
    return f"Spent since {report.since}, estimated: {sums}"


def chart(report: SpendReport) -> str:
    """Returns the report as Markdown. Charts are text, which every version of the UI can show.

    Args:
        report: the report.
    """
    lines = [f"# Spend since {report.since[:10]}", ""]
    for total in report.totals:
        jobs = counted(total.jobs, "job")
        lines.append(f"**{shown_amount(total.cost, total.currency)}** for {jobs}: an estimate, not a bill.")
        if total.uncertain:
            lines.append(f"Of it {shown_amount(total.uncertain, total.currency)} of jobs without a certain answer.")
        if total.without_price:
            lines.append(f"{counted(total.without_price, 'job has', 'jobs have')} no known price, and no part in it.")
    if not report.lines:
        lines.append("No job was paid in this month.")
    lines += ["", "## Caps", "", *_fenced(_cap_bars(report.caps)), ""]
    for title, bars in ((f"By {report.by}", report.lines), ("By day", report.days)):
        if bars:
            lines += [f"## {title}", "", *_fenced(_bars(bars)), ""]
    return "\n".join(lines)


def _fenced(lines: Iterator[str]) -> list[str]:
    # Each line begins with a bar, so no name in it can end the code block.
    return ["```text", *lines, "```"]


def _cap_bars(caps: Sequence[CapLine]) -> Iterator[str]:
    if not caps:
        yield "no saved Block caps its account"
    for cap in caps:
        if cap.problem:
            yield f"{'?' * BAR_CHARACTERS}         {clean(cap.account)}: {clean(cap.problem)}"
            continue
        facts = cap.facts
        mark = " !" if cap.share >= float(WARNING_SHARE) else "  "
        used, limit = (f"{float(amount):.10g}" for amount in (_used(cap), facts["limit"]))
        block = f", Block {clean(facts['block'])}" if facts["block"] else ""
        yield (
            f"{bar(cap.share, BAR_CHARACTERS).ljust(BAR_CHARACTERS, '·')} {cap.share:>6.1%}{mark} "
            f"{clean(cap.account)}{block}: {facts['cap']} {used} of {limit} {facts['unit']}, "
            f"until {facts['period_ends']}"
        )


def _used(cap: CapLine) -> Decimal:
    return sum((Decimal(str(cap.facts[name])) for name in ("spent", "reserved")), Decimal(0))


def _bars(lines: Sequence[SpendLine]) -> Iterator[str]:
    shown, rest = list(lines[:MOST_LINES]), lines[MOST_LINES:]
    shown += [each.model_copy(update={"name": "the others"}) for each in totals(rest)]
    for line in shown:
        most = max(each.cost for each in shown if each.currency == line.currency)
        filled = bar(float(line.cost / most) if most else 0.0, BAR_CHARACTERS)
        amount = shown_amount(line.cost, line.currency)
        name = clean(line.name) or "(none)"
        yield f"{filled.ljust(BAR_CHARACTERS, '·')} {amount:>16}  {name} ({counted(line.jobs, 'job')})"

"""The plan of a batch: what a run would do with each row now, and the estimated cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from prefect_genmedia._core.budgets import priced_as
from prefect_genmedia._core.confirmations import Costs
from prefect_genmedia._core.model import TAKEN, Job, JobState
from prefect_genmedia.batch.results import INVALID
from prefect_genmedia.batch.rows import BadRow
from prefect_genmedia.batch.scheduler import BatchScheduler
from prefect_genmedia.errors import InputRefused
from prefect_genmedia.prices import CURRENCY, from_micros
from prefect_genmedia.text import BULLET

_MEANINGS = {
    "submit": "submit",
    "regenerate": "submit anew: its result is paid again",
    "join": "join its job: nothing is paid again",
    "verify": "verify its delivered file: nothing is paid again",
    "refused": "nothing: its input was refused",
    "failed": "nothing: it failed in this run",
    "needs a person": "nothing: a person must decide",
    INVALID: "leave out: it is invalid",
}

_SENT = ("submit", "regenerate")

PLAN_ROWS = 1000
"""Maximum number of rows in the table of a dry run."""


@dataclass(frozen=True)
class PlannedRow:
    """What a run would do with one row.

    Args:
        id: the row's id.
        what: one word for the action, as counted in the batch's report.
        kind: the kind of its request.
        model: `provider/model`; empty if the row is invalid.
        cost: the estimated cost in CNY; None if no price is known.
        job: the key of its job, if it has one.
        problems: a description of its problems.
        not_sent: a description of the user's own cells; None if the table has no such columns.
    """

    id: str
    what: str
    kind: str = ""
    model: str = ""
    cost: Decimal | None = Decimal(0)
    job: str = ""
    problems: str = ""
    not_sent: str | None = None

    def line(self) -> dict[str, object]:
        """Returns the row for the plan's table on the run's page."""
        line: dict[str, object] = {
            "row": self.id,
            "plan": _MEANINGS[self.what],
            "problems": self.problems,
            "estimated cost": None if self.cost is None else float(round(self.cost, 4)),
            "kind": self.kind,
            "model": self.model,
            "job": self.job,
        }
        return line if self.not_sent is None else line | {"not sent": self.not_sent}


class Plan:
    """What a run would do: counts and costs of all rows, and the first rows in detail."""

    def __init__(self) -> None:
        self.first: list[PlannedRow] = []
        self._groups: dict[tuple[str, str], Costs] = {}

    def add(self, row: PlannedRow) -> None:
        """Add a row to the plan.

        Args:
            row: the row, with what would be done.
        """
        if len(self.first) < PLAN_ROWS:
            self.first.append(row)
        group = (row.model, row.what)
        self._groups[group] = self._groups.get(group, Costs()) + Costs.of([row.cost])

    def __len__(self) -> int:
        """The number of rows."""
        return sum(costs.jobs for costs in self._groups.values())

    @property
    def counts(self) -> Counter[str]:
        """The number of rows per action."""
        counts: Counter[str] = Counter()
        for (_, what), costs in self._groups.items():
            counts[what] += costs.jobs
        return counts

    @property
    def cost(self) -> Decimal:
        """The estimated cost in CNY; rows without a known price count as 0."""
        return from_micros(sum(costs.micros for costs in self._groups.values()))

    @property
    def due(self) -> Costs:
        """The costs of the rows that would be sent."""
        return sum((costs for (_, what), costs in self._groups.items() if what in _SENT), Costs())

    def words(self) -> str:
        """Returns the counts and the estimate in one line."""
        return f"{plan_counts(self.counts)}; about {self.cost:.2f} {CURRENCY} (estimate)"

    def text(self) -> str:
        """Returns the plan grouped by model and action, for a log: a few lines for any number of rows."""
        table = Table(box=SIMPLE_HEAD, show_footer=True)
        table.add_column("model", "total")
        table.add_column("what would be done")
        table.add_column("rows", str(len(self)), justify="right")
        table.add_column(f"estimated {CURRENCY}", f"{self.cost:.2f}", justify="right")
        for (model, what), costs in sorted(self._groups.items()):
            cost = "no price" if costs.unpriced else f"{from_micros(costs.micros):.2f}"
            table.add_row(model or "–", _MEANINGS[what], str(costs.jobs), cost)
        console = Console(file=StringIO(), width=120, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


async def plan_of(run: BatchScheduler, bad: Sequence[BadRow]) -> Plan:
    """Returns what the run would do now; nothing is sent to a provider.

    Args:
        run: the batch.
        bad: the rows that it skips.
    """
    plan, carried = Plan(), run.results.carried
    for row in run.rows:
        known, request = run.known.get(row.id), row.request
        what = _what(run, known)
        cost = await run.estimate(request) if what == "submit" else Decimal(0)
        what = "regenerate" if what == "submit" and run.jobs.is_anew(row) else what
        job = known.key if known else ""
        words = carried.words(row.extra) if len(plan.first) < PLAN_ROWS else None
        plan.add(PlannedRow(row.id, what, request.kind, priced_as(request), cost, job, not_sent=words))
    for each in bad:
        words = carried.words(each.extra) if len(plan.first) < PLAN_ROWS else None
        plan.add(PlannedRow(each.id, INVALID, problems=BULLET.join(map(str, each.problems)), not_sent=words))
    return plan


def _what(run: BatchScheduler, known: Job | None) -> str:
    if known is None or run.next_attempt(known) is not None:
        return "submit"
    if known.state in TAKEN:
        return "verify" if known.state is JobState.DELIVERED else "join"
    if known.state is JobState.FAILED and known.error_kind != InputRefused.__name__:
        return "failed"
    return "needs a person" if known.state is JobState.UNKNOWN else "refused"


def plan_counts(counts: Mapping[str, int]) -> str:
    """Returns the number of rows per action in one line.

    Args:
        counts: the number of rows by action.
    """
    return ", ".join(f"{number} {what}" for what, number in counts.items())

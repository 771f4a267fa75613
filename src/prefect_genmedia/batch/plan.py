"""The plan of a batch: what a run would do with each row now, and what that probably costs."""

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
"""Rows that the table of a dry run spells out."""


@dataclass(frozen=True)
class PlannedRow:
    """What a run would do with one row.

    Parameters:
        id: the row's id.
        what: one word for it, as the batch's report counts it.
        kind: what it asks for.
        model: `provider/model`; empty where the row is invalid.
        cost: what it probably costs, in CNY; None where no price is known.
        job: the key of its job, if it has one.
        problems: what is wrong with it, in words.
        not_sent: the cells of the user's own columns, in words; None if the table has none.
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
        """The row as the plan's table on the run's page has it."""
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
    """What a run would do: counts and costs of all rows, and the first rows themselves."""

    def __init__(self) -> None:
        """Plan nothing yet."""
        self.first: list[PlannedRow] = []
        self._groups: dict[tuple[str, str], Costs] = {}

    def add(self, row: PlannedRow) -> None:
        """Plan a row.

        Parameters:
            row: what would be done with it.
        """
        if len(self.first) < PLAN_ROWS:
            self.first.append(row)
        group = (row.model, row.what)
        self._groups[group] = self._groups.get(group, Costs()) + Costs.of([row.cost])

    def __len__(self) -> int:
        """How many rows there are."""
        return sum(costs.jobs for costs in self._groups.values())

    @property
    def counts(self) -> Counter[str]:
        """How many rows there are of each sort."""
        counts: Counter[str] = Counter()
        for (_, what), costs in self._groups.items():
            counts[what] += costs.jobs
        return counts

    @property
    def cost(self) -> Decimal:
        """What it probably costs, in CNY; rows without a known price count as nothing."""
        return from_micros(sum(costs.micros for costs in self._groups.values()))

    @property
    def due(self) -> Costs:
        """What the rows cost that are to be sent."""
        return sum((costs for (_, what), costs in self._groups.items() if what in _SENT), Costs())

    def words(self) -> str:
        """Counts and the estimate in one line."""
        return f"{plan_counts(self.counts)}; about {self.cost:.2f} {CURRENCY} (estimate)"

    def text(self) -> str:
        """The plan by model and by what would be done, for a log: a few lines, however many rows there are."""
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
    """What the run would do now; nothing is sent to a provider.

    Parameters:
        run: the batch.
        bad: the rows that it leaves out.
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
    """How many rows there are of each sort, in one line.

    Parameters:
        counts: numbers by word.
    """
    return ", ".join(f"{number} {what}" for what, number in counts.items())

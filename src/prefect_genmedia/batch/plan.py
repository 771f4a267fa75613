"""The plan of a batch: what a run would do with each row now, and the estimated cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from io import StringIO
from itertools import zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from prefect_genmedia._core.budgets import priced_as
from prefect_genmedia._core.confirmations import Costs
from prefect_genmedia._core.model import TAKEN, Job, JobState
from prefect_genmedia.batch.result import INVALID
from prefect_genmedia.batch.rows import BadRow, Row
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

_GOES_ON = (*_SENT, "join", "verify")
"""Actions after which a chain goes on to its next step."""

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
        self.counts: Counter[str] = Counter()
        """The number of rows per action."""
        self._groups: dict[tuple[str, str], Costs] = {}

    def add(self, row: PlannedRow, steps: Sequence[PlannedRow] = ()) -> None:
        """Add a row to the plan.

        Args:
            row: the row, with what would be done.
            steps: what would be done with each of its steps, if it is a chain.
        """
        if len(self.first) < PLAN_ROWS:
            self.first.append(row)
        self.counts[row.what] += 1
        for each in steps or (row,):
            group = (each.model, each.what)
            self._groups[group] = self._groups.get(group, Costs()) + Costs.of([each.cost])

    def __len__(self) -> int:
        """The number of rows."""
        return self.counts.total()

    @property
    def cost(self) -> Decimal:
        """The estimated cost in CNY; rows without a known price count as 0."""
        return from_micros(sum(costs.micros for costs in self._groups.values()))

    @property
    def due(self) -> Costs:
        """The costs of the jobs that would be sent."""
        return sum((costs for (_, what), costs in self._groups.items() if what in _SENT), Costs())

    def words(self) -> str:
        """Returns the counts and the estimate in one line."""
        return f"{plan_counts(self.counts)}; about {self.cost:.2f} {CURRENCY} (estimate)"

    def text(self) -> str:
        """Returns the plan grouped by model and action, for a log: a few lines for any number of rows."""
        table = Table(box=SIMPLE_HEAD, show_footer=True)
        table.add_column("model", "total")
        table.add_column("what would be done")
        jobs = sum(costs.jobs for costs in self._groups.values())
        table.add_column("rows" if jobs == len(self) else "steps", str(jobs), justify="right")
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
        steps = await _steps_of(run, row)
        words = carried.words(row.extra) if len(plan.first) < PLAN_ROWS else None
        plan.add(replace(_row_of(steps), not_sent=words), steps)
    for each in bad:
        words = carried.words(each.extra) if len(plan.first) < PLAN_ROWS else None
        plan.add(PlannedRow(each.id, INVALID, problems=BULLET.join(map(str, each.problems)), not_sent=words))
    return plan


async def _steps_of(run: BatchScheduler, row: Row) -> list[PlannedRow]:
    """Returns what a run would do with each step of a row that it comes to."""
    jobs, steps = run.known.get(row.id, ()), []
    for request, known in zip_longest(row.requests, jobs):
        what = _what(run, known)
        cost = await run.estimate(request) if what == "submit" else Decimal(0)
        what = "regenerate" if what == "submit" and run.jobs.is_anew(row) else what
        steps.append(PlannedRow(row.id, what, request.kind, priced_as(request), cost, known.key if known else ""))
        if what not in _GOES_ON:
            break
    return steps


def _row_of(steps: Sequence[PlannedRow]) -> PlannedRow:
    """Returns the plan of a row: the first step that is not just verified decides what is done with it."""
    open_steps = [step for step in steps if step.what != "verify"] or steps
    costs = [step.cost for step in steps if step.what in _SENT]
    total = None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))
    kinds, models = (" → ".join(names) for names in zip(*((each.kind, each.model) for each in steps), strict=True))
    is_sent = any(step.what in _SENT for step in steps)
    what = next(step.what for step in open_steps if step.what in _SENT) if is_sent else open_steps[0].what
    return replace(open_steps[0], what=what, kind=kinds, model=models, cost=total, job=steps[-1].job or steps[0].job)


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

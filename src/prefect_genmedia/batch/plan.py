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
from prefect_genmedia._core.model import TAKEN, Job, JobState
from prefect_genmedia.batch.results import INVALID
from prefect_genmedia.batch.rows import BadRow
from prefect_genmedia.batch.scheduler import BatchScheduler
from prefect_genmedia.errors import InputRefused
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import BULLET

_MEANINGS = {
    "submit": "submit",
    "join": "join its job: nothing is paid again",
    "verify": "verify its delivered file: nothing is paid again",
    "refused": "nothing: its input was refused",
    "failed": "nothing: it failed in this run",
    "needs a person": "nothing: a person must decide",
    INVALID: "leave out: it is invalid",
}


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


async def plan_of(run: BatchScheduler, bad: Sequence[BadRow]) -> list[PlannedRow]:
    """What the run would do now; nothing is sent to a provider.

    Parameters:
        run: the batch.
        bad: the rows that it leaves out.
    """
    plan = []
    for row in run.rows:
        known = run.known.get(row.id)
        what = _what(run, known)
        cost = await run.estimate(row.request) if what == "submit" else Decimal(0)
        job = known.key if known else ""
        words = run.results.carried.words(row.extra)
        plan.append(PlannedRow(row.id, what, row.request.kind, priced_as(row.request), cost, job, not_sent=words))
    for each in bad:
        words = run.results.carried.words(each.extra)
        plan.append(PlannedRow(each.id, INVALID, problems=BULLET.join(map(str, each.problems)), not_sent=words))
    return plan


def _what(run: BatchScheduler, known: Job | None) -> str:
    if known is None or run.next_attempt(known) is not None:
        return "submit"
    if known.state in TAKEN:
        return "verify" if known.state is JobState.DELIVERED else "join"
    if known.state is JobState.FAILED and known.error_kind != InputRefused.__name__:
        return "failed"
    return "needs a person" if known.state is JobState.UNKNOWN else "refused"


def plan_words(plan: Sequence[PlannedRow]) -> str:
    """Counts and the estimate in one line."""
    total = sum(row.cost or 0 for row in plan)
    return f"{plan_counts(Counter(row.what for row in plan))}; about {total:.2f} {CURRENCY} (estimate)"


def plan_counts(counts: Mapping[str, int]) -> str:
    """How many rows there are of each sort, in one line.

    Parameters:
        counts: numbers by word.
    """
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def plan_text(plan: Sequence[PlannedRow]) -> str:
    """The plan by model and by what would be done, for a log: a few lines, however many rows there are."""
    groups: dict[tuple[str, str], list[PlannedRow]] = {}
    for row in plan:
        groups.setdefault((row.model, row.what), []).append(row)
    table = Table(box=SIMPLE_HEAD, show_footer=True)
    table.add_column("model", "total")
    table.add_column("what would be done")
    table.add_column("rows", str(len(plan)), justify="right")
    total = sum(row.cost or 0 for row in plan)
    table.add_column(f"estimated {CURRENCY}", f"{total:.2f}", justify="right")
    for (model, what), rows in sorted(groups.items()):
        table.add_row(model or "–", _MEANINGS[what], str(len(rows)), _cost_of(rows))
    console = Console(file=StringIO(), width=120, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


def _cost_of(rows: Sequence[PlannedRow]) -> str:
    if any(row.cost is None for row in rows):
        return "no price"
    return f"{sum(row.cost or 0 for row in rows):.2f}"

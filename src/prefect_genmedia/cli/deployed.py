"""What `prefect-genmedia deploy` prints: a line for each thing, and what a person does next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect.settings import get_current_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from prefect_genmedia.cli.server import shown
from prefect_genmedia.deploy import Change, Outcome
from prefect_genmedia.deploy.files import RECONCILE_POOL

_COLOURS = {
    Outcome.CREATED: "green",
    Outcome.UPDATED: "yellow",
    Outcome.UNCHANGED: "dim",
    Outcome.MISSING: "bold red",
    Outcome.ACCEPTED: "green",
    Outcome.REFUSED: "bold red",
    Outcome.UNREACHABLE: "red",
    Outcome.INVALID: "bold red",
    Outcome.WORKING: "green",
    Outcome.OVERDUE: "bold red",
}
_IN_A_CHECK = {Outcome.CREATED: "would be created", Outcome.UPDATED: "would be updated"}


def print_changes(console: Console, changes: Sequence[Change], check: bool) -> None:
    """Print what was found and done, a line for each thing; long ones are wrapped in a terminal, and never cut.

    Args:
        console: where to; whether it is a terminal decides.
        changes: what was found and done.
        check: whether nothing was changed.
    """
    words = _IN_A_CHECK if check else {}
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for change in changes:
        word = words.get(change.outcome, change.outcome.value)
        if console.is_terminal:
            thing = Text(change.name).append(f" · {change.detail}" if change.detail else "", "dim")
            table.add_row(Text(word, _COLOURS[change.outcome]), change.kind, thing)
        else:
            thing_line = " · ".join(filter(None, (change.name, change.detail)))
            console.out(f"{word:<16}  {change.kind:<17}  {thing_line}", highlight=False)
    if table.row_count:
        console.print(table)
    counts = {outcome: sum(change.outcome is outcome for change in changes) for outcome in Outcome}
    shown_counts = (f"{count} {words.get(outcome, outcome.value)}" for outcome, count in counts.items() if count)
    console.print(", ".join(shown_counts), highlight=False)


def print_next(console: Console, changes: Sequence[Change]) -> None:
    """Say how to start a worker, where the UI is, and what is still off.

    Args:
        console: where to.
        changes: what was found and done.
    """
    console.print("\n[bold]Next[/]")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _next(changes):
        if console.is_terminal:
            table.add_row(f"  {name}", escape(text))
        else:
            console.out(f"  {name:<8}  {text}", highlight=False)
    if table.row_count:
        console.print(table)


def _next(changes: Sequence[Change]) -> Iterator[tuple[str, str]]:
    for change in changes:
        if change.kind == "work pool":
            yield "Worker", f"prefect worker start --pool {change.name}"
            if change.name == RECONCILE_POOL:
                yield "", "or, without a pool: prefect-genmedia reconcile --every 10m"
    settings = get_current_settings()
    yield "UI", shown(settings.ui_url or str(settings.api.url).removesuffix("/api"))
    for change in changes:
        if change.outcome is Outcome.MISSING:
            yield "Missing", f"{change.name}: {change.detail}, and deploy again"
    schedules = [f"{slug} of {each.name}" for each in changes if each.kind == "deployment" for slug in each.off]
    if schedules:
        yield "Off", f"schedules, to be switched on in the UI: {', '.join(schedules)}"
    muted = [each.name for each in changes if "alerts" in each.off]
    if muted:
        yield "Off", f"automations, until a Block is given with --alerts TYPE/NAME: {', '.join(muted)}"
    switched_off = [each.name for each in changes if "automation" in each.off]
    if switched_off:
        yield "Off", f"automations, as they were switched: {', '.join(switched_off)}"

"""`prefect-genmedia spend`: what was spent, as a table with bars, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_genmedia._core.caps import shown_amount
from prefect_genmedia._core.caps import time_zone as zone_of
from prefect_genmedia._core.spend import SpendBy, SpendFilter, SpendLine, spend_by, totals
from prefect_genmedia.cli.console import command_console, stop
from prefect_genmedia.cli.ledger import moment, print_ledger_url, run_on_ledger
from prefect_genmedia.text import bar, counted, csv_cell, escaped, iso_time, json_text

Format = Literal["table", "csv", "json"]

BAR_CHARACTERS = 20

ESTIMATE = "Every sum is an estimate by the price table, not a bill."

_COLUMNS = ("by", "name", "currency", "jobs", "estimated_cost", "of_it_uncertain", "jobs_without_price")


def spend(
    *,
    by: SpendBy = "project",
    since: str | None = None,
    until: str | None = None,
    project: str | None = None,
    tag: str | None = None,
    time_zone: str = "UTC",
    file_format: Annotated[Format | None, Parameter(name="--format")] = None,
    output: Path | None = None,
) -> None:
    """Show what was spent; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    by
        What jobs are grouped by.
    since
        Only jobs that were sent since then, such as `2h`, `30d` or `2026-05-01`, in the time zone.
    until
        Only jobs that were sent before then.
    project
        Only jobs of this project; `""` for those without one.
    tag
        Only jobs with this tag.
    time_zone
        Where days begin, and dates without an offset are meant, such as Asia/Shanghai.
    file_format
        table, csv or json; by default what the file's name ends in, and a table in the terminal.
    output
        File to write; standard output by default.
    """
    wanted = _filter(since, until, project, tag, time_zone)
    chosen = _chosen(output, file_format)
    lines = run_on_ledger(lambda ledger: spend_by(ledger, by, wanted))
    if chosen == "table":
        _print(command_console(), by, lines, wanted)
        print_ledger_url()
        return
    text = _csv(by, lines) if chosen == "csv" else f"{json_text(_plain(by, lines), indent=2)}\n"
    if output is None:
        print(text, end="")  # noqa: T201 - for programs
        return
    output.write_text(text, encoding="utf-8", newline="")
    said = f"Wrote {counted(len(lines), 'line')} to {output}. {ESTIMATE}"
    command_console().print(said, markup=False, highlight=False, soft_wrap=True)


def _filter(since: str | None, until: str | None, project: str | None, tag: str | None, zone: str) -> SpendFilter:
    zone_of(zone, "The command", "--time-zone")  # a wrong one is refused before anything is opened
    begin = None if since is None else moment(since, zone)
    end = None if until is None else moment(until, zone, "--until")
    return SpendFilter(since=begin, until=end, zone=zone, project=project, tag=tag)


def _chosen(output: Path | None, file_format: Format | None) -> Format:
    named: dict[str, Format] = {".csv": "csv", ".json": "json"}
    if output is None:
        return file_format or "table"
    if not output.absolute().parent.is_dir():
        stop(f"{output} cannot be written: its folder does not exist.")
    ending = named.get(output.suffix.lower())
    if file_format == "table" or (file_format is None and ending is None):
        stop(f"{output} must end in .csv or .json, or --format must say which of them it is.")
    if file_format is not None and ending not in (None, file_format):
        stop(f"{output} is named as {ending}, and --format says {file_format}.")
    chosen = file_format or ending
    assert chosen is not None  # refused above
    return chosen


def _print(console: Console, by: SpendBy, lines: Sequence[SpendLine], wanted: SpendFilter) -> None:
    if not lines:
        console.print("The ledger has no jobs that were paid in this time.")
        return
    since, until = iso_time(wanted.since), iso_time(wanted.until)
    period = "".join((f" since {since}" if since else "", f" until {until}" if until else ""))
    console.print(f"Spend by {by}{period}. {ESTIMATE}", highlight=False)
    for total in totals(lines):
        own = [line for line in lines if line.currency == total.currency]
        console.print()
        console.print(_table(console, by, own, total))
        if total.uncertain:
            text = f"Of it {shown_amount(total.uncertain, total.currency)} of jobs without a certain answer."
            console.print(text, highlight=False)
        if total.without_price:
            text = f"{counted(total.without_price, 'job has', 'jobs have')} no known price, and no part in these sums."
            console.print(text, highlight=False)


def _table(console: Console, by: SpendBy, lines: Sequence[SpendLine], total: SpendLine) -> Table:
    """The lines and their sum in 80 columns; a long name is folded, and a sum is never cut."""
    ascii_only = not console.encoding.lower().startswith("utf")
    most = max(line.cost for line in lines)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=True)
    table.add_column(by, "total", overflow="fold", ratio=1)
    table.add_column("jobs", str(total.jobs), justify="right", no_wrap=True)
    amount = shown_amount(total.cost, total.currency).rpartition(" ")[0]
    table.add_column(f"{total.currency}, estimated", amount, justify="right", no_wrap=True)
    table.add_column("", "", no_wrap=True, min_width=BAR_CHARACTERS)
    table.add_column("share", "", justify="right", no_wrap=True)
    for line in lines:
        share = f"{float(line.cost / total.cost):.1%}" if total.cost else ""
        filled = bar(float(line.cost / most) if most else 0.0, BAR_CHARACTERS, ascii_only)
        cost = shown_amount(line.cost, line.currency).rpartition(" ")[0]
        name = Text(escaped(line.name) or "(none)", "" if line.name else "dim")
        table.add_row(name, str(line.jobs), cost, Text(filled, "cyan"), share)
    return table


def _plain(by: SpendBy, lines: Sequence[SpendLine]) -> list[dict[str, Any]]:
    """For programs: amounts are decimal text, which no program reads as a float by itself."""
    return [
        {
            "by": by,
            "name": line.name,
            "currency": line.currency,
            "jobs": line.jobs,
            "estimated_cost": shown_amount(line.cost, "").strip(),
            "of_it_uncertain": shown_amount(line.uncertain, "").strip(),
            "jobs_without_price": line.without_price,
        }
        for line in lines
    ]


def _csv(by: SpendBy, lines: Sequence[SpendLine]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in _plain(by, lines))
    return text.getvalue()

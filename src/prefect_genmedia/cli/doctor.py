"""`prefect-genmedia doctor`: what is wrong between this machine and the providers, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from prefect_genmedia.cli.console import command_console
from prefect_genmedia.deploy.doctor import Finding, diagnose, stored_credentials


def doctor(*blocks: str) -> None:
    """Check everything; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    blocks
        Credentials Blocks, as TYPE/NAME. By default all that are saved.
    """
    findings = asyncio.run(_found(blocks))
    print_findings(findings)
    if any(finding.step for finding in findings):
        raise SystemExit(1)


async def _found(names: Sequence[str]) -> list[Finding]:
    credentials, problems = await stored_credentials(names)
    return [*problems, *await diagnose(credentials)]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the table; it is legible at 80 columns.

    Args:
        findings: its rows.
    """
    if not findings:
        return
    columns = (Column("", no_wrap=True), Column("found", overflow="fold"), Column("what to do", overflow="fold"))
    table = Table(Column("check", overflow="fold", min_width=10), *columns, title="doctor")
    for each in findings:
        mark = "[bold red]wrong[/]" if each.step else "[green]ok[/]"
        table.add_row(escape(each.check), mark, escape(each.found), escape(each.step))
    command_console().print(table)

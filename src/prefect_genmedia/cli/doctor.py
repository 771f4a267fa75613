"""`prefect-genmedia doctor`: what is wrong between this machine and the providers, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.markup import escape

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
    """Print a paragraph a finding. Lines break between words only: an address that is broken cannot be clicked.

    Args:
        findings: what to print.
    """
    console = command_console()
    for each in findings:
        mark = "[bold red]wrong[/]" if each.step else "[green]ok[/]   "
        lines = [f"{mark} [bold]{escape(each.check)}[/]: {escape(each.found)}"]
        lines += [f"      Next: {escape(each.step)}"] if each.step else []
        for line in lines:
            console.print(line, highlight=False, overflow="ignore", crop=False)

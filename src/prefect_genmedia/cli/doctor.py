"""`prefect-genmedia doctor`: what is wrong between this machine and the providers, and what to do about it."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Sequence

from rich.markup import escape

from prefect_genmedia.cli.console import command_console
from prefect_genmedia.deploy.doctor import Finding, diagnose, stored_credentials

_INDENT = 6
"""Columns before each line of a finding; the verdict stands in them."""


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
        verdict, colour = ("wrong", "bold red") if each.step else ("ok", "green")
        paragraphs = [f"{each.check}: {each.found}", *([f"Next: {each.step}"] if each.step else [])]
        lines = [line for text in paragraphs for line in _wrapped(text, console.width - _INDENT)]
        for number, line in enumerate(lines):
            mark = f"[{colour}]{verdict:<{_INDENT}}[/]" if number == 0 else " " * _INDENT
            console.print(f"{mark}{escape(line)}", highlight=False, soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)

"""Ending a command with a sentence about what is wrong."""

from __future__ import annotations

from typing import NoReturn

from rich.markup import escape

from prefect_genmedia.cli.console import command_console


def stop(message: str) -> NoReturn:
    """Say what is wrong, on standard error, and end the command with status 1.

    Parameters:
        message: the sentence, as plain text: square brackets in it are no markup.
    """
    command_console(stderr=True).print(f"[red]{escape(message)}[/]", highlight=False, soft_wrap=True)
    raise SystemExit(1)

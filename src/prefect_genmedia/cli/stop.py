"""Ending a command with a sentence about what is wrong."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console
from rich.markup import escape


def stop(message: str) -> NoReturn:
    """Say what is wrong, on standard error, and end the command with status 1.

    Parameters:
        message: the sentence, as plain text: square brackets in it are no markup.
    """
    Console(stderr=True).print(f"[red]{escape(message)}[/]", highlight=False, soft_wrap=True)
    raise SystemExit(1)

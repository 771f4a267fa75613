"""The console of every command: whatever is printed, no control character of it reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from prefect_genmedia.text import escaped


def command_console(stderr: bool = False) -> Console:
    """A console that escapes what cannot be seen in the texts that it prints; its own colours stay.

    Parameters:
        stderr: print to standard error.
    """
    console = Console(stderr=stderr)
    console.push_render_hook(_Escaping())
    return console


class _Escaping(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(each) for each in renderables]


@dataclass
class _Escaped:
    inner: Any

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self.inner, options):
            shown = text if control else "\n".join(map(escaped, text.split("\n")))
            yield Segment(shown, style, control)

"""What all commands share: a console that no control character passes, parameters, and ending with a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.markup import escape
from rich.segment import Segment

from prefect_genmedia.providers.plugin import plugins
from prefect_genmedia.text import escaped


def command_console(stderr: bool = False) -> Console:
    """A console that escapes what cannot be seen in the texts that it prints; its own colours stay.

    Args:
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


if TYPE_CHECKING:
    ProviderName = str
else:  # what is offered and accepted are the providers that there are
    ProviderName = Literal[tuple(plugin.name for plugin in plugins()) or ("none is installed",)]

Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""Off unless given: there is no `--no-…`."""


Tag = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
"""A word that jobs are grouped by; the option may be given several times."""


def print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print a name and a value a line, whole: an address that is cut, or wrapped, cannot be clicked or copied.

    Args:
        console: where to.
        facts: values by name; an empty one is left out.
    """
    for name, fact in facts.items():
        if fact:
            console.print(f"[bold]{name:<12}[/]{escape(fact)}", highlight=False, soft_wrap=True)


def stop(message: str) -> NoReturn:
    """Say what is wrong, on standard error, and end the command with status 1.

    Args:
        message: the sentence, as plain text: square brackets in it are no markup.
    """
    command_console(stderr=True).print(f"[red]{escape(message)}[/]", highlight=False, soft_wrap=True)
    raise SystemExit(1)

"""Progress bars in interactive terminals, for flows that are run by hand."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

_BAR_WIDTH = 20
_NARROW_BAR_WIDTH = 10
_NARROW = 100
"""Columns below which a terminal has the narrow bar, so that the words have room."""
_BESIDE_BAR = len("  100 % 0:00:00  ")


class Bar(Protocol):
    """A line that shows progress."""

    def show(self, percent: float | None, words: str) -> None:
        """Update the line.

        Args:
            percent: the progress from 0 to 100; None if not known.
            words: the text beside the bar.
        """
        ...


class _NoBar:
    def show(self, percent: float | None, words: str) -> None:
        pass


class _RichBar:
    def __init__(self, progress: Progress, words: str) -> None:
        self._progress = progress
        self.line = progress.add_task(words, total=None)

    def show(self, percent: float | None, words: str) -> None:
        total = None if percent is None else 100.0
        line = Text(words)
        width = self._progress.console.width
        line.truncate(max(width - _bar_width(width) - _BESIDE_BAR, 10), overflow="ellipsis")
        self._progress.update(self.line, total=total, completed=percent or 0.0, description=line.plain, refresh=True)


class _Display:
    """The process's single display, for any number of concurrent jobs and threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._users = 0

    @contextmanager
    def lines(self, console: Console) -> Iterator[Progress]:
        with self._lock:
            if self._progress is None:
                self._progress = _progress_on(console)
                self._progress.start()
            self._users += 1
            progress = self._progress
        try:
            yield progress
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    progress.stop()
                    self._progress = None


_DISPLAY = _Display()


@contextmanager
def terminal_bar(words: str) -> Iterator[Bar]:
    """Show a bar below Prefect's log while the block runs, if that log goes to an interactive terminal.

    The console that prints the log draws it, so that log lines stay intact and appear above it. It is removed when the
    block ends. There is no bar with `TERM=dumb`, in a pipe, in a worker or in a test.

    Args:
        words: its initial text.
    """
    console = log_console()
    if console is None or not (console.is_interactive and console.file.isatty()):
        yield _NoBar()
        return
    with _DISPLAY.lines(console) as progress:
        bar = _RichBar(progress, words)
        try:
            yield bar
        finally:
            progress.remove_task(bar.line)


def log_console() -> Console | None:
    """Returns the console to which Prefect prints its log; None if the log goes elsewhere."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            return handler.console
    return None


def _bar_width(columns: int) -> int:
    return _NARROW_BAR_WIDTH if columns < _NARROW else _BAR_WIDTH


def _progress_on(console: Console) -> Progress:
    return Progress(
        # Prefect's console has only its own styles, so each style is given as a colour.
        TextColumn("{task.description}", markup=False),
        BarColumn(
            _bar_width(console.width),
            style="grey37",
            complete_style="green",
            finished_style="green",
            pulse_style="green",
        ),
        TaskProgressColumn("{task.percentage:>3.0f} %", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # Output that a script prints to a file must not be redirected to the terminal.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )

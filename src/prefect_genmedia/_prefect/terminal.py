"""Bars in the terminal, for whoever runs a flow by hand; nothing anywhere else."""

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
    """One line that tells how far something is."""

    def show(self, percent: float | None, words: str) -> None:
        """Bring the line up to date; None where nobody knows how far it is.

        Parameters:
            percent: how far it is, from 0 to 100; None where nobody knows.
            words: what stands beside the bar.
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
    """The one display of the process: however many jobs are waited for at once, in however many threads."""

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
    """Show a bar below Prefect's log while the block runs, where that log goes to an interactive terminal.

    It is drawn by the console that prints the log, so that lines of the log stay whole and stand above it. It is gone
    when the block ends. With `TERM=dumb`, in a pipe, a worker or a test there is none.

    Parameters:
        words: what it says first.
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
    """The console that Prefect prints its log with; None where the log goes elsewhere."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            return handler.console
    return None


def _bar_width(columns: int) -> int:
    return _NARROW_BAR_WIDTH if columns < _NARROW else _BAR_WIDTH


def _progress_on(console: Console) -> Progress:
    return Progress(
        # Prefect's console knows no styles but its own, so each is named by its colour.
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
        # What a script prints into a file must not come out on the terminal instead.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )

"""A job's progress in the terminal of whoever waits for it: a bar, or a line for each change where there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from prefect_genmedia._core.model import Job
from prefect_genmedia._core.pipeline import JobSteps
from prefect_genmedia._core.session import JobHooks
from prefect_genmedia._prefect.progress import TICK_SECONDS, Gauge
from prefect_genmedia._prefect.run import RETRY_DELAYS
from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia.providers.protocol import Observation
from prefect_genmedia.text import escaped


class CommandHooks(JobHooks):
    """Reports a job to the one who waits for it.

    Args:
        console: the terminal; nothing of it is for programs.
    """

    def __init__(self, console: Console) -> None:
        """Know nothing yet."""
        self.console = console
        self.gauge = Gauge()
        self.has_bar = console.is_terminal

    def listener(self) -> CommandHooks:
        """Who is notified of the job's progress."""
        return self

    async def detached(self, job: Job) -> None:
        """Say that the job continues at the provider."""
        self.say(
            f"Stopped. Job {job.key} continues at the provider and is paid: the same command again collects it, "
            "and so does `prefect-genmedia reconcile`."
        )

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """The wait begins."""
        self.gauge.expect(job, elapsed, typical)
        usual = f"; such a job usually takes {typical:.0f} s" if typical else ""
        self.say(f"Job {job.key} is {job.shown_id} at {job.provider}{usual}.")

    def changed(self, job: Job, observation: Observation) -> None:
        """The provider's word for the job is a new one."""
        self.gauge.update(observation.status, observation.progress)
        if not self.has_bar:
            self.say(f"Job {job.key}: {observation.status}")

    def advanced(self, job: Job, percent: float) -> None:
        """The provider's percentage is a new one."""
        self.gauge.update("", percent)

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """A poll failed; the job is not to blame."""
        self.say(f"Job {job.key}: a poll failed and is repeated: {error.message}")

    def say(self, text: str) -> None:
        """Print a line.

        Args:
            text: plain text.
        """
        self.console.print(escaped(text), style="dim", markup=False, highlight=False, soft_wrap=True)


@asynccontextmanager
async def shown_bar(hooks: CommandHooks) -> AsyncIterator[None]:
    """Show a bar while the block runs, where there is a terminal; it is gone when the block ends.

    Args:
        hooks: knows how far the job is.
    """
    if not hooks.has_bar:
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=hooks.console, transient=True) as progress:
        line = progress.add_task("", total=None)

        async def keep_showing() -> None:
            while True:
                percent, words = hooks.gauge.percent, escaped(hooks.gauge.brief)
                room = max(hooks.console.width - 45, 10)
                total = None if percent is None else 100.0
                brief = words if len(words) <= room else f"{words[: room - 1]}…"
                progress.update(line, total=total, completed=percent or 0.0, description=brief)
                await asyncio.sleep(TICK_SECONDS)

        showing = asyncio.create_task(keep_showing())
        try:
            yield
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing


class RepeatedSteps(JobSteps):
    """Repeats a step while its error says that the same call may be made again, as the tasks do.

    Args:
        say: prints a line.
        delays: seconds between the attempts.
    """

    def __init__(self, say: Callable[[str], None], delays: tuple[float, ...] = tuple(RETRY_DELAYS)) -> None:
        """Take no step yet."""
        self._say = say
        self._delays = delays

    async def submitting(self, step: Callable[[], Awaitable[Job]]) -> Job:
        """Submit."""
        return await self._repeated(step)

    async def fetching(self, step: Callable[[], Awaitable[Job]]) -> Job:
        """Deliver."""
        return await self._repeated(step)

    async def _repeated(self, step: Callable[[], Awaitable[Job]]) -> Job:
        for delay in self._delays:
            try:
                return await step()
            except GenMediaError as error:
                if not error.retryable:
                    raise
                asked = error.retry_after if isinstance(error, RateLimited) else None
                pause = max(delay, asked or 0.0)
                self._say(f"{error.message} It is tried again in {pause:.0f} s.")
            await asyncio.sleep(pause)
        return await step()

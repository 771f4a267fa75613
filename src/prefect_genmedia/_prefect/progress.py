"""Shows the progress of a wait: a bar on the run's page, and a bar in an interactive terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.model import Job
from prefect_genmedia._prefect.markdown import escape
from prefect_genmedia._prefect.run import RunListener
from prefect_genmedia._prefect.terminal import Bar, terminal_bar
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import Observation
from prefect_genmedia.text import shown_id

KEY = "genmedia-progress"

CAP = 95.0
"""Maximum percentage before delivery, even if the elapsed time or the provider says more."""

NOTICEABLE = 5.0
"""Minimum change in percent for an update of the bar on the run's page: an update costs 7 ms."""

FIRST_SHOWN_SECONDS = 2.0
"""A wait that ends sooner than this, in seconds, gets no bar on the run's page."""

TICK_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
"""How long a paid result is delayed at most by showing its progress, in seconds."""


class Gauge:
    """A job's progress: the provider's percentage, or else the elapsed share of the typical duration.

    Args:
        clock: the time source.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.job: Job | None = None
        self._clock = clock
        self._origin = clock.monotonic()
        self._typical: float | None = None
        self._reported: float | None = None
        self._word = "waiting"

    def expect(self, job: Job, elapsed: float, typical: float | None) -> None:
        """Set the expectation: such jobs usually take `typical` seconds, of which `elapsed` have passed.

        Args:
            job: the job that is waited for.
            elapsed: seconds since it was accepted.
            typical: seconds that such a job usually takes; None if not known yet.
        """
        self.job = job
        self._origin = self._clock.monotonic() - elapsed
        self._typical = typical
        self._word = job.provider_status or self._word

    def update(self, word: str, percent: float | None) -> None:
        """Set what the provider reports about the job.

        Args:
            word: the provider's status word.
            percent: the progress from 0 to 100; None if the provider does not report it.
        """
        self._word = word or self._word
        self._reported = percent or None  # some providers report 0 until they report 100

    @property
    def percent(self) -> float | None:
        """The progress from 0 to 95; None if not known."""
        if self._reported is not None:
            return min(self._reported, CAP)
        if not self._typical:
            return None
        return min(100.0 * (self._clock.monotonic() - self._origin) / self._typical, CAP)

    @property
    def words(self) -> str:
        """Returns the job, the provider's status word, and the typical duration."""
        usual = f" · usually {self._typical:.0f} s" if self._typical else ""
        return f"{title_of(self.job)} · {self._word}{usual}" if self.job is not None else self._word

    @property
    def brief(self) -> str:
        """Returns the same in short form for a terminal, which shows the log above the bar."""
        return f"{self.job.label or self.job.kind} · {self._word}" if self.job is not None else self._word


class PageBar:
    """The progress artifact of a job on its run's page; retries of the run reuse it."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._shown: tuple[float, str] | None = None

    async def show(self, job: Job, percent: float | None, words: str) -> None:
        """Update the bar if the change is noticeable.

        Args:
            job: the job that is waited for.
            percent: the progress from 0 to 100; None is shown as 0.
            words: the text beside the bar.
        """
        now = (float(round(percent or 0.0)), words)
        if self._shown is not None and words == self._shown[1] and abs(now[0] - self._shown[0]) < NOTICEABLE:
            return
        self._artifact = self._artifact or await _bar_of(job.shown_id)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(now[0], key=KEY, description=escape(words))
        else:
            await aupdate_progress_artifact(self._artifact, now[0], escape(words))
        self._shown = now

    async def end(self, job: Job, percent: float | None, words: str) -> None:
        """Show how the wait ended, if there is a bar.

        Args:
            job: the job that was waited for.
            percent: the progress from 0 to 100; None leaves the bar unchanged.
            words: how the wait ended.
        """
        if self._shown is not None:
            await self.show(job, self._shown[0] if percent is None else percent, f"{title_of(job)} · {words}")


class ShowingListener(RunListener):
    """Reports a job's progress in the run's log, as events, and to a gauge."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__()
        self._gauge = gauge

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """Handle the beginning of the wait."""
        super().expecting(job, elapsed, typical)
        self._gauge.expect(job, elapsed, typical)

    def changed(self, job: Job, observation: Observation) -> None:
        """Handle a new status word."""
        super().changed(job, observation)
        self._gauge.update(observation.status, observation.progress)

    def advanced(self, job: Job, percent: float) -> None:
        """Handle a new percentage."""
        self._gauge.update("", percent)


@asynccontextmanager
async def shown_progress() -> AsyncIterator[ShowingListener]:
    """Show the progress of a wait while the block runs; yields the listener to notify."""
    gauge, page, over = Gauge(), PageBar(), asyncio.Event()
    ending: tuple[float | None, str] = (None, "the wait failed")
    with terminal_bar(gauge.brief) as bar:
        showing = asyncio.create_task(_keep_showing(gauge, page, bar, over))
        try:
            yield ShowingListener(gauge)
            ending = (CAP, "generated, to be downloaded")
        except asyncio.CancelledError:
            ending = (None, "stopped; the job lives on at the provider and is paid")
            raise
        except GenMediaError as error:
            ending = (None, _reason(error))
            raise
        finally:
            over.set()
            await _whatever(showing)
            if gauge.job is not None:
                await _whatever(page.end(gauge.job, *ending))


@asynccontextmanager
async def shown_delivery() -> AsyncIterator[None]:
    """Show on a job's bar that its delivery failed, if the block raises."""
    try:
        yield
    except GenMediaError as error:
        job_id = shown_id(error.provider_job_id)
        await _whatever(_end(job_id, CAP, f"{job_id} · not delivered: {_reason(error)}"))
        raise


async def show_delivered(job: Job) -> None:
    """Fill the bar of a delivered job, if this run has one."""
    await _whatever(_end(job.shown_id, 100.0, f"{title_of(job)} · delivered"))


def title_of(job: Job) -> str:
    """Returns the job's name beside a bar. It contains the provider's id, by which the bar is found again."""
    return f"{job.kind} · {job.label or job.key} · {job.shown_id}"


def _reason(error: GenMediaError) -> str:
    return f"{error.kind}: {error.message}"[:500]


async def _keep_showing(gauge: Gauge, page: PageBar, bar: Bar, over: asyncio.Event) -> None:
    begun = SYSTEM_CLOCK.monotonic()
    while not over.is_set():
        bar.show(gauge.percent, gauge.brief)
        if gauge.job is not None and SYSTEM_CLOCK.monotonic() - begun >= FIRST_SHOWN_SECONDS:
            await _whatever(page.show(gauge.job, gauge.percent, gauge.words))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(over.wait(), TICK_SECONDS)


async def _end(job_id: str, percent: float, words: str) -> None:
    artifact = await _bar_of(job_id)
    if artifact is not None:
        await aupdate_progress_artifact(artifact, percent, escape(words))


async def _bar_of(job_id: str) -> UUID | None:
    """Returns the job's bar among the bars of this run, found by the provider's id as displayed."""
    if not flow_run.id or not job_id:
        return None
    ours = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(flow_run.id))]), key=ArtifactFilterKey(any_=[KEY])
    )
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=ours)
    shown = escape(f"· {job_id}").removeprefix("· ")  # escaped as in the middle of a line
    return next((each.id for each in found if shown in (each.description or "")), None)


async def _whatever(showing: Awaitable[object]) -> None:
    """Wait briefly for something to be shown, and ignore failures: display must not make a paid job fail."""
    try:
        await asyncio.wait_for(showing, PATIENCE_SECONDS)
    except Exception as error:
        get_run_logger().debug("Progress cannot be shown now: %r", error)

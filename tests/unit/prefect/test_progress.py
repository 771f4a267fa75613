"""How far a wait is: the bar on the run's page, and the one in the terminal."""

from __future__ import annotations

import io
import logging
import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.model import Job
from prefect_genmedia._prefect import progress, terminal
from prefect_genmedia._prefect.progress import KEY, Gauge, PageBar
from prefect_genmedia._prefect.terminal import terminal_bar
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.simulator import RunningSimulator

JOB = Job(key="3f2a", identity="", provider="tokenops", kind="jimeng", label="lake", provider_job_id="4711")


class HandClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


def test_a_gauge_moves_with_the_time_such_jobs_usually_take_and_stops_short_of_the_end() -> None:
    clock = HandClock()
    gauge = Gauge(clock)
    gauge.expect(JOB, elapsed=10.0, typical=100.0)
    assert gauge.percent == pytest.approx(10)
    clock.time += 40
    assert gauge.percent == pytest.approx(50)
    clock.time += 400
    assert gauge.percent == 95


def test_a_gauge_believes_the_provider_more_than_the_clock() -> None:
    gauge = Gauge(HandClock())
    gauge.expect(JOB, elapsed=90.0, typical=100.0)
    gauge.update("running", 40.0)
    assert gauge.percent == 40
    assert gauge.words == "jimeng · lake · 4711 · running · usually 100 s"
    gauge.update("running", 100.0)
    assert gauge.percent == 95


def test_a_gauge_that_nobody_reported_anything_does_not_guess() -> None:
    gauge = Gauge(HandClock())
    gauge.expect(JOB, elapsed=10.0, typical=None)
    gauge.update("running", 0.0)
    assert gauge.percent is None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What was drawn on the run's page, without a server."""
    calls: list[tuple[float, str]] = []

    async def create(percent: float, key: str, description: str) -> UUID:
        calls.append((percent, description))
        return uuid4()

    async def update(artifact: UUID, percent: float, description: str) -> UUID:
        calls.append((percent, description))
        return artifact

    monkeypatch.setattr(progress, "acreate_progress_artifact", create)
    monkeypatch.setattr(progress, "aupdate_progress_artifact", update)
    return calls


async def test_the_bar_of_the_page_is_drawn_anew_only_when_that_would_be_noticed(
    drawn: list[tuple[float, str]],
) -> None:
    bar = PageBar()
    for percent in (0.0, 1.0, 4.0, 5.0, 7.0, 9.9, 11.0):
        await bar.show(JOB, percent, "running")
    await bar.show(JOB, 11.0, "another word")
    assert drawn == [(0, "running"), (5, "running"), (10, "running"), (11, "another word")]


async def test_what_was_never_shown_does_not_appear_at_its_end(drawn: list[tuple[float, str]]) -> None:
    await PageBar().end(JOB, 95.0, "generated")
    assert drawn == []


async def bars_of_run(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """The progress artifacts of a run whose wait is shown from the first moment, and whose job is done after that."""
    create = progress.acreate_progress_artifact

    async def drawn(*args: Any, **options: Any) -> UUID:
        artifact: UUID = await create(*args, **options)
        simulator.world.settings.run_seconds = 0.0
        return artifact

    monkeypatch.setattr(progress, "acreate_progress_artifact", drawn)
    monkeypatch.setattr(progress, "FIRST_SHOWN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 120.0)
    simulator.world.settings.run_seconds = 3600.0
    state = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, return_state=True
    )
    async with get_client() as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        shown = await client.read_artifacts(artifact_filter=only_this_run)
    return [artifact for artifact in shown if artifact.key == KEY]


@pytest.mark.usefixtures("prefect_server")
async def test_the_bar_is_full_when_the_file_is_delivered(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bar,) = await bars_of_run(simulator, credentials, monkeypatch)
    assert float(bar.data) == 100
    (job_id,) = simulator.world.jobs
    assert bar.description == f"omnihuman · portrait.jpg · {job_id} · delivered"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("fault", "words"), [("fail_output", "OutputRefused: "), ("small_video", "not delivered: ResultInvalid: ")]
)
async def test_the_bar_of_a_failed_job_says_why_and_is_not_full(
    fault: str,
    words: str,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator.order(fault)
    (bar,) = await bars_of_run(simulator, credentials, monkeypatch)
    assert float(bar.data) <= 95
    assert words in bar.description


class Screen(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True


def console_of(file: io.StringIO, **options: Any) -> Console:
    return Console(file=file, width=100, **options)


def test_in_a_terminal_the_bar_stands_below_whole_lines_of_the_log_and_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen()
    console = console_of(screen, force_terminal=True, force_interactive=True)
    monkeypatch.setattr(terminal, "log_console", lambda: console)
    with terminal_bar("waiting") as one, terminal_bar("waiting, too") as other:
        one.show(40.0, "jimeng · [lake] · running")
        other.show(None, "poster · queued")
        console.print("12:00:00 | INFO | a line of the log")
    written = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "jimeng · [lake] · running" in written
    assert "poster · queued" in written
    assert "40 %" in written
    assert "12:00:00 | INFO | a line of the log\n" in written
    assert written.split("\n")[-1].count("\x1b[2K") >= 2, "nothing is left of both bars"


def test_in_80_columns_the_counts_of_a_batch_stand_whole_beside_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    console = Console(file=screen, width=80, force_terminal=True, force_interactive=True)
    monkeypatch.setattr(terminal, "log_console", lambda: console)
    with terminal_bar("lakes") as bar:
        bar.show(0.0, "My lakes 2026: 0 of 3 delivered · 3 not sent")
    written = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "My lakes 2026: 0 of 3 delivered · 3 not sent ━━━━━━━━━━   0 %" in written


@pytest.mark.parametrize("console", [None, console_of(io.StringIO()), console_of(Screen(), force_interactive=False)])
def test_where_nobody_looks_no_bar_is_drawn(console: Console | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "log_console", lambda: console)
    with terminal_bar("waiting") as bar:
        bar.show(40.0, "running")
    assert console is None or console.file.getvalue() == ""


def test_the_console_of_prefects_log_is_found_and_can_draw_the_bar() -> None:
    handler = PrefectConsoleHandler(styles={"log.web_url": "bright_blue"})
    logging.getLogger().addHandler(handler)
    try:
        console = terminal.log_console()
    finally:
        logging.getLogger().removeHandler(handler)
    assert console is not None
    drawn = terminal._progress_on(console)
    drawn.add_task("half done", total=100.0, completed=50.0)
    drawn.add_task("nobody knows", total=None)
    with console.capture() as captured:
        console.print(drawn.get_renderable())
    assert "half done" in captured.get()
    assert "50 %" in captured.get()

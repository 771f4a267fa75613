"""Answers that are meant to harm: bounded in time and memory, and never a reason to pay twice or to lose a job."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from servers import PATIENCE

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, JobState, Ledger
from prefect_genmedia._inputs.reading import read_all
from prefect_genmedia._transport import BodyBounds, FetchRules
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.testing.cases import shorten_deadlines

pytestmark = pytest.mark.usefixtures("prefect_server")

MOST_MIB = 300.0


async def run(simulator: RunningSimulator, credentials: TokenOpsCredentials, **options: Any) -> Delivery:
    options.setdefault("output_resolution", 720)
    delivery: Delivery = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, **options
    )
    return delivery


# --- Size ---

BOMBS = {
    "poll_gzip_bomb": ("Completed", 1),
    "poll_endless": ("Completed", 1),
    "poll_nested": ("Completed", 1),
    "poll_encoded_twice": ("Completed", 1),
    "accept_then_gzip_bomb": ("Failed", 1),
    "accept_then_endless": ("Failed", 1),
    "detect_gzip_bomb": ("Failed", 0),
    "detect_many": ("Failed", 0),
    "mask_pixel_bomb": ("Failed", 0),
    "mask_endless": ("Failed", 0),
}
"""How a run ends that meets each of them, and how many jobs it pays for."""


@pytest.mark.timeout(600)
def test_no_bomb_takes_more_memory_than_a_run_may(
    simulator: RunningSimulator, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    runs = Path(__file__).parents[2] / "support" / "hostile_runs.py"
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    with (tmp_path / "log").open("w+") as log:
        ended = subprocess.run(
            [sys.executable, runs, simulator.url, *BOMBS],
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=PATIENCE * 2,
            check=False,
        )
        log.seek(0)
        assert ended.returncode == 0, log.read()
    reported = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith(b"{")]
    assert {each["fault"]: (each["state"], each["accepted"]) for each in reported} == BOMBS
    messages = {each["fault"]: each["message"] for each in reported if each["state"] == "Failed"}
    assert all("SubmissionUnknown" in messages[fault] for fault in messages if fault.startswith("accept_"))
    assert "40 masks" in messages["detect_many"]
    assert "30000×30000 pixels" in messages["mask_pixel_bomb"]
    peaks = {each["fault"]: round(each["peak"]) for each in reported}
    record_property("peak MiB", peaks)
    assert max(peaks.values()) < MOST_MIB, peaks


# --- Time ---


async def test_a_poll_that_drips_does_not_outlast_the_run_and_its_job_is_collected_later(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await credentials.asave("default", overwrite=True)
    simulator.order("poll_drip", times=99, seconds=0.05)
    began = time.monotonic()
    with pytest.raises(errors.JobTimeout):
        await asyncio.wait_for(run(simulator, credentials, timeout_seconds=2.0), PATIENCE)
    assert time.monotonic() - began < 55.0, "before the deadline of a single poll"
    (job,) = await ledger.jobs()
    assert job.state is JobState.SUBMITTED
    simulator.world.faults.clear()
    monkeypatch.setattr("prefect_genmedia._core.reconcile.STALLED_SECONDS", 0.0)
    assert await reconcile_jobs() == 0, "no job needs a person"
    (job,) = await ledger.jobs()
    assert job.state is JobState.DELIVERED
    assert simulator.accepted == 1


async def test_a_poll_that_drips_is_given_up_and_the_next_one_tells(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, "poll_drip", 1.0)
    simulator.order("poll_drip", seconds=0.05)
    assert await run(simulator, credentials)
    assert simulator.accepted == 1


async def test_an_accepted_submission_whose_answer_drips_is_unknown_and_never_sent_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, "accept_then_drip", 1.0)
    simulator.order("accept_then_drip", seconds=0.05)
    with pytest.raises(errors.SubmissionUnknown, match="no answer within 1 s"):
        await run(simulator, credentials)
    assert simulator.accepted == 1
    assert simulator.world.requests["tokenops.submit"] == 1


async def test_a_download_that_drips_is_given_up_and_begun_anew(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, "content_drip", 2.0)
    ordered = simulator.order("content_drip", seconds=0.05)
    assert await run(simulator, credentials)
    assert ordered.times == 0
    assert simulator.accepted == 1


@pytest.mark.parametrize("fault", ["detect_drip", "mask_drip"])
async def test_a_detection_or_a_mask_that_drips_costs_nothing(
    fault: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, fault, 1.0)
    simulator.order(fault, times=99, seconds=0.05)
    with pytest.raises(errors.ProviderError, match=r"no answer within|too slow"):
        await run(simulator, credentials, subject="leftmost")
    assert simulator.accepted == 0


async def test_an_exchange_of_a_key_that_drips_sends_nothing(
    simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, "token_drip", 1.0)
    simulator.world.keys = frozenset({*simulator.world.keys, "a-key"})
    simulator.order("token_drip", times=99, seconds=0.05)
    credentials = HiDreamCredentials(api_key="a-key", base_url=simulator.hidream_url)
    with pytest.raises(errors.ProviderError, match="no answer within"):
        await stylize_video(simulator.clip_url, "ink_wash", credentials=credentials)
    assert simulator.accepted == 0


async def test_an_input_that_drips_is_given_up(
    simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bounds = BodyBounds(seconds=5.0, window=0.5, min_rate=1000.0)
    monkeypatch.setattr("prefect_genmedia._transport.bodies.DOWNLOAD_BOUNDS", bounds)
    url = simulator.world.publish(b"x" * 5000, "image/jpeg", "jpg", struck_as="tokenops", stage="mask")
    simulator.order("mask_drip", seconds=0.05)
    reading = (await read_all({url: 5000}, FetchRules(allow_private=True), tmp_path))[url]
    assert isinstance(reading, errors.ProviderError)
    assert "too slow" in reading.message

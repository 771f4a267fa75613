"""Rows of a batch that fail: what is repeated, what is shown, and what is reserved for what will not be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from jobs import submit_once
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State

from prefect_genmedia import JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia.batch import row_task
from prefect_genmedia.batch.table import read_table
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])


def talks(simulator: RunningSimulator, count: int) -> list[dict[str, Any]]:
    inputs = {"image_url": simulator.portrait_url, "audio_url": simulator.speech_url, "output_resolution": 720}
    return [{"id": f"talk-{number}", "subject": "leftmost", "seed": number, **inputs} for number in range(count)]


async def cards_of(state: State[Any]) -> list[str]:
    run_id = cast(UUID, state.state_details.flow_run_id)
    async with get_client() as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        shown = await client.read_artifacts(artifact_filter=only_this_run)
    return [str(artifact.data) for artifact in shown if artifact.key == "genmedia-failure"]


async def test_a_detection_that_is_asked_to_slow_down_is_repeated_as_a_submission_is(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    simulator.order("detect_429", times=5, retry_after=0.02)
    report = await generate_batch(talks(simulator, 1), credentials=credentials, batch_id="b", output=str(tmp_path))
    assert (report.delivered, simulator.accepted) == (1, 1)
    assert simulator.world.requests["tokenops.detect"] == 6


async def test_a_detection_that_stays_slowed_down_ends_its_row_in_time(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    simulator.order("detect_429", times=10**6, retry_after=0.05)
    with pytest.raises(errors.BatchIncomplete):
        await generate_batch(
            talks(simulator, 1), credentials=credentials, batch_id="b", output=str(tmp_path), timeout_seconds=0.3
        )
    (row,) = read_table(str(tmp_path / "b.results.jsonl"))
    assert (row["error_kind"], simulator.accepted) == ("RateLimited", 0)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("detect_none", "NoSubject"), ("detect_503", "ProviderError"), ("refuse_invalid", "InvalidRequest")],
)
async def test_rows_that_fail_publish_no_cards_of_their_own(
    fault: str, kind: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    simulator.order(fault, times=99)
    state = await generate_batch(
        talks(simulator, 2), credentials=credentials, batch_id="b", output=str(tmp_path), return_state=True
    )
    (card,) = await cards_of(state)
    assert card.startswith("# BatchIncomplete")
    assert [row["error_kind"] for row in read_table(str(tmp_path / "b.results.jsonl"))] == [kind, kind]


async def test_an_automatic_retry_reserves_nothing_for_a_job_that_it_will_not_send_again(
    simulator: RunningSimulator, tmp_path: Path, ledger: Ledger
) -> None:
    """What Jenius charges for a failed job is not documented: the first attempt keeps what was reserved for it."""
    jenius = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    simulator.order("fail_internal")
    table = [{"id": "card", "image_url": simulator.portrait_url, "scene": "firework"}]
    retried = generate_batch.with_options(retries=1, retry_delay_seconds=0)
    state = await retried(table, "poster", jenius, batch_id="b", output=str(tmp_path), max_jobs=1, return_state=True)
    error = await state.aresult(raise_on_failure=False)
    assert isinstance(error, errors.BatchIncomplete)
    (row,) = read_table(str(tmp_path / "b.results.jsonl"))
    assert (row["state"], row["error_kind"]) == ("failed", "GenerationFailed")
    assert [job.state for job in await ledger.jobs()] == [JobState.FAILED]
    assert simulator.accepted == 1


async def test_the_plan_the_ledger_and_the_table_of_results_tell_the_same_cost(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path, ledger: Ledger
) -> None:
    options: dict[str, Any] = {"credentials": credentials, "batch_id": "b", "output": str(tmp_path)}
    plan = await generate_batch(talks(simulator, 1), dry_run=True, **options)
    report = await generate_batch(talks(simulator, 1), **options)
    (job,) = await ledger.jobs()
    assert plan.estimated_cost == report.estimated_cost == pytest.approx(job.estimated_cost, abs=1e-6)


async def test_a_job_of_unknown_length_is_estimated_at_the_longest_everywhere(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    request = OmniHumanVideo(image_url=simulator.portrait_url, audio_url=simulator.speech_url)
    async with credentials.client() as client:
        job = await submit_once(ledger, client, request, scope="s")
    assert job.estimated_cost == pytest.approx(60 * 1.2)

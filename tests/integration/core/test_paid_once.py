"""The promise: whatever fails and whoever tries again, one requested result is accepted by the provider once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import submit_once
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from prefect.states import Crashed, Pending, Scheduled

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, Job, JobState, Ledger, pipeline
from prefect_genmedia._core.accepted import change
from prefect_genmedia._core.polling import wait_for_job
from prefect_genmedia.flows.decide import decide_job
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.faults import STAGES
from prefect_genmedia.testing.cases import shorten_deadlines

pytestmark = pytest.mark.usefixtures("prefect_server")

REFUSALS = {name for name in STAGES["submit"] if name.startswith("refuse_")} | {"drop_before_accept"}
PASSING_REFUSALS = {"rate_limited"}


def every_fault() -> Iterator[str]:
    for stage, names in STAGES.items():
        if stage in ("submit", "job", "poll", "content"):
            yield from names


@pytest.fixture
async def stored(credentials: TokenOpsCredentials) -> str:
    """The name of a stored Block: a run that is started again knows its parameters from the server only."""
    await credentials.asave("paid-once", overwrite=True)
    return "paid-once"


async def run(simulator: RunningSimulator, stored: str, retries: int, **options: object) -> object:
    return await omnihuman_video.with_options(retries=retries, retry_delay_seconds=0)(
        simulator.portrait_url,
        simulator.speech_url,
        credentials=stored,
        output_resolution=720,
        return_state=True,
        **{"timeout_seconds": 600, **options},
    )


@pytest.mark.parametrize("flow_retries", [0, 2], ids=["task-retry", "flow-retry"])
@pytest.mark.parametrize("fault", list(every_fault()))
async def test_every_fault_leaves_one_accepted_job_or_none_where_the_provider_refused(
    fault: str, flow_retries: int, simulator: RunningSimulator, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_deadlines(monkeypatch, fault)
    ordered = simulator.order(fault, times=2, retry_after=0.02, seconds=0.1, mib=8)
    await run(simulator, stored, flow_retries, timeout_seconds=1 if fault == "stuck" else 600)
    assert ordered.times < 2, "the fault never struck"
    refused = fault in REFUSALS and (flow_retries < 2 or fault == "drop_before_accept")
    assert simulator.accepted == (0 if refused else 1)


async def test_an_automatic_retry_does_not_pay_again_for_a_failed_generation(
    simulator: RunningSimulator, stored: str
) -> None:
    simulator.order("fail_internal")
    state = await run(simulator, stored, 3)
    assert "GenerationFailed" in state.message
    assert simulator.accepted == 1


async def test_an_automatic_retry_does_not_pay_again_for_what_its_run_sent_and_an_earlier_one_had_reserved(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, ledger: Ledger
) -> None:
    request = OmniHumanVideo(image_url=simulator.portrait_url, audio_url=simulator.speech_url)
    simulator.order("drop_before_accept")
    simulator.order("fail_internal")
    async with credentials.client() as client:
        with pytest.raises(errors.SubmissionUnknown):
            await submit_once(ledger, client, request, scope="key:same", root_run_id="first")
        (job,) = await ledger.jobs()
        await ledger.transact(lambda connection: change(connection, job, state="reserved", send_token=None))
        job = await submit_once(ledger, client, request, scope="key:same", root_run_id="second")
        with pytest.raises(errors.GenerationFailed):
            await wait_for_job(ledger, client, job, timeout_seconds=60)
        with pytest.raises(errors.GenerationFailed):
            await submit_once(ledger, client, request, scope="key:same", root_run_id="second")
    assert simulator.accepted == 1


async def test_a_person_who_retries_a_failed_generation_gets_a_new_attempt(
    simulator: RunningSimulator, stored: str, ledger: Ledger
) -> None:
    simulator.order("fail_internal")
    state = await run(simulator, stored, 0)
    await retry_by_hand(state.state_details.flow_run_id)
    assert [job.attempt for job in sorted(await ledger.jobs(), key=lambda job: job.attempt)] == [1, 2]
    assert {job.state for job in await ledger.jobs()} == {JobState.FAILED, JobState.DELIVERED}


async def test_a_person_who_retries_a_delivered_run_gets_the_same_file_without_a_download(
    simulator: RunningSimulator, stored: str
) -> None:
    state = await run(simulator, stored, 0)
    first = await state.aresult()
    again = await retry_by_hand(state.state_details.flow_run_id)
    assert again == first
    assert simulator.accepted == 1
    assert simulator.world.requests["tokenops.content"] == 1


async def test_a_refused_output_is_tried_again_as_often_as_allowed_with_another_seed(
    simulator: RunningSimulator, stored: str, ledger: Ledger
) -> None:
    simulator.order("fail_output", times=2)
    state = await run(simulator, stored, 0, resubmit_on_output_refusal=2)
    assert state.is_completed()
    assert len({job.body.get("seed") for job in simulator.world.jobs.values()}) == 3
    assert sorted(job.variant for job in await ledger.jobs()) == [0, 1, 2]
    await retry_by_hand(state.state_details.flow_run_id)
    assert simulator.accepted == 3


async def test_a_refused_output_ends_the_run_when_no_attempt_is_left(simulator: RunningSimulator, stored: str) -> None:
    simulator.order("fail_output", times=2)
    state = await run(simulator, stored, 1, resubmit_on_output_refusal=1)
    assert "OutputRefused" in state.message
    assert simulator.accepted == 2


async def test_a_refused_input_is_never_sent_again(simulator: RunningSimulator, stored: str) -> None:
    simulator.order("fail_input")
    state = await run(simulator, stored, 0)
    with pytest.raises(errors.InputRefused):
        await retry_by_hand(state.state_details.flow_run_id)
    assert simulator.accepted == 1


async def test_the_same_idempotency_key_means_the_same_file_in_another_run(
    simulator: RunningSimulator, stored: str
) -> None:
    first = await (await run(simulator, stored, 0, idempotency_key="order 66")).aresult()
    second = await (await run(simulator, stored, 0, idempotency_key="order 66")).aresult()
    assert first == second
    assert simulator.accepted == 1


async def test_without_a_key_another_run_is_another_request(simulator: RunningSimulator, stored: str) -> None:
    await run(simulator, stored, 0)
    await run(simulator, stored, 0)
    assert simulator.accepted == 2


async def test_two_runs_with_the_same_key_at_once_share_one_job(simulator: RunningSimulator, stored: str) -> None:
    simulator.order("accept_slowly", seconds=0.5)
    states = await asyncio.gather(*(run(simulator, stored, 0, idempotency_key="at once") for _ in range(3)))
    deliveries = [await state.aresult() for state in states]
    assert len({delivery.sha256 for delivery in deliveries}) == 1
    assert simulator.accepted == 1
    assert simulator.world.requests["tokenops.submit"] == 1


async def test_a_run_that_is_restarted_beside_its_living_process_is_paid_and_delivered_once(
    simulator: RunningSimulator, stored: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost lease marks a living run Crashed, and it is started again: both poll, one delivers."""
    simulator.world.settings.run_seconds = 3600.0
    made: list[bool] = []
    deliver = pipeline.publish_verified
    arrived = asyncio.Event()

    async def both_at_once(*arguments: Any) -> tuple[Job, bool]:
        if arrived.is_set():
            both.set()
        arrived.set()
        await both.wait()  # each has seen the job succeeded, and neither that the other delivers
        done, own = await deliver(*arguments)
        made.append(own)
        return done, own

    both = asyncio.Event()
    monkeypatch.setattr(pipeline, "publish_verified", both_at_once)
    inputs = {"image_url": simulator.portrait_url, "audio_url": simulator.speech_url, "credentials": stored}
    async with get_client() as client:
        whole = await client.create_flow_run(omnihuman_video, parameters=inputs, state=Pending())
        living = asyncio.create_task(run_flow_async(omnihuman_video, whole, inputs, return_type="state"))
        while not simulator.world.requests["tokenops.poll"]:
            await asyncio.sleep(0.05)
        await client.set_flow_run_state(whole.id, Crashed(message="its lease was lost"), force=True)
        await client.set_flow_run_state(whole.id, Pending(), force=True)
        again = await client.read_flow_run(whole.id)
        restarted = asyncio.create_task(run_flow_async(omnihuman_video, again, inputs, return_type="state"))
        polled = simulator.world.requests["tokenops.poll"]
        while simulator.world.requests["tokenops.poll"] < polled + 4:
            await asyncio.sleep(0.05)
        simulator.world.settings.run_seconds = 0.0
        await asyncio.gather(living, restarted)
        assert (await client.read_flow_run(whole.id)).state_name == "Completed"
    assert simulator.accepted == 1
    assert sorted(made) == [False, True]
    (job,) = await ledger.jobs()
    assert job.state is JobState.DELIVERED
    assert job.delivery is not None
    files = [path.suffix for path in Path(job.delivery.uri).parent.iterdir()]
    assert sorted(files) == [".jpg", ".json", ".mp4"]


async def test_a_parent_that_reruns_a_failed_child_flow_does_not_pay_again(
    simulator: RunningSimulator, stored: str, tmp_path: Path
) -> None:
    failed_once = tmp_path / "failed once"

    @flow(retries=1)
    async def parent() -> Delivery:
        delivery: Delivery = await omnihuman_video(
            simulator.portrait_url, simulator.speech_url, credentials=stored, output_resolution=720
        )
        if not failed_once.exists():
            failed_once.touch()
            raise RuntimeError("something after the child breaks")
        return delivery

    assert (await parent()).seconds > 7
    assert simulator.accepted == 1


async def test_a_failed_child_flow_goes_on_with_its_job_when_the_parent_runs_again(
    simulator: RunningSimulator, stored: str
) -> None:
    simulator.order("content_502", times=4)  # the child's download fails in all its attempts

    @flow(retries=1)
    async def parent() -> Delivery:
        delivery: Delivery = await omnihuman_video(
            simulator.portrait_url, simulator.speech_url, credentials=stored, output_resolution=720
        )
        return delivery

    assert (await parent()).seconds > 7
    assert simulator.accepted == 1


async def test_a_file_that_was_lost_is_downloaded_again_but_not_paid_again(
    simulator: RunningSimulator, stored: str
) -> None:
    first = await (await run(simulator, stored, 0, idempotency_key="lost")).aresult()
    Path(first.uri).write_bytes(b"overwritten by somebody")
    second = await (await run(simulator, stored, 0, idempotency_key="lost")).aresult()
    assert Path(second.uri).stat().st_size == first.bytes
    assert simulator.accepted == 1


@pytest.mark.parametrize("decision", ["adopt", "resubmit", "abandon"])
async def test_an_unknown_submission_is_settled_by_a_person(
    decision: str, simulator: RunningSimulator, stored: str, ledger: Ledger
) -> None:
    await TokenOpsCredentials(api_key="sk-another-account").asave("another-account", overwrite=True)
    simulator.order("drop_before_accept" if decision == "resubmit" else "accept_then_drop")
    state = await run(simulator, stored, 2)
    assert "SubmissionUnknown" in state.message
    (unknown,) = await ledger.jobs()
    assert f"jobs adopt {unknown.key}" in state.message
    arrived = next(iter(simulator.world.jobs), None)
    assert await decide_job(unknown.key, decision, arrived if decision == "adopt" else None) is not JobState.UNKNOWN
    if decision == "abandon":
        with pytest.raises(errors.SubmissionUnknown, match="abandoned"):
            await retry_by_hand(state.state_details.flow_run_id)
    else:
        delivery = await retry_by_hand(state.state_details.flow_run_id)
        assert Path(delivery.uri).is_file()
    assert simulator.accepted == 1


async def test_a_cancelled_submission_is_still_written_down(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    simulator.order("accept_slowly", seconds=0.4)
    request = OmniHumanVideo(image_url=simulator.portrait_url, audio_url=simulator.speech_url)
    async with credentials.client() as client:
        submitting = asyncio.create_task(submit_once(ledger, client, request, scope="cancelled"))
        while not simulator.accepted:
            await asyncio.sleep(0.01)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
    (job,) = await ledger.jobs()
    assert job.state is JobState.SUBMITTED
    assert job.provider_job_id in simulator.world.jobs


async def retry_by_hand(flow_run_id: object) -> Delivery:
    """What `prefect flow-run retry` does: the same run, scheduled again and run from its beginning."""
    async with get_client() as client:
        await client.set_flow_run_state(flow_run_id, Scheduled(message="Retried"), force=True)
        flow_run = await client.read_flow_run(flow_run_id)
    delivery: Delivery = await run_flow_async(omnihuman_video, flow_run=flow_run, parameters=flow_run.parameters)
    return delivery

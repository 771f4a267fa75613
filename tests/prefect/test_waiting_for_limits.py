"""Waiting for a slot of a global concurrency limit: logged, bounded, and the holder of a leaked slot is named."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._prefect import concurrency as waiting
from prefect_genmedia.batch.table import read_table
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def asking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ASK_SECONDS", 0.05)


@pytest.fixture
async def limit() -> str:
    name = f"limit-{uuid4().hex[:8]}"
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(name, 1)
    return name


def of(simulator: RunningSimulator, limit: str) -> TokenOpsCredentials:
    return TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url, concurrency_limit=limit)


async def leaked_by(name: str, limit: str) -> None:
    """A run that took a slot and ended without giving it back, as one that was killed."""
    async with get_client() as client:
        found = await client.read_global_concurrency_limit_by_name(limit)

        @flow(name="taker", flow_run_name=name)
        async def taker() -> None:
            await client.increment_concurrency_slots(names=[limit], slots=1, mode="concurrency")
            emit_event(waiting._ACQUIRED, resource={"prefect.resource.id": f"prefect.concurrency-limit.{found.id}"})

        await taker()
        wanted = EventFilter(
            event=EventNameFilter(name=[waiting._ACQUIRED]),
            resource=EventResourceFilter(id=[f"prefect.concurrency-limit.{found.id}"]),
        )
        while not (await client.read_events(wanted, limit=50)).events:
            await asyncio.sleep(0.1)


async def test_a_run_that_waits_for_a_slot_says_so_and_stops_in_time_with_the_name_of_whoever_holds_it(
    simulator: RunningSimulator, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await leaked_by("the-killed-one", limit)
    with pytest.raises(errors.RateLimited) as caught:
        await jimeng_video("a lake", credentials=of(simulator, limit), timeout_seconds=0.5)
    assert "1 of 1 slots are taken: by 'the-killed-one' (Completed), which did not give it back" in caught.value.message
    assert f"prefect gcl update {limit} --active-slots 0" in caught.value.next_step
    assert caplog.text.count(f"Waiting for a slot of the global concurrency limit '{limit}'") == 1
    assert not caught.value.retryable
    assert simulator.accepted == 0


async def test_automatic_retries_do_not_wait_for_a_slot_anew(
    simulator: RunningSimulator, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    original = waiting.acreate_flow_run_input

    async def noted(key: str, value: float) -> None:
        begun.append(value)
        await original(key, value)

    monkeypatch.setattr(waiting, "acreate_flow_run_input", noted)
    retried = jimeng_video.with_options(retries=2, retry_delay_seconds=0)
    async with concurrency(limit, strict=True):
        with pytest.raises(errors.RateLimited):
            await retried("a lake", credentials=of(simulator, limit), timeout_seconds=0.5)
    assert len(begun) == 1


async def test_a_slot_that_becomes_free_is_used_and_nothing_of_the_wait_is_left(
    simulator: RunningSimulator, limit: str
) -> None:
    async with concurrency(limit, strict=True):
        run = asyncio.create_task(jimeng_video("a lake", credentials=of(simulator, limit), return_state=True))
        done, _ = await asyncio.wait({run}, timeout=0.5)
        assert not done
        assert simulator.accepted == 0
    state = await run
    assert state.is_completed()
    async with get_client() as client:
        left = await client.filter_flow_run_input(state.state_details.flow_run_id, "genmedia-limit", 10, set())
    assert left == []


async def test_the_rows_of_a_batch_stop_waiting_together(
    simulator: RunningSimulator, limit: str, tmp_path: Path
) -> None:
    rows = [{"id": f"row-{number}", "kind": "jimeng", "prompt": f"lake {number}"} for number in range(3)]
    async with concurrency(limit, strict=True):
        with pytest.raises(errors.BatchIncomplete):
            await generate_batch(
                rows, credentials=of(simulator, limit), batch_id="b", output=str(tmp_path), timeout_seconds=0.5
            )
    kinds = [row["error_kind"] for row in read_table(str(tmp_path / "b.results.jsonl"))]
    assert kinds == ["RateLimited"] * 3
    assert simulator.accepted == 0

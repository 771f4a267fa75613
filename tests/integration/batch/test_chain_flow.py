"""The flow chain_media: one chain, each step a task run, each paid once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from prefect_genmedia import Delivery, HiDreamCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._media.storage import sha256_of
from prefect_genmedia.batch import row_task
from prefect_genmedia.flows.chain import chain_media
from prefect_genmedia.providers import hidream
from prefect_genmedia.providers.inputs import RequestInput
from prefect_genmedia.providers.plugin import _REGISTRY
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"
LAKE: dict[str, Any] = {"prompt": "a lake", "model": "jimeng-video-3.0-720P"}
INK: dict[str, Any] = {"kind": "stylize", "style": "ink_wash"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture(autouse=True)
async def accounts(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, simulator.inbox_url)
    tokenops = TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url)
    hidream = HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    for block in (tokenops, hidream):
        await block.save("chained", overwrite=True)


async def run(folder: Path, then: Any = None, fields: dict[str, Any] | None = None, **options: Any) -> Delivery:
    named = {"credentials": "chained", "output": str(folder / "lake.mp4"), "idempotency_key": "lake"}
    return await chain_media("jimeng", fields or LAKE, then or [INK], **{**named, **options})


async def test_every_step_is_a_task_run_and_a_rerun_pays_nothing(
    simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    delivery = await run(tmp_path, label="lake")
    assert delivery.uri == str(tmp_path / "lake.mp4")
    with Path(delivery.uri).open("rb") as file:
        assert sha256_of(file) == delivery.sha256
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"lake.mp4", "lake.step-1.mp4"}
    async with get_client() as client:
        names = {each.name for each in await client.read_task_runs()}
    assert {"lake · step 1 of 2", "lake · step 2 of 2"} <= names
    (tmp_path / "lake.step-1.mp4").unlink()
    again = await run(tmp_path)
    assert (again.job_key, simulator.accepted) == (delivery.job_key, 2)
    assert {job.label for job in await ledger.jobs()} == {"lake"}
    longer = await run(tmp_path, [INK, {**INK, "style": "anime"}])
    assert (longer.uri != delivery.uri, simulator.accepted) == (True, 3)


async def test_all_that_is_wrong_is_said_before_anything_is_paid(
    simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        await run(tmp_path, [{**INK, "video_url": "x.mp4"}, {"kind": "poster"}], {"prompt": "", "frames": 7, "x": 1})
    fields = {each.field for each in refusal.value.problems}
    assert fields == {"frames", "x", "step 2.video_url", "step 3.kind"}
    with pytest.raises(errors.InvalidRequest) as refusal:
        await run(tmp_path, fields={**LAKE, "image_urls": [str(tmp_path / "gone.jpg")]})
    assert [each.field for each in refusal.value.problems] == ["image_urls.0"]
    with pytest.raises(errors.InvalidRequest, match="hidream/video_edit: is needed for max_cost"):
        await run(tmp_path, max_cost=3.0)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PRICES", '{"hidream/video_edit": {"per_job": 2.0}}')
    with pytest.raises(errors.BudgetStop):
        await run(tmp_path, max_cost=3.0)  # the first step would fit
    assert simulator.accepted == 0
    assert (await run(tmp_path, max_cost=3.5)).seconds == pytest.approx(5.0)


async def test_a_failing_second_step_names_itself_and_what_is_kept(simulator: RunningSimulator, tmp_path: Path) -> None:
    simulator.order("fail_internal", provider="hidream")
    with pytest.raises(errors.GenerationFailed, match=r"^Step 2 of 2 \(stylize\): ") as failure:
        await run(tmp_path)
    assert str(tmp_path / "lake.step-1.mp4") in failure.value.message
    assert (await run(tmp_path)).uri == str(tmp_path / "lake.mp4")
    assert [job.provider for job in simulator.world.jobs.values()] == ["tokenops", "hidream", "hidream"]


async def test_a_cancelled_chain_goes_on_with_the_job_that_it_left(
    simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    running = asyncio.create_task(run(tmp_path))
    while not await ledger.jobs({JobState.SUBMITTED}):
        assert not running.done()
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    simulator.world.settings.run_seconds = 0.1
    assert (await run(tmp_path)).uri == str(tmp_path / "lake.mp4")
    assert simulator.accepted == 2


class PublicOnly(hidream.StylizedVideo):
    """A kind whose provider takes no bytes."""

    def inputs(self) -> tuple[RequestInput, ...]:
        return tuple(RequestInput(each.field, each.url, media="video") for each in super().inputs())


async def test_a_provider_that_takes_no_bytes_needs_a_publishing_place(
    simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_REGISTRY.registered, "hidream", replace(hidream.PLUGIN, requests=(PublicOnly,)))
    monkeypatch.delenv(SETTING)
    for said in ("cannot be fetched by the provider", "is a folder: set"):
        with pytest.raises(errors.InvalidRequest, match=said) as refusal:
            await run(tmp_path)
        assert [each.field for each in refusal.value.problems] == ["step 2.video_url"]
        monkeypatch.setenv(SETTING, str(tmp_path / "public"))
    assert simulator.accepted == 0
    monkeypatch.setenv(SETTING, simulator.inbox_url)
    await run(tmp_path)
    assert simulator.accepted == 2

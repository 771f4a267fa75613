"""`subject="ask"`: the run pauses, a person picks in the form, and the run goes on with that person."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image, ImageDraw
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_runs import aresume_flow_run

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.jobs import Delivery
from prefect_genmedia.providers.tokenops.gallery import draw_gallery
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")


async def paused_run() -> FlowRun:
    only_paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    async with get_client() as client:
        for _ in range(200):
            if found := await client.read_flow_runs(flow_run_filter=only_paused):
                return found[0]
            await asyncio.sleep(0.1)
    raise AssertionError("no run is paused")


@pytest.mark.parametrize("number", [0, 1])
async def test_the_person_with_the_chosen_number_speaks(
    number: int, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    running = asyncio.create_task(
        omnihuman_video(simulator.portrait_url, simulator.speech_url, subject="ask", credentials=credentials)
    )
    run = await paused_run()
    await aresume_flow_run(run.id, run_input={"subject": str(number)})
    delivery: Delivery = await running
    assert delivery.seconds > 7
    (job,) = simulator.world.jobs.values()
    detected = [url for url, file in simulator.world.files.items() if file.media_type == "image/png"]
    assert job.body["mask_urls"] == [f"{simulator.url}/files/{detected[number]}"]


async def test_nobody_answering_lets_the_largest_speak_where_that_was_asked_for(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    await omnihuman_video(
        simulator.portrait_url,
        simulator.speech_url,
        subject="ask",
        ask_timeout_seconds=0.5,
        ask_fallback="largest",
        credentials=credentials,
    )
    assert simulator.accepted == 1


async def test_nobody_answering_fails_the_run_before_anything_is_paid(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    with pytest.raises(errors.NoSubject, match="Nobody chose"):
        await omnihuman_video(
            simulator.portrait_url,
            simulator.speech_url,
            subject="ask",
            ask_timeout_seconds=1,
            credentials=credentials,
        )
    assert simulator.accepted == 0


def test_each_subjects_point_lies_inside_its_mask_even_where_its_middle_does_not() -> None:
    ring = Image.new("L", (400, 300), 0)
    ImageDraw.Draw(ring).ellipse((20, 20, 280, 280), fill=255)
    ImageDraw.Draw(ring).ellipse((80, 80, 220, 220), fill=0)
    output, portrait = io.BytesIO(), io.BytesIO()
    ring.save(output, "PNG")
    Image.new("RGB", (400, 300), "gray").save(portrait, "JPEG")
    gallery = draw_gallery(portrait.getvalue(), [output.getvalue()])
    ((x, y),) = gallery.points
    assert ring.getpixel((int(x * 400), int(y * 300))) == 255
    with Image.open(io.BytesIO(gallery.picture)) as picture:
        assert picture.size == (400, 300)

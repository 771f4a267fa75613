"""`subject="ask"`: the run pauses, a person picks in the form, and the run goes on with that person."""

from __future__ import annotations

import asyncio
import io
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image, ImageDraw
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_runs import aresume_flow_run

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.providers.tokenops import ask
from prefect_genmedia.providers.tokenops import simulator as dialect
from prefect_genmedia.providers.tokenops.ask import draw_gallery
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import draw_masks

pytestmark = pytest.mark.usefixtures("prefect_server")


async def asking_run(tag: str) -> FlowRun:
    """The run with this tag, as soon as it is paused and its form can be answered."""
    only_own = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
    )
    async with get_client() as client:
        while not (found := await client.read_flow_runs(flow_run_filter=only_own)):
            await asyncio.sleep(0.1)
        (run,) = found
        assert run.state
        assert run.state.state_details.run_input_keyset
        while not await client.filter_flow_run_input(
            run.id, run.state.state_details.run_input_keyset["schema"], 1, set()
        ):
            await asyncio.sleep(0.1)
    return run


@pytest.mark.parametrize("number", [0, 1])
async def test_the_person_with_the_chosen_number_speaks(
    number: int, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    tag = str(uuid4())
    with tags(tag):
        running = asyncio.create_task(
            omnihuman_video(simulator.portrait_url, simulator.speech_url, subject="ask", credentials=credentials)
        )
    run = await asking_run(tag)
    await aresume_flow_run(run.id, run_input={"subject": ["1 · right, largest", "2 · left"][number]})
    delivery: Delivery = await running
    assert delivery.seconds > 7
    (job,) = simulator.world.jobs.values()
    detected = [url for url, file in simulator.world.files.items() if file.media_type == "image/png"]
    assert job.body["mask_urls"] == [f"{simulator.url}/files/{detected[number]}"]


async def test_nobody_answering_lets_the_largest_speak_where_that_was_asked_for(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 0

    async def answering(*args: Any, **options: Any) -> None:
        nonlocal answers
        answers += 1
        if answers == 1:
            raise RuntimeError("the server is away")
        await aresume_flow_run(*args, **options)

    monkeypatch.setattr(ask, "aresume_flow_run", answering)
    monkeypatch.setattr(ask, "ANSWER_AGAIN_SECONDS", 0.02)
    await omnihuman_video(
        simulator.portrait_url,
        simulator.speech_url,
        subject="ask",
        ask_timeout_seconds=0.5,
        ask_fallback="largest",
        credentials=credentials,
    )
    assert answers >= 2
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


class AnHourLater:
    """A clock on which more than a mask's life has passed by each look at it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += ask.MASK_LIFETIME_SECONDS
        return self.seconds


@pytest.mark.parametrize("hours", [0, 1])
async def test_after_an_hour_masks_are_detected_again_and_matched_to_the_same_choice(
    hours: int, simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hours:
        monkeypatch.setattr(ask, "time", AnHourLater())
    tag = str(uuid4())
    with tags(tag):
        running = asyncio.create_task(
            omnihuman_video(simulator.portrait_url, simulator.speech_url, subject="ask", credentials=credentials)
        )
    run = await asking_run(tag)

    def reversed_masks(*arguments: Any) -> list[bytes]:
        return draw_masks(*arguments)[::-1]

    # What is detected from now on comes in another order, so that only the place in the picture tells who is meant.
    monkeypatch.setattr(dialect, "draw_masks", reversed_masks)
    await ask.answer_subject(run.id, 1)
    await running
    detected = [url for url, file in simulator.world.files.items() if file.media_type == "image/png"]
    assert len(detected) == 2 + 2 * hours
    (job,) = simulator.world.jobs.values()
    assert job.body["mask_urls"] == [f"{simulator.url}/files/{detected[[1, 2][hours]]}"]


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

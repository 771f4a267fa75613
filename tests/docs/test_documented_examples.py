"""Each complete Python example of the providers' documents, as one `await` of a flow: the same JSON goes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

HIDREAM_VIDEO = "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4"
REQUEST_ID = "b146d886-5c57-11ee-bf2b-f6f8d60dadec"


async def jimeng(simulator: RunningSimulator) -> Delivery:
    return await jimeng_video(
        prompt="千军万马奔腾在草原上,阳光明媚,高清画质",
        req_key="jimeng_ti2v_v30_pro",
        seed=-1,
        frames=121,
        aspect_ratio="16:9",
        credentials=TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url),
    )


async def omnihuman(simulator: RunningSimulator) -> Delivery:
    return await omnihuman_video(
        simulator.portrait_url,
        simulator.speech_url,
        prompt="",
        subject="0",
        credentials=TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url),
    )


async def poster(simulator: RunningSimulator) -> Delivery:
    return await live_poster(
        "https://example.com/user-photo.jpg",
        "youqian",
        credentials=JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url),
    )


async def stylize(simulator: RunningSimulator) -> Delivery:
    return await stylize_video(
        HIDREAM_VIDEO,
        style="ink_wash",
        request_id=REQUEST_ID,
        credentials=HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url),
    )


@pytest.mark.parametrize(
    ("example", "body"),
    [
        (
            jimeng,
            {
                "model": "jimeng-video-3.0-pro",
                "prompt": "千军万马奔腾在草原上,阳光明媚,高清画质",
                "req_key": "jimeng_ti2v_v30_pro",
                "seed": -1,
                "frames": 121,
                "aspect_ratio": "16:9",
            },
        ),
        (
            omnihuman,
            {
                "model": "OmniHuman_1.5",
                "req_key": "jimeng_realman_avatar_picture_omni_v15",
                "generation_type": "omni_human",
                "output_resolution": 1080,
                "content": [
                    {"type": "image_url", "image_url": {"url": "PORTRAIT"}},
                    {"type": "audio_url", "audio_url": {"url": "SPEECH"}},
                ],
                "mask_urls": ["MASK"],
                "pe_fast_mode": False,  # this and the seed: documented defaults, which the example leaves out
                "seed": -1,
            },
        ),
        (poster, {"prompt": "youqian", "image_url": "https://example.com/user-photo.jpg"}),
        (stylize, {"style": "ink_wash", "video_name": HIDREAM_VIDEO, "request_id": REQUEST_ID}),
    ],
    ids=["Jimeng", "OmniHuman", "Jenius", "HiDream"],
)
async def test_a_documents_complete_example_is_one_flow_run(
    example: Callable[[RunningSimulator], Awaitable[Delivery]], body: dict[str, Any], simulator: RunningSimulator
) -> None:
    delivery = await example(simulator)
    (job,) = simulator.world.jobs.values()
    names = {simulator.portrait_url: "PORTRAIT", simulator.speech_url: "SPEECH"}
    assert _named(job.body, names) == body
    assert delivery.provider_job_id == job.id
    assert delivery.bytes > 0


def _named(value: Any, names: dict[str, str]) -> Any:
    """The JSON with the simulator's own URLs by name."""
    if isinstance(value, dict):
        return {name: _named(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner, names) for inner in value]
    return "MASK" if "/files/" in str(value) else names.get(value, value)

"""Jimeng as a flow: every way to ask for a video, checked against the file that comes."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import asset
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.jpg"
    path.write_bytes(asset("portrait.jpg"))
    return path


def inline(picture: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()


@pytest.mark.parametrize(
    ("options", "req_key", "size", "seconds"),
    [
        ({"prompt": "千军万马奔腾在草原上"}, "jimeng_ti2v_v30_pro", (1920, 1080), 5),
        ({"prompt": "a horse", "seconds": 10, "aspect_ratio": "9:16"}, "jimeng_ti2v_v30_pro", (1080, 1920), 10),
        ({"prompt": "a horse", "model": "jimeng-video-3.0-720P", "size": "960x960"}, "jimeng_t2v_v30", (720, 720), 5),
        (
            {"model": "jimeng-video-3.0-720P", "image_urls": ["https://example.com/a.jpg"], "frames": 241},
            "jimeng_i2v_first_v30",
            (1280, 720),
            10,
        ),
        (
            {
                "model": "jimeng-video-3.0-1080P",
                "image_urls": ["https://example.com/a.jpg", "https://example.com/b.jpg"],
            },
            "jimeng_i2v_first_tail_v30_1080",
            (1920, 1080),
            5,
        ),
        (
            {
                "model": "jimeng-video-3.0-720P",
                "image_urls": ["https://example.com/a.jpg"],
                "template_id": "handheld",
                "camera_strength": "weak",
            },
            "jimeng_i2v_recamera_v30",
            (1280, 720),
            5,
        ),
    ],
    ids=["text", "portrait format, 10 s", "size", "first frame", "first and last frame", "camera"],
)
async def test_the_service_follows_from_model_and_inputs_and_the_file_is_what_was_asked_for(
    options: dict[str, object],
    req_key: str,
    size: tuple[int, int],
    seconds: int,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
) -> None:
    delivery: Delivery = await jimeng_video(credentials=credentials, **options)
    (job,) = simulator.world.jobs.values()
    assert job.body["req_key"] == req_key
    assert (delivery.width, delivery.height) == size
    assert delivery.seconds == pytest.approx(seconds, abs=0.1)


async def test_the_text_in_content_wins_over_the_prompt_and_a_picture_travels_as_base64(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, picture: Path
) -> None:
    text = {"type": "text", "text": "让画面中的小猫跳跃玩耍"}
    content = [text, {"type": "image_url", "image_url": {"url": str(picture)}}]
    await jimeng_video("not this", content=content, seconds=5, size="1280x720", credentials=credentials)
    (job,) = simulator.world.jobs.values()
    assert job.body["content"] == [text, {"type": "image_base64", "image_url": {"url": inline(picture)}}]
    assert job.body["seconds"] == "5"


async def test_base64_in_a_parameter_is_refused_and_taken_out_of_what_prefect_has_stored(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, picture: Path
) -> None:
    content = [{"type": "image_base64", "image_url": {"url": inline(picture)}}]
    tag = str(uuid4())
    with tags(tag), pytest.raises(errors.InvalidRequest, match=r"content\.0\.image_url\.url: is a file as base64"):
        await jimeng_video("a cat", content=content, credentials=credentials)
    async with get_client() as client:
        (run,) = await client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
    assert run.parameters["prompt"] == "a cat"
    stored = run.parameters["content"][0]["image_url"]["url"]
    assert stored == f"{len(inline(picture))} characters of base64, not stored"
    assert not simulator.world.requests


async def test_a_file_of_the_wrong_length_is_not_delivered(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    simulator.order("short_video")
    with pytest.raises(errors.ResultInvalid, match=r"not 5\.00 s"):
        await jimeng_video("a horse", credentials=credentials)


async def test_all_conflicts_are_named_at_once_and_nothing_is_sent(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await jimeng_video(
            seconds=10, frames=121, size="1x1", aspect_ratio="16:9", req_key="nonsense", credentials=credentials
        )
    assert len(caught.value.problems) >= 4
    assert not simulator.world.requests


async def test_a_file_that_cannot_be_stored_is_fetched_again_when_it_can_and_not_paid_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, accept = tmp_path / "videos", World.accept

    def accept_and_get_in_the_way(world: World, *arguments: Any, **options: Any) -> Any:
        shutil.rmtree(videos, ignore_errors=True)
        videos.write_text("a file where a folder is wanted")
        return accept(world, *arguments, **options)

    async def run() -> Delivery:
        return await jimeng_video(
            "a lake at dawn",
            model="jimeng-video-3.0-720P",
            credentials=credentials,
            output=f"{videos}/lakes",
            idempotency_key="lakes",
        )

    with monkeypatch.context() as patched:
        patched.setattr(World, "accept", accept_and_get_in_the_way)
        with pytest.raises(errors.StorageError, match="The storage failed") as caught:
            await run()
    assert caught.value.provider_job_id in simulator.world.jobs
    videos.unlink()
    delivery = await run()
    assert Path(delivery.uri).is_file()
    assert len(simulator.world.jobs) == 1

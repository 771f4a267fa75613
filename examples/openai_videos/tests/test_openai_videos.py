"""The provider passes the conformance suite, and the published `openai` client agrees with both halves of it."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import Any

import httpx
import pytest

from genmedia_openai_videos import OpenAIVideo
from genmedia_openai_videos.client import OpenAIVideosClient
from prefect_genmedia.errors import QuotaError
from prefect_genmedia.providers import PreparedRequest, SentInput, SentInputs
from prefect_genmedia.testing import FOLLOWED_LINKS, NOT_AS_ASKED, ConformanceSuite, ProviderCase

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

PICTURE = "https://example.com/portrait.jpg"
REQUEST = OpenAIVideo(prompt="a calm sea", seconds="4", size="1280x720")


class TestConformance(ConformanceSuite):
    cases = {
        "text": ProviderCase(REQUEST, endings={**FOLLOWED_LINKS, "short_video": NOT_AS_ASKED}),
        "picture": ProviderCase(OpenAIVideo(prompt="she smiles", input_reference=PICTURE), endings=FOLLOWED_LINKS),
    }


@pytest.fixture
def published(genmedia_simulator: Any) -> Any:
    """The published client at the simulator."""
    base_url = genmedia_simulator.base_url("openai_videos")
    with openai.OpenAI(api_key=genmedia_simulator.key, base_url=base_url, max_retries=0) as client:
        yield client


def submit(simulator: Any, request: Any) -> Any:
    """Submit with our client; returns what it got."""

    async def work() -> Any:
        client = OpenAIVideosClient(simulator.key, simulator.base_url("openai_videos"))
        try:
            async with client.turn():
                return await client.submit(request)
        finally:
            await client.aclose()

    return asyncio.run(work())


def test_the_published_client_understands_the_dialect_from_create_to_content(
    published: Any, genmedia_simulator: Any
) -> None:
    video = published.videos.create(prompt="a calm sea", seconds="4", size="1280x720", model="sora-2")
    assert (video.status, video.seconds, video.size) == ("queued", "4", "1280x720")
    while (video := published.videos.retrieve(video.id)).status in ("queued", "in_progress"):
        time.sleep(0.05)
    assert (video.status, video.progress) == ("completed", 100)
    assert published.videos.download_content(video.id).read()[4:8] == b"ftyp"


REFUSALS = {"refuse_key": "Authentication", "refuse_invalid": "BadRequest", "refuse_balance": "RateLimit"}


@pytest.mark.parametrize("fault", list(REFUSALS))
def test_the_published_client_names_the_dialects_refusals(fault: str, published: Any, genmedia_simulator: Any) -> None:
    genmedia_simulator.order(fault)
    with pytest.raises(getattr(openai, f"{REFUSALS[fault]}Error")):
        published.videos.create(prompt="a calm sea")


@pytest.mark.parametrize("reference", ["none", "url", "file"])
def test_our_client_sends_what_the_published_client_sends(
    reference: str, published: Any, genmedia_simulator: Any
) -> None:
    picture = httpx.get(genmedia_simulator.portrait_url).content
    fields = {"prompt": "she smiles", "model": "sora-2", "seconds": "8", "size": "720x1280"}
    inputs, theirs = SentInputs(), {}
    if reference == "url":
        theirs = {"extra_body": {"input_reference": {"image_url": PICTURE}}}  # its own argument takes files only
    if reference == "file":
        theirs = {"input_reference": ("portrait.jpg", io.BytesIO(picture), "image/jpeg")}
        text = base64.b64encode(picture).decode()
        inputs = SentInputs({PICTURE: SentInput("0" * 64, base64=text, media_type="image/jpeg")})
    published.videos.create(**fields, **theirs)
    ours = OpenAIVideo(**fields, input_reference=PICTURE if reference != "none" else None)
    submit(genmedia_simulator, PreparedRequest(ours, inputs))
    first, second = (job.body for job in genmedia_simulator.world.jobs.values())
    assert first == second


def test_an_exhausted_quota_is_no_rate_limit(genmedia_simulator: Any) -> None:
    genmedia_simulator.order("refuse_balance")
    with pytest.raises(QuotaError) as caught:
        submit(genmedia_simulator, REQUEST)
    assert caught.value.outcome == "refused"


def test_a_redirect_to_the_file_is_followed_without_the_key() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path.endswith("/content"):
            return httpx.Response(302, headers={"location": "/files/video.mp4"})
        return httpx.Response(200, content=b"a file", headers={"content-type": "video/mp4"})

    async def work() -> bytes:
        transport = httpx.MockTransport(answer)
        client = OpenAIVideosClient("sk-one", "http://127.0.0.1/v1", transport=transport)
        async with client.open_result("video_1") as stream:
            return b"".join([piece async for piece in stream.chunks()])

    assert asyncio.run(work()) == b"a file"
    assert "authorization" in asked[0].headers
    assert "authorization" not in asked[-1].headers

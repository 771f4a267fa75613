"""Preflight: what is documented about inputs is checked, all at once, before anything is paid; the rest is let be."""

from __future__ import annotations

import io
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._inputs import Publication, prepare_inputs
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import asset

FRAMES = "jimeng-video-3.0-720P"
PLAIN = "https://example.com/{}"


class Web:
    """The network: files by their paths, and how often and how much of each was fetched."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.fetched: Counter[str] = Counter()
        self.pulled = 0

    @property
    def rules(self) -> FetchRules:
        async def resolver(host: str, port: int) -> list[str]:
            return ["93.184.216.34"]

        return FetchRules(resolver=resolver, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.strip("/")
        self.fetched[name] += 1
        content = self.files.get(name)
        return httpx.Response(404) if content is None else httpx.Response(200, content=self._pieces(content))

    async def _pieces(self, content: bytes) -> Any:
        for start in range(0, len(content), 65536):
            self.pulled += 65536
            yield content[start : start + 65536]


def picture(width: int = 1280, height: int = 720, kind: str = "JPEG", **options: Any) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 150)).save(output, kind, **options)
    return output.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(720, 1280, exif=exif.tobytes())


def recording(seconds: float) -> bytes:
    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(int(seconds * 16000)))
    return output.getvalue()


def url(name: str) -> str:
    return f"https://example.com/{name}?sign=s3cret"


async def problems_of(web: Web, *names: str, said: list[str] | None = None, preflight: bool = True) -> list[str]:
    model = FRAMES if names else "jimeng-video-3.0-pro"
    request = JimengVideo(model=model, prompt="x", image_urls=tuple(map(url, names)))
    reported: list[str] = said if said is not None else []
    try:
        await prepare_inputs(request, web.rules, Publication(), preflight=preflight, warn=reported.append)
    except InvalidRequest as error:
        found = [str(problem) for problem in error.problems]
    else:
        found = []
    assert "s3cret" not in str(found + reported)
    return found


# --- Pictures ---


@pytest.mark.parametrize(
    "content",
    [
        picture(),
        picture(kind="PNG"),
        picture(960, 320),
        picture(4096, 4096, quality=10),
        turned(),
    ],
    ids=["JPEG", "PNG", "smallest and longest", "largest", "turned"],
)
async def test_a_documented_picture_passes(content: bytes) -> None:
    assert await problems_of(Web(a=content), "a") == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (picture(kind="WEBP"), "image_urls.0: is WEBP, not JPEG or PNG"),
        (picture(4097, 2000), "image_urls.0: is 4097×2000 pixels, more than 4096×4096"),
        (picture(319, 400), "image_urls.0: is 319×400 pixels: its short side must be 320 or more"),
        (picture(1300, 400), "image_urls.0: is 1300×400 pixels: its long side must not be more than 3 times the short"),
        (picture() + bytes(5_000_000), "image_urls.0: is larger than 4.7 MB"),
    ],
    ids=["format", "too large", "too small", "too long", "too heavy"],
)
async def test_each_documented_limit_of_a_picture_is_checked(content: bytes, problem: str, tmp_path: Path) -> None:
    (found,) = await problems_of(Web(a=content), "a")
    assert found.startswith(problem)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"image_urls\.0: is "):
        await prepare_inputs(JimengVideo(prompt="x", image_urls=(str(tmp_path / "a"),)), FetchRules(), Publication())
    assert await problems_of(Web(a=content), "a", preflight=False) == []


async def test_the_last_frame_must_have_the_ratio_of_the_first() -> None:
    web = Web(a=picture(), b=picture(1248, 704), c=picture(720, 1280), d=turned())
    assert await problems_of(web, "a", "b") == []
    assert await problems_of(web, "a", "d") == []
    (problem,) = await problems_of(web, "a", "c")
    assert problem == "image_urls.1: must have the same aspect ratio as image_urls.0: they are 720×1280 and 1280×720"


async def test_all_problems_of_all_inputs_are_reported_at_once() -> None:
    found = await problems_of(Web(a=picture(4200, 300), b=picture(kind="GIF")), "a", "b")
    assert [problem.partition(":")[0] for problem in found] == ["image_urls.0"] * 3 + ["image_urls.1"] * 2


async def test_of_a_heavy_picture_only_what_the_check_needs_is_fetched() -> None:
    """But of one behind a signed URL: its content counts in the identity."""
    web = Web(a=picture() + bytes(40_000_000))
    request = JimengVideo(model=FRAMES, prompt="x", image_urls=(PLAIN.format("a"),))
    with pytest.raises(InvalidRequest, match="larger than"):
        await prepare_inputs(request, web.rules, Publication())
    assert web.pulled < 5_200_000


async def test_a_local_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("Dear diary")
    request = JimengVideo(prompt="x", image_urls=(str(tmp_path / "notes.jpg"),))
    with pytest.raises(InvalidRequest, match=r"image_urls\.0: is not a JPEG or PNG picture"):
        await prepare_inputs(request, FetchRules(), Publication())


# --- Recordings ---


def omnihuman() -> OmniHumanVideo:
    return OmniHumanVideo(image_url=PLAIN.format("portrait"), audio_url=PLAIN.format("speech"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (recording(60), "audio_url: plays 60.0 s and must be shorter than 60 s"),
        (picture(), "audio_url: has no sound in it"),
    ],
    ids=["a minute", "a picture"],
)
async def test_a_recording_must_have_sound_and_be_shorter_than_a_minute(content: bytes, problem: str) -> None:
    web = Web(speech=content)
    with pytest.raises(InvalidRequest, match=problem):
        await prepare_inputs(omnihuman(), web.rules, Publication())
    assert (await prepare_inputs(omnihuman(), web.rules, Publication(), preflight=False)).request == omnihuman()


async def test_a_recording_is_measured_with_or_without_preflight_and_fetched_once() -> None:
    for preflight in (True, False):
        web = Web(speech=asset("speech.mp3"))
        ready = await prepare_inputs(omnihuman(), web.rules, Publication(), preflight=preflight)
        assert ready.expectation().seconds == pytest.approx(7.17, abs=0.1)
        assert web.fetched == {"speech": 1}  # nothing is documented about the portrait


# --- What cannot be looked at ---


async def test_what_cannot_be_reached_from_here_is_reported_and_goes_on() -> None:
    reported: list[str] = []
    assert await problems_of(Web(page=b"<html>Log in</html>"), "gone", "page", said=reported) == []
    assert reported == [
        "image_urls.0 cannot be inspected from here, so it is not checked: The URL answered 404.",
        "image_urls.1 cannot be inspected from here, so it is not checked: the URL gave no picture.",
    ]
    ready = await prepare_inputs(omnihuman(), Web().rules, Publication(), warn=reported.append)
    assert ready.expectation().seconds is None
    assert [line.partition(":")[0] for line in reported[2:]] == [
        "The recording cannot be measured from here, so its length is not checked",
    ]


async def test_the_same_picture_in_two_places_is_fetched_once() -> None:
    web = Web(a=picture())
    assert await problems_of(web, "a", "a") == []
    assert web.fetched == {"a": 1}


# --- In a flow ---


@pytest.mark.usefixtures("prefect_server")
async def test_a_flow_tells_every_problem_before_anything_is_paid_unless_asked_not_to_look(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    (tmp_path / "first.png").write_bytes(picture(1280, 300, "PNG"))
    (tmp_path / "last.png").write_bytes(picture(640, 640, "PNG"))
    frames = [str(tmp_path / "first.png"), str(tmp_path / "last.png")]
    with pytest.raises(errors.InvalidRequest) as caught:
        await jimeng_video("x", FRAMES, frames, credentials=credentials)
    assert [problem.field for problem in caught.value.problems] == ["image_urls.0"] * 2 + ["image_urls.1"]
    assert not simulator.world.requests
    await jimeng_video("x", FRAMES, frames, credentials=credentials, preflight=False)
    assert simulator.accepted == 1

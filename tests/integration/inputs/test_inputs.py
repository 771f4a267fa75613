"""Inputs where people have them: what is accepted, how each travels, what makes it the same, and what nobody sees."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from jobs import submit_once

from prefect_genmedia._core import Ledger
from prefect_genmedia._core.identity import identity_of
from prefect_genmedia._core.submit import shown_request
from prefect_genmedia._inputs import Publication, identified, inspect, prepare_inputs, prepared_url, validate
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.errors import InvalidRequest, ProviderError
from prefect_genmedia.providers.hidream import HiDreamClient, StylizedVideo
from prefect_genmedia.providers.inputs import SentInput
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.protocol import Accepted, Account, GenerationRequest, PreparedRequest, Sendable
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo, TokenOpsClient
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import CLIP, asset

RULES = FetchRules()
NOWHERE = Publication()
SOMEWHERE = Publication("signed://bucket/inputs", 13 * 3600)
ACCOUNT = Account.of("any", "https://example.com", "key")
SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"


class SigningFileSystem(MemoryFileSystem):
    """A storage in memory that signs URLs, each time another one, and counts uploads."""

    protocol = "signed"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    uploads: ClassVar[list[str]] = []
    signed: ClassVar[list[int]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("signed://", "memory://")))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.uploads.append(rpath)
        super().put_file(lpath, rpath, **options)

    def sign(self, path: str, expiration: int = 100, **options: Any) -> str:
        self.signed.append(expiration)
        return f"https://storage.example.com{path}?X-Amz-Signature={len(self.signed):032d}&X-Amz-Expires={expiration}"


@pytest.fixture(autouse=True)
def storage() -> Iterator[type[SigningFileSystem]]:
    fsspec.register_implementation("signed", SigningFileSystem, clobber=True)
    stores = (MemoryFileSystem.store, SigningFileSystem.store)
    for remembered in (*stores, SigningFileSystem.uploads, SigningFileSystem.signed):
        remembered.clear()
    yield SigningFileSystem
    MemoryFileSystem.store.clear()


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    return written(tmp_path / "portrait.jpg", "portrait.jpg")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return written(tmp_path / "speech.mp3", "speech.mp3")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return written(tmp_path / "clip.mp4", CLIP)


def written(path: Path, name: str) -> Path:
    path.write_bytes(asset(name))
    return path


def sha256(name: str) -> str:
    return hashlib.sha256(asset(name)).hexdigest()


def quiet(message: str) -> None:
    raise AssertionError(message)


# --- What is accepted ---


async def test_a_missing_file_is_a_problem_beside_all_others(portrait: Path) -> None:
    masks = (str(portrait), str(portrait.with_name("empty.png")))
    Path(masks[1]).touch()
    request = OmniHumanVideo(image_url=str(portrait.with_name("gone.jpg")), audio_url="speech.mp3", mask_urls=masks)
    with pytest.raises(InvalidRequest) as caught:
        await prepare_inputs(request, RULES, SOMEWHERE)
    assert [problem.field for problem in caught.value.problems] == ["image_url", "audio_url", "mask_urls.1"]
    assert "gone.jpg" in str(caught.value)
    assert str(Path.cwd()) in str(caught.value)  # a relative path: relative to what?


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense://bucket/a.jpg", "storage URL such as s3://bucket/key"),
        ("zip://a.jpg::https://example.com/a.zip", "storage URL such as s3://bucket/key"),
        ("ftp://me:s3cret@example.com/a.jpg", "must not contain a password"),
        ("s3://", "names a file"),
        ("data:image/png;base64,AAAA", "base64 text does not belong here"),
    ],
)
def test_what_is_no_file_anywhere_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        LivePoster(image_url=url, scene="youqian")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", "it is a folder"),
        ("a\0b.jpg", "there is no"),
        ("a" * 5000, "the path of a file"),
    ],
    ids=["a folder", "a name that no file can have", "a name that is too long"],
)
async def test_a_path_that_is_no_file_is_refused_when_it_is_inspected(path: str, said: str) -> None:
    request = LivePoster(image_url=path, scene="youqian")
    with pytest.raises(InvalidRequest, match=said) as caught:
        await prepare_inputs(request, RULES, SOMEWHERE)
    assert [problem.field for problem in caught.value.problems] == ["image_url"]


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "local://{path}", "portrait.jpg", "~/portrait.jpg"])
def test_a_file_of_this_machine_may_be_named_in_every_usual_way(
    form: str, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(portrait.parent)
    monkeypatch.setenv("HOME", str(portrait.parent))
    request = LivePoster(image_url=form.format(path=portrait), scene="youqian")
    assert request.identity_inputs()["image_url"] == f"sha256:{sha256('portrait.jpg')}"


# --- How each one travels ---


async def test_http_urls_travel_as_they_are_and_are_not_even_fetched() -> None:
    request = LivePoster(image_url="https://example.com/a.jpg", scene="youqian")
    ready = await prepare_inputs(request, RULES, NOWHERE, warn=quiet)
    assert ready.payload() == request.body()
    assert not ready.inputs.by_url


async def test_own_files_are_published_once_under_their_digest_and_signed_for_half_a_day_or_more(
    portrait: Path, speech: Path, storage: type[SigningFileSystem]
) -> None:
    copy = Path(shutil.copy(portrait, portrait.with_name("copy.jpeg")))
    for picture in (portrait, copy):
        request = OmniHumanVideo(image_url=str(picture), audio_url=str(speech))
        content = (await prepare_inputs(request, RULES, SOMEWHERE, warn=quiet)).payload()["content"]
        assert content[0]["image_url"]["url"].startswith(
            f"https://storage.example.com/bucket/inputs/{sha256('portrait.jpg')}.jpg?X-Amz-Signature="
        )
        assert f"{sha256('speech.mp3')}.mp3?" in content[1]["audio_url"]["url"]
    assert len(storage.uploads) == 2
    assert set(storage.signed) == {13 * 3600}


async def test_a_file_of_another_storage_is_published_too(storage: type[SigningFileSystem]) -> None:
    fsspec.filesystem("memory").pipe("/people/a.jpg", asset("portrait.jpg"))
    request = LivePoster(image_url="memory://people/a.jpg", scene="youqian")
    ready = await prepare_inputs(request, RULES, SOMEWHERE, warn=quiet)
    assert sha256("portrait.jpg") in ready.payload()["image_url"]
    assert request.image_url == ready.request.model_dump()["image_url"] == "memory://people/a.jpg"


async def test_an_object_that_was_cleaned_up_is_uploaded_again(
    portrait: Path, storage: type[SigningFileSystem]
) -> None:
    request = LivePoster(image_url=str(portrait), scene="youqian")
    await prepare_inputs(request, RULES, SOMEWHERE)
    storage.store.clear()
    await prepare_inputs(request, RULES, SOMEWHERE)
    assert len(storage.uploads) == 2


async def test_own_pictures_travel_to_jimeng_in_the_documents_base64_form(portrait: Path) -> None:
    text = base64.b64encode(asset("portrait.jpg")).decode()
    picture = {"type": "image_base64", "image_url": {"url": f"data:image/jpeg;base64,{text}"}}
    for request in (
        JimengVideo(prompt="A cat jumps.", image_urls=(str(portrait),)),
        JimengVideo.model_validate(
            {
                "content": [
                    {"type": "text", "text": "A cat jumps."},
                    {"type": "image_url", "image_url": {"url": str(portrait)}},
                ]
            }
        ),
    ):
        body = (await prepare_inputs(request, RULES, NOWHERE, warn=quiet)).payload()
        assert body["content"] == [{"type": "text", "text": "A cat jumps."}, picture]
        assert set(body) == {"model", "req_key", "content"}
        assert body["req_key"] == "jimeng_ti2v_v30_pro"


async def test_an_own_video_travels_to_hidream_as_base64(clip: Path) -> None:
    ready = await prepare_inputs(StylizedVideo(video_url=str(clip), style="anime"), RULES, NOWHERE, warn=quiet)
    assert base64.b64decode(ready.payload()["video_name"]) == asset(CLIP)


async def test_pictures_of_one_request_travel_one_way(portrait: Path, storage: type[SigningFileSystem]) -> None:
    mixed = JimengVideo(
        model="jimeng-video-3.0-720P", prompt="x", image_urls=(str(portrait), "https://example.com/b.jpg")
    )
    with pytest.raises(InvalidRequest, match=f"image_urls.0: cannot travel as base64 beside an http.*{SETTING}"):
        await prepare_inputs(mixed, RULES, NOWHERE, preflight=False)
    body = (await prepare_inputs(mixed, RULES, SOMEWHERE, preflight=False)).payload()
    assert [url.partition("?")[0].rpartition("/")[2] for url in body["image_urls"]] == [
        f"{sha256('portrait.jpg')}.jpg",
        "b.jpg",
    ]
    assert "content" not in body


async def test_a_file_too_large_for_base64_is_published_or_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch, storage: type[SigningFileSystem]
) -> None:
    monkeypatch.setattr(validate, "MAX_INLINE_BYTES", 1000)
    request = StylizedVideo(video_url=str(clip), style="anime")
    with pytest.raises(InvalidRequest, match=f"too much for base64.*{SETTING}"):
        await prepare_inputs(request, RULES, NOWHERE)
    assert (await prepare_inputs(request, RULES, SOMEWHERE)).payload()["video_name"].startswith("https://storage")


# --- What cannot travel ---


async def test_without_a_storage_each_own_file_is_refused_with_what_to_set(portrait: Path, speech: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await prepare_inputs(OmniHumanVideo(image_url=str(portrait), audio_url=str(speech)), RULES, NOWHERE)
    assert [problem.field for problem in caught.value.problems] == ["image_url", "audio_url"]
    assert all(SETTING in problem.problem for problem in caught.value.problems)
    with pytest.raises(InvalidRequest, match=f"portrait: .*{SETTING}"):
        await prepared_url(str(portrait), "portrait", RULES, NOWHERE)


@pytest.mark.parametrize("url", ["memory://bucket", "/tmp/inputs", "nonsense://bucket"])
async def test_a_storage_that_cannot_sign_is_refused_and_stays_empty(url: str, portrait: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"image_url: cannot be published.*{SETTING}"):
        await prepare_inputs(LivePoster(image_url=str(portrait), scene="youqian"), RULES, Publication(url))
    assert not MemoryFileSystem.store


async def test_a_storage_that_fails_is_worth_a_retry_and_nothing_was_paid(
    portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the line is cut")

    monkeypatch.setattr(SigningFileSystem, "put_file", broken)
    with pytest.raises(ProviderError, match="the line is cut") as caught:
        await prepare_inputs(LivePoster(image_url=str(portrait), scene="youqian"), RULES, SOMEWHERE)
    assert caught.value.retryable
    assert caught.value.outcome == "unsent"
    assert caught.value.paid == "nothing"


async def test_files_that_are_gone_empty_or_too_large_are_named_at_once(
    portrait: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "MAX_INPUT_BYTES", 50_000)
    masks = ["memory://gone.png", str(portrait.with_name("empty.png"))]
    Path(masks[1]).touch()
    request = OmniHumanVideo(image_url=str(portrait), audio_url=str(speech), mask_urls=tuple(masks))
    speech.unlink()
    with pytest.raises(InvalidRequest) as caught:
        await prepare_inputs(request, RULES, SOMEWHERE)
    found = {problem.field: problem.problem for problem in caught.value.problems}
    assert f"there is no '{speech}'" in found["audio_url"]
    assert found["mask_urls.0"] == "is not there"
    assert found["mask_urls.1"] == "is empty"
    assert "is larger than" in found["image_url"]


def test_a_request_that_was_not_prepared_is_never_sent(portrait: Path) -> None:
    with pytest.raises(
        InvalidRequest, match="an input is not a URL that the provider can fetch; the request must be prepared first"
    ):
        LivePoster(image_url=str(portrait), scene="youqian").payload()


# --- What makes it the same ---


async def test_the_same_bytes_are_the_same_request_wherever_they_are(portrait: Path) -> None:
    other = Path(shutil.copy(portrait, portrait.with_name("other.jpg")))
    fsspec.filesystem("memory").pipe("/people/a.jpg", asset("portrait.jpg"))
    identities = set()
    for url in (str(portrait), f"file://{other}", "memory://people/a.jpg"):
        request = LivePoster(image_url=url, scene="youqian")
        for known in (await prepare_inputs(request, RULES, SOMEWHERE), await identified(request, RULES)):
            identities.add(identity_of(ACCOUNT, known, "key:1"))
    assert len(identities) == 1
    with other.open("ab") as file:
        file.write(b"\0")
    changed = LivePoster(image_url=str(other), scene="youqian")
    assert identity_of(ACCOUNT, changed, "key:1") not in identities


async def test_a_path_and_its_base64_text_are_the_same_request(portrait: Path, clip: Path) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(asset("portrait.jpg")).decode()
    element = {"type": "image_base64", "image_url": {"url": uri}}
    by_text = JimengVideo.model_validate({"prompt": "x", "content": [element]})
    assert by_text.identity_inputs() == JimengVideo(prompt="x", image_urls=(str(portrait),)).identity_inputs()
    assert uri not in repr(by_text)
    text = base64.b64encode(asset(CLIP)).decode()
    by_text_too = StylizedVideo(video_base64=text, style="anime")
    assert by_text_too.identity_inputs() == StylizedVideo(video_url=str(clip), style="anime").identity_inputs()


# --- What nobody sees ---


async def test_base64_and_signatures_are_in_the_body_only(portrait: Path, clip: Path) -> None:
    jimeng = JimengVideo(prompt="x", image_urls=(str(portrait),))
    hidream = StylizedVideo(video_url=str(clip), style="anime")
    poster = LivePoster(image_url=str(portrait), scene="youqian")
    requests: list[GenerationRequest] = [jimeng, hidream, poster]
    for request in requests:
        ready = await prepare_inputs(request, RULES, SOMEWHERE)
        observed = f"{ready!r} {ready.request} {shown_request(ready.request)} {ready.request.model_dump()}"
        observed += json.dumps(ready.request.identity_inputs(ready.inputs))
        stored = pickle.dumps(ready)  # as a task's result may be
        assert pickle.loads(stored) == PreparedRequest(request)
        observed += stored.decode("latin-1")
        secrets = [
            each.base64[:60] if each.base64 else (each.url or "").partition("?")[2]
            for each in ready.inputs.by_url.values()
        ]
        assert secrets
        assert all(secret and secret not in observed for secret in secrets)
        assert str(request.inputs()[0].url) in observed


async def test_an_error_that_quotes_the_request_shows_and_stores_neither_base64_nor_signatures(
    ledger: Ledger, clip: Path, portrait: Path
) -> None:
    class Quoting:
        fetch_rules = RULES

        def __init__(self, provider: str) -> None:
            self.account = Account.of(provider, "https://example.com", "key")

        @asynccontextmanager
        async def turn(self) -> AsyncIterator[None]:
            yield

        async def submit(self, request: Sendable) -> Accepted:
            body = request.payload()
            quoted = body.get("video_name") or body["image_url"]
            error = InvalidRequest(f"video_name {quoted[30:1500]} is not allowed.", body=str(body))
            raise error

    for request in (
        StylizedVideo(video_url=str(clip), style="anime"),
        LivePoster(image_url=str(portrait), scene="youqian"),
    ):
        ready = await prepare_inputs(request, RULES, SOMEWHERE)
        with pytest.raises(InvalidRequest) as caught:
            await submit_once(ledger, Quoting(request.provider), ready, scope=request.kind)
        stored = [job.error_message for job in await ledger.jobs()]
        observed = f"{caught.value!r} {caught.value} {vars(caught.value)} {stored}"
        text = base64.b64encode(asset(CLIP)).decode()
        assert not any(text[start : start + 60] in observed for start in range(0, 3000, 20))
        assert "X-Amz-Signature=0" not in observed
        assert "is not allowed" in observed


def test_what_is_sent_is_not_in_its_own_repr() -> None:
    assert "AAAA" not in repr(SentInput("0" * 64, base64="AAAA"))
    assert "sign" not in repr(SentInput("0" * 64, url="https://example.com/?sign=1"))


# --- Over the wire ---


async def test_own_files_reach_the_simulator_whole(
    simulator: RunningSimulator, ledger: Ledger, portrait: Path, clip: Path
) -> None:
    tokenops = TokenOpsClient(simulator.key, simulator.tokenops_url)
    hidream = HiDreamClient(token=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    lives: list[tuple[Any, GenerationRequest]] = [
        (tokenops, JimengVideo(prompt="x", image_urls=(str(portrait),))),
        (hidream, StylizedVideo(video_url=str(clip), style="anime")),
    ]
    for client, request in lives:
        ready = await prepare_inputs(request, client.fetch_rules, NOWHERE)
        job = await submit_once(ledger, client, ready, scope="test")
        again = await prepare_inputs(request, client.fetch_rules, NOWHERE)
        assert (await submit_once(ledger, client, again, scope="test")).key == job.key
        await client.aclose()
    jimeng, stylize = simulator.world.jobs.values()
    assert base64.b64decode(jimeng.body["content"][1]["image_url"]["url"].partition(",")[2]) == asset("portrait.jpg")
    assert base64.b64decode(stylize.body["video_name"]) == asset(CLIP)

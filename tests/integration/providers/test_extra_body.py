"""`extra_body`: what the provider has shipped and no field knows is sent, counted, paid and verified for what it is."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import Flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from toy_provider import ToyVideo

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Job, Ledger
from prefect_genmedia._core.budgets import priced_as
from prefect_genmedia._core.identity import identity_of
from prefect_genmedia._core.submit import shown_request
from prefect_genmedia.batch.rows import check_rows
from prefect_genmedia.batch.table import encode_table, read_table
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.providers.extra_body import MAX_BYTES, MAX_DEPTH
from prefect_genmedia.providers.hidream import StylizedVideo
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.plugin import list_prices
from prefect_genmedia.providers.protocol import Account, GenerationRequest
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator

URL = "https://example.com"
SIGNED = f"{URL}/style.png?v=2&X-Amz-Signature=5ec4e7&X-Amz-Date=20260101T000000Z"
NEW_MODEL = "jimeng-video-4.0"
FLOWS = [omnihuman_video, jimeng_video, live_poster, stylize_video]

GOLDEN: dict[str, tuple[type[GenerationRequest], dict[str, Any]]] = {
    "dc62dbba31904dc02fe96386e1fc8a9f8908bc0030c9dcbfbcebd424c94a2ef3": (
        OmniHumanVideo,
        {"image_url": f"{URL}/a.jpg", "audio_url": f"{URL}/a.mp3"},
    ),
    "d77334f5256e7066ae65110760a1a718e2d7f839762c7699045bcf57fc4c7971": (
        OmniHumanVideo,
        {
            "image_url": f"{URL}/a.jpg?v=2&X-Amz-Signature=abc",
            "audio_url": f"{URL}/a.mp3",
            "prompt": "说",
            "subject": "largest",
            "mask_urls": (f"{URL}/m.png",),
            "masks_as": "content",
            "output_resolution": 720,
            "pe_fast_mode": True,
            "seed": 7,
        },
    ),
    "e81e70fc8d0713c61f476e4cd187437c213b664ea6cd390dbb000cab2f68402d": (JimengVideo, {"prompt": "a lake"}),
    "66a66c2618c727b332f7d12afd5d5037272f558853a3b93fb33c5f640022ff61": (
        JimengVideo,
        {
            "prompt": "a lake",
            "model": "jimeng-video-3.0-720P",
            "image_urls": (f"{URL}/a.jpg",),
            "seconds": 10,
            "seed": 7,
            "template_id": "robo_arm",
            "camera_strength": "weak",
        },
    ),
    "e9ab7d8ef5eaee0978302809f2e690104ed8238748fa31c798df95c724a61eb1": (
        JimengVideo,
        {
            "content": (
                {"type": "text", "text": "x"},
                {"type": "image_base64", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ),
            "frames": 241,
        },
    ),
    "a813dc1c269a59040a2bc025272b0a486a2ccde2570e520c56a1f5d8dcc28b46": (
        LivePoster,
        {"image_url": f"{URL}/a.jpg", "scene": "firework"},
    ),
    "9d0f487fd080877fd0966a1b01693dda8c12fb928e876f0aa05eea796ff6e414": (
        StylizedVideo,
        {
            "video_url": f"{URL}/v.mp4",
            "style": "anime",
            "prompt": "x",
            "request_id": "r",
            "notify_url": f"{URL}/cb",
        },
    ),
    "c8779d7ba4cd47903ded396eebe28dad459d141f2d67505c5c9a474cfa9d7585": (
        StylizedVideo,
        {"video_base64": "AAAA", "style": "anime"},
    ),
}
"""Digests as they were in ledgers before requests had an `extra_body`, of requests of every kind."""

PICKLED_BEFORE = (
    "gASVBAEAAAAAAACMKHByZWZlY3RfZ2VubWVkaWEucHJvdmlkZXJzLmplbml1cy5wb3N0ZXKUjApMaXZlUG9zdGVylJOUKYGUfZQojAhfX2RpY3Rf"
    "X5R9lCiMCWltYWdlX3VybJSMGWh0dHBzOi8vZXhhbXBsZS5jb20vYS5qcGeUjAVzY2VuZZSMCGZpcmV3b3JrlHWMEl9fcHlkYW50aWNfZXh0cmFf"
    "X5ROjBdfX3B5ZGFudGljX2ZpZWxkc19zZXRfX5SPlChoCWgHkIwUX19weWRhbnRpY19wcml2YXRlX1+UfZQojAVfc2VudJR9lIwGX2ZvdW5klE6M"
    "DF9wcmVwYXJlZF9hdJROdXViLg=="
)
"""A poster request, pickled before requests had an `extra_body`."""


def identity(request: GenerationRequest) -> str:
    return identity_of(Account(request.provider, "https://api.example.com", "0a1b2c3d"), request, "run:1", 1)


def poster(**extra_body: Any) -> LivePoster:
    return LivePoster(image_url=f"{URL}/a.jpg", scene="firework", extra_body=extra_body)


def lake(**extra_body: Any) -> JimengVideo:
    return JimengVideo(prompt="a lake", extra_body=extra_body)


def speaker(**extra_body: Any) -> OmniHumanVideo:
    return OmniHumanVideo(image_url=f"{URL}/a.jpg", audio_url=f"{URL}/a.mp3", extra_body=extra_body)


# --- what is sent ---


def test_each_key_replaces_the_whole_value_and_null_is_a_value() -> None:
    picture = {"type": "image_url", "image_url": {"url": f"{URL}/b.jpg"}}
    request = speaker(content=[picture], output_resolution=2160, options={"a": {"b": 1}}, prompt=None)
    expected = {"content": [picture], "output_resolution": 2160, "options": {"a": {"b": 1}}, "prompt": None}
    assert request.payload() == request.body() | expected
    assert len(request.body()["content"]) == 2


def test_without_one_the_fields_alone_are_sent() -> None:
    for request in (poster(), LivePoster(image_url=f"{URL}/a.jpg", scene="firework", extra_body=None)):
        assert request.payload() == request.body() == {"prompt": "firework", "image_url": f"{URL}/a.jpg"}


def test_a_request_does_not_change_with_the_object_that_it_was_made_of() -> None:
    options = {"steps": [1, 2]}
    request = lake(options=options)
    options["steps"].append(3)
    assert request.payload()["options"] == {"steps": [1, 2]}


def test_the_user_s_callback_wins_over_the_receiver_s() -> None:
    request = StylizedVideo(video_url=f"{URL}/v.mp4", style="anime", extra_body={"notify_url": f"{URL}/mine"})
    assert request.notifying(f"{URL}/receiver").payload()["notify_url"] == f"{URL}/mine"


def test_it_stays_when_the_speaker_is_chosen() -> None:
    from prefect_genmedia.providers.tokenops.subjects import SubjectSelection

    chosen = speaker(watermark=False).with_subject(SubjectSelection(subject="0", mask_urls=(f"{URL}/m.png",)))
    assert chosen.payload()["watermark"] is False


def test_a_request_of_another_package_has_it_for_nothing() -> None:
    request = ToyVideo(picture=f"{URL}/a.jpg", extra_body={"model": "toy-2"})
    assert request.payload() == {"picture": f"{URL}/a.jpg", "model": "toy-2"}
    assert (request.model_name, ToyVideo(picture=f"{URL}/a.jpg").model_name) == ("toy-2", "toy-1")
    assert identity(request) != identity(ToyVideo(picture=f"{URL}/a.jpg"))
    assert request.verifiable(request.expectation()).seconds is None


# --- what may be in it ---


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def repeated(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": "x"}
    for _ in range(levels):
        value = {"a": value, "b": value}
    return value


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    ("extra_body", "problem"),
    [
        ({"a": [{"cfg": float("nan")}]}, r"extra_body: a\.0\.cfg: is not a number that JSON has"),
        ({"a": float("-inf")}, "a: is not a number that JSON has"),
        ({"a": {1: "x"}}, "a: has a key that is not text"),
        ({1: "x"}, "has a key that is not text"),
        ({"a": b"secret bytes"}, "a: is not JSON, but of Python's type bytes"),
        ({"a": {"b": {1, 2}}}, r"a\.b: is not JSON, but of Python's type set"),
        ({"a": "\ud800"}, "JSON in UTF-8 can hold"),
        ({"a": 10**5000}, "JSON in UTF-8 can hold"),
        ({"a": "x" * MAX_BYTES}, "64 KiB"),
        ({"a": "说" * (MAX_BYTES // 3)}, "64 KiB"),
        (repeated(MAX_DEPTH - 2), "64 KiB"),
        (nested(MAX_DEPTH + 1), "32 levels"),
        (nested(100_000), "32 levels"),
        (endless(), "32 levels"),
        ([["a", 1]], "must be a JSON object"),
        ("a", "must be a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_what_is_not_json_or_has_no_bounds_is_refused_and_not_repeated(extra_body: Any, problem: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=problem) as refusal:
        LivePoster(image_url=f"{URL}/a.jpg", scene="firework", extra_body=extra_body)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_the_largest_one_is_taken() -> None:
    assert lake(a="x" * (MAX_BYTES - 8)).payload()["a"]
    assert JimengVideo(prompt="x", extra_body=nested(MAX_DEPTH)).extra_body == nested(MAX_DEPTH)


def test_fields_are_checked_as_if_it_were_not_there() -> None:
    with pytest.raises(errors.InvalidRequest, match="scene"):
        LivePoster(image_url=f"{URL}/a.jpg", extra_body={"prompt": "mid_autumn"})  # type: ignore[call-arg]
    with pytest.raises(errors.InvalidRequest, match="style"):
        StylizedVideo(video_url=f"{URL}/v.mp4", extra_body={"style": "new"})


# --- identity ---


@pytest.mark.parametrize("digest", GOLDEN)
def test_without_one_a_request_is_the_one_that_ledgers_know(digest: str) -> None:
    kind, fields = GOLDEN[digest]
    for absent in ({}, {"extra_body": {}}, {"extra_body": None}):
        request = kind.model_validate({**fields, **absent})
        assert identity(request) == digest
        assert "extra_body" not in shown_request(request)
    assert identity(kind.model_validate({**fields, "extra_body": {"a": 1}})) != digest


@pytest.mark.parametrize("make", [poster, lake, speaker])
def test_it_is_part_of_the_identity_whatever_its_order(make: Callable[..., GenerationRequest]) -> None:
    assert identity(make(a=1, b={"c": 2, "d": 3})) == identity(make(b={"d": 3, "c": 2}, a=1))
    assert len({identity(make(**extra)) for extra in ({}, {"a": 1}, {"a": None}, {"a": [1]}, {"b": 1})}) == 5


def test_requests_are_equal_and_hashed_with_it() -> None:
    assert poster(a=1) == poster(a=1) != poster(a=2)
    assert len({poster(a=[1]), poster(a=[1]), poster(a=[2]), poster()}) == 3


def test_a_url_signed_anew_is_the_same_request_and_its_signature_is_shown_nowhere() -> None:
    other = SIGNED.replace("5ec4e7", "0dd").replace("20260101", "20270101")
    one, again = (lake(style={"refs": [url, f"see {url}."]}) for url in (SIGNED, other))
    assert identity(one) == identity(again) != identity(lake(style={"refs": [f"{URL}/style.png?v=3"]}))
    assert one.payload()["style"]["refs"][0] == SIGNED
    for text in (json.dumps(shown_request(one)), repr(one)):
        assert "5ec4e7" not in text
    assert shown_request(one)["extra_body"] == {
        "style": {"refs": [f"{URL}/style.png?v=2", f"see {URL}/style.png?v=2."]}
    }
    assert identity(JimengVideo.model_validate(shown_request(one))) == identity(one)


def test_files_are_distinguished_by_their_bytes_and_cut_where_they_are_shown() -> None:
    one, other = (lake(first_frame=f"DATA:image/png;base64,{text}") for text in ("AAAA", "BBBB"))
    assert identity(one) != identity(other)
    assert shown_request(one)["extra_body"] == {"first_frame": "data:image/png;base64,…"}


@pytest.mark.parametrize("url", ["http://[half", "https://user:pass@[half?token=5ec4e7"])
def test_a_url_that_nobody_can_read_breaks_nothing(url: str) -> None:
    assert identity(lake(a=url)) != identity(lake(a=f"{url}2"))
    assert "5ec4e7" not in str(shown_request(lake(a=url)))


def test_values_named_like_secrets_are_masked_where_they_are_shown() -> None:
    names = ("api_key", "accessToken", "token", "X-Auth-Key", "webhook_secret", "password")
    shown = shown_request(lake(hook=dict.fromkeys(names, "5ec4e7"), max_tokens=7, keyframe="a", token=True))
    assert "5ec4e7" not in str(shown)
    assert (shown["extra_body"]["max_tokens"], shown["extra_body"]["keyframe"]) == (7, "a")


def test_a_request_pickled_before_there_was_one_goes_on() -> None:
    request = pickle.loads(base64.b64decode(PICKLED_BEFORE))
    assert request == poster()
    assert (request.extra_body, identity(request)) == ({}, identity(poster()))
    assert pickle.loads(pickle.dumps(poster(a=[1]))) == poster(a=[1])


# --- prices and verification ---


def test_the_price_is_that_of_the_model_that_is_sent() -> None:
    assert priced_as(lake(model="jimeng-video-3.0-720P")) == "tokenops/jimeng-video-3.0-720P"
    assert priced_as(lake(model=NEW_MODEL)) not in list_prices()
    assert priced_as(poster(model="poster-2")) == "jenius/poster-2"
    assert priced_as(lake(model=None)) == priced_as(lake())


@pytest.mark.parametrize(
    ("request_", "verified"),
    [
        (lake(), {"seconds", "resolution_class", "aspect_ratio"}),
        (lake(prompt="a sea", seed=3), {"seconds", "resolution_class", "aspect_ratio"}),
        (lake(seconds="10"), {"resolution_class", "aspect_ratio"}),
        (lake(frames=361, prompt="x"), {"resolution_class", "aspect_ratio"}),
        (lake(size="640x480"), {"seconds"}),
        (lake(aspect_ratio="2:1"), {"seconds", "resolution_class"}),
        (lake(image_urls=[]), {"seconds", "resolution_class"}),
        (lake(model=NEW_MODEL), set()),
        (lake(duration=15), set()),
        (speaker(), {"resolution_class", "has_audio", "shows_face"}),
        (speaker(output_resolution=480), {"has_audio", "shows_face"}),
        (speaker(content=[]), {"resolution_class", "shows_face"}),
        (speaker(generation_type="silent"), set()),
    ],
    ids=lambda value: str(getattr(value, "extra_body", "")),
)
def test_what_it_decides_or_may_decide_is_not_verified(request_: GenerationRequest, verified: set[str]) -> None:
    expectation = request_.verifiable(request_.expectation())
    assert set(expectation.model_dump(exclude_none=True)) == verified


# --- through flows ---


@pytest.fixture
def shipped(simulator: RunningSimulator) -> RunningSimulator:
    """Providers that have shipped something since their documents."""
    simulator.world.settings.shipped = frozenset({"mid_autumn", NEW_MODEL, "claymation"})
    return simulator


@pytest.fixture
def jenius(simulator: RunningSimulator) -> JeniusCredentials:
    return JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)


async def job_of(ledger: Ledger) -> Job:
    (job,) = (await ledger.newest_in("")).values()
    return job


@pytest.mark.usefixtures("prefect_server")
class TestFlows:
    async def test_a_new_scene(self, shipped: RunningSimulator, jenius: JeniusCredentials, ledger: Ledger) -> None:
        await live_poster(f"{URL}/a.jpg", "firework", jenius, extra_body={"prompt": "mid_autumn"})
        (sent,) = shipped.world.jobs.values()
        assert sent.body == {"prompt": "mid_autumn", "image_url": f"{URL}/a.jpg"}
        assert (await job_of(ledger)).request["extra_body"] == {"prompt": "mid_autumn"}

    async def test_a_new_style(self, shipped: RunningSimulator) -> None:
        hidream = HiDreamCredentials(api_key=shipped.key, base_url=shipped.hidream_url)
        await stylize_video(f"{URL}/v.mp4", "anime", credentials=hidream, extra_body={"style": "claymation"})
        (sent,) = shipped.world.jobs.values()
        assert sent.body["style"] == "claymation"

    async def test_a_new_model_at_its_own_price(
        self,
        shipped: RunningSimulator,
        credentials: TokenOpsCredentials,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        prices = json.dumps({f"tokenops/{NEW_MODEL}": 3.0})
        monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PRICES", prices)
        shipped.order("small_video")  # another size than the model of the form makes
        extra = {"model": NEW_MODEL, "req_key": "jimeng_v40"}
        delivery = await jimeng_video("a lake", credentials=credentials, extra_body=extra)
        (sent,) = shipped.world.jobs.values()
        assert (sent.body["model"], sent.body["req_key"]) == (NEW_MODEL, "jimeng_v40")
        job = await job_of(ledger)
        assert (job.model, job.estimated_cost, delivery.height) == (NEW_MODEL, 15.0, 480)

    async def test_an_option_of_a_talking_portrait(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        options = {"output_resolution": 720, "pe_fast_mode": True}
        delivery = await omnihuman_video(f"{URL}/a.jpg", f"{URL}/a.mp3", credentials=credentials, extra_body=options)
        (sent,) = simulator.world.jobs.values()
        assert (sent.body["output_resolution"], sent.body["pe_fast_mode"]) == (720, True)
        assert min(delivery.width, delivery.height) <= 720

    async def test_a_length_that_is_overridden_is_neither_verified_nor_estimated(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
    ) -> None:
        delivery = await jimeng_video("a lake", seconds=5, credentials=credentials, extra_body={"seconds": "10"})
        assert delivery.seconds == pytest.approx(10, abs=0.1)
        job = await job_of(ledger)
        assert (job.expectation.seconds, job.estimated_cost) == (None, None)

    async def test_what_it_does_not_decide_is_still_verified(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        simulator.order("short_video")
        with pytest.raises(errors.ResultInvalid, match=r"not 5\.00 s"):
            await jimeng_video("a lake", credentials=credentials, extra_body={"seed": 4})

    async def test_the_same_one_is_paid_once_and_another_is_another(
        self, shipped: RunningSimulator, jenius: JeniusCredentials
    ) -> None:
        async def run(**extra_body: Any) -> None:
            await live_poster(f"{URL}/a.jpg", "firework", jenius, idempotency_key="the same", extra_body=extra_body)

        for _ in range(2):
            await run(prompt="mid_autumn")
        assert shipped.accepted == 1
        await run()
        assert shipped.accepted == 2

    @pytest.mark.parametrize("video", ["data:video/mp4;base64,AAAA", "A" * 5000], ids=["a data: URI", "base64 alone"])
    async def test_a_file_in_it_is_refused_and_taken_out_of_what_prefect_has_stored(
        self, video: str, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        tag = str(uuid4())
        with tags(tag), pytest.raises(errors.InvalidRequest, match=r"extra_body\.media\.0: is a file as base64"):
            await jimeng_video("a lake", credentials=credentials, extra_body={"media": [video]})
        async with get_client() as client:
            (run,) = await client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
        assert run.parameters["extra_body"] == {"media": [f"{len(video)} characters of base64, not stored"]}
        assert not simulator.world.requests

    async def test_the_run_is_named_by_what_is_sent(self, shipped: RunningSimulator, jenius: JeniusCredentials) -> None:
        extra = {"prompt": "mid_autumn"}
        state = await live_poster(f"{URL}/a.jpg", "firework", jenius, extra_body=extra, return_state=True)
        async with get_client() as client:
            run = await client.read_flow_run(UUID(str(state.state_details.flow_run_id)))
        assert run.name.startswith("poster · mid_autumn · a.jpg")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_run_form_has_it_last_as_a_plain_object(flow: Flow[..., Any]) -> None:
    properties = flow.parameters.properties
    schema = properties["extra_body"]
    assert list(properties)[-1] == "extra_body"
    assert (schema["type"], schema["default"]) == ("object", {})
    assert "anyOf" not in schema
    assert "extra_body" not in (flow.parameters.required or [])


# --- as a column of a table ---

SCENES = [
    {"id": "a", "image_url": f"{URL}/a.jpg", "scene": "firework", "extra_body": {"prompt": "mid_autumn"}},
    {"id": "b", "image_url": f"{URL}/b.jpg", "scene": "youqian", "extra_body": None},
    {"id": "c", "image_url": f"{URL}/c.jpg", "scene": "youqian", "extra_body": {"look": {"steps": 30, "tags": ["x"]}}},
]
COLUMNS = ["id", "image_url", "scene", "extra_body"]


def table_of(rows: list[dict[str, Any]], ending: str, as_text: bool, folder: Path) -> str:
    if as_text:
        rows = [{**row, "extra_body": json.dumps(row["extra_body"]) if row["extra_body"] else ""} for row in rows]
    path = folder / f"rows.{ending}"
    path.write_bytes(encode_table(rows, COLUMNS, ending))  # type: ignore[arg-type]
    return str(path)


TABLES = pytest.mark.parametrize(
    ("ending", "as_text"),
    [("csv", True), ("jsonl", False), ("jsonl", True), ("parquet", False), ("parquet", True)],
    ids=["csv", "jsonl, an object", "jsonl, text", "parquet, a struct", "parquet, text"],
)


@TABLES
async def test_a_column_holds_it(
    ending: str,
    as_text: bool,
    shipped: RunningSimulator,
    jenius: JeniusCredentials,
    tmp_path: Path,
    prefect_server: None,
) -> None:
    table = table_of(SCENES, ending, as_text, tmp_path)
    report = await generate_batch(table, "poster", jenius, output=str(tmp_path / "out"))
    assert report.delivered == 3
    sent = {job.body["image_url"]: job.body for job in shipped.world.jobs.values()}
    assert [sent[f"{URL}/{name}.jpg"] for name in "abc"] == [
        {"prompt": "mid_autumn", "image_url": f"{URL}/a.jpg"},
        {"prompt": "youqian", "image_url": f"{URL}/b.jpg"},
        {"prompt": "youqian", "image_url": f"{URL}/c.jpg", "look": {"steps": 30, "tags": ["x"]}},
    ]


@TABLES
def test_every_format_has_the_same_rows(ending: str, as_text: bool, tmp_path: Path) -> None:
    expected, _ = check_rows(SCENES, "poster")
    assert check_rows(read_table(table_of(SCENES, ending, as_text, tmp_path)), "poster") == (expected, [])


def test_a_parquet_map_is_an_object(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.array([[("prompt", "mid_autumn")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    plain = {"id": ["a"], "image_url": [f"{URL}/a.jpg"], "scene": ["firework"], "extra_body": column}
    parquet.write_table(pyarrow.table(plain), tmp_path / "rows.parquet")
    ((row,), bad) = check_rows(read_table(str(tmp_path / "rows.parquet")), "poster")
    assert (row.request.extra_body, bad) == ({"prompt": "mid_autumn"}, [])


@pytest.mark.parametrize(
    "cell", ["prompt=mid_autumn", "[1]", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, '{"a":' * 100_000 + "}" * 100_000]
)
def test_a_cell_that_holds_something_else_is_a_problem_of_its_row(cell: str) -> None:
    fields = {"id": "x", "image_url": f"{URL}/a.jpg", "scene": "firework", "extra_body": cell}
    good, ((bad),) = check_rows([fields], "poster")
    assert good == []
    assert [problem.field for problem in bad.problems] == ["row x.extra_body"]


@pytest.mark.usefixtures("prefect_server")
class TestLimitOnCost:
    @pytest.mark.parametrize(
        ("extra_body", "problem"),
        [
            ({"model": NEW_MODEL}, f"prices.tokenops/{NEW_MODEL}: is needed for max_cost"),
            ({"frames": 961}, "prices.tokenops/jimeng-video-3.0-pro: is per second, and extra_body changes how long"),
        ],
        ids=["a model without a price", "an unknown length"],
    )
    async def test_it_refuses_what_cannot_be_counted(
        self,
        extra_body: dict[str, Any],
        problem: str,
        shipped: RunningSimulator,
        credentials: TokenOpsCredentials,
        tmp_path: Path,
    ) -> None:
        row = {"id": "a", "prompt": "a lake", "extra_body": extra_body}
        with pytest.raises(errors.InvalidRequest) as refusal:
            await generate_batch([row], "jimeng", credentials, "lakes", str(tmp_path), max_cost=10.0)
        assert problem in str(refusal.value)
        assert shipped.accepted == 0

    async def test_a_new_model_counts_at_its_own_price(
        self, shipped: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
    ) -> None:
        row = {"id": "a", "prompt": "a lake", "extra_body": {"model": NEW_MODEL}}
        prices = {f"tokenops/{NEW_MODEL}": 3.0}
        plan = await generate_batch(
            [row], "jimeng", credentials, "lakes", str(tmp_path), max_cost=20.0, prices=prices, dry_run=True
        )
        assert plan.estimated_cost == pytest.approx(15.0)

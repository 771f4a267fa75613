"""Nothing is paid for what can be known to be wrong: inputs that are gone or no media, outputs that take no files."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import httpx
import pytest
import s3fs
import yaml
from botocore.exceptions import ClientError, ParamValidationError
from jobs import session as session_of
from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import JobSpec, Ledger, Session, pipeline
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.destination import check_destination
from prefect_genmedia._inputs import Publication, inspect, prepare_inputs
from prefect_genmedia._inputs.content import content_of
from prefect_genmedia._inputs.inspect import Inspection, Wanted
from prefect_genmedia._inputs.presence import AGAIN_SECONDS, ask
from prefect_genmedia._media.failures import is_lasting, storing
from prefect_genmedia._media.storage import MIN_FREE_BYTES, PROBE, LocalFolder, RemoteFolder, target_at
from prefect_genmedia._prefect.targets import BlockFolder, target_of
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.providers.hidream import StylizedVideo
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import CLIP, asset


class QuickClock(Clock):
    """A clock whose sleepers wake at once; it keeps what they asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Desk:
    """Submits avatars of the simulator's portrait, without a flow."""

    def __init__(self, session: Session, simulator: RunningSimulator, folder: Path, clock: QuickClock) -> None:
        self.session = session
        self.simulator = simulator
        self.folder = folder
        self.clock = clock

    def spec(self, image_url: str | None = None, **options: Any) -> JobSpec:
        request = OmniHumanVideo(
            image_url=image_url or self.simulator.portrait_url, audio_url=self.simulator.speech_url
        )
        return JobSpec(request, **{"scope": "key:the same", "output": str(self.folder / "out"), **options})

    async def submit(self, *images: str, **options: Any) -> Any:
        return await pipeline.submit(self.session, self.spec(*images, **options))


@pytest.fixture
async def desk(
    ledger: Ledger, simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> AsyncIterator[Desk]:
    clock, reported = QuickClock(), list[str]()
    async with credentials.client() as client:
        yield Desk(session_of(ledger, client, clock=clock, reported=reported), simulator, tmp_path, clock)


# --- Inputs that are gone ---


@pytest.mark.parametrize("status", [404, 410])
async def test_an_input_that_answers_twice_that_it_is_gone_is_not_paid_for(desk: Desk, status: int) -> None:
    desk.simulator.order(f"input_{status}", times=4)  # the portrait and the recording, each twice
    with pytest.raises(errors.InvalidRequest) as refusal:
        await desk.submit()
    assert [problem.field for problem in refusal.value.problems] == ["image_url", "audio_url"]
    assert f"answered {status}, and again after 5 s" in refusal.value.message
    assert desk.clock.slept == [AGAIN_SECONDS]
    assert desk.simulator.world.input_requests == {"portrait.jpg": 2, "speech.mp3": 2}
    assert desk.simulator.accepted == 0
    assert await desk.session.ledger.jobs() == []


async def test_an_input_that_comes_while_it_is_asked_for_again_is_sent(desk: Desk) -> None:
    desk.simulator.order("input_404", times=2)
    await desk.submit()
    assert desk.clock.slept == [AGAIN_SECONDS]
    assert desk.simulator.accepted == 1


@pytest.mark.parametrize("fault", ["input_403", "input_500", "input_drop"])
async def test_any_other_answer_of_an_input_is_reported_and_sent(
    desk: Desk, ledger: Ledger, credentials: TokenOpsCredentials, fault: str
) -> None:
    reported: list[str] = []
    desk.simulator.order(fault, times=2)
    async with credentials.client() as client:
        await pipeline.submit(session_of(ledger, client, clock=desk.clock, reported=reported), desk.spec())
    assert [line for line in reported if line.startswith("image_url cannot be fetched from here")]
    assert desk.clock.slept == []
    assert desk.simulator.accepted == 1


async def test_a_gone_input_is_sent_without_preflight(desk: Desk) -> None:
    desk.simulator.order("input_404", times=1)  # the recording is measured in any case
    await desk.submit(preflight=False)
    assert (desk.simulator.accepted, desk.clock.slept) == (1, [])


async def test_a_job_that_is_there_is_joined_although_its_inputs_and_its_output_are_gone(desk: Desk) -> None:
    job = await desk.submit()
    desk.simulator.order("input_404", times=100)
    (desk.folder / "file").write_text("in the way")
    again = await desk.submit(output=str(desk.folder / "file" / "out"))
    assert again.key == job.key
    assert (desk.simulator.accepted, desk.clock.slept) == (1, [])


async def test_what_may_be_another_job_of_the_same_key_is_not_refused_before_its_speaker_is_known(desk: Desk) -> None:
    await desk.submit()
    desk.simulator.order("input_404", times=100)
    spec = desk.spec()
    unfinished = OmniHumanVideo.model_validate({**spec.request.model_dump(exclude_unset=True), "subject": "largest"})
    prepared = await pipeline.prepare_request(desk.session, JobSpec(unfinished, scope=spec.scope))
    assert prepared.prepared_at is None  # it is prepared anew when it is submitted
    with pytest.raises(errors.InvalidRequest, match="is not there"):
        await pipeline.prepare_request(desk.session, JobSpec(unfinished, scope=spec.scope), is_final=True)


async def test_masks_that_are_made_anew_are_not_asked_for(desk: Desk) -> None:
    gone = f"{desk.simulator.url}/assets/gone.png"
    masks = OmniHumanVideo(
        image_url=desk.simulator.portrait_url,
        audio_url=desk.simulator.speech_url,
        mask_urls=(gone,),
        subject="largest",
    )
    prepared = await pipeline.prepare_request(desk.session, JobSpec(masks, scope="key:masks"), is_final=True)
    assert prepared.prepared_at is not None


async def test_only_the_first_byte_of_an_input_is_asked_for() -> None:
    asked: list[httpx.Request] = []

    async def resolver(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(206, content=b"\xff")

    rules = FetchRules(resolver=resolver, transport=httpx.MockTransport(answer))
    assert await ask("https://files.example.com/a.jpg", rules) == Inspection(0)
    assert [(request.method, request.headers["range"]) for request in asked] == [("GET", "bytes=0-0")]


# --- Files of the wrong kind ---

TEXT = b"id,prompt\n1,a lake\n"
PDF = b"%PDF-1.7\n" + bytes(range(256))
ZIP = b"PK\x03\x04" + bytes(60)


def made(content: str | bytes, folder: Path) -> str:
    path = folder / "file"
    path.write_bytes(asset(content) if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("field", "content", "problem"),
    [
        ("image_url", "speech.mp3", "is MP3, and must be a picture"),
        ("image_url", CLIP, "is mp4, and must be a picture"),
        ("image_url", TEXT, "is text, and must be a picture"),
        ("image_url", PDF, "is PDF, and must be a picture"),
        ("image_url", bytes(500), "is of no type that is known here, and must be a picture"),
        ("audio_url", "portrait.jpg", "has no sound in it"),
        ("audio_url", TEXT, "has no sound in it"),
        ("video_url", TEXT, "is text, and must be a video"),
        ("video_url", "portrait.jpg", "is JPEG, and must be a video"),
        ("video_url", "speech.mp3", "is MP3, and must be a video"),
        ("video_url", ZIP, "is a ZIP archive or an Office document, and must be a video"),
    ],
)
async def test_a_local_file_of_the_wrong_kind_is_refused_whatever_its_name(
    field: str, content: str | bytes, problem: str, tmp_path: Path
) -> None:
    url = made(content, tmp_path)
    request: Any
    if field == "video_url":
        request = StylizedVideo(video_url=url, style="anime")
    elif field == "audio_url":
        request = OmniHumanVideo(image_url="https://example.com/a.jpg", audio_url=url)
    else:
        request = LivePoster(image_url=url, scene="youqian")
    with pytest.raises(errors.InvalidRequest) as refusal:
        await prepare_inputs(request, FetchRules(), Publication("memory://inputs"))
    assert str(refusal.value.problems[0]) == f"{field}: {problem}"


@pytest.mark.parametrize(
    ("head", "name", "parts"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP", {"picture"}),
        (b"RIFF\0\0\0\0WAVEfmt ", "WAV", {"sound"}),
        (b"\0\0\0\x18ftypheic", "HEIC", {"picture"}),
        (b"\0\0\0\x18ftypM4A ", "M4A", {"sound"}),
        (b"\0\0\0\x18ftypisom", "mp4", {"sound", "video"}),
        (b"\xff\xfbP\xc4" + bytes(50), "MP3", {"sound"}),
        (b"\xff\xf1P\x80", "AAC", {"sound"}),
        (b"\xff\xfeD\0e\0a\0r\0", "text", set()),
        ("一,二\n".encode("gb18030") * 20, "text", set()),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "SVG", {"picture"}),
        (b"#EXTM3U\n/etc/passwd\n", "text", set()),
    ],
)
def test_a_file_is_known_by_how_it_begins(head: bytes, name: str, parts: set[str]) -> None:
    content = content_of(head)
    assert (content.name, content.parts) == (name, parts)


async def test_a_video_without_a_picture_is_none_and_one_with_sound_is_a_recording(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mov"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame("s16", "mono", 1024)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    observed = await inspect.inspect_url(
        str(tmp_path / "sound.mov"), Wanted(10**6, as_picture=True, as_media=True), FetchRules()
    )
    assert isinstance(observed, Inspection)
    assert observed.content is not None
    assert (observed.content.suits("video"), observed.content.suits("recording")) == (False, True)
    whole = await inspect.inspect_url(made(CLIP, tmp_path), Wanted(10**8, as_media=True), FetchRules())
    assert isinstance(whole, Inspection)
    assert whole.content is not None
    assert (whole.content.suits("video"), whole.content.suits("picture")) == (True, False)


# --- Outputs ---


@pytest.mark.parametrize(
    "output",
    [
        *(
            "s3://my bucket/x",
            "s3://媒体/x",
            "s3://",
            "s3:///x",
            "s3:/bucket/x",
            "s3:bucket",
            "s3://ab/x",
            "s3://-ab/x",
        ),
        *("s3://A-Bucket/x", "s3://a..b/x", "s3://192.168.5.4/x", "s3://under_score/x", "s3://anna.mp4", "s3a://a b/c"),
        *("simplecache::s3://my bucket/x", "gs://my bucket/x", "memory://", "file:/tmp/x", "nonsense://bucket/x"),
        *("block://local-file-system/media/../x", "block://local-file-system/..", "block://", "block:/a/b"),
    ],
)
async def test_an_output_that_can_never_work_is_refused_and_nothing_is_made(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InvalidRequest, match="output"):
        await target_of(output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["media", "file:///tmp/x", "a:b/c", "s3://my-bucket.x/a b", "gs://my_bucket/x"])
def test_an_output_that_may_work_is_not_refused_by_its_name(output: str) -> None:
    from prefect_genmedia._media.locations import location_problem

    assert location_problem(output) is None


async def test_an_output_that_cannot_be_created_is_reported_with_all_other_problems_and_nothing_is_sent(
    desk: Desk,
) -> None:
    (desk.folder / "file").write_text("in the way")
    (desk.folder / "notes.jpg").write_bytes(TEXT)
    request = JimengVideo(prompt="x", image_urls=(str(desk.folder / "notes.jpg"),))
    spec = JobSpec(request, scope="key:a", output=str(desk.folder / "file" / "out"))
    with pytest.raises(errors.InvalidRequest) as refusal:
        await pipeline.submit(desk.session, spec)
    assert [problem.field for problem in refusal.value.problems] == ["output", "image_urls.0"]
    assert "a part of its path is not a folder" in refusal.value.message
    with pytest.raises(errors.InvalidRequest, match="cannot be written to"):
        await desk.submit(output=str(desk.folder / ("n" * 250 + ".mp4")))
    assert not desk.simulator.world.requests


async def test_a_probe_leaves_nothing_behind(desk: Desk) -> None:
    await check_destination(desk.session, str(desk.folder / "out" / "anna.mp4"))
    assert list((desk.folder / "out").iterdir()) == []
    await check_destination(desk.session, "memory://probed/out")
    assert fsspec.filesystem("memory").find("/probed") == []


async def test_a_full_disk_is_reported_before_anything_is_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(desk.folder)._replace(free=MIN_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    for output in (str(desk.folder / "out"), "memory://probed/full"):
        with pytest.raises(errors.StorageError, match="bytes are free") as trouble:
            await desk.submit(output=output)
        assert (trouble.value.paid, trouble.value.retryable) == ("nothing", False)
    assert not desk.simulator.world.requests


async def test_a_destination_is_probed_once_for_all_jobs_of_a_session(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str | None] = []
    monkeypatch.setattr(LocalFolder, "probe", lambda folder, name=None: probed.append(name))
    for number in range(3):
        await desk.submit(scope=f"key:{number}", output=str(desk.folder / "out" / f"{number}.mp4"))
    assert probed == ["0.mp4"]


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (PermissionError("no"), False),
        (ValueError("no"), False),
        (ParamValidationError(report="Invalid bucket name"), False),
        (ClientError({"Error": {"Code": "NoSuchBucket"}}, "PutObject"), False),
        (ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"), True),
        (OSError(errno.EROFS, "read-only"), False),
        (OSError(errno.EIO, "a cable"), True),
        (ConnectionError("reset"), True),
    ],
)
def test_a_storage_is_only_tried_again_where_that_can_help(error: Exception, retryable: bool) -> None:
    with pytest.raises(errors.StorageError) as trouble, storing():
        raise error
    assert trouble.value.retryable is retryable
    wrapped = RuntimeError("upload failed")
    wrapped.__cause__ = error
    assert is_lasting(wrapped) is not retryable


# --- S3 ---


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 with one bucket, `media`."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{s3_server}/moto-api/reset", timeout=120.0).raise_for_status()
    s3fs.S3FileSystem.clear_instance_cache()
    resource = boto3.resource("s3")
    resource.Bucket("media").create()
    return resource


class FakeS3Bucket(WritableFileSystem):
    """A Block with the interface of prefect-aws' `S3Bucket`."""

    bucket_name: str
    bucket_folder: str = "team"

    @property
    def credentials(self) -> Any:
        return self

    def get_s3_client(self) -> Any:
        return boto3.client("s3")

    def write_path(self, path: str, content: bytes) -> str:
        key = f"{self.bucket_folder}/{path}"
        self.get_s3_client().put_object(Bucket=self.bucket_name, Key=key, Body=content)
        return key

    def read_path(self, path: str) -> bytes:
        raise NotImplementedError


def folder_in(kind: str, bucket: str) -> Any:
    if kind == "url":
        return target_at(f"s3://{bucket}/team/out").storage
    if kind == "chained":
        return RemoteFolder(f"simplecache::s3://{bucket}/team/out")
    if kind == "remote-file-system":
        return BlockFolder(RemoteFileSystem(basepath=f"s3://{bucket}/team"), "block://remote-file-system/x", "out")
    return BlockFolder(FakeS3Bucket(bucket_name=bucket), "block://s3-bucket/x", "out")


KINDS = ("url", "chained", "remote-file-system", "s3-bucket")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_that_does_not_exist_is_an_error_and_is_never_created(kind: str, s3: Any, tmp_path: Path) -> None:
    (tmp_path / "staged").write_bytes(b"video")
    storage = folder_in(kind, "missing")
    with pytest.raises(Exception, match="bucket does not exist") as trouble:
        storage.probe()
    assert is_lasting(trouble.value)
    with pytest.raises(Exception, match="bucket does not exist"):
        storage.publish(tmp_path / "staged", "anna.mp4")
    assert [bucket.name for bucket in s3.buckets.all()] == ["media"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_is_probed_by_put_and_delete(kind: str, s3: Any, tmp_path: Path) -> None:
    storage = folder_in(kind, "media")
    storage.probe("anna.mp4")
    assert list(s3.Bucket("media").objects.all()) == []
    (tmp_path / "staged").write_bytes(b"video")
    storage.publish(tmp_path / "staged", "anna.mp4")
    assert [each.key for each in s3.Bucket("media").objects.all()] == ["team/out/anna.mp4"]


def test_a_bucket_that_may_only_be_written_to_takes_files(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def denied(self: Any, path: str, **options: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "_rm_file", denied)
    target_at("s3://media/out").storage.probe()
    assert [each.key for each in s3.Bucket("media").objects.all()] == [f"out/{PROBE}"]


async def test_a_missing_bucket_of_an_output_is_refused_before_anything_is_sent(desk: Desk, s3: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="bucket does not exist"):
        await desk.submit(output="s3://missing/out/anna.mp4")
    assert not desk.simulator.world.requests


async def test_a_missing_bucket_to_publish_in_is_refused_and_never_created(s3: Any, tmp_path: Path) -> None:
    request = LivePoster(image_url=made("portrait.jpg", tmp_path), scene="youqian")
    with pytest.raises(errors.InvalidRequest, match="bucket does not exist"):
        await prepare_inputs(request, FetchRules(), Publication("s3://missing/inputs"))
    with pytest.raises(errors.InvalidRequest, match="possible name of a bucket"):
        await prepare_inputs(request, FetchRules(), Publication("s3://my bucket/inputs"))
    assert [bucket.name for bucket in s3.buckets.all()] == ["media"]


def test_a_local_block_is_probed_too(tmp_path: Path) -> None:
    block = LocalFileSystem(basepath=str(tmp_path))
    BlockFolder(block, "block://local-file-system/x", "out").probe()
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file") as trouble:
        BlockFolder(block, "block://local-file-system/x", "file/out").probe()
    assert is_lasting(trouble.value)


# --- Deployments ---


def test_no_deployment_has_a_placeholder_for_an_input_that_is_required() -> None:
    text = (Path(__file__).parents[3] / "deployments" / "prefect.yaml").read_text("utf-8")
    declared = yaml.safe_load(text)["deployments"]
    for each in declared:
        given = [each.get("parameters", {}), *(one.get("parameters", {}) for one in each.get("schedules", []))]
        named = {name for parameters in given for name in parameters}
        assert not named & {"image_url", "image_urls", "audio_url", "video_url", "table", "request"}, each["name"]

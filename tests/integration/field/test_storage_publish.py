"""A user's own files without S3: in a folder that a web server shows, and by PUT; and what each storage refuses."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import asset

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

PHOTO = "https://example.com/a.jpg"
PUBLISH = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH"


@pytest.fixture
def account(simulator: RunningSimulator) -> JeniusCredentials:
    return JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own portrait.jpg"
    file.write_bytes(asset("portrait.jpg"))
    return str(file)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL under which a web server shows it."""
    folder = tmp_path / "in box"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "s3-secret-never-to-be-seen",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{s3_server}/moto-api/reset", timeout=120.0).raise_for_status()
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = boto3.resource("s3").Bucket("media")
    bucket.create()
    return bucket


async def sent_image(account: JeniusCredentials, simulator: RunningSimulator, image: str, out: Path) -> str:
    """The URL that the provider is sent for a picture."""
    await live_poster(image, "firework", account, output=str(out / "out"))
    (job,) = simulator.world.jobs.values()
    return next(str(value) for value in job.body.values() if str(value).startswith("http"))


@pytest.mark.parametrize("as_url", [False, True])
async def test_a_local_file_is_published_to_a_folder_that_a_web_server_shows(
    as_url: bool,
    account: JeniusCredentials,
    simulator: RunningSimulator,
    own: str,
    web: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, base = web
    monkeypatch.setenv(f"{PUBLISH}_URL", f"file://{str(folder).replace(' ', '%20')}" if as_url else str(folder))
    monkeypatch.setenv(f"{PUBLISH}_BASE_URL", f"{base}/")
    url = await sent_image(account, simulator, own, tmp_path)
    assert url.startswith(f"{base}/")
    assert url.endswith(".jpg")
    assert httpx.get(url).content == asset("portrait.jpg")


async def test_a_folder_without_its_public_url_and_a_wrong_one_are_reported_before_anything_is_paid(
    account: JeniusCredentials,
    simulator: RunningSimulator,
    own: str,
    web: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, base = web
    monkeypatch.setenv(f"{PUBLISH}_URL", str(folder))
    with pytest.raises(errors.InvalidRequest, match=f"set {PUBLISH}_BASE_URL"):
        await live_poster(own, "firework", account, output=str(tmp_path / "out"))
    monkeypatch.setenv(f"{PUBLISH}_BASE_URL", f"{base}/elsewhere")
    with pytest.raises(errors.InvalidRequest, match="answers that there is no such file"):
        await live_poster(own, "firework", account, output=str(tmp_path / "out"))
    assert simulator.accepted == 0


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("upload_403", errors.InvalidRequest, "answered 403"),
        ("upload_lost", errors.InvalidRequest, "there is no such file"),
        ("upload_500", errors.ProviderError, "answered 500"),
        ("upload_drop", errors.ProviderError, "failed"),
    ],
)
async def test_what_an_upload_server_refuses_is_not_paid_and_what_fails_may_be_tried_again(
    fault: str,
    error: type[errors.GenMediaError],
    said: str,
    account: JeniusCredentials,
    simulator: RunningSimulator,
    own: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"{PUBLISH}_URL", f"{simulator.inbox_url}?token=s3cr3t-of-put")
    monkeypatch.setenv(f"{PUBLISH}_AUTHORIZATION", "Bearer s3cr3t-of-put")
    simulator.order(fault, times=4)
    with pytest.raises(error, match=said) as caught:
        await live_poster(own, "firework", account, output=str(tmp_path / "out"))
    assert caught.value.retryable == (error is errors.ProviderError)
    assert "s3cr3t-of-put" not in str(caught.value)
    assert simulator.accepted == 0


async def test_temporary_credentials_are_warned_of_and_no_upload_is_in_chunks_of_aws(
    account: JeniusCredentials,
    simulator: RunningSimulator,
    own: str,
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    puts: list[set[str]] = []

    def note(request: Any, **_: Any) -> None:
        if request.method == "PUT":
            puts.append({name.lower() for name in request.headers})

    made = s3fs.S3FileSystem.set_session

    async def watched(self: Any, **options: Any) -> Any:
        client = await made(self, **options)
        self._s3.meta.events.register("before-send.s3", note)
        return client

    monkeypatch.setattr(s3fs.S3FileSystem, "set_session", watched)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-role")
    monkeypatch.setenv(f"{PUBLISH}_URL", "s3://media/inputs")
    with caplog.at_level(logging.WARNING):
        await live_poster(own, "firework", account, output=str(tmp_path / "out"))
    assert puts
    assert not any("checksum" in name or name in ("content-encoding", "x-amz-trailer") for name in set().union(*puts))
    assert sum("temporary (a role or STS)" in message for message in caplog.messages) == 1
    assert "of-a-role" not in caplog.text


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("{tmp}/taken.mp4", "is a folder"),
        ("s3://absent/out", "bucket does not exist"),
        ("s3://media/out", None),
    ],
)
async def test_a_folder_an_absent_bucket_and_one_that_takes_files_are_distinguished(
    output: str,
    said: str | None,
    account: JeniusCredentials,
    simulator: RunningSimulator,
    bucket: Any,
    tmp_path: Path,
) -> None:
    (tmp_path / "taken.mp4").mkdir()
    run = live_poster(PHOTO, "firework", account, output=output.format(tmp=tmp_path))
    if said is None:
        await run
        assert [each.key for each in bucket.objects.all() if each.key.endswith(".mp4")]
        return
    with pytest.raises(errors.InvalidRequest, match=said):
        await run
    assert simulator.accepted == 0


async def test_a_bucket_that_refuses_listing_is_named_and_nothing_is_fetched_or_paid_again(
    account: JeniusCredentials,
    simulator: RunningSimulator,
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"output": "s3://media/out", "idempotency_key": "order-7"}
    await live_poster(PHOTO, "firework", account, **options)
    downloads = simulator.world.requests.copy()

    async def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "AccessDenied")

    for name in ("_info", "_lsdir", "_cat_file"):
        monkeypatch.setattr(s3fs.S3FileSystem, name, refused)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(errors.StorageError, match="refuses to list and to read") as caught:
        await live_poster(PHOTO, "firework", account, **options)
    assert not caught.value.retryable
    assert "overwrite=True" in str(caught.value)
    assert simulator.accepted == 1
    assert simulator.world.requests["content"] == downloads["content"]


async def test_a_result_that_the_disk_cannot_hold_is_not_fetched_and_is_fetched_when_there_is_room(
    account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "a.mp4"
    options = {"output": str(file), "idempotency_key": "order-8"}
    usage = shutil.disk_usage

    def nearly_full(path: Any) -> Any:
        before_it_is_paid = simulator.accepted == 0
        return usage(path) if before_it_is_paid else usage(path)._replace(free=100)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    with pytest.raises(errors.StorageError, match="the disk has 100 free: nothing was fetched"):
        await live_poster(PHOTO, "firework", account, **options)
    assert not list(file.parent.glob("*.mp4"))
    monkeypatch.setattr(shutil, "disk_usage", usage)
    await live_poster(PHOTO, "firework", account, **options)
    assert file.stat().st_size > 100
    assert simulator.accepted == 1

"""Inputs of one's own through S3: published, signed, fetched by the provider over HTTP, and seen by nobody else."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import s3fs
from PIL import Image
from test_omnihuman_flow import prefect_database_files

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials
from prefect_genmedia._core import Delivery, Ledger
from prefect_genmedia._inputs import Publication, prepared_url
from prefect_genmedia._transport import FetchRules, shown_url
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import CLIP, asset

SETTING = "PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"
PORTRAIT = hashlib.sha256(asset("portrait.jpg")).hexdigest()
SPEECH = hashlib.sha256(asset("speech.mp3")).hexdigest()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket, and what a user has in the environment to reach it."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "s3-secret-never-to-be-seen",
        "AWS_DEFAULT_REGION": "us-east-1",
        SETTING: "s3://inputs/genmedia",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{s3_server}/moto-api/reset", timeout=120.0).raise_for_status()
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = boto3.resource("s3").Bucket("inputs")
    bucket.create()
    return bucket


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("portrait.jpg", "speech.mp3", CLIP):
        (folder / name).write_bytes(asset(name))
    return {name: str(folder / name) for name in ("portrait.jpg", "speech.mp3", CLIP)}


async def test_a_published_file_has_its_type_and_is_uploaded_once(bucket: Any, files: dict[str, str]) -> None:
    publication = Publication("s3://inputs/genmedia", 12 * 3600)
    first = await prepared_url(files["portrait.jpg"], "image_url", FetchRules(), publication)
    (stored,) = bucket.objects.all()
    answer = httpx.get(first, timeout=120.0)
    assert answer.content == asset("portrait.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    second = await prepared_url(f"file://{files['portrait.jpg']}", "image_url", FetchRules(), publication)
    assert shown_url(first) == shown_url(second)
    assert shown_url(first).endswith(f"/inputs/genmedia/{PORTRAIT}.jpg")
    assert [each.last_modified for each in bucket.objects.all()] == [stored.last_modified]
    bucket.objects.delete()
    again = await prepared_url(files["portrait.jpg"], "image_url", FetchRules(), publication)
    assert httpx.get(again, timeout=120.0).is_success


async def test_an_input_may_be_on_s3_itself(bucket: Any) -> None:
    bucket.put_object(Key="people/a.jpg", Body=asset("portrait.jpg"))
    url = await prepared_url("s3://inputs/people/a.jpg", "image_url", FetchRules(), Publication("s3://inputs/genmedia"))
    assert httpx.get(url, timeout=120.0).content == asset("portrait.jpg")


@pytest.mark.usefixtures("prefect_server")
async def test_a_local_portrait_speaks_a_local_recording_and_another_name_is_the_same_job(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger, bucket: Any, files: dict[str, str]
) -> None:
    async def run(portrait: str, speech: str) -> Delivery:
        delivery: Delivery = await omnihuman_video(
            portrait,
            speech,
            recognize=True,
            credentials=credentials,
            output_resolution=720,
            idempotency_key="monday",
        )
        return delivery

    delivery = await run(files["portrait.jpg"], files["speech.mp3"])
    assert delivery.seconds == pytest.approx(7.17, abs=0.1)
    (sent,) = simulator.world.jobs.values()
    urls = [element[element["type"]]["url"] for element in sent.body["content"]]
    assert [shown_url(url).rpartition("/")[2] for url in urls] == [f"{PORTRAIT}.jpg", f"{SPEECH}.mp3"]
    assert all("Signature=" in url for url in urls)
    bucket.put_object(Key="people/somebody", Body=asset("portrait.jpg"))
    renamed = shutil.copy(files["speech.mp3"], Path(files["speech.mp3"]).with_name("words"))
    again = await run("s3://inputs/people/somebody", f"file://{renamed}")
    assert (again.uri, again.job_key) == (delivery.uri, delivery.job_key)
    assert simulator.accepted == 1
    (job,) = await ledger.jobs()
    assert job.request["image_url"] == files["portrait.jpg"]
    assert job.expectation.seconds == pytest.approx(7.17, abs=0.1)


def of_this_test_alone(portrait: str) -> bytes:
    """Another picture in its place: the shipped one may stand in the parameters of other tests' runs."""
    with Image.open(portrait) as shipped:
        shipped.resize((640, 360)).save(portrait, "JPEG", comment=secrets.token_bytes(60))
    return Path(portrait).read_bytes()


@pytest.mark.usefixtures("prefect_server")
async def test_neither_base64_nor_signatures_of_inputs_are_to_be_found_after_a_run(
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    bucket: Any,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in Prefect's database (parameters, logs, results, artifacts, events), nor in results, ledger, sidecar."""
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    caplog.set_level("INFO")
    portrait = of_this_test_alone(files["portrait.jpg"])
    hidream = HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url)
    await omnihuman_video.with_options(persist_result=True)(
        files["portrait.jpg"], files["speech.mp3"], credentials=credentials, output_resolution=720
    )
    await jimeng_video.with_options(persist_result=True)(
        "a cat", image_urls=[files["portrait.jpg"]], credentials=credentials
    )
    await stylize_video.with_options(persist_result=True)(files[CLIP], style="anime", credentials=hidream)
    omnihuman, jimeng, stylize = (job.body for job in simulator.world.jobs.values())
    assert base64.b64decode(stylize["video_name"]) == asset(CLIP)
    assert jimeng["content"][1]["type"] == "image_base64"
    hidden = [b"s3-secret-never-to-be-seen"]
    urls = [element[element["type"]]["url"] for element in omnihuman["content"]]
    hidden += [url.partition("Signature=")[2].partition("&")[0].encode() for url in urls]
    for content in (portrait, asset("speech.mp3"), asset(CLIP)):
        text = base64.b64encode(content)
        hidden += [text[start : start + 60] for start in (0, len(text) // 2, len(text) - 100)]
    assert all(len(secret) > 16 for secret in hidden)
    # Simulator and S3 live in this process: httpx and werkzeug log the provider's own fetches of the signed URLs.
    ours = [record for record in caplog.records if record.name not in ("httpx", "werkzeug")]
    logged = "\n".join(record.getMessage() for record in ours)
    assert "is not checked" not in logged
    assert not [secret for secret in hidden if secret.decode() in logged]
    for path in [*tmp_path.rglob("*"), *prefect_database_files()]:
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in hidden if secret in content], path

"""Links to delivered files: public addresses, and the viewer that plays a disk's files and redirects to a bucket's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import s3fs

from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._media.public import public_url
from prefect_genmedia._media.storage import RemoteFolder
from prefect_genmedia._prefect.cards import result_card
from prefect_genmedia._prefect.links import poster_url, watch_url, watch_urls
from prefect_genmedia._prefect.markdown import link_cell
from prefect_genmedia._prefect.viewer import viewer

PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
FACTS: dict[str, Any] = {"sha256": "00", "bytes": 8, "seconds": 1, "width": 16, "height": 9, "codec": "h264"}
BYTES = b"0123456789" * 100


def delivery(uri: str, *others: str) -> Delivery:
    further = tuple(Delivery(uri=each, has_audio=False, **FACTS) for each in others)
    return Delivery(uri=uri, poster_uri=f"{uri}.jpg", has_audio=False, others=further, **FACTS)


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(f"{PREFIX}VIEWER_URL", "https://videos.example.com/genmedia/")
    return monkeypatch


# --- which link a file has ---


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("/srv/media/a.mp4", "https://media.example.com/m/a.mp4"),
        ("/srv/media/b/50% #1?.mp4", "https://media.example.com/m/b/50%25%20%231%3F.mp4"),
        ("/srv/media/b/<b>[x](y).mp4", "https://media.example.com/m/b/%3Cb%3E%5Bx%5D%28y%29.mp4"),
        ("/srv/media-old/a.mp4", None),
        ("/srv/media/../secret.mp4", None),
        ("s3://bucket/out/a.mp4", "https://cdn.example.com/a.mp4"),
        ("s3://bucket/out/deep/a.mp4", "https://deep.example.com/a.mp4"),
        ("s3://bucket/other/a.mp4", None),
        ("block://s3-bucket/team/out/a.mp4", "https://team.example.com/out/a.mp4"),
        ("/srv/signed/a.mp4", None),
        ("/srv/user/a.mp4", None),
        ("/srv/script/a.mp4", None),
    ],
)
def test_a_file_has_the_public_address_of_the_innermost_folder_that_holds_it(uri: str, url: str | None) -> None:
    folders = {
        "/srv/media/": "https://media.example.com/m/",
        "s3://bucket/out": "https://cdn.example.com",
        "s3://bucket/out/deep": "https://deep.example.com",
        "block://s3-bucket/team": "https://team.example.com",
        "/srv/signed": "https://media.example.com/?X-Amz-Signature=secret",
        "/srv/user": "https://user:password@media.example.com",
        "/srv/script": "javascript:alert(1)//",
    }
    assert public_url(uri, folders) == url


def test_one_address_is_that_of_the_settings_folder_and_several_are_by_folder(
    tmp_path: Path, links: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "media" / "a.mp4")
    assert watch_url(uri, "0a1b") == "https://videos.example.com/genmedia/files/0a1b"
    assert poster_url(f"{uri}.jpg", "0a1b") == "https://videos.example.com/genmedia/files/0a1b/poster"
    links.setenv(f"{PREFIX}PUBLIC_BASE_URL", "https://media.example.com")
    assert watch_url(uri, "0a1b") == "https://media.example.com/a.mp4"
    links.setenv(f"{PREFIX}PUBLIC_BASE_URL", json.dumps({"s3://bucket": "https://cdn.example.com"}))
    assert watch_url("s3://bucket/a.mp4", "0a1b") == "https://cdn.example.com/a.mp4"
    assert watch_url(uri, "0a1b") == "https://videos.example.com/genmedia/files/0a1b", "the viewer plays the others"


def test_each_of_several_files_has_its_own_link(links: pytest.MonkeyPatch) -> None:
    several = delivery("/m/a.mp4", "/m/a~2.mp4").model_copy(update={"job_key": "0a1b"})
    first = "https://videos.example.com/genmedia/files/0a1b"
    assert watch_urls(several) == [first, f"{first}/2"]
    card = result_card(Job(key="0a1b", identity="", scope="", provider="tokenops"), several, None)
    assert f"[Play the video]({first}) · [file 2]({first}/2)" in card


def test_without_a_setting_there_is_no_link() -> None:
    assert watch_url("/m/a.mp4", "0a1b") is None
    assert "Play" not in result_card(Job(key="k", identity="", scope="", provider="x"), delivery("/m/a.mp4"), None)


def test_a_signed_address_is_never_a_link_of_its_own(links: pytest.MonkeyPatch) -> None:
    assert watch_url("https://bucket.example.com/a.mp4?X-Amz-Signature=secret", "0a1b") is None
    assert link_cell("https://a.example.com/a.mp4") == "https://a.example.com/a.mp4"
    assert link_cell("https://a.example.com/<b>") == ["https://a.example.com/<b>"]


# --- the viewer ---


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(viewer()), base_url="http://viewer", timeout=120.0
    ) as client:
        yield client


async def delivered(ledger: Ledger, made: Delivery) -> str:
    job = await ledger.reserve(Job(key="", identity=made.uri, provider="tokenops", kind="jimeng", scope=""))
    for state in (JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED):
        job = await ledger.move(job, state) or job
    await ledger.move(job, JobState.DELIVERED, delivery=made)
    return job.key


async def test_a_file_of_this_disk_is_sent_in_the_ranges_that_a_player_asks_for(
    ledger: Ledger, browser: httpx.AsyncClient, tmp_path: Path
) -> None:
    for name in ("a.mp4", "a~2.mp4", "a.mp4.jpg"):
        (tmp_path / name).write_bytes(BYTES)
    key = await delivered(ledger, delivery(str(tmp_path / "a.mp4"), str(tmp_path / "a~2.mp4")))
    whole = await browser.get(f"/files/{key}")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, BYTES, "video/mp4")
    part = await browser.get(f"/files/{key}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, BYTES[10:20])
    poster = await browser.get(f"/files/{key}/poster")
    assert (poster.status_code, poster.headers["content-type"]) == (200, "image/jpeg")
    assert (await browser.get(f"/files/{key}/2")).status_code == 200
    (tmp_path / "a.mp4").unlink()
    assert (await browser.get(f"/files/{key}")).status_code == 404


async def test_nothing_is_served_but_delivered_results_of_the_ledger(
    ledger: Ledger, browser: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "secrets.txt").write_text("secret")
    key = await delivered(ledger, delivery(str(tmp_path / "secrets.txt")))
    waiting = await ledger.reserve(Job(key="", identity="other", provider="tokenops", kind="jimeng", scope=""))
    paths = [key, f"{key}/2", f"{key}/poster", f"{key}/0", f"{key}/-1", waiting.key, "none", "..%2f..%2fetc%2fpasswd"]
    answers = [await browser.get(f"/files/{path}") for path in paths]
    assert {each.status_code for each in answers} == {404}
    assert not any("secret" in each.text for each in answers)
    assert (await browser.post(f"/files/{key}")).status_code == 405


async def test_a_file_in_a_bucket_is_reached_through_an_address_that_is_signed_for_one_request(
    s3_server: str,
    ledger: Ledger,
    browser: httpx.AsyncClient,
    tmp_path: Path,
    links: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "s3-secret-never-to-be-seen",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        links.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.resource("s3").Bucket("results").create()
    folder = RemoteFolder("s3://results/media")
    with folder.staging() as staged:
        staged.write_bytes(BYTES)
        uri = folder.publish(staged, "a b.mp4")
    key = await delivered(ledger, delivery(uri))

    answer = await browser.get(f"/files/{key}")
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    signed = answer.headers["location"]
    assert "Signature=" in signed
    played = httpx.get(signed, timeout=120.0)
    assert (played.content, played.headers["content-type"]) == (BYTES, "video/mp4")
    stored = boto3.client("s3").head_object(Bucket="results", Key="media/a b.mp4")
    assert stored["ContentType"] == "video/mp4", "so that a public bucket's file plays as well"

    job = await ledger.get(key)
    assert job is not None
    assert job.delivery is not None
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("prefect")]
    shown = f"{result_card(job, job.delivery, None)}{job.model_dump_json()}{ours}"
    assert "Signature" not in shown
    assert watch_url(uri, key) == f"https://videos.example.com/genmedia/files/{key}"


async def test_a_storage_that_cannot_sign_is_said_so(ledger: Ledger, browser: httpx.AsyncClient) -> None:
    key = await delivered(ledger, delivery("memory://media/a.mp4"))
    answer = await browser.get(f"/files/{key}")
    assert (answer.status_code, "public_base_url" in answer.text) == (404, True)

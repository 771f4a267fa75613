"""Which URLs ask for the same video: signatures never count, unknown credentials count by what the URL gives."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


class Store:
    """A file server. What it gives depends on a parameter, and it may refuse everybody but the provider."""

    def __init__(self) -> None:
        self.parameter = "token"
        self.files: dict[str, bytes] = {}
        self.refuses = False

    def answer(self, path: str, client: str) -> bytes | None:
        if self.refuses and client.startswith("prefect-genmedia"):
            return None
        value = parse_qs(urlsplit(path).query).get(self.parameter, [""])[0]
        return self.files.get(value, b"somebody")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, str]]:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_PRIVATE_HOSTS", "true")
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = store.answer(self.path, self.headers["User-Agent"] or "")
            self.send_response(403 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield store, f"http://127.0.0.1:{server.server_port}/a.jpg"
    server.shutdown()
    server.server_close()


@pytest.fixture
def account(simulator: RunningSimulator) -> JeniusCredentials:
    return JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)


async def poster(account: JeniusCredentials, url: str, key: str = "order-7", **options: Any) -> Any:
    return await live_poster(url, "firework", account, idempotency_key=key, **options)


PHOTO = "https://media.example.com/photos/a.jpg"
SIGNED = {
    "s3-v4": (
        "X-Amz-Algorithm=A&X-Amz-Credential=AK%2F1&X-Amz-Date={n}&X-Amz-Expires=60&X-Amz-SignedHeaders=host"
        "&X-Amz-Security-Token=t{n}&X-Amz-Signature={n}&x-id=GetObject"
    ),
    "s3-v2": "AWSAccessKeyId=AK&Expires={n}&Signature={n}",
    "cloudfront-canned": "Expires={n}&Signature={n}&Key-Pair-Id=K2",
    "cloudfront-policy": "Policy=p{n}&Signature={n}&Key-Pair-Id=K2",
    "gcs-v4": "X-Goog-Algorithm=A&X-Goog-Credential=me{n}&X-Goog-Date={n}&X-Goog-Expires=60&X-Goog-Signature={n}",
    "gcs-v2": "GoogleAccessId=me&Expires={n}&Signature={n}",
    "google-cdn": "Expires={n}&KeyName=k&Signature={n}",
    "azure-sas": "sv=2024-11-04&ss=b&srt=o&spr=https&st=a{n}&se=b{n}&sr=b&sp=r&sip=1.1.1.1&sig={n}",
    "azure-user-delegation": "skoid=a&sktid=b&skt={n}&ske={n}&sks=b&skv=1&saoid=c&sv=1&se={n}&sp=r&sr=b&sig={n}",
    "oss-v1": "OSSAccessKeyId=AK&Expires={n}&Signature={n}&security-token=t{n}",
    "oss-v4": "x-oss-signature-version=OSS4&x-oss-credential=c{n}&x-oss-date={n}&x-oss-expires=60&x-oss-signature={n}",
    "aliyun-cdn": "auth_key={n}-0-0-d41d8cd98f00b204e9800998ecf8427e",
    "qiniu": "e={n}&token=AK:{n}=",
    "tencent-cos": "q-sign-algorithm=sha1&q-ak=AK&q-sign-time={n};9&q-key-time={n};9&q-header-list=h&q-signature={n}",
    "tencent-cdn-a": "sign={n}-abc-0-d41d8cd98f00b204e9800998ecf8427e",
    "tencent-cdn-d": "sign=d41d8cd98f00b204e98009{n}&t={n}",
    "volcengine-tos": "X-Tos-Algorithm=T&X-Tos-Credential=c{n}&X-Tos-Date={n}&X-Tos-Expires=60&X-Tos-Signature={n}",
    "volcengine-image": "lk3s=a{n}&x-expires={n}&x-signature={n}",
    "huawei-obs": "AccessKeyId=AK&Expires={n}&Signature={n}",
    "baidu-bos": "authorization=bce-auth-v1%2FAK%2F{n}%2F60%2Fhost%2F{n}",
    "upyun": "_upt=abcd{n}",
    "bunny": "token=abcdefghijklmnopqrst{n}&expires={n}&token_path=%2Fphotos%2F",
    "discord": "ex={n}&is={n}&hm=ab{n}",
    "akamai": "hdnts=exp%3D{n}~hmac%3D{n}",
    "meta": "oh=00_{n}&oe={n}",
    "a-fragment": "#part-{n}",
}


def signed(style: str, number: int) -> str:
    query = SIGNED[style].format(n=1_000_000_000 + number)
    return f"{PHOTO}{query}" if query.startswith("#") else f"{PHOTO}?{query}"


async def test_urls_that_are_signed_again_are_not_paid_again(
    account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    for number in (1, 2):
        rows = [{"id": style, "image_url": signed(style, number), "scene": "firework"} for style in SIGNED]
        report = await generate_batch(
            rows, kind="poster", credentials=account, batch_id="signed", results=str(tmp_path / "results.csv")
        )
        assert report.delivered == len(SIGNED)
    assert len(simulator.world.jobs) == len(SIGNED)
    written = (tmp_path / "ledger.db").read_bytes() + (tmp_path / "results.csv").read_bytes()
    assert b"1000000001" not in written
    assert b"1000000002" not in written


async def test_two_tokens_under_one_key_that_give_two_pictures_are_two_videos(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str]
) -> None:
    files, url = store
    files.files = {"of-anna": b"Anna", "of-ben": b"Ben"}
    anna = await poster(account, f"{url}?token=of-anna")
    ben = await poster(account, f"{url}?token=of-ben")
    assert ben.job_key != anna.job_key
    assert len(simulator.world.jobs) == 2


@pytest.mark.parametrize(
    ("parameter", "preflight"), [("token", True), ("apikey", False), ("policy", True), ("sessionId", True)]
)
async def test_a_token_that_changes_each_night_pays_nothing_again(
    parameter: str, preflight: bool, account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str]
) -> None:
    files, url = store
    files.parameter = parameter
    files.files = {"of-monday": b"Anna", "of-tuesday": b"Anna"}
    await poster(account, f"{url}?{parameter}=of-monday", preflight=preflight)
    await poster(account, f"{url}?{parameter}=of-tuesday", preflight=preflight)
    assert len(simulator.world.jobs) == 1


async def test_a_token_is_never_shown_or_stored(
    account: JeniusCredentials, store: tuple[Store, str], tmp_path: Path
) -> None:
    files, url = store
    files.parameter = "apikey"
    files.files = {"hidden-value": b"Anna"}
    done = await poster(account, f"{url}?apikey=hidden-value&page=2")
    assert b"hidden-value" not in (tmp_path / "ledger.db").read_bytes() + Path(done.sidecar_uri).read_bytes()
    assert b"page=2" in Path(done.sidecar_uri).read_bytes()


async def test_what_cannot_be_read_is_distinguished_by_its_whole_url(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str]
) -> None:
    files, url = store
    files.refuses = True
    await poster(account, f"{url}?token=of-anna")
    await poster(account, f"{url}?token=of-anna")
    assert len(simulator.world.jobs) == 1
    with pytest.raises(errors.InvalidRequest, match="whether it is the same file is not known"):
        await poster(account, f"{url}?token=of-ben")
    await poster(account, f"{url}?token=of-ben", key="order-8")
    assert len(simulator.world.jobs) == 2


async def test_a_file_that_can_be_read_again_joins_the_job_of_its_url(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str]
) -> None:
    files, url = store
    files.files, files.refuses = {"of-anna": b"Anna"}, True
    await poster(account, f"{url}?token=of-anna")
    files.refuses = False
    await poster(account, f"{url}?token=of-anna")
    files.refuses = True
    await poster(account, f"{url}?token=of-anna")
    assert len(simulator.world.jobs) == 1


# --- ledgers of version 1 ---


def make_version_1(ledger: Path, image_url: str) -> None:
    """Make the ledger's only row one of version 1: another identity, and the URL as that version recorded it."""
    with sqlite3.connect(ledger) as database:
        (recorded,) = database.execute("SELECT request FROM genmedia_jobs").fetchone()
        request = json.dumps({**json.loads(recorded), "image_url": image_url})
        database.execute(
            "UPDATE genmedia_jobs SET identity = ?, identity_version = NULL, names_digest = NULL, input_digests = NULL,"
            " request = ?",
            ("1" * 64, request),
        )


BEFORE = {
    "a lone token": ("token=of-monday", "token=of-tuesday", ""),
    "Qiniu": ("e=1&token=AK:1=", "e=1&token=AK:2=", "?e=1"),
    "Qiniu, at another time": ("e=1&token=AK:1=", "e=2&token=AK:2=", "?e=1"),
    "Discord, at another time": ("ex=1&is=1&hm=1", "ex=2&is=2&hm=2", "?ex=1&is=1&hm=1"),
}


@pytest.mark.parametrize("case", BEFORE)
async def test_a_row_of_a_batch_joins_its_job_of_version_1(
    case: str, account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str], tmp_path: Path
) -> None:
    files, url = store
    files.files = {"of-monday": b"Anna", "of-tuesday": b"Anna"}
    before, now, recorded = BEFORE[case]
    row = {"id": "anna", "image_url": f"{url}?{before}", "scene": "firework"}
    options = {"kind": "poster", "credentials": account, "batch_id": "night"}
    await generate_batch([row], **options)
    make_version_1(tmp_path / "ledger.db", f"{url}{recorded}")
    report = await generate_batch([{**row, "image_url": f"{url}?{now}"}], **options)
    assert report.delivered == 1
    assert len(simulator.world.jobs) == 1


async def test_another_picture_in_the_same_row_is_another_video(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str], tmp_path: Path
) -> None:
    _, url = store
    row = {"id": "anna", "image_url": f"{url}?e=1&token=AK:1=", "scene": "firework"}
    options = {"kind": "poster", "credentials": account, "batch_id": "night"}
    await generate_batch([row], **options)
    make_version_1(tmp_path / "ledger.db", f"{url}?e=1")
    await generate_batch([{**row, "image_url": url.replace("a.jpg", "b.jpg") + "?e=2&token=AK:2="}], **options)
    assert len(simulator.world.jobs) == 2


async def test_under_an_idempotency_key_a_job_of_version_1_is_asked_about(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str], tmp_path: Path
) -> None:
    files, url = store
    files.files = {"of-anna": b"Anna", "of-ben": b"Ben"}
    first = await poster(account, f"{url}?token=of-anna")
    make_version_1(tmp_path / "ledger.db", url)
    with pytest.raises(errors.InvalidRequest, match=f"job {first.job_key} of this idempotency key") as refused:
        await poster(account, f"{url}?token=of-ben")
    assert "use another idempotency key" in str(refused.value.next_step)
    assert len(simulator.world.jobs) == 1

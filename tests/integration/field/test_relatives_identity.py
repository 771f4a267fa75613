"""Relatives of the reported URLs: other clouds' signatures, other names of credentials, and what does count."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest
from test_identity_urls import Store, account, make_version_1, poster, store

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, errors
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator

__all__ = ["account", "store"]

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

PHOTO = "https://media.example.com/photos/a.jpg"
SIGNED = {
    "s3-v4-in-small-letters": "x-amz-algorithm=A&x-amz-credential=AK&x-amz-date={n}&x-amz-expires=60"
    "&x-amz-signedheaders=host&x-amz-signature={n}",
    "s3-v4-escaped-names": "X%2DAmz%2DAlgorithm=A&X%2DAmz%2DCredential=AK&X%2DAmz%2DDate={n}&X%2DAmz%2DExpires=60"
    "&X%2DAmz%2DSignedHeaders=host&X%2DAmz%2DSignature={n}",
    "wangsu": "wsSecret=abcd{n}&wsTime={n}",
    "swift": "temp_url_sig=ab{n}&temp_url_expires={n}",
    "kingsoft": "KSSAccessKeyId=AK&Expires={n}&Signature={n}",
    "nginx-secure-link": "md5=abcd{n}&expires={n}",
    "imagekit": "ik-t={n}&ik-s=ab{n}",
    "akamai-token": "__token__=exp%3D{n}~hmac%3D{n}",
    "akamai-hdnea": "hdnea=st%3D{n}~exp%3D{n}~acl%3D%2F*~hmac%3D{n}",
    "cloudflare": "verify={n}-abcd{n}%3D",
    "baidu-sts": "authorization=bce-auth-v1%2FAK%2F{n}%2F60%2Fhost%2F{n}&x-bce-security-token=t{n}",
    "oss-sts-and-name": "OSSAccessKeyId=STS.{n}&Expires={n}&Signature={n}&security-token=t{n}"
    "&response-content-disposition=attachment",
    "huawei-v4": "X-Obs-Algorithm=A&X-Obs-Credential=c{n}&X-Obs-Date={n}&X-Obs-Expires=60&X-Obs-Signature={n}",
    "tencent-live": "txSecret=ab{n}&txTime={n}",
    "b2": "Authorization=3_2016{n}_53982a92f631a8c7303e3266_d940c7f5ee17cd1de3758aaacf{n}_000_2016{n}_0006_dnld",
}


def signed(style: str, number: int) -> str:
    return f"{PHOTO}?{SIGNED[style].format(n=1_000_000_000 + number)}"


@pytest.mark.parametrize("style", SIGNED)
async def test_urls_of_other_clouds_that_are_signed_again_are_not_paid_again(
    style: str, account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    for number in (1, 2):
        await poster(account, signed(style, number), preflight=False)
    assert len(simulator.world.jobs) == 1
    written = (tmp_path / "ledger.db").read_bytes()
    assert b"1000000001" not in written
    assert b"1000000002" not in written


COUNTS = {
    "a process": "x-oss-process=image/resize,w_{n}",
    "a view": "imageView2/2/w/{n}",
    "a version": "versionId=v{n}",
    "a version under a signature": "versionId=v{n}&X-Amz-Algorithm=A&X-Amz-Credential=AK&X-Amz-Date=1&X-Amz-Expires=6"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature=1",
    "a snapshot": "snapshot=2025-0{n}-01",
    "t alone": "t={n}",
    "e alone": "e={n}",
    "expires alone": "expires={n}",
    "a page": "page={n}",
    "an s": "s={n}",
}


async def test_parameters_that_choose_a_picture_are_two_videos(
    account: JeniusCredentials, simulator: RunningSimulator
) -> None:
    for name, query in COUNTS.items():
        for n in (1, 2):
            await poster(account, f"{PHOTO}?{query.format(n=n)}", key=name, preflight=False)
    assert len(simulator.world.jobs) == 2 * len(COUNTS)


@pytest.mark.parametrize(
    "parameter", ["access_token", "jwt", "auth", "ticket", "X-Api-Key", "share-token", "pwd", "accessKey", "sas"]
)
async def test_credentials_of_other_names_count_by_what_they_give_and_are_never_stored(
    parameter: str,
    account: JeniusCredentials,
    simulator: RunningSimulator,
    store: tuple[Store, str],
    tmp_path: Path,
) -> None:
    files, url = store
    files.parameter = parameter
    files.files = {"monday-hidden": b"Anna", "tuesday-hidden": b"Anna", "of-ben-hidden": b"Ben"}
    first = await poster(account, f"{url}?{parameter}=monday-hidden")
    again = await poster(account, f"{url}?{parameter}=tuesday-hidden")
    ben = await poster(account, f"{url}?{parameter}=of-ben-hidden")
    assert first.job_key == again.job_key != ben.job_key
    assert len(simulator.world.jobs) == 2
    assert b"hidden" not in (tmp_path / "ledger.db").read_bytes() + Path(first.sidecar_uri).read_bytes()


async def test_a_password_before_the_host_is_never_stored(
    account: JeniusCredentials, store: tuple[Store, str], tmp_path: Path
) -> None:
    _, url = store
    with contextlib.suppress(errors.InvalidRequest):
        await poster(account, url.replace("://", "://anna:hidden-word@"))
    ledger = tmp_path / "ledger.db"
    assert not ledger.exists() or b"hidden-word" not in ledger.read_bytes()


async def test_two_tokens_that_give_two_clips_are_two_stylized_videos(
    simulator: RunningSimulator, store: tuple[Store, str]
) -> None:
    files, url = store
    clip = httpx.get(simulator.clip_url).content
    other = clip + b"\x00\x00\x00\x08free"
    files.parameter, files.files = "access_token", {"of-anna": clip, "of-ben": other, "again": clip}
    account = HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    for token in files.files:
        await stylize_video(
            f"{url}?access_token={token}", "ink_wash", credentials=account, idempotency_key="clip", preflight=False
        )
    assert len(simulator.world.jobs) == 2


# --- ledgers of version 1 ---

BEFORE = {
    "access_token": ("access_token=of-monday", "access_token=of-tuesday", ""),
    "Tencent CDN, at another time": (f"sign={'a' * 32}&t=1", f"sign={'b' * 32}&t=2", f"?sign={'a' * 32}&t=1"),
    "Meta, at another time": ("oh=00_1&oe=1", "oh=00_2&oe=2", "?oh=00_1&oe=1"),
}


@pytest.mark.parametrize("case", BEFORE)
async def test_rows_of_version_1_with_other_signatures_are_joined(
    case: str, account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str], tmp_path: Path
) -> None:
    files, url = store
    files.parameter, files.files = "access_token", {"of-monday": b"Anna", "of-tuesday": b"Anna"}
    before, now, recorded = BEFORE[case]
    row = {"id": "anna", "image_url": f"{url}?{before}", "scene": "firework"}
    options = {"kind": "poster", "credentials": account, "batch_id": "night"}
    await generate_batch([row], **options)
    make_version_1(tmp_path / "ledger.db", f"{url}{recorded}")
    report = await generate_batch([{**row, "image_url": f"{url}?{now}"}], **options)
    assert report.delivered == 1
    assert len(simulator.world.jobs) == 1


async def test_another_token_under_the_key_of_a_job_of_version_1_is_asked_about(
    account: JeniusCredentials, simulator: RunningSimulator, store: tuple[Store, str], tmp_path: Path
) -> None:
    files, url = store
    files.parameter, files.files = "access_token", {"of-anna": b"Anna", "of-ben": b"Ben"}
    await poster(account, f"{url}?access_token=of-anna")
    make_version_1(tmp_path / "ledger.db", url)
    with pytest.raises(errors.InvalidRequest, match="of this idempotency key"):
        await poster(account, f"{url}?access_token=of-ben")
    assert len(simulator.world.jobs) == 1

"""Files that a paid job was made of may vanish: a rerun finds the job and goes on, and never pays for that again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from jobs import asking
from test_inputs import SigningFileSystem

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._core.decide import decide
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import CLIP, asset

pytestmark = pytest.mark.usefixtures("prefect_server")

KEY = "the same"


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("signed", SigningFileSystem, clobber=True)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL", "signed://bucket/inputs")


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "portrait.jpg"
    path.write_bytes(asset("portrait.jpg"))
    return path


async def jimeng(simulator: RunningSimulator, picture: Path, prompt: str = "a lake", **options: Any) -> Any:
    credentials = TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url)
    options = {"idempotency_key": KEY, "model": "jimeng-video-3.0-720P", "credentials": credentials} | options
    return await jimeng_video(prompt, image_urls=[str(picture)], **options)


@pytest.mark.parametrize("kind", ["jimeng", "poster", "stylize"])
async def test_a_delivered_job_is_found_without_the_file_it_was_made_of(
    kind: str, simulator: RunningSimulator, portrait: Path, tmp_path: Path
) -> None:
    source = portrait
    if kind == "stylize":
        source = tmp_path / "clip.mp4"
        source.write_bytes(asset(CLIP))

    async def run() -> Any:
        if kind == "jimeng":
            return await jimeng(simulator, source)
        if kind == "poster":
            jenius = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
            return await live_poster(str(source), "youqian", jenius, idempotency_key=KEY)
        hidream = HiDreamCredentials(token=simulator.key, base_url=simulator.hidream_url)
        return await stylize_video(str(source), "anime", credentials=hidream, idempotency_key=KEY)

    first = await run()
    source.unlink()
    assert await run() == first
    assert simulator.accepted == 1


@pytest.mark.parametrize("gone", ["portrait.jpg", "speech.mp3"])
async def test_a_paid_avatar_is_waited_for_and_delivered_although_its_files_are_gone(
    gone: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, portrait: Path, tmp_path: Path
) -> None:
    speech = tmp_path / "speech.mp3"
    speech.write_bytes(asset("speech.mp3"))
    options = {"credentials": credentials, "idempotency_key": KEY, "output_resolution": 720, "subject": "leftmost"}
    simulator.world.settings.run_seconds = 3600.0
    with pytest.raises(errors.JobTimeout):
        await omnihuman_video(str(portrait), str(speech), timeout_seconds=0.1, **options)
    asked = dict(simulator.world.requests)
    (tmp_path / gone).unlink()
    simulator.world.settings.run_seconds = 0.2
    delivery = await omnihuman_video(str(portrait), str(speech), **options)
    assert Path(delivery.uri).is_file()
    assert simulator.accepted == 1
    assert simulator.world.requests["tokenops.detect"] == asked["tokenops.detect"]


async def test_a_file_that_is_gone_is_named_where_no_job_was_made_of_it(
    simulator: RunningSimulator, portrait: Path
) -> None:
    await jimeng(simulator, portrait)
    portrait.unlink()
    for changed in ({"idempotency_key": "another"}, {"prompt": "the sea"}, {"seed": 7}):
        with pytest.raises(errors.InvalidRequest, match=r"image_urls.0: .*there is no '.*portrait.jpg'"):
            await jimeng(simulator, portrait, **changed)
    with pytest.raises(errors.InvalidRequest, match="there is no"):
        await jimeng(simulator, portrait.with_name("another.jpg"))
    assert simulator.accepted == 1
    assert simulator.world.requests["tokenops.submit"] == 1


async def test_where_two_jobs_may_be_meant_both_are_named_and_nothing_is_sent(
    simulator: RunningSimulator, portrait: Path, ledger: Ledger
) -> None:
    await jimeng(simulator, portrait)
    portrait.write_bytes(asset("portrait.jpg") + b"changed")
    await jimeng(simulator, portrait)
    portrait.unlink()
    with pytest.raises(errors.InvalidRequest, match="may be meant") as caught:
        await jimeng(simulator, portrait)
    assert all(job.key in str(caught.value) for job in await ledger.jobs())
    assert simulator.world.requests["tokenops.submit"] == 2


async def test_a_failed_job_is_not_asked_for_anew_without_its_file(simulator: RunningSimulator, portrait: Path) -> None:
    simulator.order("fail_internal")
    with pytest.raises(errors.GenerationFailed):
        await jimeng(simulator, portrait)
    portrait.unlink()
    with pytest.raises(errors.InvalidRequest, match="there is no"):
        await jimeng(simulator, portrait)
    assert simulator.world.requests["tokenops.submit"] == 1


async def test_an_unknown_submission_stays_unknown_without_its_file_until_a_person_adopts_it(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, portrait: Path, ledger: Ledger
) -> None:
    simulator.order("accept_then_drop")
    with pytest.raises(errors.SubmissionUnknown):
        await jimeng(simulator, portrait)
    portrait.unlink()
    with pytest.raises(errors.SubmissionUnknown):
        await jimeng(simulator, portrait)
    (unknown,) = await ledger.jobs({JobState.UNKNOWN})
    async with credentials.client() as client:
        arrived = next(iter(simulator.world.jobs))
        await decide(ledger, unknown.key, "adopt", arrived, by="the test", client_for=asking(client))
    assert Path((await jimeng(simulator, portrait)).uri).is_file()
    assert simulator.world.requests["tokenops.submit"] == 1

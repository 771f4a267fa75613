"""The main job, as a Prefect flow, over real HTTP: what comes out, and what every fault ends in."""

from __future__ import annotations

import contextlib
import importlib
import json
import sqlite3
import wave
from pathlib import Path

import av
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.filesystems import LocalFileSystem

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, Ledger
from prefect_genmedia._inputs.reading import read_all
from prefect_genmedia._media.verify import Recording
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, select_subject
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import asset
from prefect_genmedia.tasks import download_result, submit, wait_for_job

pytestmark = pytest.mark.usefixtures("prefect_server")

RECORDING_SECONDS = 7.1


async def run(simulator: RunningSimulator, credentials: TokenOpsCredentials, **options: object) -> Delivery:
    options.setdefault("output_resolution", 720)
    delivery: Delivery = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, **options
    )
    return delivery


def final_files(folder: Path) -> list[str]:
    """What stands under final names; quarantine and hidden temporary files do not."""
    return sorted(path.name for path in folder.glob("*") if path.is_file())


async def test_a_portrait_and_a_recording_become_a_verified_video(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    delivery = await run(simulator, credentials, output=str(tmp_path / "out"), output_resolution=1080)
    assert (delivery.width, delivery.height) == (1920, 1080)
    assert delivery.seconds == pytest.approx(RECORDING_SECONDS, abs=0.1)
    assert delivery.has_audio
    with av.open(delivery.uri) as container:
        assert sum(1 for _ in container.decode(video=0)) > 150
    stem = f"omnihuman-{delivery.provider_job_id}"
    assert final_files(tmp_path / "out") == [f"{stem}.mp4", f"{stem}.mp4.jpg", f"{stem}.mp4.json"]
    assert simulator.accepted == 1


async def test_of_several_people_the_largest_speaks_unless_asked_otherwise(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    await run(simulator, credentials)
    await run(simulator, credentials, subject="leftmost")
    await run(simulator, credentials, subject="all")
    bodies = [job.body for job in simulator.world.jobs.values()]
    assert [len(body["mask_urls"]) for body in bodies] == [1, 1, 2]
    assert bodies[0]["mask_urls"] != bodies[1]["mask_urls"]


async def test_a_single_person_needs_no_mask(simulator: RunningSimulator, credentials: TokenOpsCredentials) -> None:
    simulator.world.settings.subjects = 1
    await run(simulator, credentials, recognize=True)
    (job,) = simulator.world.jobs.values()
    assert "mask_urls" not in job.body


async def test_a_picture_without_people_costs_nothing(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    simulator.order("detect_none")
    with pytest.raises(errors.NoSubject):
        await run(simulator, credentials)
    assert simulator.accepted == 0


async def test_all_bad_inputs_are_named_at_once_before_anything_is_sent(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await omnihuman_video("gopher://portrait", "s3://", subject="the tall one", credentials=credentials)
    assert {problem.field for problem in caught.value.problems} == {"image_url", "audio_url", "subject"}
    with pytest.raises(errors.InvalidRequest, match=r"there is no 'portrait\.jpg'") as caught:
        await omnihuman_video("portrait.jpg", "speech.mp3", credentials=credentials)
    assert {problem.field for problem in caught.value.problems} == {"image_url", "audio_url"}
    assert not simulator.world.requests


async def test_a_recording_of_a_minute_is_refused_before_it_is_paid(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = Recording(sound=True, seconds=60.0)
    monkeypatch.setattr("prefect_genmedia._inputs.inspect.examine_recording", lambda path: minute)
    with pytest.raises(errors.InvalidRequest, match="must be shorter than 60 s"):
        await run(simulator, credentials)
    assert simulator.accepted == 0


async def test_every_problem_of_the_inputs_is_named_before_the_provider_is_asked_anything(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    portrait, speech = tmp_path / "portrait.jpg", tmp_path / "speech.wav"
    portrait.write_bytes(asset("portrait.jpg"))
    with wave.open(str(speech), "wb") as recording:
        recording.setparams((1, 2, 8000, 0, "NONE", ""))
        recording.writeframes(bytes(2 * 8000 * 70))
    with pytest.raises(errors.InvalidRequest) as caught:
        await omnihuman_video(str(portrait), str(speech), recognize=True, credentials=credentials)
    problems = [str(problem) for problem in caught.value.problems]
    assert problems[0] == "audio_url: plays 70.0 s and must be shorter than 60 s"
    assert [problem.partition(" from where")[0] for problem in problems[1:]] == [
        "image_url: cannot be fetched by the provider",
        "audio_url: cannot be fetched by the provider",
    ]
    assert not simulator.world.requests


async def test_the_recording_is_read_once_although_it_is_checked_before_it_is_submitted(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    async def counted(limits: dict[str, int], rules: object, folder: Path) -> object:
        read.extend(limits)
        return await read_all(limits, rules, folder)

    monkeypatch.setattr(importlib.import_module("prefect_genmedia._inputs.prepare"), "read_all", counted)
    await run(simulator, credentials)
    await run(simulator, credentials, preflight=False)
    assert read == [simulator.speech_url] * 2


@pytest.mark.parametrize(
    "fault",
    [
        "rate_limited",
        "poll_503",
        "poll_html",
        "poll_unknown_status",
        "poll_drop",
        "poll_404",
        "content_502",
        "content_html",
        "content_empty",
        "content_truncated",
        "content_truncated_chunked",
        "content_corrupt",
        "content_slow",
        "content_json",
        "content_json_expired",
        "detect_503",
    ],
)
async def test_a_passing_fault_ends_in_a_verified_file_that_was_paid_once(
    fault: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    simulator.order(fault, retry_after=0.1, seconds=0.3)
    delivery = await run(simulator, credentials)
    assert not simulator.world.faults.pending()
    assert delivery.seconds == pytest.approx(RECORDING_SECONDS, abs=0.1)
    assert simulator.accepted == 1


@pytest.mark.parametrize(
    ("fault", "times", "error", "accepted"),
    [
        ("refuse_invalid", 1, errors.InvalidRequest, 0),
        ("refuse_key", 1, errors.CredentialsError, 0),
        ("refuse_balance", 1, errors.QuotaError, 0),
        ("rate_limited", 9, errors.RateLimited, 0),
        ("drop_before_accept", 1, errors.SubmissionUnknown, 0),
        ("accept_then_drop", 1, errors.SubmissionUnknown, 1),
        ("accept_then_500", 1, errors.SubmissionUnknown, 1),
        ("accept_then_502", 1, errors.SubmissionUnknown, 1),
        ("accept_then_504", 1, errors.SubmissionUnknown, 1),
        ("accept_then_garbage", 1, errors.SubmissionUnknown, 1),
        ("stuck", 1, errors.JobTimeout, 1),
        ("fail_input", 1, errors.InputRefused, 1),
        ("fail_output", 1, errors.OutputRefused, 1),
        ("fail_internal", 1, errors.GenerationFailed, 1),
        ("silent_video", 1, errors.ResultInvalid, 1),
        ("short_video", 1, errors.ResultInvalid, 1),
        ("small_video", 1, errors.ResultInvalid, 1),
        ("poll_key_revoked", 1, errors.CredentialsError, 1),
        ("content_html", 9, errors.ProviderError, 1),
        ("content_truncated", 9, errors.ProviderError, 1),
        ("content_truncated_chunked", 9, errors.ResultInvalid, 1),
        ("content_corrupt", 9, errors.ResultInvalid, 1),
        ("content_gone", 9, errors.JobExpired, 1),
    ],
)
async def test_a_lasting_fault_ends_in_the_right_error_and_no_file(
    fault: str,
    times: int,
    error: type[errors.GenMediaError],
    accepted: int,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    simulator.order(fault, times, retry_after=0.05)
    with pytest.raises(error) as caught:
        await run(simulator, credentials, output=str(tmp_path / "out"), timeout_seconds=1 if fault == "stuck" else 600)
    (job,) = await ledger.jobs()
    assert type(caught.value) is error
    assert job.key in str(caught.value)
    assert job.provider_job_id is None or job.provider_job_id in str(caught.value)
    assert simulator.accepted == accepted
    assert simulator.world.requests["tokenops.submit"] == (1 if fault != "rate_limited" else 4)
    assert final_files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("prices", "cost"),
    [("", "8.52"), ('{"tokenops/OmniHuman_1.5": {"per_job": 3.0}}', "3.00")],  # 7.1 s at 1.2 a second by the list
    ids=["list price", "own price"],
)
async def test_the_run_shows_a_card_with_the_poster_frame_and_the_estimated_cost(
    prices: str,
    cost: str,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PRICES", prices)
    state = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, return_state=True
    )
    async with get_client() as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        shown = await client.read_artifacts(artifact_filter=only_this_run)
    (card,) = [artifact for artifact in shown if artifact.key == "genmedia-omnihuman"]
    assert "data:image/jpeg;base64," in card.data
    assert "1920×1080" in card.data
    assert f"{cost} CNY by the price table; an estimate" in card.data
    assert "is completed at tokenops; verified and delivered: 7." in str(state.message)


async def test_a_failed_run_shows_what_was_paid_and_what_to_do_next(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    simulator.order("accept_then_drop")
    state = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, return_state=True
    )
    (job,) = await ledger.jobs()
    async with get_client() as client:
        only_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        shown = await client.read_artifacts(artifact_filter=only_this_run)
    (card,) = [artifact for artifact in shown if artifact.key == "genmedia-failure"]
    assert card.data.startswith("# SubmissionUnknown")
    assert f"jobs adopt {job.key}" in card.data
    assert "may have accepted" in card.data


async def test_a_run_and_its_tasks_are_named_after_the_job(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    state = await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, return_state=True
    )
    (job_id,) = simulator.world.jobs
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == f"omnihuman · portrait.jpg · {job_id}"


async def test_the_sidecar_tells_where_the_file_is_from(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    signed = f"{simulator.portrait_url}?X-Amz-Signature=deadbeef"
    delivery: Delivery = await omnihuman_video(
        signed, simulator.speech_url, credentials=credentials, output_resolution=720
    )
    assert delivery.sidecar_uri
    text = Path(delivery.sidecar_uri).read_text()
    sidecar = json.loads(text)
    assert sidecar["media"]["sha256"] == delivery.sha256
    assert sidecar["request"]["image_url"] == simulator.portrait_url
    assert "deadbeef" not in text


async def test_a_prefect_filesystem_block_can_be_the_target(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    await LocalFileSystem(basepath=str(tmp_path / "store")).asave("omnihuman-media", overwrite=True)
    options = {"output": "block://local-file-system/omnihuman-media/avatars", "idempotency_key": "in a block"}
    delivery = await run(simulator, credentials, **options)
    stored = tmp_path / "store" / "avatars" / f"omnihuman-{delivery.provider_job_id}.mp4"
    assert stored.stat().st_size == delivery.bytes
    assert await run(simulator, credentials, **options) == delivery
    assert simulator.world.requests["tokenops.content"] == 1


async def test_an_output_block_that_does_not_exist_is_named(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    with pytest.raises(errors.InvalidRequest, match="no s3-bucket Block named 'nowhere'"):
        await run(simulator, credentials, output="block://s3-bucket/nowhere")
    assert simulator.accepted == 0


async def test_the_tasks_work_in_somebody_elses_sync_flow(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    @flow
    def their_flow() -> Delivery:
        detection = detect_subjects.submit(simulator.portrait_url, credentials=credentials).result()
        selection = select_subject.submit(detection, "rightmost", credentials=credentials).result()
        request = OmniHumanVideo(
            image_url=simulator.portrait_url,
            audio_url=simulator.speech_url,
            mask_urls=selection.mask_urls,
            output_resolution=720,
        )
        job = submit.submit(request, credentials=credentials).result()
        done = wait_for_job.submit(job.provider_job_id, credentials=credentials).result()
        result: Delivery = download_result.submit(done, credentials=credentials).result()
        return result

    import anyio.to_thread

    delivery = await anyio.to_thread.run_sync(their_flow)
    assert Path(delivery.uri).is_file()


async def test_a_speaker_that_is_only_named_is_looked_for_before_anything_is_sent(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    @flow
    async def their_flow() -> None:
        request = OmniHumanVideo(image_url=simulator.portrait_url, audio_url=simulator.speech_url, subject="rightmost")
        await submit(request, credentials=credentials)

    await their_flow()
    (job,) = simulator.world.jobs.values()
    assert len(job.body["mask_urls"]) == 1


async def test_the_key_is_nowhere_to_be_found_after_a_run(
    simulator: RunningSimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in Prefect's database (parameters, logs, results, artifacts, events), nor in results on disk or in logs.

    The Block's own document holds it, encrypted. The simulator quotes a wrong key in its error, as some gateways do.
    """
    key = "sk-this-must-never-be-seen-4711"
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    saved = TokenOpsCredentials(api_key=key, base_url=simulator.tokenops_url)
    await saved.asave("secret-keeper", overwrite=True)
    caplog.set_level("DEBUG")
    with monkeypatch.context() as patch:
        patch.setattr(simulator.world, "keys", frozenset({key}))
        await omnihuman_video.with_options(persist_result=True)(
            simulator.portrait_url, simulator.speech_url, credentials="secret-keeper", output_resolution=720
        )
        await omnihuman_video.with_options(persist_result=True)(
            simulator.portrait_url, simulator.speech_url, credentials=saved, output_resolution=720
        )
    with pytest.raises(errors.CredentialsError) as caught:
        await omnihuman_video.with_options(persist_result=True)(
            simulator.portrait_url, simulator.speech_url, credentials=saved, output_resolution=720
        )
    assert key not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert key not in caplog.text
    for path in [*tmp_path.rglob("*"), *prefect_database_files()]:
        with contextlib.suppress(IsADirectoryError, FileNotFoundError):  # a journal may go at any moment
            assert key.encode() not in path.read_bytes(), path


def prefect_database_files() -> list[Path]:
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    url = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    database = Path((url.get_secret_value() if hasattr(url, "get_secret_value") else str(url)).split("///", 1)[1])
    connection = sqlite3.connect(database, timeout=120)
    assert connection.execute("SELECT count(*) FROM flow_run").fetchone()[0] > 0
    connection.close()
    return list(database.parent.glob(f"{database.name}*"))

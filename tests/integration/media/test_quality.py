"""Quality checks: what they find in clips, what becomes of the findings, and that they are made once."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import quality_clips as clips
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from test_batch_flow import Batch, batch, lakes  # noqa: F401 - a fixture

from prefect_genmedia import TokenOpsCredentials, errors, settings
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._media import decoding, quality
from prefect_genmedia._media.quality import QualityFinding, check_quality, measure
from prefect_genmedia._media.verify import MediaExpectation, examine_video, frames_of
from prefect_genmedia._prefect import run as run_module
from prefect_genmedia.batch import row_task
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

HORSE = {"prompt": "a horse", "model": "jimeng-video-3.0-720P"}

MOST_MISSED, MOST_FALSE = 5, 1
"""Of a hundred bad clips, and of a hundred good ones."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of five frames a second: they are encoded and decoded in no time."""
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=5, frames=25, flaw=recipe.flaw))

    monkeypatch.setattr(World, "_rendered", few_frames)


def flaws(path: Path, expected: MediaExpectation | None = None) -> list[str]:
    return [finding.check for finding in check_quality(path, expected).findings]


def test_of_two_hundred_clips_the_bad_ones_are_flagged(tmp_path: Path, record_property: Any) -> None:
    missed, false = [], []
    good, bad = list(clips.good_clips()), list(clips.bad_clips())
    assert (len(good), len(bad)) == (100, 100)
    for clip in (*good, *bad):
        found = flaws(clip.write(tmp_path / "clip.mp4"), clip.expected)
        if clip.flaw is None and found:
            false.append((clip.name, found))
        if clip.flaw is not None and clip.flaw not in found:
            missed.append((clip.name, found))
    record_property("bad clips that no check found, of 100", len(missed))
    record_property("good clips that a check flagged, of 100", len(false))
    assert len(missed) <= MOST_MISSED, missed
    assert len(false) <= MOST_FALSE, false


def test_every_check_but_faces_has_bad_clips() -> None:
    assert {clip.flaw for clip in clips.bad_clips()} | {"face"} == set(quality.QUALITY_CHECKS)


def test_a_finding_has_the_measured_value_and_its_limit(tmp_path: Path) -> None:
    path = clips.Clip("x", clips.still(1)).write(tmp_path / "clip.mp4")
    (finding,) = check_quality(path).findings
    assert isinstance(finding, QualityFinding)
    assert (finding.check, finding.value) == ("frozen", pytest.approx(2.0, abs=0.1))
    assert finding.limit == pytest.approx(0.8, abs=0.05)
    assert finding.message == "nothing moves for 2.0 of 2.0 s"


def test_only_the_checks_that_are_asked_for_are_reported(tmp_path: Path) -> None:
    path = clips.Clip("x", clips.still(1), (clips.silence(),)).write(tmp_path / "clip.mp4")
    assert flaws(path) == ["frozen", "silent"]
    assert [each.check for each in check_quality(path, checks=["silent"]).findings] == ["silent"]
    assert check_quality(path, checks=[]).findings == ()


@pytest.mark.parametrize(("gop", "most"), [(12, 8), (250, 75)])
def test_few_frames_of_a_large_clip_are_decoded_where_they_leave_no_doubt(gop: int, most: int, tmp_path: Path) -> None:
    """A clip of 5 s in which the whole picture moves, with a key frame each second or only at its beginning."""
    size = (1280, 720)
    large = clips.noisy(clips.scene(3, (320, 90)).resize((2560, 720)), 12, 1)

    def moving() -> Iterator[Any]:
        for index in range(75):
            yield large.crop((8 * index, 0, 8 * index + size[0], size[1]))

    codec = (("preset", "ultrafast"), ("crf", "20"), ("g", str(gop)), ("sc_threshold", "0"))
    path = clips.Clip("large", moving, codec=codec).write(tmp_path / "clip.mp4")
    sample = measure(path, MediaExpectation())
    assert sample.frames == 75
    assert sample.decoded_frames <= most
    assert flaws(path) == []


def test_a_large_clip_that_stops_is_decoded_whole(tmp_path: Path) -> None:
    large = clips.noisy(clips.scene(3, (320, 90)).resize((2560, 720)), 12, 1)

    def stopping() -> Iterator[Any]:
        for index in range(75):
            x = 8 * min(index, 37)
            yield large.crop((x, 0, x + 1280, 720))

    path = clips.Clip("stops", stopping).write(tmp_path / "clip.mp4")
    assert flaws(path) == ["frozen"]
    assert measure(path, MediaExpectation()).decoded_frames >= 75


def test_a_file_that_is_no_video_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(errors.ResultInvalid, match="not an mp4 or mov file"):
        check_quality(tmp_path / "clip.mp4")


def test_the_limits_of_verification_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.Clip("x", clips.still(1)).write(tmp_path / "clip.mp4")
    monkeypatch.setattr(quality, "decode_limits", lambda expected: decoding.DecodeLimits(frames=3))
    with pytest.raises(errors.ResultInvalid, match="promises 30 frames, more than 3"):
        check_quality(path)


def test_a_card_shows_four_frames_of_a_file(tmp_path: Path) -> None:
    path = clips.Clip("x", clips.panning(1)).write(tmp_path / "clip.mp4")
    assert len(frames_of(path, 4, 160)) == 4


def test_settings_and_checks_have_the_same_names() -> None:
    assert get_args(settings.QualityCheck) == quality.QUALITY_CHECKS


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra `faces` is not installed")
def test_a_face_is_missed_where_there_is_none(tmp_path: Path) -> None:
    path = clips.Clip("none", clips.panning(2, (640, 360), speed=1)).write(tmp_path / "clip.mp4")
    (finding,) = check_quality(path, checks=["face"]).findings
    assert (finding.check, finding.value) == ("face", 0)


def test_faces_are_not_searched_for_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    path = clips.Clip("x", clips.panning(1)).write(tmp_path / "clip.mp4")
    assert check_quality(path).findings == ()
    with pytest.raises(errors.InvalidRequest, match=r"prefect-genmedia\[faces\]"):
        check_quality(path, checks=["face"])


@pytest.mark.usefixtures("prefect_server", "short")
class TestFlows:
    async def test_a_finding_is_reported_with_the_file_and_stored(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
    ) -> None:
        simulator.order("black_video")
        delivery = await jimeng_video(**HORSE, credentials=credentials, quality="report")
        assert [finding.check for finding in delivery.quality.findings] == ["black"]
        (job,) = await ledger.jobs()
        assert (job.state, job.delivery.quality) == (JobState.DELIVERED, delivery.quality)
        sidecar = json.loads(Path(delivery.sidecar_uri).read_text("utf-8"))
        assert sidecar["quality"]["findings"][0]["message"].startswith("the picture is black for 5.0")
        async with get_client() as client:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["genmedia-jimeng"]))
            (*_, card) = sorted(await client.read_artifacts(artifact_filter=wanted), key=lambda each: each.created)
        assert "What the quality checks found" in card.data
        assert "the picture is black" in card.data

    async def test_nothing_is_checked_unless_asked(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        simulator.order("black_video")
        delivery = await jimeng_video(**HORSE, credentials=credentials)
        assert delivery.quality is None
        assert "quality" not in json.loads(Path(delivery.sidecar_uri).read_text("utf-8"))

    async def test_a_run_that_fails_for_a_finding_delivers_the_file_and_pays_once(
        self,
        simulator: RunningSimulator,
        credentials: TokenOpsCredentials,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        events: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(run_module, "emit_event", lambda event, **facts: events.append((event, facts)))
        simulator.order("frozen_video")
        options: dict[str, Any] = {"credentials": credentials, "idempotency_key": "one", "output": str(tmp_path / "o")}
        with pytest.raises(errors.QualityError, match="nothing moves for 5") as caught:
            await jimeng_video(**HORSE, quality="fail", **options)
        (path,) = (tmp_path / "o").glob("*.mp4")
        assert caught.value.findings == ("frozen",)
        assert not caught.value.retryable
        assert "accepted and billed; its file is delivered" in str(caught.value)
        assert str(path) in caught.value.message
        assert examine_video(path).frames == 25
        (flagged,) = [facts for event, facts in events if event == "genmedia.job.flagged"]
        assert flagged["payload"]["findings"][0]["check"] == "frozen"

        def no_decoding(*given: Any, **named: Any) -> None:
            raise AssertionError("what is known is not measured again")

        monkeypatch.setattr(quality, "measure", no_decoding)
        with pytest.raises(errors.QualityError, match="nothing moves"):
            await jimeng_video(**HORSE, quality="fail", **options)
        accepted = await jimeng_video(**HORSE, quality="report", **options)
        assert [finding.check for finding in accepted.quality.findings] == ["frozen"]
        assert simulator.accepted == 1
        assert simulator.world.requests["tokenops.content"] == 1

    async def test_a_file_that_is_delivered_already_is_checked_without_another_download(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        simulator.order("black_video")
        options: dict[str, Any] = {"credentials": credentials, "idempotency_key": "one"}
        await jimeng_video(**HORSE, **options)
        delivery = await jimeng_video(**HORSE, quality="report", **options)
        assert [finding.check for finding in delivery.quality.findings] == ["black"]
        sidecar = json.loads(Path(delivery.sidecar_uri).read_text("utf-8"))
        assert sidecar["quality"]["findings"][0]["check"] == "black"
        assert simulator.world.requests["tokenops.content"] == 1

    async def test_what_is_found_counts_though_the_sidecar_was_spoiled(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials
    ) -> None:
        simulator.order("black_video")
        options: dict[str, Any] = {"credentials": credentials, "idempotency_key": "one"}
        delivery = await jimeng_video(**HORSE, **options)
        Path(delivery.sidecar_uri).write_text("{ no JSON", "utf-8")
        with pytest.raises(errors.QualityError, match="black"):
            await jimeng_video(**HORSE, quality="fail", **options)
        assert Path(delivery.sidecar_uri).read_text("utf-8") == "{ no JSON"
        assert simulator.accepted == 1

    async def test_a_file_that_cannot_be_measured_is_delivered(
        self, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*given: Any, **named: Any) -> None:
            raise errors.ResultInvalid("The quality of the file cannot be measured: the decoder crashed.")

        monkeypatch.setattr(quality, "measure", broken)
        delivery = await jimeng_video(**HORSE, credentials=credentials, quality="fail")
        assert delivery.quality is None
        assert Path(delivery.uri).is_file()

    async def test_a_missing_extra_is_named_before_anything_is_paid(
        self, simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(errors.InvalidRequest, match=r"prefect-genmedia\[faces\]"):
            await jimeng_video(**HORSE, credentials=credentials, quality="report", quality_checks=["face"])
        assert simulator.accepted == 0

    async def test_a_batch_reports_findings_in_its_table_and_on_its_page(
        self,
        batch: Batch,
        simulator: RunningSimulator,
        tmp_path: Path,
    ) -> None:
        simulator.order("black_video")
        report = await batch.run(lakes(2), quality="report", max_in_flight=1)
        assert report.delivered == 2
        first, second = batch.results.values()
        assert first["quality"].startswith("black: the picture is black for 5.0")
        assert not second.get("quality")
        page = (tmp_path / "out" / "index.html").read_text("utf-8")
        assert "1 with quality findings" in page
        assert "With quality findings 1" in page
        assert "black: the picture is black" in page

    async def test_a_batch_that_fails_for_findings_pays_each_row_once(
        self,
        batch: Batch,
        simulator: RunningSimulator,
    ) -> None:
        simulator.order("frozen_video")
        for _ in range(2):
            with pytest.raises(errors.BatchIncomplete, match="1 fail quality checks") as caught:
                await batch.run(lakes(2), quality="fail", max_in_flight=1)
            assert "`report` accepts them" in caught.value.next_step
            assert batch.states == ["failed_quality", "delivered"]
            assert batch.results["row-0"]["error_kind"] == "QualityError"
            assert Path(batch.results["row-0"]["path"]).is_file()
        report = await batch.run(lakes(2), quality="report")
        assert (report.delivered, batch.submissions) == (2, 2)
        assert simulator.world.requests["tokenops.content"] == 2

    async def test_rows_of_an_earlier_run_are_checked_when_asked(
        self,
        batch: Batch,
        simulator: RunningSimulator,
    ) -> None:
        simulator.order("black_video")
        await batch.run(lakes(2), max_in_flight=1)
        assert "quality" not in batch.results["row-0"]
        await batch.run(lakes(2), quality="report")
        assert batch.results["row-0"]["quality"].startswith("black")
        assert simulator.world.requests["tokenops.content"] == 2

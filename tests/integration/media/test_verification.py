"""The levels of verification: what each finds in a file, what is delivered at which, and where the level is told."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structure_corpus as corpus
from structure_corpus import clips, encoded, verdicts
from test_batch_flow import Batch, batch, lakes, quick  # noqa: F401 - fixtures
from test_final_names import Client, Deliver, deliver_new_job, video  # noqa: F401 - a fixture

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._media.decoding import Level
from prefect_genmedia._media.storage import LocalFolder, Target
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.errors import ResultInvalid
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.providers.protocol import ResultStream
from prefect_genmedia.settings import verify_level

LEVELS: tuple[Level, ...] = ("full", "structure", "none")
DECIDED = [("h264", "faststart"), ("h264", "fragmented"), ("hevc", "faststart"), ("hevc", "fragmented")]
"""Clips that the walk can decide about."""

Check = Callable[[bytes, Level], Any]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Verify a file's bytes at a level."""

    def check(content: bytes, level: Level) -> Any:
        (tmp_path / "result").write_bytes(content)
        return examine_video(tmp_path / "result", corpus.EXPECTED, level=level)

    return check


def test_structure_says_of_damaged_files_what_full_says(tmp_path: Path) -> None:
    """A small part of the corpus, which `make verify-corpus` has by the thousand."""
    for case in corpus.cases(12, "suite"):
        found = verdicts(case.content(), tmp_path)
        assert found.agree or case.kind == corpus.OWN_ROW, (case, found)
        assert (found.full and found.structure) or case.kind not in corpus.NEVER_ACCEPTED, (case, found)


def test_no_intact_file_is_refused(tmp_path: Path) -> None:
    for number in range(15):
        found = verdicts(corpus.intact(number, "suite"), tmp_path)
        assert (found.full, found.structure) == (None, None), number


@pytest.mark.parametrize(("codec", "layout"), DECIDED)
def test_structure_finds_the_facts_that_full_finds(codec: str, layout: str, check: Check) -> None:
    full, structure = (vars(check(clips()[codec, layout], level)) for level in ("full", "structure"))
    assert structure["verified"] == "structure"
    assert structure.pop("poster")[:2] == full.pop("poster")[:2] == b"\xff\xd8"
    assert structure | {"verified": "full"} == full


def test_where_only_a_decoder_can_decide_structure_decodes_everything(check: Check) -> None:
    """A wrong byte in AV1 moves nothing; and other codecs have no units that the walk knows."""
    assert check(clips()["av1", "faststart"], "structure").verified == "full"
    vp9 = encoded(*corpus.INTACT["vp9"], corpus.Picture(64, 64, 8), "")
    assert check(vp9, "structure").verified == "full"


def mdat_of(clip: bytes) -> tuple[int, int]:
    at = clip.index(b"mdat") + 4
    return at, at - 8 + int.from_bytes(clip[at - 8 : at - 4], "big")


def units_of(clip: bytes, samples: int) -> Iterator[tuple[int, int]]:
    """Where the NAL units of a clip without sound begin, and their lengths."""
    at, end = mdat_of(clip)
    for _ in range(samples):
        if at >= end:
            return
        size = int.from_bytes(clip[at : at + 4], "big")
        yield at + 4, size
        at += 4 + size


@pytest.fixture(scope="module")
def silent() -> bytes:
    """An H.264 clip in whose `mdat` box one NAL unit follows the other."""
    return encoded(*corpus.ENCODERS["h264"], corpus.Picture(has_sound=False), "faststart")


@pytest.mark.parametrize("level", LEVELS[:2])
@pytest.mark.parametrize("zeros", [3, 16, 200])
def test_zero_bytes_in_a_frame_are_damage_that_a_decoder_hides(
    zeros: int, level: Level, silent: bytes, check: Check
) -> None:
    start, size = list(units_of(silent, 40))[30]
    at = start + size // 2
    with pytest.raises(ResultInvalid, match="zero bytes where its codec writes none"):
        check(silent[:at] + bytes(zeros) + silent[at + zeros :], level)


@pytest.mark.parametrize("level", LEVELS[:2])
def test_one_frame_that_ends_in_zero_bytes_lost_its_end_and_many_are_padded(
    level: Level, silent: bytes, check: Check
) -> None:
    units = [unit for unit in units_of(silent, 40) if unit[1] > 400][5:15]
    one, all_of_them = bytearray(silent), bytearray(silent)
    for start, size in units:
        all_of_them[start + size - 40 : start + size] = bytes(40)
    start, size = units[3]
    one[start + size - 40 : start + size] = bytes(40)
    with pytest.raises(ResultInvalid, match=r"ends in 4. zero bytes"):
        check(bytes(one), level)
    assert check(bytes(all_of_them), level).verified == "full"


@pytest.mark.parametrize("level", LEVELS[:2])
@pytest.mark.parametrize("clip", [("hevc", "faststart"), ("h264", "fragmented")])
def test_a_length_or_a_fragment_that_does_not_fit_is_damage(clip: tuple[str, str], level: Level, check: Check) -> None:
    content = clips()[clip]
    at, _ = mdat_of(content)
    for damaged in (
        content[: at + 3] + bytes([content[at + 3] ^ 1]) + content[at + 4 :],  # the length of the first unit
        content[:-20],
        content + b"<htm",
    ):
        with pytest.raises(ResultInvalid):
            check(damaged, level)


def test_none_believes_the_file_and_makes_a_poster(check: Check) -> None:
    content = bytearray(clips()["h264", "faststart"])
    content[len(content) // 2 :] = random.Random(1).randbytes(len(content) - len(content) // 2)
    facts = check(bytes(content), "none")
    assert (facts.verified, facts.width, facts.height, facts.has_audio) == ("none", 320, 180, True)
    assert facts.poster[:2] == b"\xff\xd8"
    with pytest.raises(ResultInvalid, match="ftyp"):
        check(b"<html>", "none")


class Unmeasured(Client):
    """A provider that sends files without saying how long they are."""

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        async with super().open_result(provider_job_id, index) as stream:
            yield ResultStream(stream.chunks, None, stream.content_type)


@pytest.mark.parametrize(("client", "level"), [(Client, "structure"), (Unmeasured, "full")])
async def test_a_transfer_without_a_length_is_verified_in_full(
    client: type[Client], level: str, delivered: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_final_names.Client", client)
    job = await delivered(Target(LocalFolder(tmp_path), "a.mp4", verify="structure"))
    assert job.delivery.verified == level
    assert json.loads((tmp_path / "a.mp4.json").read_text())["media"]["verified"] == level


@pytest.mark.usefixtures("prefect_server", "quick")
async def test_a_batch_is_verified_by_structure_unless_another_level_is_named(
    batch: Batch,
    credentials: TokenOpsCredentials,
    tmp_path: Path,
) -> None:
    await batch.run(lakes(1))
    await batch.run([{**lakes(2)[1]}], batch_id="other", verify="none")
    sidecars = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    assert [each["media"]["verified"] for each in sidecars] == ["structure", "none"]
    assert [row["verified"] for row in batch.results.values()] == ["none"]
    options = {"output": str(tmp_path / "one.mp4"), "credentials": credentials, "model": "jimeng-video-3.0-720P"}
    assert (await jimeng_video("a lake", **options)).verified == "full"


def test_a_run_goes_before_the_setting_and_the_setting_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (verify_level("auto"), verify_level("auto", "structure")) == ("full", "structure")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_VERIFY", "none")
    assert (verify_level("auto", "structure"), verify_level("structure")) == ("none", "structure")

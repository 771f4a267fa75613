"""A table's inputs are looked at before anything is paid: each once; what is out of sight from here goes on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Ledger
from prefect_genmedia._inputs import inspect, reading, validate_inputs
from prefect_genmedia._inputs.inspect import Inspection, InspectionResult, Wanted
from prefect_genmedia._transport import FetchRules, fetch
from prefect_genmedia.batch import BatchReport, preflight, row_task
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_task, "RETRY_DELAYS", [0.02, 0.02, 0.02])
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each http(s) input was fetched from here; those of example.com are only seen by the provider."""
    counted: Counter[str] = Counter()

    @asynccontextmanager
    async def counting(url: str, rules: FetchRules) -> Any:
        counted[url] += 1
        if "example.com" in url:
            raise errors.ProviderError("No answer.", http_status=404)
        async with fetch(url, rules) as response:
            yield response

    monkeypatch.setattr(reading, "fetch", counting)
    return counted


class Table:
    """Rows of lakes that may have a first frame, and what becomes of them."""

    def __init__(self, simulator: RunningSimulator, credentials: TokenOpsCredentials, folder: Path) -> None:
        self.simulator = simulator
        self.credentials = credentials
        self.folder = folder

    def picture(self, width: int, height: int) -> str:
        path = self.folder / f"{width}x{height}.png"
        Image.new("RGB", (width, height), "teal").save(path)
        return str(path)

    def row(self, name: str, *pictures: str, **fields: Any) -> dict[str, Any]:
        inputs = {"image_urls": list(pictures)} if pictures else {}
        return {"id": name, "model": "jimeng-video-3.0-720P", "prompt": name, **inputs, **fields}

    async def run(self, rows: list[dict[str, Any]], kind: str = "jimeng", **options: Any) -> BatchReport:
        places = {"output": str(self.folder / "out"), "results": str(self.folder / "results.csv")}
        return await generate_batch(rows, kind, self.credentials, **{"batch_id": "lakes", **places, **options})


@pytest.fixture
def table(simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path) -> Table:
    return Table(simulator, credentials, tmp_path)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_bad_fields_and_bad_pictures_are_reported_in_one_error_and_nothing_is_submitted(
    table: Table, ledger: Ledger, dry_run: bool
) -> None:
    small, good = table.picture(100, 100), table.picture(1280, 720)
    rows = [table.row("good", good), table.row("empty", frames=7), table.row("small", small), table.row("text")]
    with pytest.raises(errors.InvalidRequest) as refusal:
        await table.run(rows, dry_run=dry_run)
    assert [problem.field for problem in refusal.value.problems] == ["row empty.frames", "row small.image_urls.0"]
    assert "100×100" in refusal.value.message
    assert not table.simulator.world.requests
    assert await ledger.jobs() == []


async def test_rows_with_bad_pictures_can_be_left_out(table: Table) -> None:
    rows = [table.row("small", table.picture(100, 100)), table.row("good", table.picture(1280, 720))]
    plan = await table.run(rows, skip_invalid=True, dry_run=True)
    assert (plan.states, plan.rows) == ({"submit": 1, "invalid": 1}, 2)
    report = await table.run(rows, skip_invalid=True)
    assert (report.states, table.simulator.accepted) == ({"delivered": 1, "invalid": 1}, 1)
    assert "its short side must be 320 or more" in (table.folder / "results.csv").read_text()


async def test_without_preflight_a_picture_is_left_to_the_provider(table: Table) -> None:
    await table.run([table.row("small", table.picture(100, 100))], preflight=False)
    assert table.simulator.accepted == 1


async def test_each_input_is_fetched_once_for_all_rows_and_not_again_to_send_or_estimate_them(
    table: Table, fetched: Counter[str]
) -> None:
    speech, portrait = table.simulator.speech_url, table.simulator.portrait_url
    talks = [
        {"id": f"talk-{number}", "image_url": portrait, "audio_url": speech, "seed": number} for number in range(3)
    ]
    frames = [table.row(f"lake-{number}", portrait, kind="jimeng") for number in range(3)]
    with pytest.raises(errors.BatchIncomplete):  # five seconds are not seven: the talks' files do not verify
        await table.run([*talks, *frames], "omnihuman", max_cost=1000.0)
    assert table.simulator.accepted == 6
    assert fetched == {speech: 1, portrait: 1}
    fetched.clear()
    report = await table.run(frames, "omnihuman")
    assert (report.delivered, fetched) == (3, {})  # what has its job already is not looked at


async def test_a_recording_that_was_measured_before_still_decides_how_long_the_video_must_be(
    table: Table, ledger: Ledger
) -> None:
    talk = {"id": "talk", "image_url": table.simulator.portrait_url, "audio_url": table.simulator.speech_url}
    with pytest.raises(errors.BatchIncomplete, match="0 of 1 delivered"):
        await table.run([talk], "omnihuman")
    (job,) = await ledger.jobs()
    assert job.expectation.seconds == pytest.approx(7.17, abs=0.1)


async def test_what_cannot_be_inspected_from_here_is_reported_in_one_line_and_goes_on(
    table: Table, fetched: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    gone = [f"https://example.com/{number}.png" for number in range(3)]
    rows = [table.row(f"lake-{number}", url) for number, url in enumerate(gone)]
    with caplog.at_level(logging.WARNING):
        report = await table.run([*rows, table.row("text")])
    assert report.delivered == 4
    assert fetched == dict.fromkeys(gone, 1)
    reported = [record.getMessage() for record in caplog.records if "inspected from here" in record.getMessage()]
    assert len(reported) == 1
    assert reported[0].startswith("3 of 3 rows cannot be inspected from here")
    assert "row lake-0: image_urls.0 cannot be inspected from here" in reported[0]


async def test_a_host_that_does_not_answer_is_not_asked_for_a_whole_table(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def silence(url: str, wanted: Wanted, rules: FetchRules) -> InspectionResult:
        asked.append(url)
        if "good" in url:
            return Inspection(1000, picture=inspect.Picture("PNG", 1280, 720))
        return errors.ProviderError("No answer.")

    monkeypatch.setattr(preflight, "inspect_url", silence)
    urls = [f"https://silent.example/{number}.png" for number in range(100)] + ["https://other.example/good.png"]
    plan = await table.run([table.row(str(number), url) for number, url in enumerate(urls)], dry_run=True)
    assert plan.states == {"submit": 101}
    assert len(asked) <= preflight.GIVEN_UP_AFTER + preflight.INSPECTED_AT_ONCE + 1
    assert urls[-1] in asked


async def test_a_file_that_changes_after_the_look_is_looked_at_again_when_it_is_sent(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table.picture(1280, 720)

    def then_changed(*what: Any) -> Any:
        findings = validate_inputs(*what)
        Image.new("RGB", (100, 100)).save(frame)
        return findings

    monkeypatch.setattr(preflight, "validate_inputs", then_changed)
    with pytest.raises(errors.BatchIncomplete):
        await table.run([table.row("lake", frame)])
    assert table.simulator.accepted == 0
    assert "is 100×100 pixels" in (table.folder / "results.csv").read_text()


async def test_of_a_file_in_which_nothing_is_documented_only_the_size_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(reading, "_copied", never)
    files: Mapping[str, bytes] = {"full": b"abc", "empty": b"", "large": b"abcdef"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    reported = {}
    for place in (str(tmp_path), f"local://{tmp_path}"):
        for name in (*files, "folder", "nowhere"):
            observed = await inspect.inspect_url(f"{place}/{name}", Wanted(max_bytes=5), FetchRules())
            reported[name] = observed.problem if isinstance(observed, reading.Unusable) else observed
        assert reported["full"] == Inspection(3)
        assert reported["empty"] == "is empty"
        assert "is larger than" in str(reported["large"])
        assert "cannot be read" in str(reported["folder"])
        assert "there is no" in str(reported["nowhere"])
    with fsspec.open("memory://looks/full", "wb") as file:
        file.write(b"abc")
    assert await inspect.inspect_url("memory://looks/full", Wanted(max_bytes=5), FetchRules()) == Inspection(3)
    gone = await inspect.inspect_url("memory://looks/gone", Wanted(max_bytes=5), FetchRules())
    assert gone == reading.Unusable("is not there")

"""The report of a batch, in a headless Chromium: it plays, filters and searches, and no value is more than text."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import HOST, TEXTS
from servers import PATIENCE
from test_ui import CHROMIUM, SWITCHES

from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia.batch.report import ReportSource, write_report
from prefect_genmedia.batch.report_page import script_json
from prefect_genmedia.errors import StorageError
from prefect_genmedia.simulator.media import Recipe, render
from prefect_genmedia.text import clean_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")

HOSTILE = " ".join(TEXTS.values())
NAMES = [
    "lake",
    "a name 100% #1?.mp4 & co",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "'\"><b>",
]


def job(row: str, **fields: Any) -> Job:
    known = {"scope": f"batch:lakes:{row}", "provider": "tokenops", "kind": "jimeng", "model": "jimeng-3"}
    return Job(**{"key": f"key-{row}", "identity": row, "label": row, **known, **fields})


def delivered(row: str, path: Path, **fields: Any) -> Job:
    facts = {"sha256": "00", "bytes": 1, "seconds": 1, "width": 160, "height": 90, "codec": "h264", "has_audio": False}
    delivery = Delivery(uri=str(path), poster_uri=f"{path}.jpg", **facts)
    return job(row, state=JobState.DELIVERED, delivery=delivery, submitted_at=1_800_000_000.0, **fields)


def written(source: ReportSource) -> Path:
    with ThreadPoolExecutor(1) as own_thread:  # playwright's loop runs in this one
        return Path(own_thread.submit(asyncio.run, write_report(source)).result())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with hostile names, and a report of them in which every value is hostile."""
    folder = tmp_path_factory.mktemp("report") / "50% of <b>#1?"
    folder.mkdir()
    video = render(Recipe(None, short_side=90, ratio=16 / 9, rate=5, frames=20))
    jobs, cells = {}, {}
    for number, name in enumerate(NAMES):
        path = folder / f"{number} {name.replace('/', '_')}.mp4"
        path.write_bytes(video)
        request = {"prompt": HOSTILE, HOSTILE: [HOSTILE]}
        jobs[name] = (delivered(name, path, estimated_cost=1.5, request=request),)
        cells[name] = {"estimated_cost": 1.5, "my column": f"own {name}", HOSTILE: HOSTILE}
    hostile = {"error_kind": HOSTILE, "error_message": HOSTILE, "model": HOSTILE, "provider_job_id": HOSTILE}
    jobs[HOSTILE] = (job(HOSTILE, state=JobState.FAILED, **hostile),)
    away = job("away", state=JobState.FAILED, error_kind="OutputRefused", error_message="It was refused.")
    jobs["away"] = (away,)
    cells["never"] = {"state": "not_sent", "my column": "own never"}
    source = ReportSource("lakes <b>", str(folder), jobs, cells, ["my column", HOSTILE], f"{folder}/{HOSTILE}.csv")
    assert written(source).name == "index.html"
    return folder


@dataclass
class Reader:
    """A person with the report open, and what the page has asked for."""

    page: Page
    asked: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        return [row.get_attribute("data-id") or "" for row in self.page.locator(".row").all()]

    def is_playing(self, number: int) -> bool:
        video = self.page.locator("video").nth(number)
        self.page.wait_for_function("each => each.currentTime > 0.1 || each.error", arg=video.element_handle())
        return bool(video.evaluate("each => each.error === null && each.videoWidth === 160"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the extra dev)")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Any, folder: Path) -> Iterator[Reader]:
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    found = Reader(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("dialog", lambda dialog: (found.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto((folder / "index.html").as_uri())
    yield found
    page.close()


@needs_chromium
def test_no_value_is_more_than_text_and_nothing_leaves_the_folder(reader: Reader, folder: Path) -> None:
    for details in reader.page.locator("details").all():
        details.evaluate("each => each.open = true")
    text = reader.page.locator("#grid").inner_text()
    assert clean_text(HOSTILE, 200)[:150] in " ".join(text.split())
    assert all(name in text for name in NAMES)
    assert reader.page.locator("script").count() == 2
    allowed = "article h3 div p dl dt dd details summary video a"
    strange = (
        "names => [...document.querySelectorAll('#grid *')].filter(each => !names.includes(each.localName)).length"
    )
    assert reader.page.evaluate(strange, allowed.split()) == 0
    on = "[...document.querySelectorAll('*')].some(each => [...each.attributes].some(({name}) => /^on/.test(name)))"
    assert not reader.page.evaluate(on)
    inside = folder.as_uri()
    assert [url for url in reader.asked if not url.startswith((inside, "data:,"))] == []
    assert not any(HOST in url for url in reader.asked)
    assert reader.dialogs == []


@needs_chromium
def test_every_file_plays_whatever_its_name(reader: Reader) -> None:
    for number in range(len(NAMES)):
        reader.page.locator("video").nth(number).evaluate("each => each.play()")
        assert reader.is_playing(number), reader.rows()


@needs_chromium
def test_rows_are_found_by_state_error_and_words(reader: Reader) -> None:
    assert len(reader.rows()) == len(NAMES) + 3
    reader.page.get_by_role("button", name="Without a file 3").click()
    assert set(reader.rows()) == {clean_text(HOSTILE, 1000), "away", "never"}
    reader.page.get_by_label("Error").select_option("OutputRefused")
    assert reader.rows() == ["away"]
    reader.page.get_by_label("Error").select_option("")
    reader.page.get_by_role("button", name="Delivered 5").click()
    assert sorted(reader.rows()) == sorted(NAMES)
    reader.page.get_by_label("Search").fill("OWN A NAME 100%")
    assert reader.rows() == [NAMES[1]]
    reader.page.get_by_label("Search").fill('"><b>')
    assert NAMES[4] in reader.rows()


@needs_chromium
def test_the_keyboard_alone_searches_moves_and_plays(reader: Reader) -> None:
    keys = reader.page.keyboard
    keys.press("/")
    keys.type("own lake")
    assert reader.rows() == ["lake"]
    keys.press("Escape")
    reader.page.get_by_role("button", name="Delivered").click()
    reader.page.evaluate("document.activeElement.blur()")
    keys.press("j")
    keys.press("ArrowRight")
    assert reader.page.evaluate("document.activeElement.dataset.id") == reader.rows()[1]
    keys.press("Enter")
    assert reader.is_playing(1)
    keys.press(" ")
    assert reader.page.locator("video").nth(1).evaluate("each => each.paused")


@needs_chromium
def test_the_page_is_light_or_dark_as_the_reader_has_it_and_can_be_switched(reader: Reader) -> None:
    def background() -> str:
        return str(reader.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    reader.page.emulate_media(color_scheme="light")
    light = background()
    reader.page.emulate_media(color_scheme="dark")
    assert background() != light
    reader.page.locator("#theme").click()
    assert background() == light


@needs_chromium
def test_costs_are_charted_by_model_and_by_day(reader: Reader) -> None:
    charts = reader.page.locator(".chart svg")
    assert "tokenops/jimeng-3: 7.50 CNY" in (charts.nth(0).get_attribute("aria-label") or "")
    assert "2027-01-15: 7.50 CNY" in (charts.nth(1).get_attribute("aria-label") or "")
    assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- the file ---


@pytest.mark.parametrize("value", ["</script>", "<!--", "\u2028", "]]>", "&lt;"])
def test_no_value_ends_the_element_that_holds_the_data(value: str) -> None:
    text = script_json({"value": value})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"value": value}


def test_a_file_of_somebody_else_stays_and_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    mine, other = ReportSource("mine", str(tmp_path), {}), ReportSource("other", str(tmp_path), {})
    (tmp_path / "index.html").write_text("<h1>My own page</h1>")
    assert written(mine).name == "mine.html"
    (tmp_path / "index.html").unlink()
    assert written(mine).name == "index.html"
    first = (tmp_path / "index.html").read_text()
    assert written(other).name == "other.html", "another batch has the folder's index.html"
    assert (tmp_path / "index.html").read_text() == first
    assert written(mine).name == "index.html"
    for name in ("index.html", "third.html"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(StorageError, match="are other files"):
        written(ReportSource("third", str(tmp_path), {}))


def test_files_that_lie_elsewhere_are_linked_by_their_public_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = json.dumps({"s3://bucket/media": "https://media.example.com/m/"})
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLIC_BASE_URL", public)
    far = delivered("far", tmp_path / "x.mp4")
    assert far.delivery is not None
    uris = {"uri": "s3://bucket/media/a b.mp4", "poster_uri": "s3://bucket/media/a b.mp4.jpg"}
    far = far.model_copy(update={"delivery": far.delivery.model_copy(update=uris)})
    html = written(ReportSource("lakes", str(tmp_path / "out"), {"far": (far,)})).read_text("utf-8")
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found
    (row,) = json.loads(found[1])["rows"]
    assert row["play"] == "https://media.example.com/m/a%20b.mp4"
    assert row["poster"] == "https://media.example.com/m/a%20b.mp4.jpg"
    assert "media-src &#x27;self&#x27; file: https://media.example.com;" in html

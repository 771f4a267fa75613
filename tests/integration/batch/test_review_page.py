"""The review on the report page, in a headless Chromium: what it exports is what the command applies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asked_runs import asked, asked_again
from prefect.flow_runs import aresume_flow_run
from servers import PATIENCE
from test_batch_flow import Batch, batch  # noqa: F401 - a fixture
from test_ui import CHROMIUM, PHOTOGRAPHS, SWITCHES

from prefect_genmedia._core import Ledger
from prefect_genmedia._core.reviews import decisions_of
from prefect_genmedia._prefect import asking
from prefect_genmedia.cli.app import app

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]


LAKES = [
    {"id": "dawn", "prompt": "A lake at dawn, mist over still water, one wooden boat"},
    {"id": "noon", "prompt": "The same lake at noon, a light wind, sails far out"},
    {"id": "dusk", "prompt": "The same lake at dusk, lanterns along the shore"},
    {"id": "night", "prompt": "The same lake at night, the moon on the water"},
]


def in_chromium(report: Path, downloads: Path) -> Path:
    """Decide about every row of the report that waits, as a person does; returns the exported file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the extra dev)")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, timeout=PATIENCE * 1000)
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.set_default_timeout(PATIENCE * 1000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(report.as_uri())
        file = decided(page, downloads)
        browser.close()
    assert problems == []
    return file


def decided(page: Page, downloads: Path) -> Path:
    def card(row: str) -> Any:
        return page.locator(f".row[data-id='{row}']")

    assert page.locator(".row").count() == 3, "only the rows under review are shown"
    export = page.get_by_role("button", name="Export decisions")
    card("dawn").get_by_role("button", name="Reject").click()
    card("dawn").get_by_placeholder("Reason").fill('The "boat" has two bows')
    card("noon").focus()
    page.keyboard.press("g")
    card("noon").get_by_placeholder("Reason").fill("Too dark")
    export.click()
    assert "Type your name first" in page.locator("#decided").inner_text()
    page.get_by_label("Reviewer").fill("Anna Ćwiek")
    page.get_by_role("button", name="Accept the others shown").click()
    assert card("dusk").get_by_role("button", name="Accept", exact=True).get_attribute("aria-pressed") == "true"
    assert "3 decided" in page.locator("#decided").inner_text()
    PHOTOGRAPHS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PHOTOGRAPHS / "review.png")
    with page.expect_download() as waiting:
        export.click()
    file = downloads / waiting.value.suggested_filename
    waiting.value.save_as(file)
    return file


async def test_what_the_page_exports_is_applied_and_the_run_goes_on(
    batch: Batch,
    tmp_path: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "POLL_SECONDS", 0.1)
    tag = "review-page"
    options: dict[str, Any] = {"canary": 3, "review": "canary", "min_delivered": 0.5}
    _, running = await asked(
        lambda: batch.run([{"model": "jimeng-video-3.0-720P", **row} for row in LAKES], **options), tag
    )
    file = await asyncio.to_thread(in_chromium, tmp_path / "out" / "index.html", tmp_path)
    assert file.name == "lakes.decisions.jsonl"
    written = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {line["row"]: line["decision"] for line in written} == {
        "dawn": "reject",
        "noon": "regenerate",
        "dusk": "accept",
    }
    assert {line["reviewer"] for line in written} == {"Anna Ćwiek"}
    command = ["review", "apply", str(file)]
    await asyncio.to_thread(app, command, result_action="return_int_as_exit_code_else_zero")
    again, _ = await asked_again(tag, running)
    assert batch.simulator.accepted == 4, "three, and the one that is regenerated"
    reasons = {each.decision: each.reason for each in await decisions_of(ledger, "lakes")}
    assert reasons == {"reject": 'The "boat" has two bows', "regenerate": "Too dark", "accept": ""}
    await aresume_flow_run(again.id, run_input={"reviewer": "Anna"})
    report = await running
    assert (report.delivered, report.rejected, batch.simulator.accepted) == (4, 1, 5)

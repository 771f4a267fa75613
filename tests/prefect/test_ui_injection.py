"""Nothing that a provider or a table says becomes a link, a picture or a request of the Prefect UI, in either version.

A real server, real artifacts of ours with hostile text in every value, and a Chromium whose requests are all seen.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import HOST
from servers import PATIENCE, ask_api
from test_ui import CHROMIUM, SWITCHES

from prefect_genmedia.cli.local_server import LocalServer, local_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]

OPENINGS = 8
"""How often a page is opened until it shows what it should."""

UIS = {"first": "", "second": "/v2"}
"""The two UIs of Prefect's server, by their address."""

LIVE = """
host => [...document.querySelectorAll('*')].flatMap(element => [...element.attributes].flatMap(({name, value}) => {
    const loads = /^(href|src|srcset|srcdoc|data|action|formaction|poster|background|style|content|xlink:href|ping)$/;
    const leads = value.includes(host) && !value.startsWith('https://files.example/')
    const active = leads || /^\\s*(javascript|vbscript|data:(?!image\\/))/i.test(value);
    const found = (active && loads.test(name)) || /^on/.test(name);
    return found ? [`<${element.localName} ${name}="${value.slice(0, 200)}">`] : [];
})).concat([...document.querySelectorAll('iframe, object, embed, base, video, audio')].map(each => each.outerHTML))
"""
"""JavaScript: every attribute that leads, loads or runs, and is not the UI's own; every element that embeds."""


@dataclass
class Browser:
    """A Chromium that may reach the Prefect server only, and what it has tried."""

    page: Page
    server: LocalServer
    strange: list[str] = field(default_factory=list)

    def watch(self) -> None:
        def observed(route: Any) -> None:
            url = route.request.url
            if url.startswith((f"{self.server.url}/", "data:", "blob:")):
                route.continue_()
            else:
                self.strange += [url] if HOST in url else []  # the second UI asks for settings of its own
                route.abort()

        self.page.context.route("**/*", observed)

    def _opens(self, path: str, ready: str, tab: str) -> bool:
        """Open a page, or one of its tabs; whether it shows what it should.

        A tab that is opened before the page knows its run's task runs lists nothing of them, and never asks again.
        """
        from playwright.sync_api import TimeoutError as NotShown

        self.page.goto(f"{self.server.url}{path}")
        if tab:
            self.page.get_by_text(tab, exact=True).first.click()
        # The second UI attaches the element first and renders the text into it later.
        shown = self.page.locator(ready).filter(has_text=re.compile(r"\S")).first
        try:
            shown.wait_for(state="attached", timeout=PATIENCE * 1000 / OPENINGS)
        except NotShown:
            return False
        return True

    def found_on(self, path: str, ready: str, tab: str = "") -> list[str]:
        """What is wrong with a page, or one of its tabs: requests that left the server, and whatever is live on it."""
        self.strange.clear()
        for _ in range(OPENINGS):
            if self._opens(path, ready, tab):
                break
        else:
            pytest.fail(f"{path} {tab} shows no {ready}")
        self.page.wait_for_load_state("networkidle")
        live: list[str] = self.page.evaluate(LIVE, HOST)
        return [*self.strange, *live]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server(tmp_path_factory.mktemp("injection") / "prefect") as started:
        yield started


@pytest.fixture(scope="module")
def browser(server: LocalServer) -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the extra dev)")
    with playwright.sync_playwright() as browsers:
        chromium = browsers.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, timeout=PATIENCE * 1000)
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        started = Browser(page, server)
        started.watch()
        yield started
        chromium.close()


def published(server: LocalServer, *arguments: str) -> list[dict[str, Any]]:
    """What a run of `hostile_run.py` has published: one artifact of each key and kind of value."""
    program = Path(__file__).parents[1] / "support" / "hostile_run.py"
    done = subprocess.run(
        [sys.executable, str(program), *arguments], env=dict(server.env), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = ask_api(server.api, "POST", "/artifacts/filter", {"sort": "CREATED_DESC"})
    return found


@pytest.fixture(scope="module")
def ours(server: LocalServer) -> list[dict[str, Any]]:
    return [each for each in published(server) if each["key"] and each["key"].startswith("genmedia-")]


READY = {
    "first": {
        "markdown": ".artifact-data-markdown",
        "table": ".artifact-data-table",
        "progress": ".artifact-data-progress",
    },
    "second": {kind: f"[data-testid={kind}-display]" for kind in ("markdown", "table", "progress")},
}


def page_of(ui: str, artifact: dict[str, Any]) -> tuple[str, str]:
    """The address of an artifact's page, and what is there once it is shown."""
    return f"{UIS[ui]}/artifacts/artifact/{artifact['id']}", READY[ui][artifact["type"]]


@pytest.mark.parametrize("ui", UIS)
def test_no_text_in_an_artifact_makes_a_request_or_a_link(
    ui: str, browser: Browser, ours: list[dict[str, Any]]
) -> None:
    kinds = {each["key"] for each in ours}
    assert kinds >= {
        "genmedia-omnihuman",
        "genmedia-failure",
        "genmedia-reconcile",
        "genmedia-batch",
        "genmedia-batch-failures",
        "genmedia-batch-gallery",
        "genmedia-batch-plan",
        "genmedia-batch-results",
        "genmedia-batch-shard-end",
        "genmedia-progress",
    }
    for artifact in ours:
        found = browser.found_on(*page_of(ui, artifact))
        assert not found, (artifact["key"], found)


@pytest.mark.parametrize("tab", ["Artifacts", "Details"])
@pytest.mark.parametrize("ui", UIS)
def test_no_text_on_the_page_of_a_run_makes_a_request_or_a_link(
    ui: str, tab: str, browser: Browser, ours: list[dict[str, Any]]
) -> None:
    """Its name, its state's message and the descriptions of its artifacts; the log is Prefect's own to render."""
    run = ours[0]["flow_run_id"]
    shown = "a[href*='/artifacts/']" if tab == "Artifacts" else "text=Run Count"
    assert not browser.found_on(f"{UIS[ui]}/runs/flow-run/{run}?tab=Details", shown, tab)


@pytest.mark.parametrize("ui", UIS)
def test_the_same_texts_as_they_are_do_make_requests_and_links(ui: str, browser: Browser, server: LocalServer) -> None:
    raw = [each for each in published(server, "raw") if each["key"] and each["key"].startswith("raw-")]
    found = {each["key"]: browser.found_on(*page_of(ui, each)) for each in raw}
    assert any(HOST in each for each in found["raw-markdown"])
    assert any("<a " in each for each in found["raw-progress"])
    # The second UI shows cells as they are.
    assert bool(found["raw-table"]) is (ui == "first")

"""What a person sees: the Prefect UI in a headless Chromium, on a real server, with real runs of ours.

Each page is photographed into `test-output/ui/`.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, ask_api, until

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.providers.jenius.catalog import SCENES
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.world import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SPEAKERS = ["1 · right, largest", "2 · left"]
PHOTOGRAPHS = Path(__file__).parents[2] / "test-output" / "ui"

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]

RUN = """
import asyncio, importlib, json, sys
flow = getattr(importlib.import_module(f"prefect_genmedia.flows.{sys.argv[1]}"), sys.argv[2])
asyncio.run(flow(**json.loads(sys.argv[3])))
"""


@dataclass
class Desk:
    """A person's browser, the server that it looks at, and the simulator behind the runs."""

    page: Page
    server: LocalServer
    simulator: RunningSimulator
    folder: Path

    def open(self, path: str) -> None:
        self.page.goto(f"{self.server.url}{path}")

    def see(self, text: str, within: str = "body") -> None:
        """Wait until this text is on the page, to be seen."""
        found = self.page.locator(within).filter(visible=True).get_by_text(text, exact=False)
        found.first.wait_for(state="visible")

    def see_picture(self, name: str) -> None:
        """Wait until the picture is on the page, and its pixels with it."""
        picture = self.page.get_by_role("img", name=name)
        picture.wait_for(state="visible")
        until(lambda: picture.evaluate("each => each.complete && each.naturalWidth") > 0, f"the picture {name}")

    def fits(self) -> bool:
        """Whether the table on the page is no wider than its place: what is wider is cut."""
        table = self.page.locator("table").first
        return bool(table.evaluate("each => each.offsetWidth <= each.parentElement.clientWidth"))

    def plays(self, address: str | None) -> None:
        """Open the address of a video, and wait until it plays."""
        self.page.goto(address or "")
        video = self.page.locator("video")
        video.evaluate("each => { each.muted = true; return each.play(); }")
        until(lambda: video.evaluate("each => each.currentTime") > 0.1, f"{address} plays")

    def photograph(self, name: str) -> None:
        PHOTOGRAPHS.mkdir(parents=True, exist_ok=True)
        before = b""
        for _ in range(8):  # until it stands still; the graph of a run moves into its place
            now = self.page.screenshot(path=PHOTOGRAPHS / f"{name}.png", animations="disabled")
            if now == before:
                return
            before = now

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.server.api, method, path, body)

    def state(self, run: str) -> str:
        return str(self.call("GET", f"/flow_runs/{run}")["state"]["type"])

    def runs(self) -> list[dict[str, Any]]:
        """Every run that is not merely scheduled."""
        begun = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        found: list[dict[str, Any]] = self.call("POST", "/flow_runs/filter", begun)
        return found


@contextmanager
def running_flow(
    desk: Desk, name: str, parameters: dict[str, Any], flow: str = "omnihuman.omnihuman_video", fails: bool = False
) -> Iterator[Callable[[str], str]]:
    """Run the flow in a process of its own, as a user does; yields what waits for its state and gives its id."""
    before = {run["id"] for run in desk.runs()}

    def run_in_state(state: str) -> str:
        found: list[str] = []

        def looked() -> bool:
            mine = (run for run in desk.runs() if run["id"] not in before)
            found[:] = (run["id"] for run in mine if run["state"]["type"] == state)
            return bool(found)

        until(looked, lambda: f"the run is {state}:\n{log.read_text()}")
        return found[0]

    log = desk.folder / f"{name}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-c", RUN, *flow.split("."), json.dumps(parameters)]
        process = subprocess.Popen(command, env=dict(desk.server.env), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield run_in_state
        assert bool(process.wait(PATIENCE)) is fails, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def desk(running_simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the extra dev)")
    simulator = running_simulator
    simulator.world.reset()
    simulator.world.settings.__dict__.update(vars(Settings(queue_seconds=0.3, run_seconds=1.2)))
    folder = tmp_path_factory.mktemp("ui")
    ours = "PREFECT_INTEGRATIONS_GENMEDIA_"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        f"{ours}VIEWER_URL": f"http://127.0.0.1:{port}",
        f"{ours}LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        f"{ours}OUTPUT": str(folder / "media"),
        f"{ours}POLL_SHORTEST_SECONDS": "0.2",
        "GENMEDIA_TOKENOPS_API_KEY": simulator.key,
        "GENMEDIA_TOKENOPS_BASE_URL": simulator.tokenops_url,
    }
    with local_server(folder / "prefect", settings) as server, playwright.sync_playwright() as browsers:
        for command in (
            ["-m", "prefect", "block", "register", "-m", "prefect_genmedia"],
            ["-m", "prefect_genmedia.cli", "deploy"],
        ):
            done = subprocess.run(
                [sys.executable, *command], env=dict(server.env), check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        serve = [sys.executable, "-m", "prefect_genmedia.cli", "serve", "--port", str(port)]
        viewer = subprocess.Popen(serve, env=dict(server.env))
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, timeout=PATIENCE * 1000)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(PATIENCE * 1000)
        try:
            yield Desk(page, server, simulator, folder)
        finally:
            browser.close()
            viewer.terminate()
            viewer.wait()


@pytest.fixture(scope="module")
def finished(desk: Desk) -> str:
    """The id of a run that is over."""
    inputs = {
        "image_url": desk.simulator.portrait_url,
        "audio_url": desk.simulator.speech_url,
        "prompt": "自然说话,面带微笑",
        "output": str(desk.folder / "finished"),
    }
    with running_flow(desk, "finished", inputs) as run_in_state:
        run = run_in_state("COMPLETED")
    task_runs = {
        "flow_runs": {"id": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    until(lambda: desk.call("POST", "/task_runs/count", task_runs) == 6, "every task run on record")
    return run


def test_the_page_of_a_run_shows_each_step_by_name_and_that_it_is_completed(desk: Desk, finished: str) -> None:
    desk.open(f"/runs/flow-run/{finished}")
    desk.see("omnihuman · portrait.jpg")
    desk.see("6 Task runs")
    desk.see("Delivered ")  # the log
    desk.photograph("run")
    desk.page.get_by_text("Task Runs", exact=True).click()
    rows = desk.page.locator(".task-run-list-item")
    rows.nth(5).wait_for()
    shown = [row.inner_text().split("\n")[:2] for row in rows.all()]
    assert [name.split()[0] for name, _ in reversed(shown)] == [
        "check",
        "detect",
        "select",
        "submit",
        "wait",
        "download",
    ]
    assert {state for _, state in shown} == {"Completed"}
    desk.photograph("task-runs")


def test_the_card_of_a_delivered_video_shows_four_frames_and_its_facts_and_plays_it(desk: Desk, finished: str) -> None:
    desk.open(f"/runs/flow-run/{finished}")
    desk.page.get_by_text("Artifacts", exact=True).click()
    desk.page.get_by_role("link", name="genmedia-omnihuman").click()
    desk.see_picture("frames of the video")
    (video,) = (desk.folder / "finished").glob("*.mp4")
    for fact in (
        str(video),
        hashlib.sha256(video.read_bytes()).hexdigest(),
        "1920×1080",
        "with sound",
        f"{video.stat().st_size / 1e6:.2f} MB",
        "自然说话,面带微笑",
    ):
        desk.see(fact)
    desk.photograph("card")
    desk.plays(desk.page.get_by_role("link", name="Play the video").get_attribute("href"))


@pytest.mark.parametrize("number", [0, 1])
def test_the_person_who_is_chosen_in_the_form_speaks(number: int, desk: Desk) -> None:
    before = set(desk.simulator.world.jobs)
    inputs = {"image_url": desk.simulator.portrait_url, "audio_url": desk.simulator.speech_url, "subject": "ask"}
    with running_flow(desk, "asked", inputs) as run_in_state:
        run = run_in_state("PAUSED")
        desk.open(f"/runs/flow-run/{run}")
        desk.page.get_by_text("Artifacts", exact=True).click()
        desk.page.get_by_role("link", name="genmedia-subjects").click()
        desk.see_picture("subjects")
        for words in (*SPEAKERS, "Resume at the top right", "in the menu ⋮ there"):
            desk.see(words)
        desk.photograph("subjects")

        desk.open(f"/runs/flow-run/{run}")
        desk.page.get_by_role("button", name="Resume").click()
        form = desk.page.locator(".p-modal")
        form.get_by_text("Who speaks?").wait_for()
        form.locator(".p-select-button__control").press("Space")
        desk.page.locator(".p-select-option").filter(has_text=SPEAKERS[number]).click()
        desk.photograph("choice")
        form.get_by_role("button", name="Submit").click()
        until(lambda: desk.state(run) == "COMPLETED", "the run goes on, and ends")
    (job,) = (job for key, job in desk.simulator.world.jobs.items() if key not in before)
    masks = [name for name, file in desk.simulator.world.files.items() if file.media_type == "image/png"]
    assert job.body["mask_urls"] == [f"{desk.simulator.url}/files/{masks[number - 2]}"], (
        "of the two subjects of this run"
    )


def test_the_form_of_the_credentials_says_what_each_field_is_and_keeps_the_key_to_itself(desk: Desk) -> None:
    reported = [each.description for each in TokenOpsCredentials.model_fields.values() if each.description]
    assert reported
    desk.open("/blocks/catalog/tokenops-credentials/create")
    for description in reported:
        desk.see(description)
    desk.photograph("block-create")

    document = desk.call("GET", "/block_types/slug/tokenops-credentials/block_documents/name/default")
    desk.open(f"/blocks/block/{document['id']}/edit")
    for description in reported:
        desk.see(description)
    key, address, *_ = desk.page.locator("textarea").all()
    until(lambda: key.input_value() == "********", "the key is filled in, as stars")
    assert desk.simulator.key not in desk.page.content()
    desk.photograph("block-edit")

    # Saving the form as it is must not make the stars the key.
    address.fill(f"{desk.simulator.tokenops_url}/")
    desk.page.get_by_role("button", name="Save").click()
    stored = f"/block_documents/{document['id']}?include_secrets=true"
    until(lambda: desk.call("GET", stored)["data"]["base_url"].endswith("/"), "saved")
    assert desk.call("GET", stored)["data"]["api_key"] == desk.simulator.key


def test_the_run_form_of_a_live_poster_describes_each_scene_on_a_line_of_its_own(desk: Desk) -> None:
    deployment = desk.call("GET", "/deployments/name/live-poster/posters")
    desk.open(f"/deployments/deployment/{deployment['id']}/run")
    for name, scene in SCENES.items():
        entry = desk.page.locator("li").filter(has_text=name).first
        entry.wait_for()
        reported = entry.inner_text()
        assert scene.title in reported
        assert scene.english_title in reported
        assert f"{scene.description}。" in reported
    desk.page.get_by_text("Extra JSON").first.wait_for()  # the form is drawn to its end
    desk.photograph("run-form")


def test_the_card_of_a_failed_run_says_what_was_paid_and_what_to_do_in_the_ui(desk: Desk) -> None:
    inputs = {"image_url": desk.simulator.portrait_url, "audio_url": desk.simulator.speech_url}
    desk.simulator.order("accept_then_drop")
    with running_flow(desk, "failed", inputs, fails=True) as run_in_state:
        run = run_in_state("FAILED")
    desk.open(f"/runs/flow-run/{run}")
    desk.page.get_by_text("Artifacts", exact=True).click()
    desk.page.get_by_role("link", name="genmedia-failure").click()
    for words in ("the provider may have accepted", "8.52 CNY by the price table", "decide-job/decide", "adopt"):
        desk.see(words)
    desk.photograph("failure")


def test_the_pages_of_a_batch_show_and_play_each_delivered_file(desk: Desk) -> None:
    names = ["lake", "city", "wood", "desert", "river", "island", "harbour", "meadow"]
    own = {"campaign": "spring, and all that comes after it", "owner": "Anna"}
    rows = [{"id": name, "prompt": f"a {name} at dawn", "model": "jimeng-video-3.0-720P", **own} for name in names]
    table = [*rows, {**rows[0], "id": "moon", "seconds": 7}]
    options = {"batch_id": "postcards", "skip_invalid": True, "output": str(desk.folder / "postcards")}
    with running_flow(desk, "batch", {"table": table, "kind": "jimeng", **options}, "batch.generate_batch") as in_state:
        run = in_state("COMPLETED")
    desk.open(f"/runs/flow-run/{run}")
    desk.see("8 Task runs")
    desk.photograph("batch")
    every = desk.call("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    pages = {each["key"]: f"/artifacts/artifact/{each['id']}" for each in every}
    for ui in ("", "/v2"):
        desk.open(f"{ui}{pages['genmedia-batch-gallery']}")
        for name in names:
            desk.see_picture(name)
        desk.see("8 of 9 delivered · 1 invalid · about 11.2")
        assert desk.fits(), ui or "the first UI"
        if not ui:
            desk.photograph("gallery")
        row = desk.page.get_by_role("link", name="row", exact=True).first.get_attribute("href")
        assert "/runs/task-run/" in (row or "")
        desk.plays(desk.page.get_by_role("link", name="play", exact=True).first.get_attribute("href"))
    for key, words in {
        "results": "Input should be 5 or",
        "failures": "moon.seconds: Input should be 5 or 10, not 7",
    }.items():
        desk.open(pages[f"genmedia-batch-{key}"])
        desk.see(words)
        desk.photograph(key)
    desk.open(pages["genmedia-batch-results"])
    desk.plays(desk.page.get_by_role("link", name="/files/").first.get_attribute("href"))
    desk.page.goto((desk.folder / "postcards" / "index.html").as_uri())
    desk.see("8 of 9 delivered")
    desk.photograph("report")

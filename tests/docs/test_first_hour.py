"""The first hour: README.md and Getting started, typed word for word by somebody who has only Python, pip and make.

From a wheel, with the version of Prefect that runs this test (`make test`, `make test-prefect-3.8`); and `make demo` in
a clone. Each step and its seconds are written to `test-output/first-hour-PREFECT.json`.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import prefect
import pytest
from clean_machine import CleanMachine, copy_of_the_repository, until_it_says
from documents import ROOT, Block, blocks_of, name_of
from servers import HTTP, ask_api, until

from prefect_genmedia.cli.local_server import free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(3600)]

README = ROOT / "README.md"
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
STEPS = ROOT / "test-output" / f"first-hour-{prefect.__version__}.json"
NEWEST = f"prefect=={prefect.__version__}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
"""Whether this Prefect is the one that a plain `pip install` is tested with: then pip chooses all versions itself."""

QUICK = "--queue-seconds 0.1 --run-seconds 0.5"

STAYS_UP = {
    "make demo KEEP=1": "stay up",
    "prefect-genmedia demo --keep": "stay up",
    "prefect server start": "Check out the dashboard at",
    "prefect-genmedia simulator": "Simulator at",
    "python posters.py": "is being served",
    "prefect worker start --pool genmedia --type process": "started!",
    "prefect-genmedia reconcile --every 10m": "reconcile succeeded",
}
"""Commands that run until Ctrl-C, and what they print when they are up."""
ENDS_AT_ONCE = {"make demo KEEP=1", "prefect-genmedia demo --keep"}
"""Those which the page ends before it goes on."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> CleanMachine:
    settings = {"PREFECT_SERVER_API_PORT": str(free_port()), "COLUMNS": "80"}
    folder = tmp_path_factory.mktemp("first-hour")
    return CleanMachine(copy_of_the_repository(folder / "prefect-genmedia"), folder / "home", settings)


def section(start: str, end: str = "") -> list[Block]:
    """The page's blocks from one heading to another."""
    lines = GETTING_STARTED.read_text("utf-8").splitlines()
    first = lines.index(f"## {start}")
    last = lines.index(f"## {end}") if end else len(lines)
    return [block for block in blocks_of(GETTING_STARTED) if first < block.line < last]


class Reading:
    """A reader on the way through the pages, whose ports are their own."""

    def __init__(self, machine: CleanMachine, open_terminals: ExitStack) -> None:
        self.machine = machine
        self.open_terminals = open_terminals
        self.api = f"http://127.0.0.1:{machine.settings['PREFECT_SERVER_API_PORT']}/api"
        self.port = free_port()
        self.simulator = f"http://127.0.0.1:{self.port}"
        self.steps: list[dict[str, Any]] = []

    @contextmanager
    def step(self, page: Path, line: int, typed: str) -> Iterator[None]:
        """Record how long a step takes."""
        begun = time.monotonic()
        yield
        self.record(page, line, typed, time.monotonic() - begun)

    def record(self, page: Path, line: int, typed: str, seconds: float) -> None:
        self.steps.append({"page": name_of(page), "line": line, "typed": typed, "seconds": round(seconds, 1)})

    def seconds_of(self, page: Path) -> float:
        return round(sum(step["seconds"] for step in self.steps if step["page"] == name_of(page)), 1)

    def own_words(self, text: str) -> str:
        """What is typed, with the reader's own ports and Prefect, and a simulator that does not make them wait."""
        text = text.replace("http://127.0.0.1:4200/api", self.api).replace("http://127.0.0.1:8787", self.simulator)
        text = re.sub(r"^(prefect-genmedia simulator)$", rf"\1 --port {self.port} {QUICK}", text)
        if text.startswith("pip install") and not NEWEST:
            text += f" prefect=={prefect.__version__}"
        return text

    def type(self, command: str, allowed: int = 0) -> str:
        """Type a command; those that stay up do so in a terminal of their own."""
        if command.startswith(("source ", "export ", "unset ")):
            self.machine.typed.append(self.own_words(command))
            return ""
        words = STAYS_UP.get(command)
        if words is None:
            return self.machine.run(self.own_words(command), allowed)
        with ExitStack() as terminal:
            process, log = terminal.enter_context(self.machine.terminal(self.own_words(command)))
            until_it_says(words, process, log)
            if command == "prefect server start":  # it says where it is before it listens
                until(lambda: HTTP.get(f"{self.api}/health").is_success, "the server answers")
            if command not in ENDS_AT_ONCE:
                self.open_terminals.push(terminal.pop_all())
        return log.read_text("utf-8")

    def save_and_run(self, text: str, name: str = "script.py") -> str:
        (self.machine.folder / name).write_text(self.own_words(text), "utf-8")
        return self.machine.run(f"python {name}")

    def everything(self, blocks: list[Block]) -> list[str]:
        """Type every block; returns what each one printed."""
        said = []
        for block in blocks:
            if block.language == "python":
                with self.step(block.page, block.line, f"{block.text.split()[0]} …"):
                    said.append(self.save_and_run(block.text))
                continue
            for number, line in enumerate(block.text.splitlines(), block.line):
                command = line.removeprefix("$ ").partition("  #")[0].rstrip()
                with self.step(block.page, number, command):
                    said.append(self.type(command))
        return said

    def cells(self, name: str, blocks: list[Block]) -> str:
        """Run blocks as the cells of one notebook; returns what they printed."""
        file = self.machine.folder / f"{name}.json"
        file.write_text(json.dumps([self.own_words(block.text) for block in blocks]))
        said = self.machine.run(f"python tests/support/notebook.py {file.name}")
        for block, seconds in zip(blocks, json.loads(file.with_suffix(".seconds").read_text()), strict=True):
            self.record(block.page, block.line, f"{block.text.splitlines()[-1]}", seconds)
        return said

    def states_of(self, deployment: str, auto_scheduled: bool) -> set[str]:
        body = {"deployments": {"name": {"any_": [deployment]}}}
        found = ask_api(self.api, "POST", "/flow_runs/filter", body)
        return {run["state_type"] for run in found if run["auto_scheduled"] is auto_scheduled}

    def report(self) -> Any:
        return HTTP.get(f"{self.simulator}/control/report").json()


@pytest.fixture
def reading(machine: CleanMachine) -> Iterator[Reading]:
    machine.typed.clear()
    with ExitStack() as open_terminals:
        yield Reading(machine, open_terminals)


@pytest.mark.skipif(not NEWEST, reason="make installs the Prefect of constraints.txt")
def test_a_clone_needs_nothing_but_make(reading: Reading, record_property: Any) -> None:
    """README's `make demo` is typed as Getting started types it, with KEEP=1."""
    _, clone = blocks_of(README)[:2]
    assert [line.split("#")[0].strip() for line in clone.text.splitlines()] == ["$ make demo", "$ make test"]
    install, to_go_on, _, completion = section("1. Install", "2. A Prefect server and the simulator")
    assert "✓ the file verifies" in reading.everything([install])[0]
    reading.everything([to_go_on, completion])
    record_property("make demo in a clone, in seconds", reading.seconds_of(GETTING_STARTED))


def test_from_a_wheel_to_a_flow_of_ones_own_on_a_schedule(reading: Reading, record_property: Any) -> None:
    _, _, from_a_wheel, _ = section("1. Install", "2. A Prefect server and the simulator")
    assert "✓ the file verifies" in reading.everything([from_a_wheel])[-1]
    assert f"prefect {prefect.__version__}" in " ".join(reading.machine.run("pip list").split())
    reading.everything(section("2. A Prefect server and the simulator", "4. Run a flow that is there"))
    follow_the_readme(reading)
    run_a_flow(reading)
    see_that_nothing_is_paid_twice(reading)
    put_a_flow_on_a_schedule(reading)
    deploy_for_a_team(reading)
    pages = {name_of(page): reading.seconds_of(page) for page in (README, GETTING_STARTED)}
    for page, seconds in pages.items():
        record_property(f"Prefect {prefect.__version__}, {page}, in seconds", seconds)
    STEPS.parent.mkdir(exist_ok=True)
    versions = {"prefect": prefect.__version__, "python": platform.python_version()}
    STEPS.write_text(json.dumps({**versions, "seconds": pages, "steps": reading.steps}, indent=1, ensure_ascii=False))


def follow_the_readme(reading: Reading) -> None:
    """Everything after its installation, with the simulator's key in place of real ones, as it says."""
    blocks = blocks_of(README)
    assert "pip install prefect-genmedia" in blocks[0].text  # here from a wheel
    _, *python, fault = (block for block in blocks if block.language == "python")
    assert "/control/faults" in fault.text
    reading.type("pip install pandas openpyxl")
    said = reading.cells("readme", python)
    assert said.count(".mp4") >= 4
    assert (reading.machine.folder / "rows.results.xlsx").is_file()
    command_line = next(block for block in blocks if "prefect-genmedia make" in block.text)
    (reading.machine.folder / "rows.csv").write_text("id,kind,prompt\nlake,jimeng,a lake\n")
    made, plan, project = reading.everything([command_line])
    assert "lake.mp4" in made
    assert "1 submit" in plan
    assert "my-media" in project


def run_a_flow(reading: Reading) -> None:
    folder = reading.machine.folder
    for made_by_the_readme in ("media", "my-media"):
        shutil.rmtree(folder / made_by_the_readme)
    said = reading.everything(section("4. Run a flow that is there", "5. See that nothing is paid twice"))
    assert "sound: True" in said[0]
    assert "delivered" in said[1]
    assert sorted(path.suffix for path in (folder / "media").iterdir()) == [".jpg", ".json", ".mp4"]
    assert "It was made before" in said[2]  # with the README, into another folder, and says so
    assert "--output" in said[2]
    assert (folder / "my-media" / "flow.py").is_file()


def see_that_nothing_is_paid_twice(reading: Reading) -> None:
    before = reading.report()["accepted"]["jenius"]
    fault, lost, settle = section("5. See that nothing is paid twice", "6. A flow of your own")
    assert "tokenops" in reading.everything([fault])[0]
    (answer,) = reading.everything([lost])
    assert "abandon" in answer
    unknown, adopt = (line.removeprefix("$ ") for line in settle.text.splitlines())
    key = re.search(r"\b[0-9a-f]{8,}\b", reading.type(unknown))
    assert key
    *_, job = (job for job in reading.report()["jobs"] if job["provider"] == "jenius")
    *command, _, _ = adopt.split()
    reading.type(" ".join([*command, key[0], job["id"]]))
    reading.everything([lost])
    assert reading.report()["accepted"]["jenius"] == before + 1


def put_a_flow_on_a_schedule(reading: Reading) -> None:
    posters, serve, start = section("6. A flow of your own", "7. For a team: deployments")
    (reading.machine.folder / "posters.py").write_text(reading.own_words(posters.text), "utf-8")
    (reading.machine.folder / "soon.py").write_text(SOON)
    reading.open_terminals.enter_context(reading.machine.terminal("python soon.py"))
    reading.everything([serve, start])
    until(lambda: "COMPLETED" in reading.states_of("every-morning", auto_scheduled=False), "the run that was asked for")
    until(lambda: "SCHEDULED" in reading.states_of("every-morning", auto_scheduled=True), "tomorrow morning's run")
    assert list((reading.machine.folder / "media" / "posters").glob("*.mp4"))
    # With some versions of what Prefect needs, schedules never fire, and nothing says so.
    until(lambda: "COMPLETED" in reading.states_of("soon", auto_scheduled=True), "a run that its schedule began")


SOON = """
from prefect_genmedia.flows.reconcile import reconcile_jobs
if __name__ == "__main__":
    reconcile_jobs.serve(name="soon", interval=5, pause_on_shutdown=False)
"""


def deploy_for_a_team(reading: Reading) -> None:
    reading.everything(section("7. For a team: deployments", "8. The real thing"))
    forget, own_key, check = section("8. The real thing")
    reading.everything([forget, own_key])
    tried = reading.type(f"COLUMNS=200 {check.text.strip().removeprefix('$ ')}", allowed=1)
    assert "tokenops at https://api.tokenops.ai/v1" in tried
    assert "accepted" not in tried

"""README.md and Getting started, typed word for word by somebody who has only Python, pip and make."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clean_machine import CleanMachine, copy_of_the_repository, until_it_says
from documents import ROOT, Block, blocks_of
from servers import HTTP, ask_api, until

from prefect_genmedia.cli.local_server import free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(3600)]

GETTING_STARTED = ROOT / "docs" / "getting-started.md"
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


@pytest.fixture
def machine(tmp_path: Path) -> CleanMachine:
    settings = {"PREFECT_SERVER_API_PORT": str(free_port())}
    return CleanMachine(copy_of_the_repository(tmp_path / "prefect-genmedia"), tmp_path / "home", settings)


def section(start: str, end: str = "") -> list[Block]:
    """The page's blocks from one heading to another."""
    lines = GETTING_STARTED.read_text("utf-8").splitlines()
    first = lines.index(f"## {start}")
    last = lines.index(f"## {end}") if end else len(lines)
    return [block for block in blocks_of(GETTING_STARTED) if first < block.line < last]


class Reading:
    """A reader on the way through a page, whose ports are its own."""

    def __init__(self, machine: CleanMachine, open_terminals: ExitStack) -> None:
        self.machine = machine
        self.open_terminals = open_terminals
        self.api = f"http://127.0.0.1:{machine.settings['PREFECT_SERVER_API_PORT']}/api"
        self.port = free_port()
        self.simulator = f"http://127.0.0.1:{self.port}"

    def own_ports(self, text: str) -> str:
        text = text.replace("http://127.0.0.1:4200/api", self.api).replace("http://127.0.0.1:8787", self.simulator)
        return re.sub(r"^(prefect-genmedia simulator)$", rf"\1 --port {self.port}", text)

    def type(self, command: str, allowed: int = 0) -> str:
        """Type a command; those that stay up do so in a terminal of their own."""
        if command.startswith(("source ", "export ", "unset ")):
            self.machine.typed.append(self.own_ports(command))
            return ""
        words = STAYS_UP.get(command)
        if words is None:
            return self.machine.run(self.own_ports(command), allowed)
        with ExitStack() as terminal:
            process, log = terminal.enter_context(self.machine.terminal(self.own_ports(command)))
            until_it_says(words, process, log)
            if command == "prefect server start":  # it says where it is before it listens
                until(lambda: HTTP.get(f"{self.api}/health").is_success, "the server answers")
            if command not in ENDS_AT_ONCE:
                self.open_terminals.push(terminal.pop_all())
        return log.read_text("utf-8")

    def save_and_run(self, text: str, name: str = "script.py") -> str:
        (self.machine.folder / name).write_text(self.own_ports(text), "utf-8")
        return self.machine.run(f"python {name}")

    def everything(self, blocks: list[Block]) -> list[str]:
        """Type every block; returns what each one printed."""
        said = []
        for block in blocks:
            if block.language == "python":
                said.append(self.save_and_run(block.text))
            else:
                said.extend(self.type(line.removeprefix("$ ")) for line in block.text.splitlines())
        return said

    def states_of(self, deployment: str, auto_scheduled: bool) -> set[str]:
        body = {"deployments": {"name": {"any_": [deployment]}}}
        found = ask_api(self.api, "POST", "/flow_runs/filter", body)
        return {run["state_type"] for run in found if run["auto_scheduled"] is auto_scheduled}

    def report(self) -> Any:
        return HTTP.get(f"{self.simulator}/control/report").json()


@pytest.fixture
def reading(machine: CleanMachine) -> Iterator[Reading]:
    with ExitStack() as open_terminals:
        yield Reading(machine, open_terminals)


def test_from_a_clone_to_a_flow_of_ones_own_on_a_schedule(reading: Reading, record_property: Any) -> None:
    begun = time.monotonic()
    folder = reading.machine.folder
    install, to_go_on, _, completion = section("1. Install", "2. A Prefect server and the simulator")
    assert "✓ the file verifies" in reading.everything([install])[0]
    reading.everything([to_go_on, completion])
    record_property("installed and seen, in seconds", round(time.monotonic() - begun))

    reading.everything(section("2. A Prefect server and the simulator", "4. Run a flow that is there"))
    said = reading.everything(section("4. Run a flow that is there", "5. See that nothing is paid twice"))
    assert "sound: True" in said[0]
    lake = {"lake.mp4", "lake.mp4.jpg", "lake.mp4.json"}
    spoken = {path.name for path in (folder / "media").iterdir()} - lake
    assert sorted(name.rpartition(".")[2] for name in spoken) == ["jpg", "json", "mp4"]
    assert lake <= {path.name for path in (folder / "media").iterdir()}
    assert (folder / "my-media" / "flow.py").is_file()
    assert "delivered" in said[1]

    fault, lost, settle = section("5. See that nothing is paid twice", "6. A flow of your own")
    assert "tokenops" in reading.everything([fault])[0]
    (answer,) = reading.everything([lost])
    assert "abandon" in answer
    unknown, adopt = (line.removeprefix("$ ") for line in settle.text.splitlines())
    key = re.search(r"\b[0-9a-f]{8,}\b", reading.type(unknown))
    assert key
    (job,) = (job for job in reading.report()["jobs"] if job["provider"] == "jenius")
    *command, _, _ = adopt.split()
    reading.type(" ".join([*command, key[0], job["id"]]))
    reading.everything([lost])
    assert reading.report()["accepted"]["jenius"] == 1

    posters, serve, start = section("6. A flow of your own", "7. For a team: deployments")
    (folder / "posters.py").write_text(reading.own_ports(posters.text), "utf-8")
    reading.everything([serve, start])
    until(lambda: "COMPLETED" in reading.states_of("every-morning", auto_scheduled=False), "the run that was asked for")
    until(lambda: "SCHEDULED" in reading.states_of("every-morning", auto_scheduled=True), "tomorrow morning's run")
    assert list((folder / "media" / "posters").glob("*.mp4"))
    record_property("own flow on a schedule, in seconds", round(time.monotonic() - begun))

    reading.everything(section("7. For a team: deployments", "8. The real thing"))
    forget, own_key, check = section("8. The real thing")
    reading.everything([forget, own_key])
    tried = reading.type(f"COLUMNS=200 {check.text.strip().removeprefix('$ ')}", allowed=1)
    assert "tokenops at https://api.tokenops.ai/v1" in tried
    assert "accepted" not in tried
    record_property("all of the page, in seconds", round(time.monotonic() - begun))


SOON = """
from prefect_genmedia.flows.reconcile import reconcile_jobs
if __name__ == "__main__":
    reconcile_jobs.serve(name="soon", interval=5, pause_on_shutdown=False)
"""


def test_from_a_wheel_to_a_server_that_fires_schedules(reading: Reading) -> None:
    """With the newest dependencies that pip finds, not with those of constraints.txt."""
    _, _, from_a_wheel, _ = section("1. Install", "2. A Prefect server and the simulator")
    assert "✓ the file verifies" in reading.everything([from_a_wheel])[-1]
    reading.everything(section("2. A Prefect server and the simulator", "3. Store the credentials"))
    reading.machine.run("prefect block register -m prefect_genmedia")
    (reading.machine.folder / "soon.py").write_text(SOON)
    reading.open_terminals.enter_context(reading.machine.terminal("python soon.py"))
    # There are no credentials, so they fail; that they ran is the point.
    until(lambda: reading.states_of("soon", auto_scheduled=True) & {"COMPLETED", "FAILED"}, "a scheduled run")


def test_the_readme_asks_for_nothing_but_make() -> None:
    """Its commands for a clone are typed here (`demo`), or run this (`test`); its code runs in test_docs.py."""
    _, first = blocks_of(ROOT / "README.md")[:2]  # the block before installs a release
    assert [line.split("#")[0].strip() for line in first.text.splitlines()] == ["$ make demo", "$ make test"]

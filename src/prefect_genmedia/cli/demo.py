"""The demo: the main job on real parts (a Prefect server, HTTP, files), without paying anybody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from prefect_genmedia._media.verify import examine_video, media_seconds
from prefect_genmedia.cli.console import print_facts
from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.errors import ResultInvalid
from prefect_genmedia.simulator import RunningSimulator, run_simulator
from prefect_genmedia.simulator.media import ASSETS
from prefect_genmedia.simulator.world import Settings
from prefect_genmedia.text import counted

RESOLUTION = 1080
STEPS = {"check", "detect", "select", "submit", "wait", "download"}
"""First words of the names of the task runs that the flow has."""
RECORD_SECONDS = 30.0
"""How long the server may take to have every task run on record."""


def run_demo(output: Path, keep: bool, console: Console) -> int:
    """Run the main job and check what came of it.

    Args:
        output: folder for the video.
        keep: leave server and simulator up until Ctrl-C.
        console: where to say what happens.

    Returns:
        0 when the file verifies and the server shows every task run as Completed, else 1.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    output.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is known before the server starts
    try:
        with tempfile.TemporaryDirectory(prefix="genmedia-demo-") as home:
            console.print("[dim]Starting a Prefect server and the simulator …[/]")
            ledger = {"PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": f"sqlite:///{home}/ledger.db"}
            with local_server(Path(home), ledger) as server, run_simulator(Settings(1.0, 4.0)) as simulator:
                if keep:  # else they are gone before anybody could look
                    console.print(f"Prefect UI  {server.url}\nSimulator   {simulator.url}")
                return _run(output.absolute(), keep, console, server, simulator)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    except RuntimeError as error:
        console.print(f"[red]{escape(str(error))}[/]", highlight=False)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(output: Path, keep: bool, console: Console, server: LocalServer, simulator: RunningSimulator) -> int:
    job = {
        "base_urls": {name: simulator.base_url(name) for name in simulator.prefixes},
        "api_key": simulator.key,
        "portrait": simulator.portrait_url,
        "recording": simulator.speech_url,
        "output": str(output),
        "short_side": RESOLUTION,
    }
    if keep:
        console.print(f"Portrait    {simulator.portrait_url}\nRecording   {simulator.speech_url}\n")
    # A process of its own, as a worker would start: Prefect reads its settings once, when it is imported.
    flow = subprocess.run(
        [sys.executable, "-m", "prefect_genmedia.flows.demo"],
        env=dict(server.env),
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if flow.returncode != 0:
        console.print("\n[red]The run failed; its log above says why.[/]")
        return 1
    result = json.loads(flow.stdout)
    problems = [*_file_problems(result["delivery"]), *_record_problems(server, result["flow_run_id"])]
    page = f"{server.url}/runs/flow-run/{result['flow_run_id']}"
    _report(console, page if keep else "", simulator, result)
    for problem in problems:
        console.print(f"[red]✗ {escape(problem)}[/]")
    if not problems:
        console.print("[green]✓[/] the file verifies, and the server has every task run as Completed")
    if keep:
        console.print(f"\nServer and simulator stay up: look at {server.url} – Ctrl-C ends them.")
        threading.Event().wait()
    else:
        console.print("To look at the run in the UI: `prefect-genmedia demo --keep`.")
    return 1 if problems else 0


def _file_problems(delivery: dict[str, Any]) -> list[str]:
    """Look at the delivered file once more, with nothing but the file and what was asked for."""
    try:
        facts = examine_video(Path(delivery["uri"]))
    except (ResultInvalid, OSError) as error:
        return [str(error)]
    problems = []
    wanted = media_seconds(ASSETS / "speech.mp3") or 0.0
    if abs(facts.seconds - wanted) > 0.2:
        problems.append(f"the video plays {facts.seconds} s, the recording {wanted} s")
    if min(facts.width, facts.height) != RESOLUTION:
        problems.append(f"the video is {facts.width}×{facts.height}")
    if not facts.has_audio:
        problems.append("the video has no sound")
    return problems


def _record_problems(server: LocalServer, flow_run_id: str) -> list[str]:
    """Wait until the server shows every step's task run as Completed."""
    states: dict[str, str] = {}
    deadline = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < deadline:
        only_this_run = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        runs = httpx.post(f"{server.api}/task_runs/filter", json=only_this_run, timeout=10.0).json()
        states = {run["name"]: run["state_type"] for run in runs}
        done = {name.partition(" ")[0] for name, state in states.items() if state == "COMPLETED"}
        if done == STEPS and set(states.values()) == {"COMPLETED"}:
            return []
        time.sleep(0.2)
    return [f"the server has these task runs: {states or 'none'}"]


def _report(console: Console, page: str, simulator: RunningSimulator, result: dict[str, Any]) -> None:
    delivery = result["delivery"]
    video = (
        f"{delivery['seconds']:.2f} s · {delivery['width']}×{delivery['height']} · {delivery['codec']} · "
        f"{'with' if delivery['has_audio'] else 'without'} sound · {delivery['bytes'] / 1e6:.2f} MB"
    )
    facts = {
        "File": delivery["uri"],
        "Video": video,
        "SHA-256": delivery["sha256"],
        "Job": f"{delivery['provider_job_id']} at the provider, {delivery['job_key']} in the ledger",
        "Paid": f"{counted(simulator.accepted, 'job')} accepted by the simulator",
        "Run": page,
    }
    console.print()
    print_facts(console, facts)

"""What a batch costs, beside programs that do less: `make bench BENCH=batch`.

Each peer is a program of its own (`benchmarks/peers/`), and does the same jobs against the same simulator, which hands
out one clip (`benchmarks/clips.py`). A peer's time ends when its process has ended and Prefect's server (SQLite, same
machine) shows every task run completed. All but `naive` hold the same gate: so many jobs at the provider at once.

CPU time is the operating system's: of the peer's process, of the processes that it starts (decoders), of Prefect's
server beyond its start, and of the simulator.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from clips import CLIPS, Clip

from prefect_genmedia.cli.local_server import local_server

HERE = Path(__file__).resolve().parent
OUTPUT = Path("bench-output")
DBOS_PYTHON = HERE.parent / "build" / "dbos" / "bin" / "python"

SERVER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""What docs/operations.md advises for batches: by default the server writes each change of a task run by itself."""

RECORDED_SECONDS = 600.0
"""How long the server may take to show every task run, in seconds."""


@dataclass(frozen=True)
class Peer:
    """A program that is measured.

    Args:
        script: its file in `peers/`.
        task_runs: how many task runs it makes of each job; None if it needs no Prefect server.
        options: options of `generate_batch`.
    """

    script: str
    task_runs: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


PEERS = {
    "bare": Peer("bare"),
    "dbos": Peer("durable"),
    "traced": Peer("traced", 1),
    "batch": Peer("ours", 0, {"row_task_runs": "off"}),
    "batch, a task run a row": Peer("ours", 1, {"row_task_runs": "on"}),
    "naive": Peer("naive", 4),
}


@dataclass(frozen=True)
class Round:
    """What every peer of one table does.

    Args:
        clip: the clip that jobs have.
        jobs: how many there are.
        gate: how many may be at the provider at once.
        seconds: how long each takes there.
        server: settings of Prefect's server.
        verify: how `generate_batch` verifies, where it has that option.
        profile: file that the profile of `generate_batch` is written to.
    """

    clip: Clip
    jobs: int
    gate: int
    seconds: float
    server: Mapping[str, str]
    verify: str
    profile: str | None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 1000))
    parser.add_argument(
        "--gates", default=os.environ.get("GATES") or "200,0", help="jobs in flight at most; 0: no limit"
    )
    parser.add_argument("--clips", default=os.environ.get("CLIPS") or ",".join(CLIPS))
    parser.add_argument("--only", default=os.environ.get("PEERS") or ";".join(PEERS), help="peers, separated by ;")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a job takes at the provider")
    parser.add_argument("--verify", default=os.environ.get("VERIFY") or "structure")
    parser.add_argument("--profile", help="write a profile of generate_batch to this file")
    parser.add_argument("--default-server", action="store_true", help="leave the Prefect server's settings alone")
    options = parser.parse_args()
    server = {} if options.default_server else SERVER
    names = [name.strip() for name in options.only.split(";")]
    if "dbos" in names and not DBOS_PYTHON.exists():
        raise SystemExit(f"{DBOS_PYTHON} is missing: `make bench` makes it; or leave dbos out with --only")
    started = cpu_of_start(server)
    for clip in (CLIPS[name] for name in options.clips.split(",")):
        jobs = max(int(options.jobs * clip.share), 1)
        for gate in map(int, options.gates.split(",")):
            one = Round(clip, jobs, gate or jobs, options.seconds, server, options.verify, options.profile)
            compare(one, names, started, is_limited=bool(gate))


def cpu_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_of_start(server: Mapping[str, str]) -> float:
    """CPU seconds of a Prefect server that starts and ends."""
    before = cpu_of_ended_children()
    with tempfile.TemporaryDirectory(prefix="genmedia-bench-") as folder, local_server(Path(folder), server):
        pass
    return cpu_of_ended_children() - before


def compare(one: Round, names: list[str], server_start: float, is_limited: bool) -> None:
    """Measure each peer, and write the figures."""
    print(f"\n== {one.clip.title}; {one.jobs} jobs, {one.gate} in flight at most", flush=True)
    figures: dict[str, dict[str, Any]] = {}
    with simulator(one) as url:
        for name in names:
            folder = Path(tempfile.mkdtemp(prefix="genmedia-bench-"))
            try:
                figures[name] = measure(PEERS[name], one, url, folder, server_start)
            finally:
                shutil.rmtree(folder)
            print(f"{name}: {figures[name]}", flush=True)
    content = {
        "clip": one.clip.title,
        "jobs": one.jobs,
        "gate": one.gate if is_limited else None,
        "job_seconds": one.seconds,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "figures": figures,
    }
    OUTPUT.mkdir(exist_ok=True)
    name = f"batch-{one.clip.name}-{one.gate if is_limited else 'unlimited'}"
    (OUTPUT / f"{name}{'' if one.server else '-default-server'}.json").write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def simulator(one: Round) -> Iterator[str]:
    """The simulator's address, while the block runs."""
    command = [sys.executable, str(HERE / "simulator.py"), one.clip.name, str(one.seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(peer: Peer, one: Round, url: str, folder: Path, server_start: float) -> dict[str, Any]:
    """Run one peer; returns its figures."""
    httpx.post(f"{url}/control/reset").raise_for_status()
    simulated = httpx.get(f"{url}/control/report").json()["cpu_seconds"]
    before = cpu_of_ended_children()
    if peer.task_runs is None:
        facts = run_peer(peer, one, url, folder, None, dict(os.environ))
    else:
        with local_server(folder / "prefect", one.server) as server:
            facts = run_peer(peer, one, url, folder, server.api, dict(server.env))
        spent = cpu_of_ended_children() - before - facts["own_cpu_seconds"] - facts["helpers_cpu_seconds"]
        facts["server_cpu_seconds"] = round(max(spent - server_start, 0.0), 2)
    report = httpx.get(f"{url}/control/report", timeout=60).json()
    assert sum(report["accepted"].values()) == one.jobs
    facts["simulator_cpu_seconds"] = round(report["cpu_seconds"] - simulated, 2)
    asked = sum(number for name, number in report["requests"].items() if name.startswith("tokenops"))
    return facts | {"requests_per_job": round(asked / one.jobs, 2)}


def run_peer(peer: Peer, one: Round, url: str, folder: Path, api: str | None, env: dict[str, str]) -> dict[str, Any]:
    env |= {
        "BENCH_URL": url,
        "BENCH_FOLDER": str(folder / "files"),
        "BENCH_MODEL": one.clip.model,
        "BENCH_SECONDS": str(one.seconds),
        "BENCH_OPTIONS": json.dumps({**peer.options, "verify": one.verify}),
        "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    }
    profiled = ["-m", "cProfile", "-o", one.profile] if one.profile and peer.script == "ours" else []
    python = str(DBOS_PYTHON) if peer.script == "durable" else sys.executable
    command = [python, *profiled, str(HERE / "peers" / f"{peer.script}.py"), str(one.jobs), str(one.gate)]
    begun = time.monotonic()
    log = folder / "stderr.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    exited = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(f"{log.read_text()[-3000:]}\n{peer.script} ended with {process.returncode}")
    deadline = time.monotonic() + RECORDED_SECONDS
    while api and completed(api) < one.jobs * (peer.task_runs or 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    recorded = time.monotonic() - begun
    facts = json.loads(printed.splitlines()[-1])
    return {
        "recorded_seconds": round(recorded, 2),
        "exited_seconds": round(exited, 2),
        "task_runs": completed(api) if api else 0,
        **facts,
        "helpers_cpu_seconds": round(max(used.ru_utime + used.ru_stime - facts["own_cpu_seconds"], 0.0), 2),
    }


def completed(api: str) -> int:
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    try:
        return int(httpx.post(f"{api}/task_runs/count", json=body, timeout=30).json())
    except httpx.HTTPError:
        return 0


if __name__ == "__main__":
    main()

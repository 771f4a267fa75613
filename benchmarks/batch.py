"""How much longer a batch takes than the bare HTTP calls it makes, and than one task a step: `make bench`.

Four programs do the same jobs against the same simulator, each in a process of its own, timed until the process has
ended and the Prefect server (SQLite, same machine) shows every task run completed. All but the last hold the same gate:
so many jobs at the provider at once, each until it is done.

- bare: asyncio and httpx; no Prefect, no ledger, no verification;
- traced: the same calls, each job in one task run, and nothing else: what Prefect itself costs;
- batch: `generate_batch`: one task run a job, ledger, verified files, table of results;
- naive: four awaited task runs a job, no gate, no ledger.

The simulator's videos are five seconds long, but have one frame a second: decoding is the same work with or without
this package's way of batching, and a real file's takes as long as its provider's frames are many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve()
OUTPUT = Path("bench-output")
VARIANTS = ("bare", "traced", "batch", "naive")
MODEL = "jimeng-video-3.0-720P"
CONNECTIONS = 8
"""Requests of the bare script at once: what serves it best."""

SERVER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""What docs/operations.md advises for batches: by default the server writes each change of a task run by itself."""
COLUMNS = {
    "recorded_seconds": "until recorded, s",
    "exited_seconds": "until exited, s",
    "task_runs": "task runs",
    "requests_per_job": "requests a job",
    "cpu_seconds": "CPU, s",
    "server_cpu_seconds": "CPU of Prefect's server, s",
    "memory_mb": "memory, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 1000))
    parser.add_argument("--gate", type=int, default=int(os.environ.get("GATE") or 200), help="jobs in flight at most")
    parser.add_argument("--only", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--run", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--profile", help="write a profile of generate_batch to this file")
    parser.add_argument("--default-server", action="store_true", help="leave the Prefect server's settings alone")
    options = parser.parse_args()
    if options.run:
        run_variant(options.run, options.jobs, options.gate)
    else:
        compare(options.jobs, options.gate, options.only, options.profile, not options.default_server)


def compare(jobs: int, gate: int, variants: list[str], profile: str | None, tuned: bool) -> None:
    from prefect_genmedia.cli.local_server import local_server

    figures: dict[str, dict[str, float]] = {}
    folder = Path(tempfile.mkdtemp(prefix="genmedia-bench-"))
    command = [sys.executable, str(HERE.parent / "simulator.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout
        url = simulator.stdout.readline().strip()
        try:
            for variant in variants:
                before = cpu_of_ended_children()
                with local_server(folder / variant, SERVER if tuned else {}) as server:
                    env = dict(server.env)
                    figures[variant] = measure(variant, jobs, gate, url, env, server.api, folder, profile)
                ended = cpu_of_ended_children() - before
                figures[variant]["server_cpu_seconds"] = round(ended - figures[variant]["cpu_seconds"], 2)
                print(f"{variant}: {figures[variant]}", flush=True)
        finally:
            simulator.terminate()
    report(jobs, gate, figures, tuned)


def cpu_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    variant: str, jobs: int, gate: int, url: str, env: dict[str, str], api: str, folder: Path, profile: str | None
) -> dict[str, float]:
    httpx.post(f"{url}/control/reset").raise_for_status()
    env |= {
        "BENCH_URL": url,
        "BENCH_FOLDER": str(folder / f"{variant}-files"),
        "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": f"sqlite:///{folder / variant / 'ledger.db'}",
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
        "PREFECT_LOGGING_LEVEL": "ERROR" if variant == "bare" else "INFO",
    }
    command = [sys.executable, str(HERE), "--run", variant, "--jobs", str(jobs), "--gate", str(gate)]
    if profile and variant == "batch":
        command = [sys.executable, "-m", "cProfile", "-o", profile, *command[1:]]
    begun = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    reported = process.communicate()[0]
    exited = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(f"{variant} ended with {process.returncode}")
    expected = {"bare": 0, "traced": jobs, "batch": jobs, "naive": 4 * jobs}[variant]
    deadline = time.monotonic() + 300
    while completed(api) < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    recorded = time.monotonic() - begun
    facts = json.loads(reported.splitlines()[-1])
    report = httpx.get(f"{url}/control/report", timeout=60).json()
    requests = sum(number for name, number in report["requests"].items() if name.startswith("tokenops"))
    return {
        "exited_seconds": round(exited, 2),
        "recorded_seconds": round(recorded, 2),
        "task_runs": completed(api),
        "requests_per_job": round(requests / jobs, 2),
        "accepted": sum(report["accepted"].values()),
        **facts,
    }


def completed(api: str) -> int:
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    try:
        return int(httpx.post(f"{api}/task_runs/count", json=body, timeout=30).json())
    except httpx.HTTPError:
        return 0


def report(jobs: int, gate: int, figures: dict[str, dict[str, float]], tuned: bool) -> None:
    bare = figures.get("bare", {}).get("recorded_seconds")
    traced = figures.get("traced", {}).get("recorded_seconds")
    naive = figures.get("naive", {}).get("recorded_seconds")
    server = "with larger writes" if tuned else "as it comes"
    print(f"\n{jobs} jobs of 5 s, {gate} in flight at most; Prefect's server {server}\n")
    print("| |", " | ".join(COLUMNS.values()), "|")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for name, row in figures.items():
        print(f"| {name} |", " | ".join(str(row[column]) for column in COLUMNS), "|")
    ratios = {}
    if "batch" in figures:
        took = figures["batch"]["recorded_seconds"]
        ratios = {
            "batch_to_bare": round(took / bare, 2) if bare else None,
            "batch_to_traced": round(took / traced, 2) if traced else None,
            "batch_to_naive": round(took / naive, 2) if naive else None,
        }
        print("\n" + ", ".join(f"{name.replace('_to_', ' / ')} = {ratio}" for name, ratio in ratios.items()))
    OUTPUT.mkdir(exist_ok=True)
    content = {"jobs": jobs, "gate": gate, "cpus": os.cpu_count(), "figures": figures, "ratios": ratios}
    (OUTPUT / f"batch-{jobs}-{gate}{'' if tuned else '-default-server'}.json").write_text(
        json.dumps(content, indent=2) + "\n"
    )


def run_variant(variant: str, jobs: int, gate: int) -> None:
    begun = time.monotonic()
    Path(os.environ["BENCH_FOLDER"]).mkdir(parents=True)
    facts = {"bare": bare, "traced": traced, "batch": batch, "naive": naive}[variant](jobs, gate)
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak, cpu = used.ru_maxrss / 1024, used.ru_utime + used.ru_stime
    print(
        json.dumps(
            {
                "memory_mb": round(peak),
                "cpu_seconds": round(cpu, 2),
                "inside_seconds": round(time.monotonic() - begun, 2),
                **facts,
            }
        )
    )


@dataclass
class Bare:
    """What the bare script's jobs share."""

    client: httpx.AsyncClient
    in_flight: asyncio.Semaphore
    requests: asyncio.Semaphore
    folder: Path

    async def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        async with self.requests:
            return (await self.client.request(method, path, json=body)).raise_for_status()

    async def one(self, number: int) -> None:
        async with self.in_flight:
            body = {"model": MODEL, "prompt": "a lake at dawn", "req_key": "jimeng_t2v_v30"}
            job = (await self.ask("POST", "/videos", body)).json()["id"]
            status = "queued"
            while status != "completed":
                await asyncio.sleep(1)
                status = (await self.ask("GET", f"/videos/{job}")).json()["status"]
        video = await self.ask("GET", f"/videos/{job}/content")
        (self.folder / f"{number}.mp4").write_bytes(video.content)


@asynccontextmanager
async def bare_script(gate: int) -> AsyncIterator[Bare]:
    headers = {"Authorization": "Bearer sk-simulator"}
    base = os.environ["BENCH_URL"] + "/tokenops/v1"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as client:
        folder = Path(os.environ["BENCH_FOLDER"])
        yield Bare(client, asyncio.Semaphore(gate), asyncio.Semaphore(CONNECTIONS), folder)


def bare(jobs: int, gate: int) -> dict[str, Any]:
    async def everything() -> None:
        async with bare_script(gate) as script:
            await asyncio.gather(*(script.one(number) for number in range(jobs)))

    asyncio.run(everything())
    return {}


def traced(jobs: int, gate: int) -> dict[str, Any]:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @flow
    async def everything() -> None:
        async with bare_script(gate) as script:

            @task(cache_policy=NO_CACHE, persist_result=False)
            async def one(number: int) -> None:
                await script.one(number)

            await asyncio.gather(*(one(number) for number in range(jobs)))

    asyncio.run(everything())
    return {}


def batch(jobs: int, gate: int) -> dict[str, Any]:
    from prefect_genmedia import TokenOpsCredentials
    from prefect_genmedia.flows.batch import generate_batch

    credentials = TokenOpsCredentials(api_key="sk-simulator", base_url=os.environ["BENCH_URL"] + "/tokenops/v1")
    rows = [{"id": f"row-{number}", "model": MODEL, "prompt": "a lake at dawn"} for number in range(jobs)]
    folder = os.environ["BENCH_FOLDER"]
    table = Path(folder) / "rows.jsonl"  # as parameters of a flow run, many rows are more than Prefect takes
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    report = asyncio.run(generate_batch(str(table), "jimeng", credentials, "bench", folder, max_in_flight=gate))
    assert report.delivered == jobs
    return {"lag": lag(os.environ["PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL"])}


def lag(url: str) -> float:
    """How late news of a result is on average, as a share of the job's time."""
    from prefect_genmedia._core import open_ledger

    async def read() -> float:
        async with open_ledger(url) as ledger:
            took = [job.succeeded_at - job.submitted_at for job in await ledger.jobs()]
        return round(sum(took) / len(took) / 5.0 - 1, 3)

    return asyncio.run(read())


def naive(jobs: int, gate: int) -> dict[str, Any]:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    base = os.environ["BENCH_URL"] + "/tokenops/v1"
    headers = {"Authorization": "Bearer sk-simulator"}
    folder = Path(os.environ["BENCH_FOLDER"])

    @task(cache_policy=NO_CACHE)
    async def prepare(number: int) -> dict[str, str]:
        return {"model": MODEL, "prompt": "a lake at dawn", "req_key": "jimeng_t2v_v30"}

    @task(cache_policy=NO_CACHE)
    async def submit(client: httpx.AsyncClient, body: dict[str, str]) -> str:
        return str((await client.post("/videos", json=body)).raise_for_status().json()["id"])

    @task(cache_policy=NO_CACHE)
    async def wait(client: httpx.AsyncClient, job: str) -> str:
        async def status() -> str:
            return str((await client.get(f"/videos/{job}")).raise_for_status().json()["status"])

        while await status() != "completed":  # noqa: ASYNC110 - polling is what a bare script does
            await asyncio.sleep(1)
        return job

    @task(cache_policy=NO_CACHE)
    async def download(client: httpx.AsyncClient, job: str, number: int) -> None:
        video = (await client.get(f"/videos/{job}/content")).raise_for_status().content
        (folder / f"{number}.mp4").write_bytes(video)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        job = await submit(client, await prepare(number))
        await download(client, await wait(client, job), number)

    @flow
    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=600, limits=limits) as client:
            await asyncio.gather(*(one(client, number) for number in range(jobs)))

    asyncio.run(all_of_them())
    return {}


if __name__ == "__main__":
    main()

"""What the package costs a single run: its import, and a flow run beyond the provider's own time.

Run with `make bench BENCH=overhead`. Each figure is the median of fresh processes; the Prefect server is warm.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
JOB_SECONDS = 5.0
OUTPUT = Path("bench-output")

IMPORTS = """
import time, prefect
prefect.flow, prefect.task  # what everyone's flow file asks for is part of importing Prefect
begun = time.perf_counter()
import prefect_genmedia
print(time.perf_counter() - begun)
"""


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(one_run(sys.argv[1], Path(sys.argv[2])))))
        return
    imported = statistics.median(float(run([sys.executable, "-c", IMPORTS], {})) for _ in range(ROUNDS))
    print(f"import prefect_genmedia, after import prefect: {imported * 1000:.0f} ms")
    seconds, in_flow = flow_runs()
    print(
        f"a flow run, beyond the job's own {JOB_SECONDS:.0f} s: {seconds:.2f} s; {in_flow:.2f} s of it until submitted"
    )
    OUTPUT.mkdir(exist_ok=True)
    reported = {"import_seconds": imported, "flow_run_seconds": seconds, "until_submitted_seconds": in_flow}
    (OUTPUT / "overhead.json").write_text(json.dumps(reported, indent=2) + "\n")


def flow_runs() -> tuple[float, float]:
    from prefect_genmedia.cli.local_server import local_server

    folder = Path(tempfile.mkdtemp(prefix="genmedia-bench-"))
    command = [sys.executable, str(Path(__file__).parent / "simulator.py"), "ordinary", str(JOB_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout
        url = simulator.stdout.readline().strip()
        try:
            with local_server(folder / "server") as server:
                env = dict(server.env) | {
                    "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}"
                }
                command = [sys.executable, __file__, url, str(folder)]
                rounds = [json.loads(run(command, env).splitlines()[-1]) for _ in range(ROUNDS + 1)]
        finally:
            simulator.terminate()
    warm = rounds[1:]
    return (
        statistics.median(each["seconds"] - JOB_SECONDS for each in warm),
        statistics.median(each["until_submitted"] for each in warm),
    )


def run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env or os.environ)
    return done.stdout


async def one_run(url: str, folder: Path) -> dict[str, float]:
    from prefect_genmedia import TokenOpsCredentials
    from prefect_genmedia._core import open_ledger
    from prefect_genmedia.flows.jimeng import jimeng_video

    credentials = TokenOpsCredentials(api_key="sk-simulator", base_url=url + "/tokenops/v1")
    begun = time.time()
    delivery = await jimeng_video(
        "a lake at dawn", model="jimeng-video-3.0-720P", credentials=credentials, output=str(folder / "media")
    )
    seconds = time.time() - begun
    async with open_ledger(os.environ["PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL"]) as ledger:
        job = await ledger.get(delivery.job_key)
    assert job is not None
    assert job.submitted_at is not None
    return {"seconds": seconds, "until_submitted": job.submitted_at - begun}


if __name__ == "__main__":
    main()

"""Running a finished batch again: what is left to do where nothing is. ROWS=10000 for a quick one.

The ledger and the files are made up here, as a run of so many rows would have left them; the files are small, since a
rerun compares their size and time. Writes bench-output/rerun.json: seconds, and the most memory of the whole process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

ROWS = [int(rows) for rows in (os.environ.get("ROWS") or "1000,10000,100000").split(",")]
URL = "http://127.0.0.1:9/v1"  # nobody is there: nothing is sent
MODEL = "jimeng-video-3.0-720P"
IDS_AT_ONCE = 1000


async def fill(ledger_url: str, folder: Path, rows: int) -> None:
    """Write the jobs of delivered rows, and their files."""
    from prefect_genmedia import JimengVideo, TokenOpsCredentials
    from prefect_genmedia._core import Delivery, Job, JobState, open_ledger
    from prefect_genmedia._core.attempts import batch_scope
    from prefect_genmedia._core.identity import identity_of
    from prefect_genmedia._core.ledger import new_key
    from prefect_genmedia._core.statements import JOBS, columns_of
    from prefect_genmedia._media.local import LocalFolder

    async with TokenOpsCredentials(api_key="sk-simulator", base_url=URL).client() as client:
        account = str(client.account)
    storage, now = LocalFolder(folder), time.time()
    async with open_ledger(ledger_url) as ledger:
        for begin in range(0, rows, IDS_AT_ONCE):
            values = []
            for number in range(begin, min(begin + IDS_AT_ONCE, rows)):
                request = JimengVideo(prompt=f"lake {number}", model=MODEL)
                scope, path = f"{batch_scope('rerun')}row-{number}", folder / f"row-{number}.mp4"
                path.write_bytes(f"file {number}".encode())
                delivery = Delivery(
                    uri=str(path), sha256=sha256(path.read_bytes()).hexdigest(), bytes=path.stat().st_size, seconds=5.0,
                    width=1280, height=720, codec="h264", has_audio=True, stamp=storage.stamp(str(path)) or "",
                )  # fmt: skip
                job = Job(
                    key=new_key(), identity=identity_of(account, request, scope), identity_version=2, scope=scope,
                    provider="tokenops", account=account, kind="jimeng", model=MODEL, label=f"row-{number}",
                    state=JobState.DELIVERED, provider_job_id=f"{number:020}", delivery=delivery, created_at=now,
                    updated_at=now, submitted_at=now, succeeded_at=now + 5, delivered_at=now + 6,
                )  # fmt: skip
                values.append(columns_of(job))
            await ledger.transact(lambda connection, new=values: connection.execute(JOBS.insert(), new))


async def rerun(table: str, output: str) -> dict[str, Any]:
    """One run in this process."""
    from prefect.testing.utilities import prefect_test_harness

    from prefect_genmedia import TokenOpsCredentials
    from prefect_genmedia.flows.batch import generate_batch

    account = TokenOpsCredentials(api_key="sk-simulator", base_url=URL)
    with prefect_test_harness(server_startup_timeout=120):
        begun, used = time.monotonic(), time.process_time()
        report = await generate_batch(table, "jimeng", account, "rerun", output)
        seconds, cpu = time.monotonic() - begun, time.process_time() - used
    assert report.delivered == report.rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": report.rows, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak)}


def main() -> None:
    """Measure each number of rows in a process of its own."""
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(rerun(*sys.argv[1:]))))
        return
    figures = []
    for rows in ROWS:
        with tempfile.TemporaryDirectory(prefix="genmedia-bench-") as name:
            folder = Path(name)
            url = f"sqlite:///{folder}/ledger.db"
            (folder / "out").mkdir()
            asyncio.run(fill(url, folder / "out", rows))
            table = folder / "rows.csv"
            lines = (f"row-{number},lake {number},{MODEL}\n" for number in range(rows))
            table.write_text("id,prompt,model\n" + "".join(lines))
            env = os.environ | {"PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": url}
            command = [sys.executable, __file__, str(table), str(folder / "out")]
            ran = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        figures.append(json.loads(ran.stdout.strip().splitlines()[-1]))
        print(figures[-1], flush=True)
    output = Path("bench-output")
    output.mkdir(exist_ok=True)
    (output / "rerun.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

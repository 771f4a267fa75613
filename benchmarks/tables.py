"""Time and memory of the dry run of a large table, each format in a process of its own. ROWS=1000 for a quick one.

Writes bench-output/tables.json. The figures are those of the whole process, beside a Prefect server of its own: Python,
Prefect and this package take `before_mb` of it before a row is read. In `invalid.csv` every row is refused.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = int(os.environ.get("ROWS", "100000"))
TABLES = ("posters.csv", "posters.parquet", "posters.jsonl", "invalid.csv")
HERE = Path(__file__).resolve()


def write_table(file: Path) -> None:
    """Posters of as many pictures as there are rows, with a column of the user's own."""
    rows = [
        {
            "id": f"row-{n:06}",
            "image_url": f"https://example.com/pictures/{n}.jpg" if file.stem == "posters" else f"no URL {n}://",
            "scene": "firework",
            "note": f"no {n}",
        }
        for n in range(ROWS)
    ]
    if file.suffix == ".csv":
        with file.open("w", newline="") as text:
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)


async def dry_run(table: str) -> dict[str, Any]:
    """One dry run in this process, without looking at the pictures."""
    from prefect_genmedia import JeniusCredentials
    from prefect_genmedia.errors import InvalidRequest
    from prefect_genmedia.flows.batch import generate_batch

    account = JeniusCredentials(api_key="nothing-is-sent", base_url="http://127.0.0.1:9/v1")
    before, begun, cpu = peak_mb(), time.monotonic(), time.process_time()
    try:
        report = await generate_batch(table, kind="poster", credentials=account, dry_run=True, preflight=False)
        planned = report.rows
    except InvalidRequest as refusal:
        planned = 0
        if len(refusal.problems) < ROWS:
            raise RuntimeError("problems are missing") from refusal
    return {
        "planned_rows": planned,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure each format, or, with a table as argument, one dry run."""
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(dry_run(sys.argv[1]))))
        return
    from prefect_genmedia.cli.local_server import local_server

    figures = {}
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder) / "prefect") as server:
        env = {**server.env, "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": f"sqlite:///{folder}/ledger.db"}
        for name in TABLES:
            file = Path(folder) / name
            subprocess.run([sys.executable, "-c", f"import tables; tables.write_table(tables.Path({str(file)!r}))"],
                           check=True, cwd=HERE.parent)  # fmt: skip
            ran = subprocess.run([sys.executable, HERE, file], env=env, check=True, stdout=subprocess.PIPE, text=True)
            figures[name] = json.loads(ran.stdout.strip().splitlines()[-1])
            print(name, figures[name], flush=True)
    output = Path("bench-output")
    output.mkdir(exist_ok=True)
    (output / "tables.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

"""`generate_batch`: the ledger, verified files, a table of results. Options by name in the variable BENCH_OPTIONS."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from typing import Any

from calls import BASE, FOLDER, MODEL, run


def ours(jobs: int, gate: int) -> dict[str, Any]:
    from prefect_genmedia import TokenOpsCredentials
    from prefect_genmedia.flows.batch import generate_batch

    known = inspect.signature(generate_batch.fn).parameters
    options = {name: value for name, value in json.loads(os.environ["BENCH_OPTIONS"]).items() if name in known}
    credentials = TokenOpsCredentials(api_key="sk-simulator", base_url=BASE)
    table = FOLDER / "rows.jsonl"  # as parameters of a flow run, many rows are more than Prefect takes
    with table.open("w") as file:
        for number in range(jobs):
            file.write(json.dumps({"id": f"row-{number}", "model": MODEL, "prompt": "a lake at dawn"}) + "\n")
    report = asyncio.run(
        generate_batch(str(table), "jimeng", credentials, "bench", str(FOLDER), max_in_flight=gate, **options)
    )
    assert report.delivered == jobs
    return {"options": options, "late": late(os.environ["PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL"])}


def late(url: str) -> float:
    """How late news of a result is on average, as a share of the job's time."""
    from prefect_genmedia._core import open_ledger

    async def read() -> float:
        async with open_ledger(url) as ledger:
            took = [job.succeeded_at - job.submitted_at for job in await ledger.jobs()]
        return round(sum(took) / len(took) / float(os.environ["BENCH_SECONDS"]) - 1, 3)

    return asyncio.run(read())


if __name__ == "__main__":
    run(ours)

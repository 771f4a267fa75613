"""Writes `ledger-0003.sqlite` and `ledger-0003.json`: a ledger as the code of this commit leaves it, and what is in it.

It runs flows and batches against the simulator and breaks most of them off: by a fault, or by a timeout while their job
goes on at the provider. The JSON says for each how to ask for the same result again, and what must come of that.

`python tests/golden/make_ledger.py` writes both anew, into `golden-out/` of the present folder; with `--tables` only
the tables. The committed pair stays as it is: only a ledger of an older commit tells whether the present code goes on
with it. A new version of the schema gets a pair of its own.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger_items import ACCOUNTS, BATCHES, EXCHANGED, ITEMS, KEYS, STUCK, Batch, Item, make_tables

HERE = Path(__file__).parent
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
FLOWS = "prefect_genmedia.flows"
OUTPUT = "memory://golden"


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """The settings of a run, read when Prefect is imported; own files are named by paths relative to this folder."""
    os.environ |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "NO_PROXY": "*",
        f"{PREFIX}LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        f"{PREFIX}POLL_SHORTEST_SECONDS": "0.05",
        f"{PREFIX}ALLOW_PRIVATE_HOSTS": "true",
    }
    os.chdir(HERE)
    yield


@contextmanager
def provided() -> Iterator[Any]:
    """The simulator, at the host that base URLs name; nothing waits between the attempts of a task."""
    import access
    import wire

    for task in access.every_task():
        task.retry_delay_seconds = 0.02
    with access.few_frames(), access.simulated(KEYS) as simulator, wire.leading_to(simulator.url):
        simulator.world.settings.queue_seconds = simulator.world.settings.run_seconds = 0.05
        yield simulator


def key_of(name: str) -> str:
    """The idempotency key of an item; several accounts ask for one thing by the same key."""
    return f"golden {name.partition(',')[0]}" if name.startswith(("two ", "three ")) else f"golden {name}"


async def make(simulator: Any) -> dict[str, Any]:
    """Run everything; returns what is to be known about it."""
    import access
    import httpx

    token = httpx.get(f"{simulator.url}/hidream/prod-api/user/apikey2token", headers={"Api-Key": "golden-key"}).json()[
        "result"
    ]["token"]
    blocks = {}
    for name, account in ACCOUNTS.items():
        options = {**account, **({"token": token} if account.get("token") == EXCHANGED else {})}
        blocks[name] = access.BLOCKS[options.pop("block")](**options)
    for name in ("tokenops", "jenius", "hidream"):
        await blocks[name].save("golden", overwrite=True)
    items = [await make_item(simulator, blocks[item.account], item) for item in ITEMS]
    batches = [await make_batch(simulator, batch) for batch in BATCHES]
    return {"accounts": ACCOUNTS, "items": items, "batches": batches}


async def make_item(simulator: Any, block: Any, item: Item) -> dict[str, Any]:
    """Run one item's flow as far as it shall come."""
    import access

    entrypoint = f"{FLOWS}.{item.flow}"
    options: dict[str, Any] = {"output": f"{OUTPUT}/{item.name}", "preflight": False}
    if item.keyed:
        options["idempotency_key"] = key_of(item.name)
    known = {job.key for job in await all_jobs()}
    times_out = STUCK in item.faults
    with ordered(simulator, item.faults):
        await ended(
            access.flow_at(entrypoint)(
                **item.parameters, **options, credentials=block, **({"timeout_seconds": 1.0} if times_out else {})
            )
        )
    jobs = [job for job in await all_jobs() if job.key not in known]
    if item.then:
        await settle(simulator, max(jobs, key=lambda job: job.variant), item.then)
    print(f"{item.name}: {[job.state.value for job in await all_jobs() if job.key not in known]}")  # noqa: T201
    return {
        "name": item.name,
        "account": item.account,
        "entrypoint": entrypoint,
        "parameters": {**item.parameters, **options},
        "jobs": sorted(job.key for job in jobs),
        "keyed": item.keyed,
        "file_is_lost": item.then == "lose",
        "again": item.again,
        "posts": item.posts,
    }


async def make_batch(simulator: Any, batch: Batch) -> dict[str, Any]:
    """Run one batch; its rows one after another, so that each has its own fault."""
    import access

    options = {
        "table": f"tables/{batch.table}",
        "batch_id": f"golden {batch.table}",
        "preflight": False,
    } | batch.options
    options |= {"credentials": "golden", "output": f"{OUTPUT}/{batch.table}", "breaker": 0}
    known = {job.key for job in await all_jobs()}
    with ordered(simulator, [fault_of(words) for words in batch.faults]):
        hold_back(simulator, batch.first)
        await ended(
            access.flow_at(f"{FLOWS}.batch.generate_batch")(
                **options, max_in_flight=1, timeout_seconds=1.0, results=str(Path(tempfile.mkdtemp()) / "results.csv")
            )
        )
    jobs = [job for job in await all_jobs() if job.key not in known]
    states = {job.label: job.state.value for job in jobs}
    print(f"{batch.table}: {states}")  # noqa: T201
    ids = row_ids(HERE / "tables" / batch.table)
    assert [states[row_id] for row_id in ids] == batch.left
    return {
        "options": options,
        "jobs": sorted(job.key for job in jobs),
        "again": dict(zip(ids, batch.again, strict=True)),
        "posts": batch.posts,
        "reserved": batch.reserved,
    }


def fault_of(words: str) -> dict[str, Any]:
    """A fault, after the provider that it is for."""
    provider, _, name = words.rpartition(" ")
    return {"fault": name, "provider": provider or None}


def row_ids(table: Path) -> list[str]:
    """The ids of a table's rows."""
    if table.suffix == ".csv":
        with table.open(encoding="utf-8", newline="") as file:
            return [row["id"] for row in csv.DictReader(file)]
    from pyarrow import parquet

    return [row["id"] for row in parquet.read_table(table).to_pylist()]


def hold_back(simulator: Any, provider: str) -> None:
    """Let no fault strike a provider until it has accepted one job."""
    faults, accept = simulator.world.faults, simulator.world.accept
    held = [fault for fault in faults._faults if fault.provider in (None, provider)]
    faults._faults = [fault for fault in faults._faults if fault not in held]

    def accepted(by: str, *arguments: Any) -> Any:
        job = accept(by, *arguments)
        if by == provider:
            faults._faults += held
            simulator.world.accept = accept
        return job

    simulator.world.accept = accepted


@contextmanager
def ordered(simulator: Any, faults: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Let these faults strike while the block runs."""
    import access

    job_id = next((fault["id"] for fault in faults if "id" in fault), None)
    for fault in faults:
        options = dict(fault)
        if "fault" in options:
            simulator.order(options.pop("fault"), options.pop("times", 1), **options)
    try:
        if job_id is None:
            yield
        else:
            with access.one_provider_job_id(job_id):
                yield
    finally:
        simulator.world.faults.clear()


async def ended(run: Any) -> None:
    """Run a flow, however it ends."""
    import access

    try:
        await run
    except access.ERRORS.GenMediaError as error:
        print(f"    {error.kind}")  # noqa: T201


async def settle(simulator: Any, job: Any, then: str) -> None:
    """Do what a person, or a process that died, has done with a job."""
    import access

    async with access.ledger_at(os.environ[f"{PREFIX}LEDGER_URL"].removeprefix("sqlite:///")) as ledger:
        if then in ("abandon", "resubmit"):
            await access.decide(ledger, job.key, then, by="anna")
        elif then == "adopt":
            accepted = list(simulator.world.jobs)[-1]  # what the provider's console shows
            await access.decide(ledger, job.key, "adopt", accepted, by="anna")
        elif then == "send":
            assert await ledger.move(job, access.JobState.SENDING)
        elif then == "expire":
            facts = {"error_kind": "JobExpired", "error_message": "The provider no longer has it."}
            assert await ledger.move(job, access.JobState.UNDELIVERABLE, **facts)


async def all_jobs() -> list[Any]:
    """Every job of the ledger."""
    import access

    async with access.ledger_at(os.environ[f"{PREFIX}LEDGER_URL"].removeprefix("sqlite:///")) as ledger:
        return await ledger.jobs()


def rows_of(ledger: Path) -> dict[str, dict[str, Any]]:
    """What the ledger has, by the jobs' keys: for people to read, and to compare."""
    with sqlite3.connect(ledger) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM genmedia_jobs ORDER BY created_at")]
    names = "identity attempt scope variant account kind state provider_job_id error_kind label".split()
    return {row["key"]: {name: row[name] for name in names} for row in rows}


def delivered_files(folder: Path) -> dict[str, str]:
    """Write each different delivered file; returns the files' names by their places."""
    import fsspec

    memory = fsspec.filesystem("memory")
    contents: dict[bytes, str] = {}
    found = {}
    for place in sorted(memory.find("/golden")):
        if place.endswith(".mp4") and "quarantine" not in place:
            content = memory.cat_file(place)
            name = contents.setdefault(content, f"delivered-{len(contents) + 1}.mp4")
            (folder / name).write_bytes(content)
            found[f"memory:/{place}"] = name
    return found


def main() -> None:
    """Write the pair into `golden-out/`."""
    sys.path.insert(0, str(HERE))
    out = Path("golden-out").absolute()
    (out / "tables").mkdir(parents=True, exist_ok=True)
    if "--tables" in sys.argv:
        make_tables(out / "tables")
        return
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    with environment(folder), provided() as simulator:
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=300):
            reported = asyncio.run(make(simulator))
        reported["files"] = delivered_files(out)
    with sqlite3.connect(folder / "ledger.db") as database:
        database.execute("VACUUM INTO ?", [str(out / "ledger-0003.sqlite")])
    reported["rows"] = rows_of(out / "ledger-0003.sqlite")
    (out / "ledger-0003.json").write_text(json.dumps(reported, ensure_ascii=False, indent=1) + "\n", "utf-8")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

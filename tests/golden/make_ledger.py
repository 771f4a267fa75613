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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
KEYS = ("sk-golden-one", "sk-golden-two", "golden-key")
EXCHANGED = "exchanged"
"""Stands for a HiDream token that the provider has just given for `golden-key`; each one is another."""

HOST = "http://provider.golden.test"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "tokenops": {"block": "tokenops", "api_key": "sk-golden-one", "base_url": f"{HOST}/tokenops/v1"},
    "tokenops, another key": {"block": "tokenops", "api_key": "sk-golden-two", "base_url": f"{HOST}/tokenops/v1"},
    "tokenops, capitals": {
        "block": "tokenops",
        "api_key": "sk-golden-one",
        "base_url": "http://Provider.Golden.test/tokenops/v1/",
    },
    "tokenops, a port": {"block": "tokenops", "api_key": "sk-golden-one", "base_url": f"{HOST}:80/tokenops/v1"},
    "jenius": {"block": "jenius", "api_key": "sk-golden-one", "base_url": f"{HOST}/jenius"},
    "hidream": {
        "block": "hidream",
        "api_key": "golden-key",
        "base_url": f"{HOST}/hidream",
        "submissions_per_minute": None,
    },
    "hidream, a user's token": {
        "block": "hidream",
        "token": EXCHANGED,
        "user_id": "user-7",
        "base_url": f"{HOST}/hidream",
        "submissions_per_minute": None,
    },
}

FLOWS = "prefect_genmedia.flows"
MEDIA = "https://media.example.com"
OUTPUT = "memory://golden"
STUCK = {"fault": "stuck"}
"""The job stays at the provider, and the run times out."""


@dataclass(frozen=True)
class Item:
    """One wanted result.

    Parameters:
        name: what it shows.
        flow: the flow, by module and name.
        account: one of `ACCOUNTS`.
        parameters: of the flow.
        faults: what goes wrong, in this order; each with how often and its options.
        then: what is done with the job afterwards: a person's decision, or what a dead process has left.
        again: what a new run of the same request must end with: `delivered`, or an error's name.
        posts: how many submissions that run may send.
        keyed: whether it has an idempotency key; else it belongs to its run, and only reconciling goes on with it.
    """

    name: str
    flow: str
    parameters: dict[str, Any]
    account: str = "tokenops"
    faults: tuple[dict[str, Any], ...] = (STUCK,)
    then: str = ""
    again: str = "delivered"
    posts: int = 0
    keyed: bool = True


def lake(words: str, **more: Any) -> dict[str, Any]:
    """A text for Jimeng."""
    return {"prompt": f"a lake, {words}", "model": "jimeng-video-3.0-720P", **more}


JIMENG, POSTER, STYLIZE = "jimeng.jimeng_video", "poster.live_poster", "stylize.stylize_video"
OMNIHUMAN = "omnihuman.omnihuman_video"
FAILED_DOWNLOADS = {"fault": "content_502", "times": 9}
UNANSWERED = {"fault": "accept_then_drop"}
SLOW_DOWN = {"fault": "rate_limited", "times": 9, "retry_after": 0.02}

ITEMS = (
    # --- Who pays ---
    Item("two fingerprints, the first", JIMENG, lake("paid by two")),
    Item("two fingerprints, the second", JIMENG, lake("paid by two"), "tokenops, another key"),
    Item("three spellings, plain", JIMENG, lake("spelled")),
    Item("three spellings, capitals and a slash", JIMENG, lake("spelled"), "tokenops, capitals"),
    Item("three spellings, a port", JIMENG, lake("spelled"), "tokenops, a port"),
    Item(
        "HiDream by token with user_id",
        STYLIZE,
        {"video_url": f"{MEDIA}/clip.mp4", "style": "ink_wash"},
        "hidream, a user's token",
    ),
    Item("HiDream by key", STYLIZE, {"video_url": f"{MEDIA}/clip.mp4", "prompt": "an oil painting"}, "hidream"),
    Item("a repeated provider id, the first", JIMENG, lake("an id, 1"), faults=({"id": "10700000000000000007"}, STUCK)),
    Item(
        "a repeated provider id, the second", JIMENG, lake("an id, 2"), faults=({"id": "10700000000000000007"}, STUCK)
    ),
    # --- Inputs ---
    Item(
        "a lone token in a URL",
        POSTER,
        {"image_url": f"{MEDIA}/anna.jpg?token=golden-token", "scene": "firework"},
        "jenius",
    ),
    Item(
        "signed URLs",
        JIMENG,
        lake(
            "signed",
            image_urls=[
                f"{MEDIA}/first.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00",
                f"{MEDIA}/last.png?OSSAccessKeyId=id&Expires=1790000000&Signature=00&x-oss-process=image%2Fresize",
            ],
        ),
    ),
    Item("own local files", JIMENG, lake("own files", image_urls=["own/first.png", "own/last.png"])),
    Item("an own local video", STYLIZE, {"video_url": "own/clip.mp4", "style": "anime"}, "hidream"),
    Item(
        "masks of a chosen subject",
        OMNIHUMAN,
        {"image_url": f"{MEDIA}/two.jpg", "audio_url": f"{MEDIA}/speech.mp3", "subject": "largest"},
    ),
    Item(
        "a new attempt after a refused output",
        JIMENG,
        lake("variant", seed=7, resubmit_on_output_refusal=1),
        faults=({"fault": "fail_output"}, STUCK),
    ),
    Item("a run's own", JIMENG, lake("of one run"), keyed=False),
    # --- States ---
    Item("succeeded", JIMENG, lake("succeeded"), faults=(FAILED_DOWNLOADS,)),
    Item("delivered", JIMENG, lake("delivered"), faults=()),
    Item("delivered, and the file is lost", JIMENG, lake("lost"), faults=(), then="lose"),
    Item("delivered, a poster", POSTER, {"image_url": f"{MEDIA}/bea.jpg", "scene": "youqian"}, "jenius", faults=()),
    Item("undeliverable, in quarantine", JIMENG, lake("cut"), faults=({"fault": "content_corrupt", "times": 9},)),
    # Earlier versions gave a job up that was not found, and asked for it again; now that takes its expiry, or a person.
    Item("undeliverable, expired", JIMENG, lake("expired"), then="expire", again="JobExpired"),
    Item("failed", JIMENG, lake("failed"), faults=({"fault": "fail_internal"},), posts=1),
    Item(
        "failed, input refused",
        JIMENG,
        lake("refused input"),
        faults=({"fault": "fail_input"},),
        again="InputRefused",
    ),
    Item("failed, output refused", JIMENG, lake("refused output"), faults=({"fault": "fail_output"},), posts=1),
    Item("rejected, no balance", JIMENG, lake("no balance"), faults=({"fault": "refuse_balance"},), posts=1),
    Item("rejected, a parameter", JIMENG, lake("a parameter"), faults=({"fault": "refuse_invalid"},), posts=1),
    Item("reserved", JIMENG, lake("reserved"), faults=(SLOW_DOWN,), posts=1),
    Item("sending", JIMENG, lake("sending"), faults=(SLOW_DOWN,), then="send", again="SubmissionUnknown"),
    Item("unknown", JIMENG, lake("unknown"), faults=(UNANSWERED,), again="SubmissionUnknown"),
    Item("abandoned", JIMENG, lake("abandoned"), faults=(UNANSWERED,), then="abandon", again="SubmissionUnknown"),
    Item("adopted", JIMENG, lake("adopted"), faults=(UNANSWERED,), then="adopt"),
    Item("to be resubmitted", JIMENG, lake("resubmitted"), faults=(UNANSWERED,), then="resubmit", posts=1),
)


@dataclass(frozen=True)
class Batch:
    """A table, and what went wrong with its rows.

    Parameters:
        table: the table's file.
        options: of the flow `generate_batch`.
        faults: what goes wrong, for one provider where it is named.
        first: the provider whose first row goes well: its faults are held back until then.
        left: the state that each row is left in, in the table's order.
        again: the state that a new run brings each row to.
        posts: how many submissions that run may send.
        reserved: how many jobs of each budget are reserved after it, by how the budget's name begins.
    """

    table: str
    options: dict[str, Any]
    faults: tuple[str, ...]
    first: str
    left: list[str]
    again: list[str]
    posts: int
    reserved: dict[str, int]


BATCHES = (
    Batch(
        "lakes.csv",
        {"kind": "jimeng", "max_jobs": 20, "max_cost": 50.0, "budget": "golden budget"},
        # One submission and one job after another; what is accepted and then unanswered takes the first job fault.
        ("accept_then_drop", "refuse_balance", "stuck", "fail_internal", "stuck", "stuck", "stuck"),
        first="tokenops",
        left="delivered unknown rejected failed submitted submitted submitted".split(),
        again="delivered unknown delivered delivered delivered delivered delivered".split(),
        posts=2,
        reserved={"golden budget": 7},
    ),
    Batch(
        "mixed.parquet",
        {"max_jobs": 9, "budget_per_account": True},
        ("jenius stuck", "hidream stuck", "tokenops stuck", "tokenops fail_internal"),
        first="jenius",
        left="delivered submitted submitted submitted failed".split(),
        again=["delivered"] * 5,
        posts=1,
        reserved={
            "golden mixed.parquet · hidream": 1,
            "golden mixed.parquet · jenius": 2,
            "golden mixed.parquet · tokenops": 2,
        },
    ),
)


def make_tables(folder: Path) -> None:
    """Write the two tables."""
    import pyarrow
    from pyarrow import parquet

    signed = f"{MEDIA}/a.png?X-Amz-Signature=00 {MEDIA}/b.png?token=golden-token"
    lakes = [
        "id,prompt,model,seed,frames,image_urls",
        "delivered,a lake in spring,jimeng-video-3.0-720P,,,",
        "unknown,a lake in winter,jimeng-video-3.0-720P,,,",
        "rejected,a lake at night,jimeng-video-3.0-720P,,,",
        "failed,a lake in autumn,jimeng-video-3.0-720P,,,",
        "submitted,a lake in summer,jimeng-video-3.0-720P,5,121,",
        "own file,a lake of my own,jimeng-video-3.0-720P,,,own/first.png",
        f"signed,a lake far away,jimeng-video-3.0-720P,,,{signed}",
    ]
    (folder / "lakes.csv").write_text("\n".join(lakes) + "\n", "utf-8")
    columns = "id kind image_url audio_url video_url scene style prompt mask_urls seed".split()
    rows: list[dict[str, Any]] = [
        {"id": "poster", "kind": "poster", "image_url": f"{MEDIA}/anna.jpg", "scene": "youqian"},
        {
            "id": "poster, token",
            "kind": "poster",
            "image_url": f"{MEDIA}/b.jpg?token=golden-token",
            "scene": "firework",
        },
        {
            "id": "omnihuman, masks",
            "kind": "omnihuman",
            "image_url": f"{MEDIA}/two.jpg",
            "audio_url": f"{MEDIA}/speech.mp3",
            "mask_urls": [f"{MEDIA}/mask.png?sig=00&se=2026-01-01"],
        },
        {"id": "stylize", "kind": "stylize", "video_url": f"{MEDIA}/clip.mp4", "style": "anime"},
        {"id": "jimeng", "kind": "jimeng", "prompt": "a lake", "seed": 7.0},
    ]
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    parquet.write_table(table, folder / "mixed.parquet")


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

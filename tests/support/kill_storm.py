"""Disturb runs on purpose, then let each end: what was paid, counted by the simulator, and how every run ended.

`make kill-test` disturbs a thousand times and writes `bench-output/kill-test.json`; SEED repeats a run's plan. Kinds:

- `sigkill`: the process is killed at a random moment, and the run is started again.
- `sigstop`: it is stopped; meanwhile a second run of the same request starts, or a person decides; then it goes on.
- `clock`: its wall clock jumps by a minute to a day, forward or back (libfaketime); half of the time a second run with
  the right clock begins beside it.
- `partition`: the network is lost in the middle of its download, and comes back.
- `rotation`: the account's key is replaced while it runs; it is started again with the new key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from servers import postgres, postgres_tools
from storm_runs import FAKETIME, ForkServer, Lab, faked, simulator_process, sqlite_template
from storm_trials import DATABASES, KINDS, Outcome, Trial, disturb

from prefect_genmedia.cli.local_server import local_server

AT_ONCE = 8
FLOW_SHARE = 10
"""One in so many trials goes through a flow on a Prefect server, the others through the core's pipeline."""


def say(line: str) -> None:
    """Tell whoever watches."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def plan(count: int, seed: int, with_flows: bool = True) -> list[Trial]:
    """The trials of a storm: the same ones for the same seed."""
    chance = random.Random(seed)
    each = len(KINDS) * len(DATABASES)
    return [
        Trial(
            number=number,
            kind=KINDS[number % len(KINDS)],
            database=DATABASES[number // len(KINDS) % len(DATABASES)],
            through="flow" if with_flows and number // each % FLOW_SHARE == 0 else "core",
            moment=chance.random(),
            length=chance.random(),
            heads=chance.random() < 0.5,
            sign=chance.choice((-1, 1)),
            aimed=chance.random() < 0.5,
        )
        for number in range(count)
    ]


@contextmanager
def laboratory(trials: list[Trial], folder: Path) -> Iterator[Lab]:
    """Simulator, databases, Prefect server and fork servers, as far as the trials need them."""
    kinds, databases = {each.kind for each in trials}, {each.database for each in trials}
    with ExitStack() as stack:
        simulator = stack.enter_context(simulator_process(len(trials)))
        env = dict(os.environ) | {"DO_NOT_TRACK": "1", "PYTHONPATH": str(Path(__file__).parent)}
        if any(each.through == "flow" for each in trials):
            env |= stack.enter_context(local_server(folder / "prefect")).env
        log = stack.enter_context((folder / "runs.log").open("a"))
        fork_servers = {"plain": stack.enter_context(ForkServer.started(env, log))}
        if "clock" in kinds:
            fork_servers["faked"] = stack.enter_context(ForkServer.started(env | faked(folder / "no-jump"), log))
        url = stack.enter_context(postgres()) if "postgresql" in databases else ""
        yield Lab(simulator, fork_servers, folder, url, sqlite_template(folder))


async def run_storm(lab: Lab, trials: list[Trial]) -> list[Outcome]:
    """Every trial, `AT_ONCE` at a time; the length of an undisturbed run is measured first."""
    await lab.warm_up(trials)
    gate, done = asyncio.Semaphore(AT_ONCE), Counter[str]()

    async def one(trial: Trial) -> Outcome:
        async with gate:
            outcome = await disturb(lab, trial)
        done[outcome.end] += 1
        if sum(done.values()) % 25 == 0 or outcome.is_wrong:
            say(f"{sum(done.values())} of {len(trials)}: {dict(done)}")
        if outcome.is_wrong:
            say(f"WRONG: {outcome}")
        return outcome

    return await asyncio.gather(*map(one, trials))


async def report_of(lab: Lab, outcomes: list[Outcome]) -> dict[str, Any]:
    """What was paid, as the simulator counted it, and how everything ended."""
    counted = await lab.report()
    accepted = Counter(job["body"].get("prompt") for job in counted["jobs"])
    disturbed = {each.trial.name for each in outcomes}
    ends = {kind: dict(Counter(each.end for each in outcomes if each.trial.kind == kind)) for kind in KINDS}
    return {
        "disturbed": {
            kind: dict(Counter(each.trial.database for each in outcomes if each.trial.kind == kind)) for kind in KINDS
        },
        "through": dict(Counter(each.trial.through for each in outcomes)),
        "met": {kind: dict(Counter(each.met for each in outcomes if each.trial.kind == kind)) for kind in KINDS},
        "trials": len(outcomes),
        "posts": counted["requests"].get("tokenops.submit", 0),
        "accepted": sum(counted["accepted"].values()),
        "accepted_in_rehearsals": sum(count for name, count in accepted.items() if name not in disturbed),
        "paid_twice": sum(count > 1 for count in accepted.values()),
        "ends": ends,
        "wrong_ends": [str(each) for each in outcomes if each.is_wrong],
        "median_seconds_undisturbed": lab.medians(),
    }


def storm(count: int, seed: int, folder: Path, with_flows: bool = True) -> dict[str, Any]:
    """Run a storm and give its report.

    Args:
        count: how many trials.
        seed: chooses their moments.
        folder: for ledgers, results and logs.
        with_flows: whether one in `FLOW_SHARE` goes through a flow.
    """
    trials, skipped = plan(count, seed, with_flows), {}
    if not FAKETIME.exists():
        skipped["clock"] = "libfaketime is not installed (Debian: apt-get install faketime)"
        trials = [each for each in trials if each.kind != "clock"]
    if postgres_tools() is None:
        skipped["postgresql"] = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        trials = [each for each in trials if each.database != "postgresql"]
    for what, why in skipped.items():
        say(f"skipped: {what}: {why}")

    async def work(lab: Lab) -> dict[str, Any]:
        return await report_of(lab, await run_storm(lab, trials))

    begun = time.monotonic()
    with laboratory(trials, folder) as lab:
        report = asyncio.run(work(lab))
    versions = {name: version(name) for name in ("prefect-genmedia", "prefect", "sqlalchemy", "httpx", "asyncpg")}
    return {
        "seed": seed,
        **report,
        "skipped": skipped,
        "seconds": round(time.monotonic() - begun, 1),
        "versions": {"python": platform.python_version(), **versions},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="how many runs are disturbed")
    parser.add_argument("--seed", type=int, default=None, help="chooses the moments; printed if it is not given")
    parser.add_argument("--no-flows", action="store_true", help="the core's pipeline only, without a Prefect server")
    parser.add_argument("--output", type=Path, default=Path("bench-output/kill-test.json"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="genmedia-storm-"))
    report = storm(options.kills, seed, folder, not options.no_flows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    say(json.dumps(report, indent=2))
    if report["paid_twice"] or report["wrong_ends"]:
        say(f"ledgers and logs: {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

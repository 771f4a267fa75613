"""The kill storm's laboratory: the simulator's process, ledgers, fork servers, and runs that can be disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
from storm_world import key_of

from prefect_genmedia._core import open_ledger

if TYPE_CHECKING:
    from storm_trials import Trial

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), Path("/usr/lib/faketime/libfaketime.so.1"))

RUN_SECONDS = 90.0
"""A run that takes longer is killed and started again: a person would do that too."""

HERE = Path(__file__).parent


def faked(no_jump: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is set by a file; its monotonic clock goes on."""
    no_jump.write_text("+0")
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_TIMESTAMP_FILE": str(no_jump),
    }


@contextmanager
def simulator_process(keys: int) -> Iterator[str]:
    """The simulator, in a process of its own; yields its URL."""
    command = [sys.executable, str(HERE / "storm_world.py"), str(keys + 10)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def sqlite_template(folder: Path) -> Path:
    """An empty ledger of the present version: each trial has a copy, which takes no migration."""
    template = folder / "template.db"

    async def migrated() -> None:
        async with open_ledger(f"sqlite:///{template}"):
            pass

    asyncio.run(migrated())
    return template


class ForkServer:
    """Forks a process for each run; see storm_fork_server.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls, env: dict[str, str], log: IO[str]) -> Iterator[ForkServer]:
        command = [sys.executable, str(HERE / "storm_fork_server.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        process = subprocess.Popen(command, env=env, text=True, **pipes)
        try:
            yield cls(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.kill()
            process.wait()

    def fork(self, order: dict[str, Any]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["pid"])


@dataclass
class Run:
    """A run in a process of its own."""

    pid: int
    result: Path
    announcement: Path
    clock: Path | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def jump(self, seconds: float) -> None:
        """Set its wall clock."""
        assert self.clock is not None
        unfinished = self.clock.with_suffix(".new")
        unfinished.write_text(f"{seconds:+.0f}")
        unfinished.replace(self.clock)

    async def sending(self) -> None:
        """Wait until it is about to send its submission, or has ended."""
        while self._is_alive() and not self.announcement.exists():
            await asyncio.sleep(0.01)

    async def ended(self, within: float = RUN_SECONDS) -> dict[str, Any]:
        """Wait until the process has ended; tells how, with `killed` for one that could not."""
        deadline = time.monotonic() + within
        while self._is_alive():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                deadline += within
            await asyncio.sleep(0.02)
        if not self.result.exists():
            return {"end": "killed", "retryable": True}
        ended: dict[str, Any] = json.loads(self.result.read_text())
        return ended

    def _is_alive(self) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False


@dataclass
class Lab:
    """What the trials run in."""

    simulator: str
    fork_servers: dict[str, ForkServer]
    folder: Path
    postgresql: str
    template: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _runs: int = 0

    def ledger_of(self, trial: Trial) -> str:
        """The trial's ledger: a file of its own, or the one on PostgreSQL."""
        if trial.database == "postgresql":
            return self.postgresql
        file = self.folder / f"{trial.name}.db"
        if not file.exists():
            shutil.copyfile(self.template, file)
        return f"sqlite:///{file}"

    def start(self, trial: Trial, root: str | None = None, **options: Any) -> Run:
        """Begin a run of the trial's request.

        Parameters:
            trial: the trial.
            root: the provider's root URL; None for the simulator itself.
            options: `key`; `keys`: those of the accounts that share the request, in order; `clock`: how far the wall
                clock is off at first, None for one that is right and stays so;
                `warm_up`: whether the fork server makes a run itself before.
        """
        self._runs += 1
        run, ledger = f"{trial.name}-run-{self._runs}", self.ledger_of(trial)
        env = {"PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL": ledger}
        env["PREFECT_INTEGRATIONS_GENMEDIA_POLL_SHORTEST_SECONDS"] = "0.05"
        env["PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL"] = f"{self.simulator}/inbox"
        clock = None
        if options.get("clock") is not None:
            clock = self.folder / f"{run}.clock"
            clock.write_text(f"{options['clock']:+.0f}")
            env["FAKETIME_TIMESTAMP_FILE"] = str(clock)
        order = {
            "name": trial.name,
            "run": run,
            "through": trial.through,
            "ledger": ledger,
            "base_url": f"{root or self.simulator}/tokenops/v1",
            "hidream_url": f"{self.simulator}/hidream",  # its results are elsewhere: no proxy could cut them
            "key": options.get("key") or key_of(trial.number),
            "keys": options.get("keys"),
            "output": str(self.folder / "out" / trial.name),
            "result": str(self.folder / f"{run}.json"),
            "announcement": str(self.folder / f"{run}.sending"),
            "connect_seconds": 0.2,
            "announced": trial.aimed_at,
            "submissions_per_minute": trial.per_minute,
            "env": env,
            "warm_up": options.get("warm_up", False),
        }
        pid = self.fork_servers["plain" if clock is None else "faked"].fork(order)
        return Run(pid, Path(order["result"]), Path(order["announcement"]), clock)

    async def warm_up(self, trials: list[Trial]) -> None:
        """Measure how long an undisturbed run takes beside others, for each way that the trials go."""

        async def rehearse(trial: Trial, number: int, **options: Any) -> None:
            begun = time.monotonic()
            ended = await self.start(trial.rehearsal(number), key=key_of(trial.number), **options).ended()
            assert ended["end"] == "delivered", ended
            self.seconds.setdefault(trial.way, []).append(time.monotonic() - begun)

        for trial in {each.way: each for each in reversed(trials)}.values():
            for number, clock in enumerate((None, 0.0) if "faked" in self.fork_servers else (None,), 100):
                await rehearse(trial, number, warm_up=True, clock=clock)  # the first one may migrate a ledger
            del self.seconds[trial.way]
            await asyncio.gather(*(rehearse(trial, number) for number in range(6)))

    def medians(self) -> dict[str, float]:
        """How long an undisturbed run takes, in seconds, by the way that it goes."""
        return {way: round(statistics.median(seconds), 3) for way, seconds in self.seconds.items()}

    async def accepted(self, prompt: str) -> list[str]:
        """The ids of the jobs that a provider has accepted with a prompt."""
        async with httpx.AsyncClient(timeout=60.0) as client:
            answer = await client.get(f"{self.simulator}/storm/accepted", params={"prompt": prompt})
            ids: list[str] = answer.raise_for_status().json()
            return ids

    async def rotate(self, trial: Trial, new: str) -> None:
        """Replace the account's key at the provider."""
        async with httpx.AsyncClient(timeout=60.0) as client:
            keys = {"old": key_of(trial.number), "new": new}
            (await client.post(f"{self.simulator}/control/keys", json=keys)).raise_for_status()

    async def without_balance(self, key: str, times: int) -> None:
        """Let the provider refuse so many submissions of a customer for want of balance."""
        async with httpx.AsyncClient(timeout=60.0) as client:
            order = {"fault": "refuse_balance", "key": key, "times": times}
            (await client.post(f"{self.simulator}/control/faults", json=order)).raise_for_status()

    async def report(self) -> dict[str, Any]:
        """What the simulator has counted."""
        async with httpx.AsyncClient(timeout=60.0) as client:
            counted: dict[str, Any] = (await client.get(f"{self.simulator}/control/report")).json()
            return counted

"""The kill storm's trials: one disturbance each, and then runs until the job has ended."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy import text
from storm_fork_server import STALE_SECONDS
from storm_runs import Lab, Run
from storm_world import Partition, key_of

from prefect_genmedia._core import Job, JobState, open_ledger
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.providers.tokenops.client import TokenOpsClient

Kind = Literal["sigkill", "sigstop", "clock", "partition", "rotation"]
KINDS: tuple[Kind, ...] = ("sigkill", "sigstop", "clock", "partition", "rotation")
DATABASES = ("sqlite", "postgresql")

RUNS = 12
"""A trial that has not ended after so many runs has a wrong end."""

BEYOND = 1.2
"""Moments lie between the beginning of a run and so many times its usual length: some runs have ended by then."""

AIMED_SECONDS = 0.5
"""Half of the moments lie within this time after the job has become `sending`: there is the money."""

AGAIN_SECONDS = 0.5
"""A run that has failed is started again after this time: a network that is away comes back meanwhile."""

STOPPED_SECONDS = (STALE_SECONDS + 0.2, STALE_SECONDS + 2.0)
JUMP_SECONDS = (60.0, 86400.0)
AWAY_SECONDS = (0.1, 1.5)


@dataclass(frozen=True)
class Trial:
    """One disturbed request.

    Args:
        number: tells it from the others, and names its account.
        kind: what disturbs it.
        database: where its ledger is.
        through: `core` or `flow`.
        moment: when it is disturbed, from 0 to 1.
        length: for how long or how far, from 0 to 1.
        heads: chooses between the two forms of a kind.
        sign: whether a clock jumps forward or back.
        aimed: whether the moment lies around the submission; else anywhere in the run.
    """

    number: int
    kind: Kind
    database: str
    through: str
    moment: float
    length: float
    heads: bool
    sign: int
    aimed: bool = False
    prefix: str = "storm"

    @property
    def name(self) -> str:
        """The request's prompt, scope and account name."""
        return f"{self.prefix}-{self.number}"

    @property
    def way(self) -> str:
        """What decides how long an undisturbed run takes."""
        return f"{self.through} on {self.database}"

    @property
    def per_minute(self) -> float | None:
        """The account's pace: half of the clock trials have one, which the jump must not hold up."""
        return 120.0 if self.kind == "clock" and self.number % 4 < 2 else None

    def between(self, bounds: tuple[float, float]) -> float:
        """A length of the disturbance within bounds."""
        return bounds[0] + self.length * (bounds[1] - bounds[0])

    def rehearsal(self, number: int) -> Trial:
        """The same without a disturbance, as another request."""
        return replace(self, prefix=f"rehearsal-{number}", kind="sigkill")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        trial: the trial.
        end: in words; `delivered` first if it is a right one.
        met: in which state the disturbance found the job.
        reported: what its runs said, for a wrong end.
    """

    trial: Trial
    end: str
    met: str
    reported: tuple[str, ...]

    @property
    def is_wrong(self) -> bool:
        return not self.end.startswith("delivered")


async def disturb(lab: Lab, trial: Trial) -> Outcome:
    """Begin a run, disturb it, and go on until the job is delivered."""
    story = _Story(lab, trial)
    try:
        await story.disturbed()
        return await story.until_ended()
    except Exception as error:
        story.reported.append(f"the storm itself broke: {type(error).__name__}: {error}")
        return Outcome(trial, "broke", story.met, tuple(story.reported))


class _Story:
    def __init__(self, lab: Lab, trial: Trial) -> None:
        self.lab, self.trial = lab, trial
        self.reported: list[str] = []
        self.decisions: list[str] = []
        self.met = "nothing"
        self.key: str | None = None
        self.root: str | None = None
        self.proxy: Partition | None = None
        self.clock: float | None = None

    async def disturbed(self) -> None:
        by_kind = {
            "sigkill": self.sigkill,
            "sigstop": self.sigstop,
            "clock": self.clock_jumps,
            "partition": self.partition,
            "rotation": self.rotation,
        }
        await by_kind[self.trial.kind]()

    async def moment(self, run: Run) -> None:
        """Wait for the moment of the disturbance."""
        if self.trial.aimed:
            await run.sending()
            await asyncio.sleep(self.trial.moment * AIMED_SECONDS)
        else:
            await asyncio.sleep(self.trial.moment * BEYOND * self.lab.medians()[self.trial.way])

    async def sigkill(self) -> None:
        run = self.begin()
        await self.moment(run)
        run.signal(SIGKILL)
        await self.end(run)
        self.met = await self.state()

    async def sigstop(self) -> None:
        run = self.begin()
        await self.moment(run)
        run.signal(SIGSTOP)
        second: Run | None = None
        try:
            stopped = asyncio.ensure_future(asyncio.sleep(self.trial.between(STOPPED_SECONDS)))
            if self.trial.heads:
                second = self.begin()
                await stopped
                self.met = await self.state_if_free()
            else:
                await stopped
                self.met = await self.decided_while_stopped()
        finally:
            run.signal(SIGCONT)
        for each in (run, second):
            if each is not None:
                await self.end(each)

    async def clock_jumps(self) -> None:
        seconds = self.trial.sign * self.trial.between(JUMP_SECONDS)
        run = self.begin(clock=0.0)
        await self.moment(run)
        run.jump(seconds)
        second = self.begin() if self.trial.heads else None
        self.met = await self.state()
        for each in (run, second):
            if each is not None:
                await self.end(each)
        if not self.trial.heads:
            self.clock = seconds  # the runs that follow have the clock that jumped

    async def partition(self) -> None:
        address = urlsplit(self.lab.simulator)
        assert address.hostname
        assert address.port
        how: Literal["silent", "cut"] = "cut" if self.trial.heads else "silent"
        away = self.trial.between(AWAY_SECONDS)
        self.proxy = Partition((address.hostname, address.port), self.trial.moment * 0.95, away, how)
        self.root = await self.proxy.open()
        await self.end(self.begin())
        self.met = f"{how} in mid-download" if self.proxy.happened else "nothing"

    async def rotation(self) -> None:
        run = self.begin()
        await self.moment(run)
        self.key = f"sk-rotated-{self.trial.number}"
        await self.lab.rotate(self.trial, self.key)
        second = self.begin() if self.trial.heads else None
        self.met = await self.state()
        for each in (run, second):
            if each is not None:
                await self.end(each)

    def begin(self, **options: Any) -> Run:
        options.setdefault("clock", self.clock)
        return self.lab.start(self.trial, self.root, key=self.key, **options)

    async def end(self, run: Run) -> dict[str, Any]:
        ended = await run.ended()
        self.reported.append(f"{ended['end']}: {ended.get('message', '')}")
        return ended

    async def until_ended(self) -> Outcome:
        """Start the request again until it is delivered; a person decides what only a person can."""
        end = "not delivered"
        for _ in range(RUNS):
            ended = await self.end(self.begin())
            if ended["end"] == "delivered":
                end = await self.verdict()
                break
            await asyncio.sleep(AGAIN_SECONDS)
            if ended["end"] in ("SubmissionUnknown", "killed"):
                await asyncio.sleep(STALE_SECONDS)
                await self.decide_truly()
        if self.proxy is not None:
            await self.proxy.close()
        return Outcome(self.trial, end, self.met, tuple(self.reported))

    async def verdict(self) -> str:
        """The end in words: delivered once, one file, paid once."""
        accepted = await self.lab.accepted(self.trial)
        if len(accepted) != 1:
            return f"paid {len(accepted)} times"
        delivered = [job for job in await self.jobs() if job.state is JobState.DELIVERED]
        if len(delivered) != 1 or delivered[0].provider_job_id != accepted[0]:
            return f"{len(delivered)} jobs delivered"
        delivery = delivered[0].delivery
        assert delivery is not None
        content = await asyncio.to_thread(Path(delivery.uri).read_bytes)
        if sha256(content).hexdigest() != delivery.sha256:
            return "the file is another one"
        return " after ".join(["delivered", *self.decisions])

    async def jobs(self) -> list[Job]:
        async with open_ledger(self.lab.ledger_of(self.trial)) as ledger:
            return await self.jobs_in(ledger)

    async def jobs_in(self, ledger: Ledger) -> list[Job]:
        found = await ledger.newest_in(f"key:{self.trial.name}")
        return [job for job in found.values() if job.scope == f"key:{self.trial.name}"]

    async def state(self) -> str:
        found = await self.jobs()
        return found[0].state.value if found else "nothing"

    async def state_if_free(self) -> str:
        return await self.state() if await self.is_free() else "a locked ledger"

    async def decided_while_stopped(self) -> str:
        """Decide about a job whose process is stopped, where the ledger lets anybody; tells what was found."""
        state = await self.state_if_free()
        if state in (JobState.SENDING.value, JobState.UNKNOWN.value):
            await self.decide_truly()
        return state

    async def decide_truly(self) -> None:
        """Do what a person does who has looked into the provider's console."""
        async with open_ledger(self.lab.ledger_of(self.trial)) as ledger:
            for job in await self.jobs_in(ledger):
                if job.state not in (JobState.SENDING, JobState.UNKNOWN):
                    continue
                accepted = await self.lab.accepted(self.trial)
                if accepted:
                    await decide(ledger, job.key, "adopt", accepted[0], by="storm", client_for=self.client_for)
                else:
                    await decide(ledger, job.key, "resubmit", by="storm")
                self.decisions.append("adopt" if accepted else "resubmit")

    @asynccontextmanager
    async def client_for(self, job: Job) -> AsyncIterator[TokenOpsClient]:
        """What the person's id is looked up with."""
        key = self.key or key_of(self.trial.number)
        client = TokenOpsClient(key, base_url=f"{self.lab.simulator}/tokenops/v1")
        try:
            yield client
        finally:
            await client.aclose()

    async def is_free(self) -> bool:
        """Whether the stopped process holds no lock in the ledger: a person could not decide then either."""
        url = self.lab.ledger_of(self.trial)
        if self.trial.database == "sqlite":
            try:
                with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.05, isolation_level=None) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return False
            return True
        select = text("SELECT key FROM genmedia_jobs WHERE scope = :scope FOR UPDATE NOWAIT")
        try:
            async with open_ledger(url, patience_seconds=0.0) as ledger:
                await ledger.transact(
                    lambda connection: connection.execute(select, {"scope": f"key:{self.trial.name}"}).fetchall()
                )
        except LedgerError:
            return False
        return True

"""A process that has everything imported and forks a fresh one for each run of the kill storm.

Reads one order a line, and answers with `{"pid": …}`. The child takes its job through the whole lifecycle, through the
core's pipeline, a flow or a chain of two jobs, writes how that ended to the order's `result`, and can be disturbed at
any moment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import traceback
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials
from prefect_genmedia._core import Job, JobSpec, RunContext, Session, open_ledger, start, submit
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.pipeline import run_job
from prefect_genmedia._core.polling import PollPolicy
from prefect_genmedia._core.session import pooled
from prefect_genmedia._transport import api
from prefect_genmedia.batch.pool import AccountPool, Lease, PayingAccount
from prefect_genmedia.batch.reservations import Reservation
from prefect_genmedia.batch.row_task import RowRun, SharedLimits
from prefect_genmedia.batch.slots import Slots
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.flows.chain import chain_media
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.client import TokenOpsClient

MODEL = "jimeng-video-3.0-720P"
STALE_SECONDS = 5.0
"""Nobody waits minutes for a dead process here."""

BEGIN_SECONDS = 4.0
"""As in earnest: a POST begins within this time after its job became `sending`, or never; a person decides later."""

submit.STALE_SENDING_SECONDS = STALE_SECONDS
submit.BEGIN_SECONDS = (1.0, BEGIN_SECONDS)


async def through_core(order: dict[str, Any]) -> None:
    client = TokenOpsClient(
        order["key"], base_url=order["base_url"], submissions_per_minute=order.get("submissions_per_minute")
    )
    try:
        async with open_ledger(order["ledger"]) as ledger:
            session = Session(
                client=client,
                ledger=ledger,
                record=await resolve_account(ledger, client.account, order["name"]),
                run=RunContext(root_run_id=order["run"]),
                policy=PollPolicy(shortest=0.05),
            )
            spec = JobSpec(
                JimengVideo(prompt=order["name"], model=MODEL),
                scope=f"key:{order['name']}",
                output=order["output"],
                timeout_seconds=60.0,
            )
            await run_job(session, spec)
    finally:
        await client.aclose()


class NoBudget(Reservation):
    """Nothing is reserved: the storm's jobs have no budget."""

    def __init__(self) -> None:
        self.spend = None

    async def take(self, session: Session, known: Job | None) -> None:
        """Reserve nothing."""

    async def give_back(self, job: Job | None) -> None:
        """Give nothing back."""


async def through_pool(order: dict[str, Any]) -> None:
    """The request as a row of a batch that several accounts share, with one slot each."""
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(order["ledger"]))
        sessions = []
        for key in order["keys"]:
            client = TokenOpsClient(key, base_url=order["base_url"])
            stack.push_async_callback(client.aclose)
            record = await resolve_account(ledger, client.account, f"account of {key}")
            run = RunContext(root_run_id=order["run"])
            policy = PollPolicy(shortest=0.05)
            sessions.append(Session(client=client, ledger=ledger, record=record, run=run, policy=policy))
        pool = AccountPool([PayingAccount(each, Slots(1)) for each in pooled(sessions)])
        spec = JobSpec(
            JimengVideo(prompt=order["name"], model=MODEL),
            scope=f"key:{order['name']}",
            output=order["output"],
            timeout_seconds=60.0,
        )
        shared = SharedLimits(accepted=lambda: None, stopped=lambda: False)
        await RowRun(spec, None, Lease(pool, await pool.acquire()), shared, NoBudget()).run()


async def through_flow(order: dict[str, Any]) -> None:
    block = TokenOpsCredentials(api_key=order["key"], base_url=order["base_url"], account_name=order["name"])
    await jimeng_video(
        prompt=order["name"],
        model=MODEL,
        credentials=block,
        output=order["output"],
        timeout_seconds=60.0,
        idempotency_key=order["name"],
    )


def second_prompt(name: str) -> str:
    """The prompt of a chain's second step, by which the simulator tells it from the first."""
    return f"{name} step 2"


async def through_chain(order: dict[str, Any]) -> None:
    name, key = order["name"], order["key"]
    tokenops = TokenOpsCredentials(api_key=key, base_url=order["base_url"], account_name=name)
    hidream = HiDreamCredentials(
        token=key, base_url=order["hidream_url"], account_name=name, submissions_per_minute=None
    )
    for block in (tokenops, hidream):
        await block.save(name, overwrite=True)
    await chain_media(
        "jimeng",
        {"prompt": name, "model": MODEL},
        [{"kind": "stylize", "style": "ink_wash", "prompt": second_prompt(name)}],
        credentials=name,
        output=order["output"],
        timeout_seconds=60.0,
        idempotency_key=name,
    )


WAYS = {"core": through_core, "flow": through_flow, "chain": through_chain, "pool": through_pool}


async def run(order: dict[str, Any]) -> dict[str, Any]:
    try:
        await WAYS["pool" if order["keys"] else order["through"]](order)
    except GenMediaError as error:
        return {"end": error.kind, "retryable": error.retryable, "message": error.message}
    except Exception as error:
        traceback.print_exc()
        return {"end": f"broke: {type(error).__name__}", "retryable": True, "message": str(error)[:300]}
    return {"end": "delivered"}


def slow_network(seconds: float, announcement: Path, announced: int) -> None:
    """Connecting takes a while, so that many moments lie between `sending` and the first byte.

    Args:
        seconds: for how long, at most.
        announcement: a file that is made when the submission is about to be sent that is meant.
        announced: which one of the run's submissions that is, from 1.
    """
    check, submissions = api.check_now, itertools.count(1)

    async def later() -> None:
        if next(submissions) >= announced:
            announcement.touch()
        await asyncio.sleep(random.uniform(0.0, seconds))
        await check()

    api.check_now = later


class QuickStart(start.Start):
    """When a process asked for the right to send; the right lapses soon."""

    @classmethod
    def now(cls, clock: Clock, within_seconds: float = BEGIN_SECONDS) -> start.Start:
        return super().now(clock, within_seconds)


start.Start = QuickStart  # type: ignore[misc] # before anything uses it


def in_child(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdin.close()
    os.environ.update(order.get("env", {}))
    slow_network(order["connect_seconds"], Path(order["announcement"]), order["announced"])
    ended = asyncio.run(run(order))
    result = Path(order["result"])
    unfinished = result.with_suffix(".part")
    unfinished.write_text(json.dumps(ended))
    unfinished.replace(result)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no burial
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("warm_up"):  # here and not in a child: what is imported and made once is there for every child
            os.environ.update(order["env"])
            asyncio.run(run(order))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                in_child(order)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(json.dumps({"pid": pid}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

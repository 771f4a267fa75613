"""In-flight slots: limits an account's concurrent jobs at its provider, across all processes and machines.

The ledger counts them, so a slot is held from `sending` until the job has ended, even if its process dies. Within one
process, waiting jobs form a queue; only the first one polls the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import FORGOTTEN_SECONDS, Job, JobState
from prefect_genmedia._core.pace import account_key
from prefect_genmedia._transport import LoopShared
from prefect_genmedia.errors import RateLimited
from prefect_genmedia.text import counted

CHECK_SECONDS = (0.5, 5.0)
"""Interval at which the first of a queue checks for a free slot, in seconds: initial and maximum."""

LONGEST_WAIT_SECONDS = FORGOTTEN_SECONDS
"""How long to wait for a slot, in seconds: waiting is free, and by then every job that holds a slot now has ended."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InFlightSlots:
    """An account's limit of in-flight jobs, and how long a request waits for a slot.

    Args:
        limit: the maximum number of jobs that are `sending` or `submitted`; None for no limit.
        until: when waiting ends, by the monotonic clock.
        log: called once with a sentence, if no slot is free yet.
    """

    limit: int | None
    until: float
    log: Callable[[str], None] = _logger.info

    @asynccontextmanager
    async def line(self, ledger: Ledger, job: Job, clock: Clock) -> AsyncIterator[None]:
        """Wait until a slot appears to be free. Inside the context, no other job of this process can take it.

        Args:
            ledger: counts the account's in-flight jobs.
            job: the job that waits to be sent.
            clock: the time source, also used to sleep.

        Raises:
            RateLimited: no slot became free in time; nothing was sent.
        """
        if self.limit is None:
            yield
            return
        async with _LINES.lease((account_key(job), self.limit), _new_line) as line:
            is_logged = line.locked() and await self._log_if_full(ledger, job, self.limit)
            async with line:
                await self._until_free(ledger, job, self.limit, clock, is_logged)
                yield

    async def _until_free(self, ledger: Ledger, job: Job, limit: int, clock: Clock, is_logged: bool) -> None:
        pause, longest = CHECK_SECONDS
        while await ledger.in_flight(job.account) >= limit:
            present = await ledger.get(job.key)
            if present is None or present.state is not JobState.RESERVED:
                return  # another process has sent it
            is_logged = is_logged or await self._log_if_full(ledger, job, limit)
            left = self.until - clock.monotonic()
            if left <= 0:
                raise RateLimited(
                    f"The account's {counted(limit, 'in-flight slot')} did not become free in time.",
                    retryable=False,
                    next_step="run again when some have ended, see `prefect-genmedia jobs list --state submitted`.",
                ).about(job.key, None)
            await clock.sleep(min(pause * random.uniform(0.8, 1.2), left))  # noqa: S311 - spreads the checks
            pause = min(pause * 1.5, longest)

    async def _log_if_full(self, ledger: Ledger, job: Job, limit: int) -> bool:
        taken = await ledger.in_flight(job.account)
        if taken >= limit:
            self.log(f"Waiting for an in-flight slot: this account has {taken} of {counted(limit, 'job')} in flight")
        return taken >= limit


async def _new_line() -> asyncio.Lock:
    return asyncio.Lock()


async def _nothing_to_close(line: asyncio.Lock) -> None:
    pass


_LINES: LoopShared[asyncio.Lock] = LoopShared(_nothing_to_close)

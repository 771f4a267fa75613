"""Places in flight: no more jobs of an account at its provider than it may have, over all processes and machines.

The ledger counts them, so a place is held from `sending` until the job has ended, whatever became of its process.
Within one process those who wait stand in a line; only its first looks.
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

LOOK_SECONDS = (0.5, 5.0)
"""How often the first of a line looks for a free place, in seconds: at first, and at the longest."""

LONGEST_WAIT_SECONDS = FORGOTTEN_SECONDS
"""How long a place is waited for: waiting costs nothing, and by then every job that holds one now has ended."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """How many jobs of an account may be in flight, and how long a request waits for its place.

    Parameters:
        limit: the most jobs that are `sending` or `submitted`; None for any number.
        until: when waiting ends, by the monotonic clock.
        tell: told once, in a sentence, that there is no place yet.
    """

    limit: int | None
    until: float
    tell: Callable[[str], None] = _logger.info

    @asynccontextmanager
    async def line(self, ledger: Ledger, job: Job, clock: Clock) -> AsyncIterator[None]:
        """Stand in line until there seems to be a place; inside, nobody else of this process can take it.

        Parameters:
            ledger: tells how many jobs of the account are in flight.
            job: the job that waits to be sent.
            clock: the time source, also used to sleep.

        Raises:
            RateLimited: there was none in time; nothing was sent.
        """
        if self.limit is None:
            yield
            return
        async with _LINES.lease((account_key(job), self.limit), _new_line) as line:
            is_logged = line.locked() and await self._tell_if_full(ledger, job, self.limit)
            async with line:
                await self._look(ledger, job, self.limit, clock, is_logged)
                yield

    async def _look(self, ledger: Ledger, job: Job, limit: int, clock: Clock, is_logged: bool) -> None:
        pause, longest = LOOK_SECONDS
        while await ledger.in_flight(job.account) >= limit:
            present = await ledger.get(job.key)
            if present is None or present.state is not JobState.RESERVED:
                return  # another process has sent it
            is_logged = is_logged or await self._tell_if_full(ledger, job, limit)
            left = self.until - clock.monotonic()
            if left <= 0:
                raise RateLimited(
                    f"The account's {counted(limit, 'in-flight slot')} did not become free in time.",
                    retryable=False,
                    next_step="run again when some have ended, see `prefect-genmedia jobs list --state submitted`.",
                ).about(job.key, None)
            await clock.sleep(min(pause * random.uniform(0.8, 1.2), left))  # noqa: S311 - spreads looks
            pause = min(pause * 1.5, longest)

    async def _tell_if_full(self, ledger: Ledger, job: Job, limit: int) -> bool:
        taken = await ledger.in_flight(job.account)
        if taken >= limit:
            self.tell(f"Waiting for an in-flight slot: this account has {taken} of {counted(limit, 'job')} in flight")
        return taken >= limit


async def _new_line() -> asyncio.Lock:
    return asyncio.Lock()


async def _nothing_to_close(line: asyncio.Lock) -> None:
    pass


_LINES: LoopShared[asyncio.Lock] = LoopShared(_nothing_to_close)

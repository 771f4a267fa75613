"""Combines concurrent polls of one account into one request, if the provider has an endpoint for that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.errors import CredentialsError, GenMediaError, RateLimited
from prefect_genmedia.providers.protocol import Observation, ProviderClient

GATHER_SECONDS = 0.2
"""How long a poll waits for others of its account, in seconds; only if the process has several jobs of that account."""

MAX_IDS = 50
"""Maximum number of jobs per request; no provider documents a limit."""

APART_SECONDS = 300.0
"""How long each job is polled separately after the shared request failed, in seconds."""

_Answer = Observation | GenMediaError | None


@runtime_checkable
class PollsMany(Protocol):
    """A client whose provider can report on several jobs in one answer."""

    async def poll_many(self, provider_job_ids: Sequence[str]) -> dict[str, Observation]:
        """Poll several jobs. Jobs that are missing in the answer are missing in the result."""
        ...


async def poll(client: ProviderClient, provider_job_id: str, clock: Clock = SYSTEM_CLOCK) -> Observation:
    """Poll a job, in one request with other jobs of its client if possible.

    Args:
        client: the client of the job's account, or of the job's request.
        provider_job_id: the provider's id of the job.
        clock: the time source.

    Raises:
        GenMediaError: see `ProviderClient.poll`.
    """
    if not isinstance(client, PollsMany):
        return await client.poll(provider_job_id)
    shared = _SHARED.setdefault(client, _SharedPolls(clock))
    answer = await shared.answer(client, provider_job_id)
    if isinstance(answer, GenMediaError):
        raise answer
    return answer or await client.poll(provider_job_id)


class _SharedPolls:
    """The polls of one client; polls within a short interval are combined into one request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_job: str | None = None
        self._has_several = False
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._apart_until = 0.0

    async def answer(self, client: PollsMany, provider_job_id: str) -> _Answer:
        """Returns the shared request's answer about the job; None if the job must be polled separately."""
        self._first_job = self._first_job or provider_job_id
        self._has_several |= self._first_job != provider_job_id
        if not self._has_several or self._clock.monotonic() < self._apart_until:
            return None
        if not self._waiting:
            sending = asyncio.create_task(self._send(client))
            self._sending.add(sending)  # the event loop holds no strong reference to it
            sending.add_done_callback(self._sending.discard)
        future = self._waiting.setdefault(provider_job_id, asyncio.get_running_loop().create_future())
        answer = await asyncio.shield(future)  # a cancelled waiter must not end it for another run of the same job
        # One error may end several waits, and each adds its own job to it.
        return copy(answer) if isinstance(answer, GenMediaError) else answer

    async def _send(self, client: PollsMany) -> None:
        await self._clock.sleep(GATHER_SECONDS)
        waiting, self._waiting = self._waiting, {}
        answers: dict[str, _Answer] = dict.fromkeys(waiting)
        ids = list(waiting)
        try:
            # A single job is polled with the usual endpoint, whose answer is better documented.
            for at in range(0, len(ids) if len(ids) > 1 else 0, MAX_IDS):
                answers |= await client.poll_many(ids[at : at + MAX_IDS])
        except (CredentialsError, RateLimited) as error:  # each separate poll would get the same answer
            answers = {name: answer or error for name, answer in answers.items()}
        except GenMediaError:
            self._apart_until = self._clock.monotonic() + APART_SECONDS
        finally:
            for name, future in waiting.items():
                if not future.done():
                    future.set_result(answers.get(name))


_SHARED: WeakKeyDictionary[PollsMany, _SharedPolls] = WeakKeyDictionary()
"""The polls of each client of this process; a client lives in one event loop."""

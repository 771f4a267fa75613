"""Polls of one account that come together go to the provider as one request, where it has an endpoint for that."""

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
"""How long a poll waits for others of its account, in seconds; only where the process has several jobs there."""

MAX_IDS = 50
"""How many jobs one request asks for; no provider documents a limit."""

APART_SECONDS = 300.0
"""How long each job is polled by itself after the shared request failed, in seconds."""

_Answer = Observation | GenMediaError | None


@runtime_checkable
class PollsMany(Protocol):
    """A client whose provider tells about many jobs in one answer."""

    async def poll_many(self, provider_job_ids: Sequence[str]) -> dict[str, Observation]:
        """Look at many jobs; those that the answer does not tell of are missing in what is returned."""
        ...


async def poll(client: ProviderClient, provider_job_id: str, clock: Clock = SYSTEM_CLOCK) -> Observation:
    """Look at a job, in one request with the other jobs of its client where that is possible.

    Parameters:
        client: the client of the job's account, or of its user.
        provider_job_id: the provider's id of the job.
        clock: the time source.

    Raises:
        GenMediaError: as `ProviderClient.poll` does.
    """
    if not isinstance(client, PollsMany):
        return await client.poll(provider_job_id)
    shared = _SHARED.setdefault(client, _SharedPolls(clock))
    answer = await shared.answer(client, provider_job_id)
    if isinstance(answer, GenMediaError):
        raise answer
    return answer or await client.poll(provider_job_id)


class _SharedPolls:
    """The polls of one client: those that come within a moment of each other are one request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_job: str | None = None
        self._has_several = False
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._apart_until = 0.0

    async def answer(self, client: PollsMany, provider_job_id: str) -> _Answer:
        """What the shared request told of the job; None where it has to be polled by itself."""
        self._first_job = self._first_job or provider_job_id
        self._has_several |= self._first_job != provider_job_id
        if not self._has_several or self._clock.monotonic() < self._apart_until:
            return None
        if not self._waiting:
            sending = asyncio.create_task(self._send(client))
            self._sending.add(sending)  # the event loop itself would not keep it
            sending.add_done_callback(self._sending.discard)
        future = self._waiting.setdefault(provider_job_id, asyncio.get_running_loop().create_future())
        answer = await asyncio.shield(future)  # whoever stops waiting does not end it for another run of the same job
        # One error may end several waits, and each names its own job in it.
        return copy(answer) if isinstance(answer, GenMediaError) else answer

    async def _send(self, client: PollsMany) -> None:
        await self._clock.sleep(GATHER_SECONDS)
        waiting, self._waiting = self._waiting, {}
        answers: dict[str, _Answer] = dict.fromkeys(waiting)
        ids = list(waiting)
        try:
            # One job alone is asked for as usual: that answer is documented better.
            for at in range(0, len(ids) if len(ids) > 1 else 0, MAX_IDS):
                answers |= await client.poll_many(ids[at : at + MAX_IDS])
        except (CredentialsError, RateLimited) as error:  # each poll by itself would be told the same
            answers = {name: answer or error for name, answer in answers.items()}
        except GenMediaError:
            self._apart_until = self._clock.monotonic() + APART_SECONDS
        finally:
            for name, future in waiting.items():
                if not future.done():
                    future.set_result(answers.get(name))


_SHARED: WeakKeyDictionary[PollsMany, _SharedPolls] = WeakKeyDictionary()
"""The polls of each client of this process; a client lives in one event loop."""

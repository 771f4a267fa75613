"""Holds the Prefect global concurrency limit that a credentials Block names, while a job is at its provider.

Waiting for a slot is logged with the runs that hold the slots, and has a timeout.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import NamedTuple
from uuid import UUID

from httpx import HTTPStatusError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, concurrency
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.input.actions import acreate_flow_run_input, adelete_flow_run_input, aread_flow_run_input
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run

from prefect_genmedia._core.model import AT_PROVIDER
from prefect_genmedia._core.pipeline import find_job
from prefect_genmedia._core.session import JobSpec
from prefect_genmedia._prefect.run import explained, restarted_at, suspension_check
from prefect_genmedia._prefect.session import load_credentials, open_session
from prefect_genmedia._transport import LoopShared
from prefect_genmedia.errors import FieldProblem, InvalidRequest, RateLimited
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.text import clean_text

ASK_SECONDS = 1.0
"""Interval at which the first waiter of a process asks for a slot, in seconds; Prefect's own waiters wait up to 60."""

LOG_SECONDS = 600.0
"""Interval between two log lines about waiting, in seconds."""

_ACQUIRED, _RELEASED = "prefect.concurrency-limit.acquired", "prefect.concurrency-limit.released"
_EVENTS, _PAGES = 50, 10
"""How many events of a limit the server returns per page, and the maximum number of pages."""


class Deadline:
    """The deadline of waiting for a slot. The wait begins with the first unsuccessful request.

    Args:
        seconds: how long to wait.
        key: the flow run's input that stores when waiting began, so that the run's automatic retries keep the
            deadline; None for waiting within one process.
    """

    def __init__(self, seconds: float, key: str | None = None) -> None:
        self.seconds = seconds
        self._key = key if flow_run.id else None
        self._begun_at: float | None = None

    async def begin(self) -> None:
        """Record the beginning of the wait, if it has not begun."""
        if self._begun_at is not None:
            return
        begun_at = await aread_flow_run_input(self._key) if self._key else None
        if begun_at is None or begun_at < (await restarted_at() or 0.0):
            await self.met()
            begun_at = time.time()
            if self._key:
                await acreate_flow_run_input(self._key, begun_at)
        self._begun_at = begun_at

    async def met(self) -> None:
        """Clear the beginning of the wait: a slot was acquired, or a person has restarted the run."""
        if self._key and await aread_flow_run_input(self._key) is not None:
            await adelete_flow_run_input(self._key)
        self._begun_at = None

    def is_over(self, served_at: float) -> bool:
        """Whether the time is over.

        Args:
            served_at: when another waiter of this process last got a slot, in seconds since 1970. In a batch this
                restarts the time: the rows share the slots, and the last row waits for all others.
        """
        if self._begun_at is None:
            return False
        begun_at = self._begun_at if self._key else max(self._begun_at, served_at)
        return time.time() - begun_at >= self.seconds


@asynccontextmanager
async def holding_limit(spec: JobSpec, credentials: ProviderCredentials | str) -> AsyncIterator[None]:
    """Hold a slot of the Block's `concurrency_limit`, if it names one. Used in flows, around submitting and waiting.

    A job that is already at its provider is awaited without a slot: its result may expire while others hold the slots.

    Args:
        spec: the job.
        credentials: the provider's Block, or its name.

    Raises:
        InvalidRequest: there is no such limit; nothing was submitted.
    """
    limit = (await load_credentials(spec.request.provider, credentials)).concurrency_limit
    if limit and await _is_at_provider(spec, credentials):
        limit = None
    if not limit:
        yield
        return
    await check_limit(limit)
    wanted = f"{limit} {spec.variant} {spec.request.kind} {spec.request.model_dump_json()}"
    until = Deadline(spec.timeout_seconds, f"genmedia-limit-{sha256(wanted.encode()).hexdigest()[:16]}")
    async with AsyncExitStack() as held:
        async with explained():
            await held.enter_async_context(slot_of(limit, until))
        yield


@asynccontextmanager
async def slot_of(limit: str, until: Deadline) -> AsyncIterator[None]:
    """Wait for a slot of a global concurrency limit, and hold it. A lease that cannot be renewed ends no paid job.

    Prefect's own waiters ask again after up to a minute. Here the first waiter of a process asks every second, so a
    free slot is used at once; the other waiters queue behind it.

    Args:
        limit: the limit's name.
        until: when waiting ends.

    Raises:
        RateLimited: no slot became free in time; nothing was sent.
    """
    async with AsyncExitStack() as held:
        async with _LINES.lease(limit, _new_line) as line:
            if line.first.locked():
                await until.begin()
            async with line.first:
                await _acquire(limit, until, line, held)
                line.served_at = time.time()
        yield


async def _acquire(limit: str, until: Deadline, line: _Line, held: AsyncExitStack) -> None:
    log_at = time.monotonic()
    while not await _has_slot(limit, held):
        await until.begin()
        if until.is_over(line.served_at):
            holders = await Holders.of(limit)
            raise RateLimited(
                f"No slot of the global concurrency limit {limit!r} became free in {until.seconds:.0f} s. {holders}",
                retryable=False,
                next_step=f"run again when one is free; `prefect gcl inspect {limit}` shows it.{holders.advice}",
            )
        if time.monotonic() >= log_at:
            log_at += LOG_SECONDS
            get_run_logger().info(
                "Waiting for a slot of the global concurrency limit %r. %s", limit, await Holders.of(limit)
            )
        await suspension_check()()
        await asyncio.sleep(ASK_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the requests
    await until.met()


async def _has_slot(limit: str, held: AsyncExitStack) -> bool:
    """Ask for a slot once; the exit stack `held` holds it."""
    slot = concurrency(limit, max_retries=0, strict=True, holder=_holder(), raise_on_lease_renewal_failure=False)
    try:
        await held.enter_async_context(slot)
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if isinstance(cause, HTTPStatusError) and cause.response.status_code == HTTPStatus.LOCKED:
            return False
        raise
    return True


def _holder() -> ConcurrencyLeaseHolder | None:
    """Returns the slot's holder, in the form that Prefect records with the lease."""
    if task_run.id:
        return ConcurrencyLeaseHolder(type="task_run", id=UUID(str(task_run.id)))
    return ConcurrencyLeaseHolder(type="flow_run", id=UUID(str(flow_run.id))) if flow_run.id else None


class Holders(NamedTuple):
    """The holders of a limit's slots, for display.

    The server has no API for the holders, and loses the leases on a restart. Its events show which runs took a slot.

    Args:
        limit: the limit's name.
        taken: the number of taken slots.
        slots: the number of all slots.
        running: the runs that hold a slot.
        ended: the runs that have ended without releasing their slot.
    """

    limit: str
    taken: int
    slots: int
    running: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()

    @classmethod
    async def of(cls, name: str) -> Holders:
        """Determine the holders of a limit's slots.

        Args:
            name: the limit's name.
        """
        async with get_client() as client:
            limit = await client.read_global_concurrency_limit_by_name(name)
            try:
                running, ended = await _takers(client, limit.id)
            except Exception as error:  # waiting continues without their names
                get_run_logger().debug("Who holds %r is not known: %r", name, error)
                running, ended = [], []
        leaked = max(limit.active_slots - len(running), 0)
        return cls(name, limit.active_slots, limit.limit, tuple(running), tuple(ended[:leaked]))

    def __str__(self) -> str:
        """Such as: 2 of 2 slots are taken: by 'a' (Running), and by 'b' (Crashed), which did not give it back."""
        text = f"{self.taken} of {self.slots} slots are taken"
        parts = [f"by {each}" for each in self.running] + [
            f"by {each}, which did not give it back" for each in self.ended
        ]
        return f"{text}: {', and '.join(parts)}." if parts else f"{text}."

    @property
    def advice(self) -> str:
        """Returns what to do about slots that were not released; empty if there are none."""
        if not self.ended:
            return ""
        left = max(self.taken - len(self.ended), 0)
        return (
            " Prefect frees the slot of an ended run when its lease is over, after 5 minutes; if the server was"
            f" restarted since, nobody does: `prefect gcl update {self.limit} --active-slots {left}`."
        )


async def _takers(client: PrefectClient, limit_id: UUID) -> tuple[list[str], list[str]]:
    """Returns the runs that took a slot and did not release it, newest first: running ones, and ended ones."""
    given_back: set[UUID | None] = set()
    running: list[str] = []
    ended: list[str] = []
    for event in await _slot_events(client, limit_id):
        if event.event == _RELEASED:
            given_back.add(event.follows)
        elif event.id not in given_back:
            for related in event.related:
                if related.role == "flow-run":
                    words, is_running = await _run_in_words(client, related.id.removeprefix("prefect.flow-run."))
                    (running if is_running else ended).append(words)
    return running, ended


async def _slot_events(client: PrefectClient, limit_id: UUID) -> list[Event]:
    """Returns the events of taken and released slots of a limit, newest first."""
    wanted = EventFilter(
        event=EventNameFilter(name=[_ACQUIRED, _RELEASED]),
        resource=EventResourceFilter(id=[f"prefect.concurrency-limit.{limit_id}"]),
    )
    page = await client.read_events(wanted, limit=_EVENTS)
    found: list[Event] = [*page.events]
    for _ in range(_PAGES - 1):
        if page.next_page is None:
            break
        page = await client.read_events_page(str(page.next_page))
        found += page.events
    return found


async def _run_in_words(client: PrefectClient, run_id: str) -> tuple[str, bool]:
    """Returns a run's name and state, and whether it is running."""
    try:
        run = await client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return f"run {run_id} (deleted)", False
    state = run.state
    is_running = state is not None and (state.is_running() or state.is_cancelling())
    return f"{clean_text(run.name)!r} ({state.name if state else 'no state'})", is_running


@dataclass
class _Line:
    """The waiters of a process for the same limit."""

    first: asyncio.Lock = field(default_factory=asyncio.Lock)
    served_at: float = 0.0


async def _new_line() -> _Line:
    return _Line()


async def _nothing_to_close(line: _Line) -> None:
    pass


_LINES: LoopShared[_Line] = LoopShared(_nothing_to_close)


async def check_limit(name: str) -> None:
    """Check that a global concurrency limit exists.

    Args:
        name: the limit's name.

    Raises:
        InvalidRequest: it does not exist; the message says how to create it.
    """
    try:
        async with get_client() as client:
            await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        problem = f"there is no global concurrency limit {name!r}; make it with `prefect gcl create {name} --limit N`"
    else:
        return
    raise InvalidRequest.of("The run", [FieldProblem("concurrency_limit", problem)])


async def _is_at_provider(spec: JobSpec, credentials: ProviderCredentials | str) -> bool:
    async with open_session(spec.request.provider, credentials) as session:
        job = await find_job(session, spec)
    return job is not None and job.state in AT_PROVIDER

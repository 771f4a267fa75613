"""Facts about a run that only Prefect's server has: that it was suspended, or that a person has restarted it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import anyio
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Pause
from prefect.logging import get_run_logger

FRESH_SECONDS = 1.0
"""How long an answer is reused, in seconds: the rows of a batch share it. A task begins without one."""

ANSWER_SECONDS = 5.0
"""Timeout for the server's answer, in seconds. If the server is unavailable, the run continues."""

CANCELLATION_SECONDS = 8.0
"""Interval at which a task outside of the main thread checks for cancellation, in seconds; killed after 30 s."""

_RETRIED_IN_UI = "AwaitingRetry"
_CANCELLED = frozenset({StateType.CANCELLING, StateType.CANCELLED})
_RETRIED_BY_COMMAND = "Retried via"


@dataclass
class SuspensionCheck:
    """Ends a run in this process before a payment, if the run was suspended from outside, such as in the UI.

    Prefect itself checks only before the next task, but a submission may wait for minutes inside one.

    Args:
        run_ids: the run, and its root run.
    """

    run_ids: Sequence[str]
    _checked_at: float = field(default=float("-inf"), init=False)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def __call__(self) -> None:
        """Return if the run may pay.

        Raises:
            Pause: the run is suspended. When it is resumed, it starts from its beginning.
        """
        if not self.run_ids or self._is_fresh():
            return
        async with self._asking:  # concurrent rows share one answer
            if not self._is_fresh():
                await self._ask()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._checked_at < FRESH_SECONDS

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        for run_id in dict.fromkeys(self.run_ids):
            state = await _state_of(run_id)
            if state is not None and _is_suspended(state):
                get_run_logger().warning("This run is suspended: it sends nothing, and goes on when it is resumed")
                raise Pause(state=state)
        self._checked_at = asked_at


def _is_suspended(state: State) -> bool:
    """Whether the run's process must end; a run that is only paused keeps its process."""
    return state.is_paused() and (state.name == "Suspended" or state.state_details.pause_reschedule)


async def _state_of(run_id: str) -> State | None:
    """Returns a run's state from the server; None if the server does not answer."""
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            async with get_client() as client:
                return (await client.read_flow_run(UUID(run_id))).state
    except Exception as error:
        get_run_logger().warning(
            "The run's state cannot be read from Prefect's server, so the run goes on: %s", type(error).__name__
        )
        return None


@asynccontextmanager
async def cancelled_with_run(run_ids: Sequence[str]) -> AsyncIterator[None]:
    """Cancel the block when the run is being cancelled, so that it can report what happens to its job.

    Prefect cancels tasks of the main thread. Tasks started with `.submit` or `.map`, which all tasks of synchronous
    flows are, run in threads that get no signal before they are killed.

    Args:
        run_ids: the run, and its root run.
    """
    waiting = asyncio.current_task()
    if not run_ids or waiting is None or threading.current_thread() is threading.main_thread():
        yield
        return

    async def watch() -> None:
        while True:
            await asyncio.sleep(CANCELLATION_SECONDS)
            states = [await _state_of(run_id) for run_id in dict.fromkeys(run_ids)]
            if any(state is not None and state.type in _CANCELLED for state in states):
                waiting.cancel()
                return

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


async def restarted_by_person_at(run_id: str) -> float | None:
    """Returns when a person last restarted a run that had ended, in seconds since 1970; None if nobody did.

    Automatic retries do not end the run first. A crashed run may be restarted by an automation or by `reconcile_jobs`;
    there only the state that Prefect's UI and command line set counts.

    Args:
        run_id: the run.
    """
    async with get_client() as client:
        states = await client.read_flow_run_states(UUID(run_id))
    states.sort(key=lambda state: state.timestamp)
    restarts = [after for before, after in itertools.pairwise(states) if _is_by_person(before, after)]
    return restarts[-1].timestamp.timestamp() if restarts else None


def _is_by_person(before: State, after: State) -> bool:
    if not before.is_final() or not after.is_scheduled():
        return False
    return (
        not before.is_crashed() or after.name == _RETRIED_IN_UI or (after.message or "").startswith(_RETRIED_BY_COMMAND)
    )

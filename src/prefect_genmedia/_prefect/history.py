"""What Prefect's server knows of a run besides this process: it was suspended, or a person has started it again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import anyio
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.logging import get_run_logger

FRESH_SECONDS = 1.0
"""How long an answer counts: the rows of a batch share it. A task begins with no answer."""

ANSWER_SECONDS = 5.0
"""How long the server is waited for. A server that is away suspends nothing, and ends no run that can go on."""

_RETRIED_IN_UI = "AwaitingRetry"
_RETRIED_BY_COMMAND = "Retried via"


@dataclass
class SuspensionCheck:
    """Ends the process's part of a run that was suspended from outside, such as in the UI, before it pays.

    Prefect itself looks at the next task. A submission may wait for minutes inside of one.

    Parameters:
        run_ids: the run, and its root run.
    """

    run_ids: Sequence[str]
    _checked_at: float = field(default=float("-inf"), init=False)

    async def __call__(self) -> None:
        """Return if the run may pay.

        Raises:
            Pause: the run is suspended. It starts again from its beginning when it is resumed.
        """
        if not self.run_ids or time.monotonic() - self._checked_at < FRESH_SECONDS:
            return
        asked_at = time.monotonic()
        for run_id in dict.fromkeys(self.run_ids):
            state = await _state_of(run_id)
            if state is not None and _is_suspended(state):
                get_run_logger().warning("This run is suspended: it sends nothing, and goes on when it is resumed")
                raise Pause(state=state)
        self._checked_at = asked_at


def _is_suspended(state: State) -> bool:
    """Whether the run's process is to end; a run that is only paused keeps it."""
    return state.is_paused() and (state.name == "Suspended" or state.state_details.pause_reschedule)


async def _state_of(run_id: str) -> State | None:
    """A run's state at the server; None if the server does not say."""
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            async with get_client() as client:
                return (await client.read_flow_run(UUID(run_id))).state
    except Exception as error:
        get_run_logger().warning(
            "Prefect's server did not say whether this run is suspended, so it goes on: %s", type(error).__name__
        )
        return None


async def restarted_by_person_at(run_id: str) -> float | None:
    """When a person last started a run again that had ended, in seconds since 1970; None if nobody did.

    Automatic retries do not end the run first. What ends as Crashed may be started again by an automation or by
    `reconcile_jobs`, so there only the state that Prefect's UI and command line give counts.

    Parameters:
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

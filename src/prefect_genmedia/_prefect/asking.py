"""Asks a person with a form: the run pauses or suspends, and finds its answer again if its process died meanwhile."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run, aresume_flow_run, asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import aread_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from pydantic import ValidationError

POLL_SECONDS = 2
"""Interval at which a paused run checks whether it was resumed, in seconds."""

_MOST_ASKED = 20
"""How many times one question is shown again, if the waiting process died."""

Reply = TypeVar("Reply", bound=RunInput)


@dataclass(frozen=True)
class Asked(Generic[Reply]):
    """A question to a person.

    Args:
        key: the pause's key; the same one after a crash.
        form: the form's model.
        description: the text above the form, in Markdown.
        expires_at: when a missing answer counts as none, in seconds since 1970.
        before: called before each pause, with whether this is the first one.
    """

    key: str
    form: type[Reply]
    description: str
    expires_at: float
    before: Callable[[bool], Awaitable[None]]


async def reply_to(asked: Asked[Reply]) -> Reply | None:
    """Wait for a person, and return the submitted form; None if nobody answers in time. Call it in a flow.

    A run of a deployment suspends, which frees its process; after the answer it starts from its beginning, and finds
    the answer here. Any other run pauses.

    Args:
        asked: the question.
    """
    form = asked.form.with_initial_data(description=asked.description)
    for life in range(_MOST_ASKED):
        key = asked.key + (f"-{life}" if life else "")
        if (reply := await _stored_reply(asked.form, key)) is not None:
            return reply
        seconds = asked.expires_at - time.time()
        if seconds < 1:
            return None
        await asked.before(life == 0)
        try:
            found: RunInput | None
            if can_suspend():
                found = await asuspend_flow_run(wait_for_input=form, timeout=int(seconds), key=key)
            else:
                poll = min(POLL_SECONDS, max(int(seconds), 1))
                found = await apause_flow_run(wait_for_input=form, timeout=int(seconds), poll_interval=poll, key=key)
        except FlowPauseTimeout:
            return await _stored_reply(asked.form, key)
        except ValidationError:
            found = None  # Prefect shows each pause once: a process that died during its wait has used this one
        if found is not None:
            return asked.form.model_validate(found.model_dump())
    return None


async def _stored_reply(form: type[Reply], key: str) -> Reply | None:
    """Returns an answer that a process could not read because it died or suspended."""
    for word in ("paused", "suspended"):
        stored = await aread_flow_run_input(keyset_from_base_key(f"{word}-{key}")["response"])
        if stored is not None:
            return form.model_validate(stored)
    return None


async def resume(flow_run_id: UUID, reply: dict[str, Any]) -> str | None:
    """Answer on behalf of a person: resume a run with the completed form.

    Args:
        flow_run_id: the run that waits.
        reply: the form's values.

    Returns:
        None if the run goes on; otherwise the kind of error for which it does not.
    """
    try:
        await aresume_flow_run(flow_run_id, run_input=reply)
    except Exception as error:
        kind = type(error).__name__
        if kind not in ("NotPausedError", "FlowPauseTimeout", "RuntimeError", "ObjectNotFound"):
            raise
        return kind
    return None


def can_suspend() -> bool:
    """Whether the run belongs to a deployment, so that a worker restarts it after the answer."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    is_own = run is not None and run.deployment_id is not None and run.parent_task_run_id is None
    return is_own and TaskRunContext.get() is None

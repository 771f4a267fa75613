"""Confirmation by a person before a large payment: the run pauses or suspends with a form that shows the plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run, aresume_flow_run, asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import aread_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field, ValidationError

from prefect_genmedia._core.confirmations import Costs, Part, Question, ask, decide, needed, question_id
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._prefect.run import restarted_at, root_run_id
from prefect_genmedia.errors import NotConfirmed
from prefect_genmedia.prices import amount_of, limit_in_micros
from prefect_genmedia.settings import current_settings

PAUSE_KEY = "genmedia-confirm-"
"""Prefix of a pause's key; the question's id follows."""

POLL_SECONDS = 2
"""Interval at which a paused run checks whether it was resumed, in seconds."""

_MOST_ASKED = 20
"""How many times one question is shown again, if the waiting process died."""

_asking: dict[tuple[str, int], asyncio.Lock] = {}
"""One lock per flow run and event loop: a flow run can have only one pause at a time."""


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """What a run is about to pay for.

    Args:
        title: its name for display.
        due: the costs that would be sent now.
        text: the plan in Markdown, for the form.
        publish: shows the whole plan on the run's page before the question is asked.
    """

    title: str
    due: Costs
    text: str = ""
    publish: Callable[[], Awaitable[None]] = _nothing


class Confirmation(RunInput):
    """What a person answers."""

    decision: Literal["approve", "reject"] = Field(description="Approve: it is sent and paid. Reject: nothing is sent.")
    up_to: float = Field(
        default=0.0,
        ge=0,
        title="Approve up to (CNY)",
        description="More than the estimate, so that this run does not ask again for what follows; 0 for the estimate.",
    )
    decided_by: str = Field(default="", title="Decided by", description="Who decides, for the record.")


def confirm_limit(given: Decimal | float | None) -> Decimal | None:
    """Returns the threshold above which a person must confirm: the run's, or the setting's; None for no confirmation.

    Args:
        given: the run's threshold in CNY; None uses the setting's.

    Raises:
        InvalidRequest: it is negative, infinite or not a number.
    """
    return current_settings().confirm_above if given is None else amount_of("confirm_above", given)


async def confirm(plan: Plan, above: Decimal | None) -> None:
    """Return if a plan may be paid: it is below the threshold, was approved before, or a person approves it now.

    A run of a deployment suspends, which frees its process; after the answer it starts from its beginning. Any other
    run pauses. Call it in a flow. Outside of flows nobody is asked, and `submit_once` refuses the job instead.

    Args:
        plan: the plan.
        above: the threshold above which confirmation is required; None for no confirmation.

    Raises:
        NotConfirmed: a person refused, or nobody answered in time. Nothing was sent.
    """
    if above is None or not plan.due.jobs or not flow_run.id:
        return
    lock = _asking.setdefault((str(flow_run.id), id(asyncio.get_running_loop())), asyncio.Lock())
    async with lock, open_ledger(current_settings().ledger) as ledger:
        above_micros, root = limit_in_micros(above), root_run_id()
        part = Part(str(flow_run.id), plan.title)
        total = await ledger.transact(lambda connection: needed(connection, root, plan.due, above_micros, part=part))
        if total is None:
            return
        question = await _asked(ledger, plan, total, above_micros)
        if question.answer is None:
            question = await _answered(ledger, question, plan)
        if question.answer != "approved":
            raise question.refusal()
        get_run_logger().info("%s: approved by %s", plan.title, question.decided_by or "a person")


async def _asked(ledger: Ledger, plan: Plan, total: Costs, above_micros: int) -> Question:
    """Returns the question from the ledger, or records it; a run that crashed during the wait finds its question."""
    now, root = ledger.now(), root_run_id()
    return await ask(
        ledger,
        Question(
            id=question_id((root, str(flow_run.id)), total, above_micros, await restarted_at()),
            root_run_id=root,
            flow_run_id=str(flow_run.id),
            title=plan.title,
            due=plan.due,
            limit=total,
            above_micros=above_micros,
            asked_at=now,
            expires_at=now + current_settings().confirm_timeout_seconds,
        ),
    )


async def _answered(ledger: Ledger, question: Question, plan: Plan) -> Question:
    """Wait for the answer, and record it."""
    reply = await _reply(question, plan)
    if reply is None:
        decided = await decide(ledger, question, "timeout")
    elif reply.decision == "reject" or _is_too_little(reply, question):
        decided = await decide(ledger, question, "rejected", reply.decided_by)
    else:
        up_to = amount_of("up_to", reply.up_to) if reply.up_to else None
        decided = await decide(ledger, question, "approved", reply.decided_by, up_to)
    _emit(decided, decided.answer or "timeout")
    return decided


def _is_too_little(reply: Confirmation, question: Question) -> bool:
    """Whether the approved sum is less than was asked for, which counts as a refusal."""
    return bool(reply.up_to) and limit_in_micros(amount_of("up_to", reply.up_to)) < question.limit.micros


async def _reply(question: Question, plan: Plan) -> Confirmation | None:
    """Returns the submitted form; None if nobody answers in time."""
    form = Confirmation.with_initial_data(description=_description(question, plan))
    for life in range(_MOST_ASKED):
        key = f"{PAUSE_KEY}{question.id}" + (f"-{life}" if life else "")
        if (reply := await _stored_reply(key)) is not None:
            return reply
        seconds = question.expires_at - time.time()
        if seconds < 1:
            return None
        if life == 0:
            await plan.publish()
            _emit(question, "asked")
        command = f"prefect-genmedia confirm approve {question.id[:8]}"
        get_run_logger().warning("%s: %s Resume this run, or `%s`", plan.title, question.reason, command)
        try:
            if _can_suspend():
                reply = await asuspend_flow_run(wait_for_input=form, timeout=int(seconds), key=key)
            else:
                poll = min(POLL_SECONDS, max(int(seconds), 1))
                reply = await apause_flow_run(wait_for_input=form, timeout=int(seconds), poll_interval=poll, key=key)
        except FlowPauseTimeout:
            return await _stored_reply(key)
        except ValidationError:
            reply = None  # Prefect shows each pause once: a process that died during its wait has used this one
        if reply is not None:
            return Confirmation.model_validate(reply.model_dump())
    return None


async def _stored_reply(key: str) -> Confirmation | None:
    """Returns an answer that a process could not read because it died or suspended."""
    for word in ("paused", "suspended"):
        stored = await aread_flow_run_input(keyset_from_base_key(f"{word}-{key}")["response"])
        if stored is not None:
            return Confirmation.model_validate(stored)
    return None


def _can_suspend() -> bool:
    """Whether the run belongs to a deployment, so that a worker restarts it after the answer."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    is_own = run is not None and run.deployment_id is not None and run.parent_task_run_id is None
    return is_own and TaskRunContext.get() is None


def _description(question: Question, plan: Plan) -> str:
    parts = [f"**{plan.title}**", question.reason, plan.text]
    parts.append("Every sum is an estimate from the price list. No answer in time means no.")
    return "\n\n".join(part for part in parts if part)


async def answer(ledger: Ledger, question: Question, decision: str, by: str, up_to: Decimal | None = None) -> None:
    """Answer a question on behalf of a person: resume its run with the completed form.

    Args:
        ledger: where questions are recorded.
        question: the question.
        decision: `approve` or `reject`.
        by: who decides.
        up_to: the approved sum in CNY; None approves the estimate.

    Raises:
        NotConfirmed: it was answered before, its time is over, or its run no longer waits.
    """
    if question.answer is not None:
        raise NotConfirmed(f"Question {question.id[:8]} was answered before: {question.answer}.", next_step="")
    if question.has_expired(ledger.now()) or question.flow_run_id is None:
        raise NotConfirmed(f"Question {question.id[:8]} was not answered in time, which means no.")
    reply = {"decision": decision, "decided_by": by, "up_to": float(up_to or 0)}
    try:
        await aresume_flow_run(UUID(question.flow_run_id), run_input=reply)
    except Exception as error:
        if type(error).__name__ not in ("NotPausedError", "FlowPauseTimeout", "RuntimeError", "ObjectNotFound"):
            raise
        problem = f"The run {question.flow_run_id} does not wait for an answer now: {type(error).__name__}."
    else:
        return
    raise NotConfirmed(problem, next_step="look at the run in the UI.")


def _emit(question: Question, what: str) -> None:
    """Emit an event for automations, once per question and answer."""
    emit_event(
        event=f"genmedia.confirmation.{what}",
        resource={
            "prefect.resource.id": f"genmedia.confirmation.{question.id}",
            "prefect.resource.name": question.title,
        },
        related=[{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}],
        payload={
            "question": question.id[:8],
            "message": question.reason,
            "jobs": question.due.jobs,
            "estimated_cost": float(question.due.micros) / 1e6,
            "without_price": question.due.unpriced,
            "by": question.decided_by,
        },
    )

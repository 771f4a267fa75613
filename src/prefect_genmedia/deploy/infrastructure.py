"""The work pool, the global concurrency limits, the variable, and the automations."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import WorkPool
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError
from typing_extensions import ParamSpec

from prefect_genmedia.deploy.changes import Change, Outcome, compared
from prefect_genmedia.deploy.files import LimitSpec
from prefect_genmedia.errors import InvalidRequest

OUTPUT_VARIABLE = "genmedia_output"
"""The Prefect variable that containers take their output folder from."""


P = ParamSpec("P")
T = TypeVar("T")


def repeated_on_conflict(apply: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Apply once more where what is to be created is there already.

    Somebody else was faster; or Prefect's client repeated a request whose answer was lost, after it had been obeyed.
    """

    @functools.wraps(apply)
    async def applied(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await apply(*args, **kwargs)
        except ObjectAlreadyExists:
            pass
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
        return await apply(*args, **kwargs)

    return applied


@repeated_on_conflict
async def apply_work_pool(client: PrefectClient, name: str, pool_type: str | None, dry: bool) -> tuple[Change, str]:
    """Create the work pool, unless there is one of that name, which stays as it is.

    Args:
        client: the server.
        name: the pool's name.
        pool_type: its type; None takes the present pool's, or `process` for a new one.
        dry: whether to look only.

    Returns:
        What was done, and the pool's type.

    Raises:
        InvalidRequest: the present pool has another type, or the server knows no such type.
    """
    pool = await _pool(client, name)
    if pool is not None:
        if pool_type not in (None, pool.type):
            raise InvalidRequest(f"Work pool {name!r} exists and is of type {pool.type}, not {pool_type}.")
        return Change("work pool", name, Outcome.UNCHANGED, pool.type), pool.type
    pool_type = pool_type or "process"
    template = await _base_job_template(client, pool_type)
    if not dry:
        await client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
    return Change("work pool", name, Outcome.CREATED, pool_type), pool_type


@repeated_on_conflict
async def apply_limit(client: PrefectClient, name: str, spec: LimitSpec, dry: bool) -> Change:
    """Create or update a global concurrency limit; slots that are taken stay taken.

    Args:
        client: speaks to the server.
        name: the limit's name.
        spec: what is declared.
        dry: change nothing; only say what would be done.
    """
    try:
        existing = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        existing = None
    same = existing is not None and (existing.limit, existing.slot_decay_per_second) == (
        spec.limit,
        spec.slot_decay_per_second,
    )
    outcome, wanted = compared(existing, same), spec.model_dump(exclude={"provider"})
    if not dry and outcome is Outcome.CREATED:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, **wanted))
    if not dry and outcome is Outcome.UPDATED:
        await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**wanted))
    return Change("concurrency limit", name, outcome, f"{spec.limit} at a time")


@repeated_on_conflict
async def apply_output(client: PrefectClient, output: str | None, dry: bool) -> Change | None:
    """Set the variable that containers take their output folder from, where a folder is given.

    Args:
        client: speaks to the server.
        output: the folder, as an fsspec URL; None where none is given.
        dry: change nothing; only say what would be done.
    """
    existing = await client.read_variable_by_name(OUTPUT_VARIABLE)
    if output is None:
        return Change("variable", OUTPUT_VARIABLE, Outcome.UNCHANGED, str(existing.value)) if existing else None
    outcome = compared(existing, existing is not None and existing.value == output)
    if not dry and outcome is Outcome.CREATED:
        await client.create_variable(VariableCreate(name=OUTPUT_VARIABLE, value=output))
    if not dry and outcome is Outcome.UPDATED:
        await client.update_variable(VariableUpdate(name=OUTPUT_VARIABLE, value=output))
    return Change("variable", OUTPUT_VARIABLE, outcome, output)


async def apply_automation(client: PrefectClient, declared: dict[str, Any], alerts: str | None, dry: bool) -> Change:
    """Create or update an automation, by its name; whether it is switched on stays as it is on the server.

    Args:
        client: the server.
        declared: the automation, with `notify: true` in actions that the notification Block goes into.
        alerts: `TYPE/NAME` of that Block. Without one the Block stays that is in use; where there is none, such
            actions do nothing, and the automation is created switched off, until a Block is given.
        dry: whether to look only.

    Raises:
        InvalidRequest: Prefect's schema refuses it, or there is no such Block.
    """
    name = str(declared.get("name", "an automation"))
    found = await client.read_automations_by_name(name)
    existing = found[0] if found else None
    block = await _notification_block(client, alerts) if alerts else _block_in_use(existing)
    actions = [_settled(action, block) for action in declared.get("actions", [])]
    try:
        wanted = AutomationCore.model_validate({**declared, "actions": actions})
    except ValidationError as error:
        raise InvalidRequest.from_validation(f"automations.yaml, {name}", error) from None
    ignored = {*declared} - {*AutomationCore.model_fields} | {*declared["trigger"]} - {
        *type(wanted.trigger).model_fields
    }
    if ignored:  # Prefect would say nothing
        raise InvalidRequest(f"automations.yaml, {name}: Prefect knows no {', '.join(sorted(ignored))}.")
    is_muted = block is None and any(action.get("notify") for action in declared.get("actions", []))
    wanted = wanted.model_copy(update={"enabled": _enabled(wanted, existing, is_muted)})
    outcome = compared(existing, existing is not None and _essence(existing) == _essence(wanted))
    if not dry and outcome is Outcome.CREATED:
        await client.create_automation(wanted)
    if not dry and existing is not None and outcome is Outcome.UPDATED:
        await client.update_automation(existing.id, wanted)
    notes = ["" if wanted.enabled else "switched off", "notifies nobody: give --alerts TYPE/NAME" if is_muted else ""]
    off = () if wanted.enabled else ("alerts" if is_muted else "automation",)
    return Change("automation", wanted.name, outcome, "; ".join(filter(None, notes)), off)


def _enabled(wanted: AutomationCore, existing: Automation | None, is_muted: bool) -> bool:
    """Whether an automation is switched on: as it is on the server, but for one that had nobody to notify until now."""
    if existing is None:
        return wanted.enabled and not is_muted
    had_nobody = not existing.enabled and any(isinstance(action, DoNothing) for action in existing.actions)
    return wanted.enabled if had_nobody and not is_muted else existing.enabled


async def has_work_pool(client: PrefectClient, name: str) -> bool:
    """Whether the server has a work pool of this name.

    Args:
        client: the server.
        name: the pool's name.
    """
    return await _pool(client, name) is not None


async def _pool(client: PrefectClient, name: str) -> WorkPool | None:
    try:
        return await client.read_work_pool(name)
    except ObjectNotFound:
        return None


async def _base_job_template(client: PrefectClient, pool_type: str) -> dict[str, Any]:
    """The server's own template for a type of pool, so that no worker's package needs to be installed here."""
    metadata = await client.read_worker_metadata()
    workers: dict[str, Any] = {kind: worker for package in metadata.values() for kind, worker in package.items()}
    if pool_type not in workers:
        raise InvalidRequest(f"The server knows no work pool of type {pool_type!r}; it knows {', '.join(workers)}.")
    template: dict[str, Any] = workers[pool_type]["default_base_job_configuration"]
    return template


def _settled(action: dict[str, Any], block: UUID | None) -> dict[str, Any]:
    """An action with the notification Block in it, where it notifies."""
    settled = dict(action)
    if not settled.pop("notify", False):
        return settled
    return {**settled, "block_document_id": block} if block else {"type": "do-nothing"}


def _block_in_use(automation: Automation | None) -> UUID | None:
    actions = automation.actions if automation else []
    return next((action.block_document_id for action in actions if isinstance(action, SendNotification)), None)


async def _notification_block(client: PrefectClient, full_name: str) -> UUID:
    block_type, _, name = full_name.partition("/")
    try:
        document = await client.read_block_document_by_name(name, block_type, include_secrets=False)
    except ObjectNotFound:
        raise InvalidRequest(
            f"There is no Block {full_name!r} to send alerts with; it is named TYPE/NAME, such as slack-webhook/team."
        ) from None
    return document.id


def _essence(automation: AutomationCore | Automation) -> dict[str, Any]:
    """What was declared of an automation, without what the server adds."""
    plain: dict[str, Any] = AutomationCore(
        **automation.model_dump(include=set(AutomationCore.model_fields))
    ).model_dump(mode="json")
    trigger = plain["trigger"]
    for labels in ("after", "expect", "for_each"):  # sets, in any order
        trigger[labels] = sorted(trigger.get(labels, []))
    trigger.pop("id", None)
    return plain

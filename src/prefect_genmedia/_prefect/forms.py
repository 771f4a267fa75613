"""Run forms: plain fields with readable titles in the Prefect UI, for flows with former None defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from prefect import Flow
from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

Function = TypeVar("Function", bound=Callable[..., Any])

NO_LIMIT = -1
"""The default of limits for which 0 means "nothing allowed". A form cannot express None."""

MaxCost = Annotated[float, Field(json_schema_extra={"minimum": NO_LIMIT})]
"""Maximum cost in CNY, or `NO_LIMIT`. The schema has only the minimum; other invalid sums are refused later."""

TITLES = {
    "credentials": "Credentials",
    "output": "Save to",
    "timeout_seconds": "Timeout (seconds)",
    "idempotency_key": "Idempotency key",
    "resubmit_on_output_refusal": "New attempts after a refused output",
    "preflight": "Check inputs first",
    "verify": "Verification",
    "suspend_while_waiting": "Suspend while waiting",
    "max_cost": "Max cost (CNY, -1: no limit)",
    "confirm_above": "Ask a person above (CNY, -1: the setting)",
    "extra_body": "Extra JSON",
    "seed": "Seed (-1: random)",
    "request_id": "Request ID",
    "batch_id": "Batch ID",
}
"""Titles of parameters that differ from the words of their names."""


def run_form(*, hidden: tuple[str, ...] = (), **titles: str) -> Callable[[Function], Function]:
    """Add titles to a flow's run form, and make the flow accept None for every parameter that has a default.

    None was formerly the default of many parameters, and is stored in schedules and in runs that are repeated. It means
    the default; the form's schema does not show it. Apply this below `@flow`, which reads the function's signature.

    Args:
        hidden: parameters that users never set; the form omits them.
        **titles: titles of parameters; the default is the one in `TITLES`, or the words of the parameter's name.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        parameters = [
            _hidden(each) if each.name in hidden else _with_title(each, titles.get(each.name) or _title(each.name))
            for each in signature.parameters.values()
        ]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def limit(value: float) -> float | None:
    """Converts a limit for the tasks: `NO_LIMIT` becomes None.

    Args:
        value: the parameter's value.
    """
    return None if value == NO_LIMIT else value


def plain_parameters(flow: Flow[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns stored parameters of a flow, in which None is replaced by the default.

    The flow accepts None, but a server that enforces the form's schema refuses to start a run with it.

    Args:
        flow: the flow.
        given: the parameters.
    """
    properties = flow.parameters.properties
    return {name: properties.get(name, {}).get("default") if value is None else value for name, value in given.items()}


def _title(name: str) -> str:
    return TITLES.get(name) or name.replace("_", " ").capitalize().replace("Id", "ID").replace("url", "URL")


def _with_title(parameter: inspect.Parameter, title: str) -> inspect.Parameter:
    # Prefect sets the field's title to the parameter's name; `json_schema_extra` is applied after that.
    metadata: list[Any] = [Field(json_schema_extra={"title": title})]
    default = parameter.default
    if default is not inspect.Parameter.empty and default is not None:
        metadata.append(BeforeValidator(lambda value: default if value is None else value))
    annotation = parameter.annotation
    for each in metadata:
        annotation = Annotated[annotation, each]
    return parameter.replace(annotation=annotation)


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    left_out: Any = SkipJsonSchema()  # type: ignore[type-arg]
    return parameter.replace(annotation=Annotated[parameter.annotation, left_out])

"""Run forms: plain fields with human titles in the Prefect UI, for flows whose parameters once had None as default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from prefect import Flow
from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

Function = TypeVar("Function", bound=Callable[..., Any])

NO_LIMIT = -1
"""The default of limits whose 0 means that nothing is allowed. A form has no field for None."""

MaxCost = Annotated[float, Field(json_schema_extra={"minimum": NO_LIMIT})]
"""Most CNY, or `NO_LIMIT`. The schema states the minimum only: other sums are refused by what reads prices."""

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
"""Titles of parameters that are not their names in words."""


def run_form(*, hidden: tuple[str, ...] = (), **titles: str) -> Callable[[Function], Function]:
    """Give a flow's run form titles, and let the flow take None for every parameter that has a default.

    None was the default of many parameters, and stands in schedules and in runs that are run again. It means the
    default; the form's schema does not show it. Goes below `@flow`, which reads the function's signature.

    Parameters:
        hidden: parameters that people never set; the form leaves them out.
        **titles: the titles of parameters; by default the one in `TITLES`, or the parameter's name in words.
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
    """A limit as the tasks take it: None for `NO_LIMIT`.

    Parameters:
        value: the parameter's value.
    """
    return None if value == NO_LIMIT else value


def plain_parameters(flow: Flow[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Stored parameters of a flow, with the default for each one that is None.

    The flow takes None, but a server that enforces the form's schema starts no run with it.

    Parameters:
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

"""Data of requests that an earlier version or a form wrote: fields that were added, and texts that are empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def with_defaults(model: type[BaseModel], state: dict[Any, Any]) -> dict[Any, Any]:
    """A pickled model's state, with the defaults of the fields that the model did not have then.

    Args:
        model: the model as it is now.
        state: what `__setstate__` is given.
    """
    fields = model.model_fields.items()
    defaults = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in fields
        if not field.is_required()
    }
    return {**state, "__dict__": {**defaults, **state["__dict__"]}}


def without_empty(model: type[BaseModel], data: Any) -> Any:
    """The data, with None for an empty text in a field that is None by default: what a form sends for it.

    Args:
        model: the model that the data is for.
        data: its fields, or anything else, which stays as it is.
    """
    if not isinstance(data, Mapping):
        return data
    fields = model.model_fields
    unset = {name for name, value in data.items() if value == "" and name in fields and fields[name].default is None}
    return {name: None if name in unset else value for name, value in data.items()} if unset else data

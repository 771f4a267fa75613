"""Restoring pickled models that an earlier version wrote, before a field was added."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def with_defaults(model: type[BaseModel], state: dict[Any, Any]) -> dict[Any, Any]:
    """A pickled model's state, with the defaults of the fields that the model did not have then.

    Parameters:
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

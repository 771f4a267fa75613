"""What a value holds, as plain JSON: what golden files record, and what is compared with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretStr

ERROR_FACTS = (
    "message job_key provider_job_id code http_status body paid next_step retryable outcome kind retry_after problems"
).split()


def contents(value: Any) -> Any:
    """Everything in a value, by the names of its fields and of its class."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return _of(value, type(value).model_fields)
    if isinstance(value, BaseException):
        return {**_of(value, [name for name in ERROR_FACTS if hasattr(value, name)]), "text": str(value)}
    if dataclasses.is_dataclass(value):
        return _of(value, [field.name for field in dataclasses.fields(value)])
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: contents(each) for name, each in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return [contents(each) for each in value] if isinstance(value, (list, tuple)) else value


def _of(value: Any, names: Any) -> dict[str, Any]:
    return {"class": type(value).__name__, **{name: contents(getattr(value, name)) for name in names}}


def missing_from(recorded: Any, present: Any, place: str = "") -> list[str]:
    """Where `present` does not hold what was recorded; new fields may have come."""
    if isinstance(recorded, dict) and isinstance(present, dict):
        return [
            line
            for name, value in recorded.items()
            for line in missing_from(value, present.get(name, "nothing"), f"{place}.{name}")
        ]
    if isinstance(recorded, list) and isinstance(present, list) and len(recorded) == len(present):
        pairs = enumerate(zip(recorded, present, strict=True))
        return [line for number, (one, other) in pairs for line in missing_from(one, other, f"{place}.{number}")]
    return [] if recorded == present else [f"{place}: {recorded!r} is {present!r} now"]

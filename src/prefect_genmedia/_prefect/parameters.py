"""Keeps file contents out of a run's parameters, which Prefect stores unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from pydantic import BaseModel

from prefect_genmedia.errors import FieldProblem, InvalidRequest

WHY = (
    "is a file as base64 text, which would be stored with the run: give the file's path or URL; "
    "it is sent as base64 where the provider takes that"
)

_BASE64 = re.compile(r"[A-Za-z0-9+/_\r\n-]+={0,2}\s*")
_FILE_CHARACTERS = 1000
"""Base64 text of this many characters without a space or a dot is not a key, URL, path or prompt."""


async def refuse_base64() -> None:
    """Refuse files that are in the run's parameters as base64 text, and remove them from what Prefect has stored.

    Raises:
        InvalidRequest: there are such files; the message has the path of each, and nothing was sent.
    """
    problems = [FieldProblem(place, WHY) for place in base64_places(flow_run.parameters)]
    if not problems:
        return
    if flow_run.id:
        async with get_client() as client:
            stored = (await client.read_flow_run(UUID(flow_run.id))).parameters
            await client.update_flow_run(UUID(flow_run.id), parameters=_emptied(stored))
    raise InvalidRequest.of("The run", problems)


def base64_places(value: Any, place: str = "") -> Iterator[str]:
    """Yields the paths of all files that are in a value as base64 text.

    Args:
        value: any value, such as a run's parameters.
        place: the path of the value itself.
    """
    if _is_inline(value, place):
        yield place
    for name, inner in _within(value):
        yield from base64_places(inner, f"{place}.{name}" if place else str(name))


def _emptied(value: Any, place: str = "") -> Any:
    """Returns the parameters with each file's text replaced by its length."""
    if _is_inline(value, place):
        return f"{len(value)} characters of base64, not stored"
    if isinstance(value, dict):
        return {name: _emptied(inner, name) for name, inner in value.items()}
    return [_emptied(inner) for inner in value] if isinstance(value, list) else value


def _within(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, BaseModel):
        yield from vars(value).items()
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)


def _is_inline(value: Any, place: str) -> bool:
    """Whether a text is a file: a `data:` URI, also within JSON text, or base64 too long to be anything else."""
    if not isinstance(value, str):
        return False
    if value[:5].lower() == "data:" or place.endswith("base64") or ";base64," in value.lower():
        return True
    return len(value) >= _FILE_CHARACTERS and _BASE64.fullmatch(value) is not None

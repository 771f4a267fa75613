"""From a table's rows to checked requests: every problem of every row is found before anything is submitted."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from prefect_genmedia._core.naming import file_stem
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.plugin import request_type
from prefect_genmedia.providers.protocol import GenerationRequest

SHOWN_PROBLEMS = 50
"""How many problems an error's message spells out; its `problems` always has all of them."""


@dataclass(frozen=True)
class Row:
    """One wanted result.

    Parameters:
        id: the row's own name, unique in its table.
        request: what is asked for.
        position: which row of the table it is, from 0.
    """

    id: str
    request: GenerationRequest
    position: int

    @property
    def file_name(self) -> str:
        """The name of the row's file: its id where that can stand in a file name, else a likeness with a digest."""
        return f"{file_stem(self.id)}.mp4"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be right, and everything that is wrong with it."""

    id: str
    position: int
    problems: tuple[FieldProblem, ...]

    @classmethod
    def of(cls, name: str, position: int, problems: Sequence[FieldProblem]) -> BadRow:
        """The row by this name, whose problems are told with it.

        Parameters:
            name: its id, or where it stands in the table.
            position: which row of the table it is, from 0.
            problems: what is wrong with its fields.
        """
        told = (FieldProblem(f"row {name}.{each.field}".rstrip("."), each.problem) for each in problems)
        return cls(name, position, tuple(told))


def check_rows(
    table: Sequence[Mapping[str, Any]], kind: str, has: Callable[[str], bool] | None = None
) -> tuple[list[Row], list[BadRow]]:
    """Make a request of each row.

    Parameters:
        table: rows with `id`, `kind` and the fields of that kind of request.
        kind: the kind of rows that name none.
        has: tells by its id whether a row is wanted; None wants all. Ids are compared with those of the whole table.

    Returns:
        The good rows and the bad ones, each in the table's order.
    """
    good: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, str] = {}
    for position, fields in enumerate(table):
        row_id = id_of(fields)
        name = row_id or f"#{position + 1}"
        problems = [*_id_problems(row_id, seen)]
        if has is not None and not has(row_id):
            continue
        request = _request(fields, kind, problems)
        if request is None or problems:
            bad.append(BadRow.of(name, position, problems))
        else:
            good.append(Row(row_id, request, position))
    return good, bad


def refuse(bad: Sequence[BadRow]) -> InvalidRequest:
    """The one error that tells every problem of every bad row."""
    problems = [problem for row in bad for problem in row.problems]
    error = InvalidRequest.of("The table", problems[:SHOWN_PROBLEMS])
    if len(problems) > SHOWN_PROBLEMS:
        left = len(problems) - SHOWN_PROBLEMS
        error = InvalidRequest(f"{error.message} And {left} more problems in {len(bad)} rows.")
    error.problems = tuple(problems)
    error.next_step = "correct these rows and run again, or leave them out with skip_invalid. Nothing was submitted."
    return error


def id_of(fields: Mapping[str, Any]) -> str:
    """A row's id as text; empty where it has none."""
    value = _plain(fields.get("id", ""))
    return str(value).strip()


def _id_problems(row_id: str, seen: dict[str, str]) -> Iterator[FieldProblem]:
    """What is wrong with an id; `seen` has the earlier ones, by what their files are called on any disk."""
    if not row_id:
        yield FieldProblem("id", "is missing")
        return
    name = file_stem(row_id).casefold()
    if name not in seen:
        seen[name] = row_id
    elif seen[name] == row_id:
        yield FieldProblem("id", "stands in another row, too")
    else:
        yield FieldProblem("id", f"names the same file as {seen[name]!r} on a disk that does not tell Anna from anna")


def _request(fields: Mapping[str, Any], kind: str, problems: list[FieldProblem]) -> GenerationRequest | None:
    named = str(fields.get("kind", kind))
    try:
        model = request_type(named)
    except KeyError:
        problems.append(FieldProblem("kind", f"{named!r} is not a kind of request"))
        return None
    inputs = {name: _cell(model, name, value) for name, value in fields.items() if name not in ("id", "kind")}
    try:
        return model.model_validate(inputs).normalized()
    except InvalidRequest as refusal:
        problems.extend(refusal.problems)
    return None


def _cell(model: type[GenerationRequest], name: str, value: Any) -> Any:
    """A cell as its field wants it: CSV knows text only, Parquet may hold whole numbers as floats."""
    value = _plain(value)
    field = model.model_fields.get(name)
    if field is None or not isinstance(value, str):
        return value
    if _takes_text(field.annotation):
        return value
    if _is_sequence(field.annotation) and not value.lstrip().startswith("["):
        return value.split()  # URLs hold no spaces
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, or nested beyond reading
        return value


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _takes_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    origin = get_origin(annotation)
    if origin is Literal:
        return any(isinstance(value, str) for value in get_args(annotation))
    if origin in (Annotated, Union, types.UnionType):
        return any(_takes_text(inner) for inner in get_args(annotation))
    return False


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (tuple, list):
        return True
    return origin in (Annotated, Union, types.UnionType) and any(_is_sequence(each) for each in get_args(annotation))

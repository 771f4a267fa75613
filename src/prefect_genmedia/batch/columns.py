"""Classifies a table's columns: request fields, the user's own columns, and indexes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.text import clean_text

OWN = ("id", "kind")
"""Columns of every row that are not fields of its request."""

ATTRIBUTION = ("project", "tags")
"""Columns that say what a row is charged to. They are copied into the results like the user's own columns."""

_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*(_level_\d+)?|__index_level_\d+__")
"""Names that pandas gives to an unnamed index."""


def refusal(problem: str) -> InvalidRequest:
    """Returns the error that says why a table cannot be read.

    Args:
        problem: the problem.
    """
    return InvalidRequest.of("The table", [FieldProblem("rows", problem)])


def known_fields() -> frozenset[str]:
    """Returns the names of all fields of all kinds of requests."""
    return frozenset(name for model in kinds().values() for name in model.model_fields)


def is_known(name: str) -> bool:
    """Whether a header names `id`, `kind` or a field of some kind of request.

    Args:
        name: the header as it is in the file.
    """
    return column_name(name) in (*OWN, *ATTRIBUTION, *known_fields())


def column_name(name: Any) -> str:
    """Returns a header's name: trimmed, without invisible characters, and in the spelling of the field that it names.

    Args:
        name: the header as it is in the file.
    """
    return _column_name(str(name), (*OWN, *ATTRIBUTION, *sorted(known_fields())))


@lru_cache(maxsize=4096)
def _column_name(name: str, known: tuple[str, ...]) -> str:
    clean = clean_text(name.replace("\ufeff", "")).strip()
    folded = clean.casefold()
    return next((each for each in known if each.casefold() == folded), clean)


def is_index(name: str) -> bool:
    """Whether a column is an unnamed index.

    Args:
        name: the column's name.
    """
    return not name or _INDEX.fullmatch(name) is not None


@dataclass(frozen=True)
class Header:
    """The columns of a table of cells.

    Args:
        names: their names, in order; empty for a column without one.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Any]) -> Header:
        """Read the cells of the first line.

        Args:
            cells: the line's cells.

        Raises:
            InvalidRequest: a column occurs twice.
        """
        names = tuple(column_name("" if cell is None else cell) for cell in cells)
        _refuse_doubles(names)
        return cls(names)

    def row(self, cells: Sequence[Any], place: str) -> dict[str, Any]:
        """Returns a line's cells by column. Leading unnamed columns are an index and are skipped.

        Args:
            cells: the line's cells.
            place: the position of the line, for error messages.

        Raises:
            InvalidRequest: a cell has no header.
        """
        row: dict[str, Any] = {}
        for number, (name, cell) in enumerate(zip_longest(self.names, cells, fillvalue=""), 1):
            if name:
                row[name] = cell
            elif cell not in ("", None) and number > self._indexes:
                raise refusal(f"{place} has a cell in column {number}, which has no header: {str(cell)[:80]!r}")
        return row

    @property
    def _indexes(self) -> int:
        return next((number for number, name in enumerate(self.names) if name), 0)


def _refuse_doubles(names: Sequence[str]) -> None:
    used: set[str] = set()
    for name in filter(None, names):
        if name.casefold() in used:
            raise refusal(f"has the column {name!r} twice; rename or remove one of them")
        used.add(name.casefold())


class ColumnNames:
    """Column names of a table in which each row has its own headers; each set of headers is processed once."""

    def __init__(self) -> None:
        self._names: dict[tuple[Any, ...], tuple[str | None, ...]] = {}

    def row(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Returns a row by column name, without unnamed indexes.

        Args:
            row: values by header.

        Raises:
            InvalidRequest: two headers name the same column.
        """
        headers = tuple(row)
        names = self._names.get(headers)
        if names is None:
            found = tuple(map(column_name, headers))
            _refuse_doubles(found)
            names = self._names[headers] = tuple(None if is_index(name) else name for name in found)
        return {name: value for name, value in zip(names, row.values(), strict=True) if name is not None}


@lru_cache(maxsize=4096)
def near_miss(name: str, fields: tuple[str, ...]) -> str | None:
    """Returns the field of which a column's name is a misspelling; None if there is none.

    Args:
        name: the column's name.
        fields: names of fields that the row does not have.
    """
    compact = _compact(name)
    found = [(distance, each) for each in fields if (distance := _slips(compact, _compact(each))) is not None]
    return min(found)[1] if found else None


def _compact(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _slips(name: str, field: str) -> int | None:
    """Returns the number of missed, doubled, swapped or wrong letters; None if too many for a misspelling."""
    if len(field) < 3 or abs(len(name) - len(field)) > 2:
        return None
    distance = _distance(name, field)
    if len(field) < 5 and len(name) == len(field) and sorted(name) != sorted(field):
        return None  # `site` is not a misspelling of `size`
    return distance if distance <= (1 if len(field) < 8 else 2) else None


def _distance(one: str, other: str) -> int:
    """Restricted Damerau-Levenshtein distance."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]

"""Converts a table's rows to validated requests, and collects all problems of every row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any

from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia.batch.cells import CellSorter, SortedCells, id_problem, id_text
from prefect_genmedia.batch.packed import PackedCells, PackedRequest, Packer
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import counted, escaped

SHOWN_PROBLEMS = 50
"""Maximum number of problems in an error's message; its `problems` always has all of them."""

SHOWN_ROWS = 10
"""Maximum number of rows that a message names for the same problem."""

_ALIKE = 4
"""From this many rows on, problems of the same kind in the same column are combined into one sentence."""

_OF_THE_ROW = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:[.,]\d+)*")
"""The parts that differ between problems of one kind: quoted texts and numbers."""

_EMPTY = frozenset({"is missing", "Field required"})


@dataclass(frozen=True, slots=True)
class Row:
    """A valid row: one requested result.

    Args:
        id: the row's id, unique in its table.
        position: its index in the table, from 0.
        packed: the packed request.
        cells: cells of the user's own columns, which are not sent.
    """

    id: str
    position: int
    packed: PackedRequest | GenerationRequest
    cells: PackedCells = field(default_factory=PackedCells, compare=False)

    @property
    def request(self) -> GenerationRequest:
        """The request, rebuilt on each call."""
        return self.packed.unpack() if isinstance(self.packed, PackedRequest) else self.packed

    @property
    def provider(self) -> str:
        """The provider's name."""
        packed = self.packed
        return packed.shape.model.provider if isinstance(packed, PackedRequest) else packed.provider

    @property
    def extra(self) -> dict[str, Any]:
        """Cells of the user's own columns, which are not sent."""
        return self.cells.unpack()

    @property
    def attribution(self) -> Attribution:
        """The row's attribution, from its own columns."""
        return Attribution.of(self.extra.get("project"), self.extra.get("tags"))

    @property
    def file_name(self) -> str:
        """The name of the row's file: its id if valid in file names, else an adapted form with a digest."""
        return f"{file_stem(self.id)}.mp4"


@dataclass(frozen=True, slots=True)
class BadRow:
    """An invalid row, with all of its problems.

    Args:
        id: the row's id, or its position in the table.
        position: its index in the table, from 0.
        wrong: the problems of its fields: for each, the field and a sentence.
        cells: cells of the user's own columns.
    """

    id: str
    position: int
    wrong: tuple[tuple[str, str], ...]
    cells: PackedCells = field(default_factory=PackedCells, compare=False)

    @classmethod
    def of(cls, name: str, position: int, problems: Sequence[FieldProblem]) -> BadRow:
        """Returns an invalid row with this name.

        Args:
            name: its id, or its position in the table.
            position: its index in the table, from 0.
            problems: the problems of its fields.
        """
        return cls(name, position, tuple((intern(each.field), each.problem) for each in problems))

    @property
    def problems(self) -> tuple[FieldProblem, ...]:
        """The problems, each with the row's name."""
        return tuple(FieldProblem(f"row {self.id}.{name}".rstrip("."), problem) for name, problem in self.wrong)

    @property
    def extra(self) -> dict[str, Any]:
        """Cells of the user's own columns."""
        return self.cells.unpack()


def check_rows(
    table: Iterable[Mapping[str, Any]], kind: str, has: Callable[[str], bool] | None = None
) -> tuple[list[Row], list[BadRow]]:
    """Build a request from each row.

    Args:
        table: rows with `id`, `kind` and the fields of that kind of request.
        kind: the kind of rows that name none.
        has: returns whether the row with an id is selected; None selects all. Ids must be unique in the whole table.

    Returns:
        The valid rows and the invalid rows, each in the table's order.
    """
    good: list[Row] = []
    bad: list[BadRow] = []
    used: dict[str, str] = {}
    sentences: dict[str, str] = {}
    sorter, packer = CellSorter(kind), Packer()
    for position, fields in enumerate(table):
        row_id = id_of(fields)
        name = escaped(row_id) or f"#{position + 1}"
        problems = [*_id_problems(row_id, fields.get("id"), used)]
        if has is not None and not has(row_id):
            continue
        cells = sorter.sort(fields)
        request = _request(cells, problems)
        if request is None or problems:
            shared = [FieldProblem(each.field, sentences.setdefault(each.problem, each.problem)) for each in problems]
            bad.append(replace(BadRow.of(name, position, shared), cells=packer.cells(cells.extra)))
        else:
            good.append(Row(row_id, position, packer.request(request), packer.cells(cells.extra)))
    return good, bad


def refuse(bad: Sequence[BadRow], others: Sequence[FieldProblem] = (), kind: str = "") -> InvalidRequest:
    """The one error that tells every problem.

    Args:
        bad: rows that cannot be right.
        others: what is wrong with the batch as a whole.
        kind: the kind of rows that name none; said where fields are missing, since another one may be meant.
    """
    if not bad:
        return InvalidRequest.of("The batch", others)
    reported = [*others, *_grouped(bad)]
    error = InvalidRequest.of("The table", reported[:SHOWN_PROBLEMS])
    if len(reported) > SHOWN_PROBLEMS:
        left = len(reported) - SHOWN_PROBLEMS
        error = InvalidRequest(f"{error.message} And {counted(left, 'more problem')} in {counted(len(bad), 'row')}.")
    error.problems = (*others, *(problem for row in bad for problem in row.problems))
    assumed = kind and any(words in _EMPTY and name != "id" for row in bad for name, words in row.wrong)
    hint = f"rows that name no kind are taken as {kind}: name another one if you mean it; or " if assumed else ""
    steps = "correct these rows and run again, or leave them out with skip_invalid. Nothing was submitted."
    error.next_step = f"{hint}{steps}"
    return error


@dataclass
class _Alike:
    """Problems of one kind in one column.

    Args:
        column: the column; empty if there is none.
        first: the sentence of the first problem.
        count: the number of problems.
        is_same: whether all have the same sentence.
        shown: the rows and sentences of the first problems.
    """

    column: str
    first: str
    count: int = 0
    is_same: bool = True
    shown: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row_id: str, problem: str) -> None:
        self.count += 1
        self.is_same = self.is_same and problem == self.first
        if len(self.shown) < SHOWN_ROWS:
            self.shown.append((row_id, problem))

    def problems(self) -> list[FieldProblem]:
        if self.count < _ALIKE:
            return [FieldProblem(f"row {row}.{self.column}".rstrip("."), problem) for row, problem in self.shown]
        what = self.first if self.is_same else f"such as the first: {self.first}"
        what = "empty" if what in _EMPTY else what
        names = ", ".join(row for row, _ in self.shown)
        more = ", …" if self.count > SHOWN_ROWS else ""
        column = f"column {self.column}" if self.column else "rows"
        return [FieldProblem(column, f"{self.count} rows {what}: {names}{more}")]


def _grouped(bad: Sequence[BadRow]) -> list[FieldProblem]:
    """Returns the problems of all rows; problems of the same kind in the same column become one that names the rows."""
    groups: dict[tuple[str, str], _Alike] = {}
    for row in bad:
        for column, problem in row.wrong:
            kind = (column, _OF_THE_ROW.sub("…", problem))
            groups.setdefault(kind, _Alike(column, problem)).add(row.id, problem)
    return [problem for alike in groups.values() for problem in alike.problems()]


def id_of(fields: Mapping[str, Any]) -> str:
    """Returns a row's id as text; empty if it has none."""
    return id_text(fields.get("id", ""))


def _id_problems(row_id: str, value: Any, used: dict[str, str]) -> Iterator[FieldProblem]:
    """Yields the problems of an id. `used` has the earlier ids, by file names as compared on case-insensitive disks."""
    if not row_id:
        yield FieldProblem("id", "is missing")
        return
    if (problem := id_problem(value)) is not None:
        yield FieldProblem("id", problem)
        return
    name = file_stem(row_id).casefold()
    if name not in used:
        used[row_id if name == row_id else name] = row_id  # share the string if both are equal
    elif used[name] == row_id:
        yield FieldProblem("id", "is the id of another row, too")
    else:
        yield FieldProblem(
            "id", f"names the same file as {used[name]!r} on a file system that ignores upper and lower case"
        )


def _request(cells: SortedCells, problems: list[FieldProblem]) -> GenerationRequest | None:
    problems.extend(cells.problems)
    if cells.model is None:
        return None
    try:
        return cells.model.model_validate(cells.inputs).normalized()
    except InvalidRequest as refusal:
        reported = {problem.field for problem in cells.problems}
        if reported:
            reported.add("")  # a conflict between fields may only result from the invalid cells
        problems.extend(problem for problem in refusal.problems if problem.field not in reported)
    return None

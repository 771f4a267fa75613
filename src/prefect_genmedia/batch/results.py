"""The table of results: one line per row, always up to date, written while the batch runs."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread

from prefect_genmedia._core.model import JobState
from prefect_genmedia._core.reviews import Decision
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.columns import ATTRIBUTION
from prefect_genmedia.batch.result import COLUMNS, INVALID, QUALITY, STEPS, Result
from prefect_genmedia.batch.rows import BadRow, Row
from prefect_genmedia.batch.sql_table import SqlDatabase
from prefect_genmedia.batch.table import TableFile, results_table
from prefect_genmedia.batch.text_table import PLAIN, Dialect
from prefect_genmedia.text import BULLET, WORDS_CHARACTERS, clean_text, iso_time, json_text

SAVE_SECONDS = 2.0
"""Minimum interval between two writes of the table, in seconds; longer if writing takes long."""

_WRITING_SHARE = 20
"""Writing the table takes at most a twentieth of the time, however many rows it has."""


@dataclass(frozen=True)
class Carried:
    """What a table of results takes from the input table: the user's own columns, and the text dialect.

    Args:
        columns: names of the user's own columns in the table of results, by their names in the input table.
        cells: cells of these columns, by row id.
        dialect: how CSV is written.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dialect: Dialect = PLAIN

    @classmethod
    def from_rows(cls, rows: Sequence[Row | BadRow], dialect: Dialect, has_review: bool = False) -> Carried:
        """Collect the user's own columns of rows. A column with the name of a result column gets a prefix.

        Args:
            rows: the rows of the table.
            dialect: the dialect of its text.
            has_review: whether the table of results has columns about a review.
        """
        names = dict.fromkeys(name for names in dict.fromkeys(row.cells.names for row in rows) for name in names)
        made = _made_columns(rows, has_review)
        if set(names) >= _RESULT_ONLY:  # an earlier table of results
            earlier = {*COLUMNS, *(REVIEW_COLUMNS if has_review_columns(names) else ()), *(made & {STEPS})}
            names = {name: None for name in names if name not in earlier}
        taken = {name.casefold() for name in (*made, *names)}
        columns = {}
        for name in names:
            shown = name
            while shown in made or (shown != name and shown.casefold() in taken):
                shown = f"table_{shown}"
            columns[name] = shown
            taken.add(shown.casefold())
        return cls(columns, dialect=dialect)

    def with_cells(self, rows: Iterable[Row]) -> Carried:
        """Returns a copy with the cells of rows whose results are to be written.

        Args:
            rows: rows of the table.
        """
        extras = ((row.id, row.extra) for row in rows if row.cells.names)
        cells = {
            row_id: {name: value for name, value in extra.items() if name in self.columns} for row_id, extra in extras
        }
        return replace(self, cells=cells)

    def of(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the user's own cells of a row as text, by the columns of the table of results.

        Args:
            extra: the cells by the table's columns.
        """
        return {shown: cell_text(extra[name]) for name, shown in self.columns.items() if name in extra}

    def words(self, extra: Mapping[str, Any]) -> str | None:
        """Returns the user's own cells of a row in one line; None if the table has no such columns.

        Args:
            extra: the cells by the table's columns.
        """
        names = unsent_columns(self.columns)
        return words_of({name: extra[name] for name in names if name in extra}) if names else None


def unsent_columns(names: Iterable[str]) -> list[str]:
    """Returns the columns that only the user knows, without those that say what a row is charged to.

    Args:
        names: names of columns that are copied into the results.
    """
    return [name for name in names if name not in ATTRIBUTION]


def words_of(extra: Mapping[str, Any]) -> str:
    """Returns cells of the user's own columns in one line.

    Args:
        extra: the cells, by column.
    """
    return clean_text(", ".join(f"{name}: {cell_text(value)}" for name, value in extra.items()), WORDS_CHARACTERS)


def cell_text(value: Any) -> str:
    """Returns a cell of any type as text, so that a column has one type in every format. URL signatures are removed.

    Args:
        value: the cell's value.
    """
    return unsigned_text(value if isinstance(value, str) else json_text(value))


def _made_columns(rows: Sequence[Row | BadRow], has_review: bool) -> set[str]:
    """Returns the columns that a table of results of these rows has of its own."""
    has_chains = any(isinstance(row, Row) and row.then for row in rows)
    return {*COLUMNS, *([STEPS] if has_chains else ()), *(REVIEW_COLUMNS if has_review else ())}


_RESULT_ONLY = frozenset({"job_key", "provider_job_id", "error_kind"})

REVIEW_COLUMNS = ("review", "reviewer", "review_reason", "reviewed_at")
"""Columns about the review of a row's result, in the tables of batches that are or were reviewed."""


def has_review_columns(names: Collection[str]) -> bool:
    """Whether a table of results has columns about a review.

    Args:
        names: its columns that are not empty.
    """
    return set(names) >= {"job_key", "review", "reviewer", "reviewed_at"}


class Results:
    """The results of one batch, in the table's order, and the file that they are written to.

    Args:
        ids: every row's id.
        bad: the rows that were skipped as invalid.
        location: path or fsspec URL of the table of results; None if another run writes it.
        storage: the Block folder that contains it, or its database; None for neither.
        carried: what the table of results takes from the input table.
        others: ids of rows that this run does not process; they appear only in the table of results.
        optional: the columns of the table that only some batches have: `quality`, `steps`, and those about a review.
        reviews: what people decided about results before.
    """

    def __init__(
        self,
        ids: Sequence[str],
        bad: Sequence[BadRow],
        location: str | None,
        storage: Storage | SqlDatabase | None = None,
        carried: Carried | None = None,
        others: Set[str] = frozenset(),
        optional: Collection[str] = (),
        reviews: Sequence[Decision] = (),
    ) -> None:
        self.carried = carried or Carried()
        self._others = others
        self._rows = {row_id: Result(row_id, extra=self.carried.cells.get(row_id, {})) for row_id in ids}
        self._bad = [
            Result(
                row.id,
                INVALID,
                error_kind="InvalidRequest",
                error_message=BULLET.join(str(problem) for problem in row.problems),
                extra=row.extra,
            )
            for row in bad
        ]
        self._reviews: dict[str, Decision] = {each.job_key: each for each in reviews}
        own = [name for name in COLUMNS if name != QUALITY or name in optional]
        further = [name for name in (STEPS, *REVIEW_COLUMNS) if name in optional]
        columns = [*own, *further, *self.carried.columns.values()]
        self._file = None if location is None else results_table(location, columns, storage, self.carried.dialect)
        self._changed = set(self._rows)
        self._lines: dict[str, str] = {}
        self._bad_lines: list[str] = []
        self._saved_at = float("-inf")
        self._pause = SAVE_SECONDS
        self.location = location
        self.root_run_id: str | None = None
        """The root flow run whose jobs count as this run's."""
        self.unwritten: str | None = None
        """Why the table could not be written when the batch ended; None if it was written."""
        self.has_accounts = False
        """Whether several accounts share the rows, so that the page shows who paid for each."""

    def of(self, row_id: str) -> Result:
        """Returns one row's result. Change it without awaiting in between: the next `save` writes its current state."""
        self._changed.add(row_id)
        return self._rows[row_id]

    def all(self) -> list[Result]:
        """Returns every result: valid rows first, then skipped rows."""
        return [*self._rows.values(), *self._bad]

    def asked_for(self) -> list[Result]:
        """Returns the results of the rows that this run processes, and of the invalid rows."""
        return list(self._asked())

    def counts(self) -> Counter[str]:
        """Returns the number of rows of this run per state."""
        return Counter(result.state for result in self._asked())

    def cost(self) -> float:
        """Returns the estimated total cost of the accepted jobs, in CNY."""
        return sum(result.estimated_cost or 0.0 for result in self._asked())

    def cost_of_run(self) -> float:
        """Returns the part of the cost that this run has submitted; the rest was paid by earlier runs."""
        return sum(result.costs_by_run.get(self.root_run_id or "", 0.0) for result in self._asked())

    def take_reviews(self, decisions: Sequence[Decision]) -> None:
        """Take what people decided about results.

        Args:
            decisions: the last decision about each job that has one.
        """
        known, self._reviews = self._reviews, {each.job_key: each for each in decisions}
        if known != self._reviews:
            self._changed.update(self._rows)

    def review_of(self, row_id: str) -> Decision | None:
        """Returns the decision about a row's present result; None if there is none.

        Args:
            row_id: the row.
        """
        return self._reviews.get(self._rows[row_id].job_key or "")

    def rejected(self) -> int:
        """Returns the number of delivered rows of this run that a review has rejected."""
        if not self._reviews:
            return 0
        delivered = (each for each in self._asked() if each.state == JobState.DELIVERED.value)
        decisions = (self._reviews.get(each.job_key or "") for each in delivered)
        return sum(decision is not None and not decision.is_accepted for decision in decisions)

    def _asked(self) -> Iterator[Result]:
        every = itertools.chain(self._rows.values(), self._bad)
        return (result for result in every if result.id not in self._others) if self._others else every

    async def save(self, now: bool = False) -> None:
        """Write the table if something has changed and the interval has passed, or if `now` is set."""
        begun = time.monotonic()
        if self._file is None:
            return
        if not now and (not self._changed or begun - self._saved_at < self._pause):
            return
        has_lines = isinstance(self._file, TableFile) and self._file.has_lines
        ids = list(self._changed) if has_lines and not now else list(self._rows)
        self._changed.clear()
        changed = [self._cells(self._rows[row_id]) for row_id in ids]
        write = self._write_lines if has_lines else self._write_whole
        try:
            self.location = await to_thread.run_sync(write, ids, changed)
        except BaseException:
            self._changed.update(ids)
            raise
        finally:
            self._saved_at = time.monotonic()
            self._pause = max(SAVE_SECONDS, _WRITING_SHARE * (self._saved_at - begun))

    def _cells(self, result: Result) -> dict[str, Any]:
        decision = self._reviews.get(result.job_key or "")
        return vars(result) | (_review_cells(decision) if decision else {}) | self.carried.of(result.extra)

    def _write_lines(self, ids: Sequence[str], changed: Sequence[Mapping[str, Any]]) -> str:
        """Encode only the rows that have changed, and write all rows: encoding takes far longer than writing."""
        file = self._file
        assert isinstance(file, TableFile)  # only files consist of lines
        self._lines.update(zip(ids, file.lines(changed), strict=True))
        self._bad_lines = self._bad_lines or list(file.lines(map(self._cells, self._bad)))
        return file.write_lines([*(self._lines[row_id] for row_id in self._rows), *self._bad_lines])

    def _write_whole(self, ids: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
        assert self._file is not None  # checked in `save`
        return self._file.write([*rows, *map(self._cells, self._bad)])


def _review_cells(decision: Decision) -> dict[str, Any]:
    facts = (decision.word, decision.reviewer, decision.reason or None, iso_time(decision.decided_at))
    return dict(zip(REVIEW_COLUMNS, facts, strict=True))

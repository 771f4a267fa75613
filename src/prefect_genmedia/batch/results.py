"""The table of results: one line per row, always up to date, written while the batch runs."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any

from anyio import to_thread

from prefect_genmedia._core.budgets import estimated_cost
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.links import watch_url
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.rows import BadRow, Row
from prefect_genmedia.batch.sql_table import SqlDatabase
from prefect_genmedia.batch.table import TableFile, results_table
from prefect_genmedia.batch.text_table import PLAIN, Dialect
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.prices import CURRENCY, PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import BULLET, WORDS_CHARACTERS, clean_text, escaped, json_text

NOT_SENT = "not_sent"
"""State of a row that was not submitted (yet): it waits for its turn, or the batch was stopped before."""

IN_FLIGHT = "in_flight"
"""State of a row in progress."""

INVALID = "invalid"
"""State of a row that was skipped because it is invalid."""

SAVE_SECONDS = 2.0
"""Minimum interval between two writes of the table, in seconds; longer if writing takes long."""

_WRITING_SHARE = 20
"""Writing the table takes at most a twentieth of the time, however many rows it has."""


@dataclass
class Result:
    """What became of one row. Times in seconds, sizes in pixels, cost in `currency` and estimated."""

    id: str
    state: str = NOT_SENT
    attempts: int = 0
    provider_job_id: str | None = None
    job_key: str | None = None
    path: str | None = None
    sha256: str | None = None
    verified: str | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    queued_seconds: float | None = None
    running_seconds: float | None = None
    estimated_cost: float | None = None
    currency: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    watch_url: str | None = None
    poster_uri: str | None = None
    task_run_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def take_job(self, job: Job, request: GenerationRequest, prices: PriceTable) -> None:
        """Record the state of the row's job.

        Args:
            job: the row's job.
            request: the job's request.
            prices: the price table.
        """
        self.state = job.state.value
        self.attempts = job.attempt
        self.provider_job_id = escaped(job.provider_job_id) if job.provider_job_id else None  # not cut: a join key
        self.job_key = job.key
        self.queued_seconds = _between(job.submitted_at, job.running_at)
        self.running_seconds = _between(job.running_at, job.succeeded_at)
        self.error_kind, self.error_message = job.error_kind, job.error_message
        if job.delivery is not None:
            self.path, self.sha256 = job.delivery.uri, job.delivery.sha256
            self.seconds, self.width, self.height = job.delivery.seconds, job.delivery.width, job.delivery.height
            self.poster_uri, self.verified = job.delivery.poster_uri, job.delivery.verified
            self.watch_url = watch_url(job.delivery.uri, job.key)
        if job.state in _COSTS:
            # From the expected duration, as in the ledger and the budget.
            cost = estimated_cost(request, prices, job.expectation.seconds or self.seconds)
            self.estimated_cost, self.currency = (None, None) if cost is None else (float(cost), CURRENCY)

    def take_error(self, error: BaseException) -> None:
        """Record why the row has no file."""
        self.error_kind = error.kind if isinstance(error, GenMediaError) else type(error).__name__
        self.error_message = (
            error.message if isinstance(error, GenMediaError) else clean_text(unsigned_text(str(error)))
        )


_COSTS = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.UNKNOWN}
)

COLUMNS = tuple(field.name for field in fields(Result) if field.name not in ("poster_uri", "task_run_id", "extra"))


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
    def from_rows(cls, rows: Sequence[Row | BadRow], dialect: Dialect) -> Carried:
        """Collect the user's own columns of rows. A column with the name of a result column gets a prefix.

        Args:
            rows: the rows of the table.
            dialect: the dialect of its text.
        """
        names = dict.fromkeys(name for names in dict.fromkeys(row.cells.names for row in rows) for name in names)
        if set(names) >= _RESULT_ONLY:  # an earlier table of results
            names = {name: None for name in names if name not in COLUMNS}
        taken = {name.casefold() for name in (*COLUMNS, *names)}
        columns = {}
        for name in names:
            shown = name
            while shown in COLUMNS or (shown != name and shown.casefold() in taken):
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
        known = {name: extra[name] for name in self.columns if name in extra}
        return words_of(known) if self.columns else None


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


_RESULT_ONLY = frozenset({"job_key", "provider_job_id", "error_kind"})


class Results:
    """The results of one batch, in the table's order, and the file that they are written to.

    Args:
        ids: every row's id.
        bad: the rows that were skipped as invalid.
        location: path or fsspec URL of the table of results; None if another run writes it.
        storage: the Block folder that contains it, or its database; None for neither.
        carried: what the table of results takes from the input table.
        others: ids of rows that this run does not process; they appear only in the table of results.
    """

    def __init__(
        self,
        ids: Sequence[str],
        bad: Sequence[BadRow],
        location: str | None,
        storage: Storage | SqlDatabase | None = None,
        carried: Carried | None = None,
        others: Set[str] = frozenset(),
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
        columns = [*COLUMNS, *self.carried.columns.values()]
        self._file = None if location is None else results_table(location, columns, storage, self.carried.dialect)
        self._changed = set(self._rows)
        self._lines: dict[str, str] = {}
        self._bad_lines: list[str] = []
        self._saved_at = float("-inf")
        self._pause = SAVE_SECONDS
        self.location = location
        self.unwritten: str | None = None
        """Why the table could not be written when the batch ended; None if it was written."""

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
        return vars(result) | self.carried.of(result.extra)

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


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(max(end - begin, 0.0), 3)

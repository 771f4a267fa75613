"""From a bill's rows to its lines. A row that cannot be read is a finding of its own, and never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from prefect_genmedia._core.bills import BillFinding, BillLine
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.billing.amounts import amount_and_currency, currency_word, id_of, seconds_of
from prefect_genmedia.billing.mapping import BillMapping, Columns, folded, headers_of, refusal
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text

_ITEM_CHARACTERS = 200


@dataclass
class ReadLines:
    """What was read of a bill.

    Args:
        lines: its charges and refunds.
        unreadable: a finding for each row that cannot be read.
        skipped: how many rows the mapping leaves out.
    """

    lines: list[BillLine] = field(default_factory=list)
    unreadable: list[BillFinding] = field(default_factory=list)
    skipped: int = 0


class LineReader:
    """Reads the rows of one table by a mapping.

    Args:
        mapping: which columns mean what.
        file: the table's name, for evidence.
        rows: the table's rows; empty cells are left out.

    Raises:
        InvalidRequest: the table lacks a column that every line needs.
    """

    def __init__(self, mapping: BillMapping, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Find the columns."""
        self._mapping = mapping
        self._file = clean_text(file, _ITEM_CHARACTERS)
        self._rows = rows
        headers = headers_of(rows)
        self._columns = {
            name: [headers[folded(each)] for each in getattr(mapping.columns, name) if folded(each) in headers]
            for name in Columns.model_fields
        }
        self._skip = {
            headers[folded(name)]: {folded(word) for word in words}
            for name, words in mapping.skip.items()
            if folded(name) in headers
        }
        known = ", ".join(clean_text(name, 40) for name in list(headers.values())[:30])
        if not self._columns["amount"]:
            wanted = " or ".join(map(repr, mapping.columns.amount))
            raise refusal(f"it has no column {wanted}; its columns are {known}", "columns.amount")
        if not (self._columns["job_id"] or self._columns["request_id"]):
            wanted = " or ".join(map(repr, (*mapping.columns.job_id, *mapping.columns.request_id)))
            raise refusal(f"it has no column {wanted}; its columns are {known}", "columns.job_id")

    def read(self) -> ReadLines:
        """Every row as a line, or as a finding that says why it cannot be read."""
        found = ReadLines()
        for number, row in enumerate(self._rows, 1):
            if any(folded(str(row.get(name, ""))) in words for name, words in self._skip.items()):
                found.skipped += 1
                continue
            try:
                found.lines.append(self._line(number, row))
            except ValueError as problem:
                found.unreadable.append(
                    BillFinding(
                        kind="unreadable",
                        reason=clean_text(unsigned_text(str(problem)), WORDS_CHARACTERS),
                        file=self._file,
                        rows=[number],
                        bill_words=self._text(row),
                    )
                )
        return found

    def _line(self, number: int, row: Mapping[str, Any]) -> BillLine:
        amounts, times = self._mapping.amounts, self._mapping.times
        said = self._cell(row, "currency")
        currency = amounts.currency if said is None else _read("currency", currency_word, said)
        cell = self._cell(row, "amount")
        if cell is None:
            raise ValueError("amount: is missing")
        amount, currency = _read("amount", amount_and_currency, cell, amounts.decimal, currency)
        amount *= -amounts.unit if amounts.negate else amounts.unit
        at, job_id, request_id = (self._cell(row, name) for name in ("time", "job_id", "request_id"))
        return BillLine(
            row=number,
            file=self._file,
            amount=Decimal(f"{amount.normalize():f}"),
            currency=currency,
            job_id="" if job_id is None else _read("job_id", id_of, job_id),
            request_id="" if request_id is None else _read("request_id", id_of, request_id),
            at=None if at is None else _read("time", seconds_of, at, times.format, times.zone),
            model=clean_text(str(self._cell(row, "model") or ""), _ITEM_CHARACTERS),
            item=clean_text(str(self._cell(row, "item") or ""), _ITEM_CHARACTERS),
            words=self._text(row),
        )

    def _cell(self, row: Mapping[str, Any], column: str) -> Any:
        """The first cell of a column's headers that is filled; a text of blanks is not."""
        cells = (row.get(name) for name in self._columns[column])
        return next((cell for cell in cells if cell is not None and str(cell).strip()), None)

    def _text(self, row: Mapping[str, Any]) -> str:
        cells = (str(row[name]) for name in self._columns["words"] if name in row)
        return clean_text(unsigned_text(" · ".join(cells)), WORDS_CHARACTERS)


def _read(column: str, reader: Any, *cells: Any) -> Any:
    try:
        return reader(*cells)
    except ValueError as problem:
        raise ValueError(f"{column}: {problem}") from None

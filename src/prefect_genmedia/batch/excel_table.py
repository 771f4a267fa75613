"""Tables in Excel workbooks (`.xlsx`, extra `excel`)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefect_genmedia.batch.columns import Header, refusal
from prefect_genmedia.batch.frames import plain
from prefect_genmedia.text import MASKED

_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML, and therefore a workbook, cannot contain."""

_LONGEST_CELL = 32_767
"""Maximum number of characters in an Excel cell (Microsoft, "Excel specifications and limits")."""


def read_excel(content: bytes) -> Iterator[dict[str, Any]]:
    """Yields the rows of a workbook's first visible sheet. Its first non-empty row contains the column names.

    Args:
        content: the file's bytes.

    Raises:
        InvalidRequest: it is not a workbook, a column occurs twice, or a cell has no header.
    """
    openpyxl, reason = _openpyxl(), ""
    try:
        workbook = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except Exception as error:  # openpyxl passes on any error of its zip and XML parsers
        reason = f"this is no Excel workbook that can be read: {type(error).__name__}: {error}"
    if reason:
        raise refusal(reason)
    visible = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"] or workbook.worksheets
    header: Header | None = None
    for number, cells in enumerate(visible[0].iter_rows(values_only=True) if visible else (), 1):
        if all(cell in (None, "") for cell in cells):
            continue
        if header is None:
            header = Header.of(cells)
        else:
            yield header.row([plain(cell) for cell in cells], f"row {number}")


def write_excel(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Returns a workbook's bytes. Text stays text, so that no id becomes a number and no cell runs as a formula.

    Args:
        rows: values by column.
        columns: the columns, in order.
    """
    openpyxl = _openpyxl()
    from openpyxl.cell import WriteOnlyCell

    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet("results")

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value if isinstance(value, int | float | None) else cell(str(value))
        written = WriteOnlyCell(sheet, _UNWRITABLE.sub(MASKED, value)[:_LONGEST_CELL])
        written.data_type = "s"
        written.number_format = "@"
        return written

    sheet.append([cell(name) for name in columns])
    for row in rows:
        sheet.append([cell(row.get(name)) for name in columns])
    output = io.BytesIO()
    workbook.save(output)
    return output.getvalue()


def check_excel() -> None:
    """Check that workbooks can be written.

    Raises:
        InvalidRequest: openpyxl is not installed.
    """
    _openpyxl()


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError:
        pass
    else:
        return openpyxl
    raise refusal("Excel workbooks need openpyxl: pip install 'prefect-genmedia[excel]'")

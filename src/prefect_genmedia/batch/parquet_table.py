"""Tables in Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect_genmedia.batch.frames import pyarrow, rows_of_arrow
from prefect_genmedia.batch.text_table import PLAIN, Dialect
from prefect_genmedia.text import storable

_ROWS_AT_ONCE = 4096
"""Rows that are held in Arrow's and Python's form at once."""


def read_parquet(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    """The rows of a file, as they are taken, and how text tables beside it are written.

    Parameters:
        content: the file.
        encoding: of no use here; readers of text need it.
    """
    _, parquet = pyarrow()
    file = parquet.ParquetFile(io.BytesIO(content))
    return rows_of_arrow(file.schema_arrow.names, file.iter_batches(_ROWS_AT_ONCE, use_threads=False)), PLAIN


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """The file of some rows.

    Parameters:
        rows: values by column.
        columns: the columns, in order.
    """
    arrow, parquet = pyarrow()
    output = io.BytesIO()
    values = {name: [_storable(row.get(name)) for row in rows] for name in columns}
    parquet.write_table(arrow.table(values), output)
    return output.getvalue()


def _storable(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value

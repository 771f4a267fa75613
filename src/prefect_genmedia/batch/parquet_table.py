"""Tables in Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect_genmedia.batch.frames import pyarrow, rows_of_arrow
from prefect_genmedia.batch.text_table import PLAIN, Dialect
from prefect_genmedia.text import storable

_ROWS_AT_ONCE = 4096
"""Number of rows that are held in both Arrow and Python form at a time."""


def read_parquet(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    """Returns a lazy iterable of a file's rows, and the dialect for text tables beside it.

    Args:
        content: the file.
        encoding: ignored; it exists for the readers of text formats.
    """
    _, parquet = pyarrow()
    file = parquet.ParquetFile(io.BytesIO(content))
    return rows_of_arrow(file.schema_arrow.names, file.iter_batches(_ROWS_AT_ONCE, use_threads=False)), PLAIN


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Returns the bytes of a file with some rows.

    Args:
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

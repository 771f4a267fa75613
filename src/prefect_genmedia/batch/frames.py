"""Tables in memory: rows, pandas and polars frames, and any object with an Arrow stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Union

from pydantic import BeforeValidator

from prefect_genmedia.batch.columns import Header, refusal


class ArrowStream(Protocol):
    """An object that exports an Arrow stream: pandas and polars frames, Arrow tables, DuckDB relations, and others."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Returns the stream as a PyCapsule."""
        ...


if TYPE_CHECKING:
    Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | ArrowStream


def pyarrow() -> tuple[Any, Any]:
    """Imports and returns the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        InvalidRequest: it is not installed.
    """
    try:
        import pyarrow  # imported here: takes 0.2 s, and is an optional extra
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        return pyarrow, parquet
    raise refusal("Parquet and Arrow need pyarrow: pip install 'prefect-genmedia[parquet]'")


def plain_table(table: Any) -> Any:
    """Converts a table to a form for run parameters: a path or URL, or rows of JSON types; empty cells are None.

    Args:
        table: a path or URL; rows; a frame of pandas or polars; or anything else with an Arrow stream.

    Raises:
        InvalidRequest: it is none of these, or a column occurs twice.
    """
    if isinstance(table, str):
        return table
    if isinstance(table, os.PathLike):
        return os.fspath(table)
    return [{str(name): plain(value) for name, value in row.items()} for row in given_rows(table)]


def given_rows(table: Any) -> Iterable[Mapping[Any, Any]]:
    """Returns the rows of an in-memory table, with their original values.

    Args:
        table: see `plain_table`; not a path or URL.

    Raises:
        InvalidRequest: it has no rows, can be read only once, or a column occurs twice.
    """
    if hasattr(table, "__next__") or hasattr(table, "read_next_batch"):
        # Any code that inspects a run's parameters would consume rows of it, which would then be silently missing.
        raise refusal(f"a {type(table).__name__} can be read once only: give a list or a table of its rows")
    if hasattr(table, "collect") and not hasattr(table, "__arrow_c_stream__"):
        table = table.collect()  # a lazy frame
    if hasattr(table, "columns"):
        Header.of(list(table.columns))
    if hasattr(table, "to_dicts"):  # polars
        return list(table.to_dicts())
    if hasattr(table, "to_dict") and hasattr(table, "index"):  # pandas: columns of mixed types have no Arrow type
        levels = [name for name in table.index.names if name is not None]
        return list((table.reset_index(level=levels) if levels else table).to_dict("records"))
    if hasattr(table, "__arrow_c_stream__"):
        return _arrow_rows(table)
    if isinstance(table, Iterable) and not isinstance(table, Mapping | bytes):
        rows = list(table)
        if all(isinstance(row, Mapping) for row in rows):
            return rows
    raise refusal(f"a {type(table).__name__} is no path, URL, list of rows, or frame")


def _arrow_rows(table: Any) -> list[Mapping[Any, Any]]:
    arrow, _ = pyarrow()
    reason = ""
    try:
        reader = arrow.RecordBatchReader.from_stream(table)
        return list(rows_of_arrow(reader.schema.names, reader))
    except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's errors are ValueErrors
        reason = f"the Arrow stream cannot be read: {error}"
    raise refusal(reason)


def rows_of_arrow(names: Sequence[str], batches: Iterable[Any]) -> Iterator[Mapping[Any, Any]]:
    """Yields the rows of Arrow batches. An Arrow struct always has all fields, so fields that are null are left out.

    Args:
        names: the columns.
        batches: each a `pyarrow.RecordBatch`.

    Raises:
        InvalidRequest: a column occurs twice.
    """
    Header.of(names)
    for batch in batches:
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            yield {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, NaT or NA of any library.

    Args:
        value: a cell's value.
    """
    if value is None:
        return True
    if isinstance(value, str | int | list | tuple | Mapping):
        return False
    if isinstance(value, Decimal):
        return value.is_nan()
    try:
        return bool(value != value)
    except TypeError:  # NA has no truth value
        return type(value).__name__ == "NAType"
    except ValueError:  # an array
        return False


def plain(value: Any) -> Any:
    """Converts a cell's value to JSON types; None if it is missing.

    Args:
        value: a cell's value, such as a numpy number, a pandas timestamp, or a decimal.
    """
    if type(value) in (str, int, bool) or value is None:
        return value
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float | int):
        return value.item() if hasattr(value, "item") else value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta | os.PathLike):
        return str(value)
    if hasattr(value, "tolist"):  # a numpy array or scalar
        return plain(value.tolist())
    if hasattr(value, "to_list"):  # a series
        return plain(value.to_list())
    return str(value)


if not TYPE_CHECKING:
    # A run form offers a path or rows; a program may pass anything that `plain_table` accepts.
    Rows = Annotated[Union[str, list[dict[str, Any]]], BeforeValidator(plain_table)]  # noqa: UP007

__all__ = ["ArrowStream", "Rows", "given_rows", "is_missing", "plain", "plain_table", "pyarrow", "rows_of_arrow"]

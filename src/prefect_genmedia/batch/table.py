"""Tables in and out: CSV, JSON lines and Parquet, in a local file or behind any fsspec URL; or a list of dicts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import fsspec
from anyio import to_thread

from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect.targets import SCHEME, BlockFolder, target_of
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.text import csv_cell, csv_value, json_text, storable

TableFormat = Literal["csv", "jsonl", "parquet"]

_OURS = frozenset({"job_key", "provider_job_id", "error_kind"})
"""Columns that only a table of results has: its cells were guarded by `csv_cell`, and those of users were not."""

_FORMATS: dict[str, TableFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def format_of(location: str) -> TableFormat:
    """The format that a path's or URL's ending names.

    Raises:
        InvalidRequest: it names none of CSV, JSON lines and Parquet.
    """
    ending = _path_of(location).suffix.lower()
    if ending not in _FORMATS:
        raise _refusal(f"{location!r} must end in {', '.join(_FORMATS)}")
    return _FORMATS[ending]


def stem_of(location: str) -> str:
    """The file's name without folder and ending."""
    return _path_of(location).stem


def read_table(source: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read every row of a table. Blocks; run it in a thread.

    Parameters:
        source: a path or fsspec URL ending in .csv, .jsonl, .ndjson, .parquet or .pq; or the rows themselves.

    Returns:
        The rows in order; empty cells are left out.

    Raises:
        InvalidRequest: it cannot be read, or its format is not known.
    """
    if not isinstance(source, str):
        return [_filled(row) for row in source]
    reader = _READERS[format_of(source)]
    reason = ""
    try:
        with fsspec.open(source, "rb") as file:
            return [_filled(row) for row in reader(file.read())]
    except InvalidRequest:
        raise
    except (OSError, ValueError, csv.Error) as error:  # a Parquet file's own errors are ValueErrors
        reason = unsigned_text(f"{source!r} cannot be read: {type(error).__name__}: {error}")
    raise _refusal(reason)


async def read_rows(source: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read every row of a table that may also be in a Block: `block://SLUG/NAME/path`.

    Parameters:
        source: see `read_table`.

    Raises:
        InvalidRequest: it cannot be read, or its format is not known.
    """
    if not isinstance(source, str) or not source.startswith(SCHEME):
        return await to_thread.run_sync(read_table, source)
    reader, storage = _READERS[format_of(source)], await storage_of(source)
    assert isinstance(storage, BlockFolder)  # the scheme says so
    try:
        content = await to_thread.run_sync(storage.read, source)
        return [_filled(row) for row in reader(content)]
    except (OSError, ValueError, csv.Error) as error:
        reason = unsigned_text(f"{source!r} cannot be read: {type(error).__name__}: {error}")
    raise _refusal(reason)


async def storage_of(location: str) -> Storage | None:
    """The folder in a Block that a table stands in; None where a path or URL says all.

    Parameters:
        location: path or URL of the table.

    Raises:
        InvalidRequest: there is no such Block, or it holds no files.
    """
    if not location.startswith(SCHEME):
        return None
    return (await target_of(location.rpartition("/")[0])).storage


def encode_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], table_format: TableFormat) -> bytes:
    """A table's bytes; every row has every column, in order.

    Parameters:
        rows: values by column.
        columns: the columns, in order; what a row lacks stays empty.
        table_format: CSV, JSON lines or Parquet.

    Raises:
        InvalidRequest: Parquet is asked for, and pyarrow is not installed.
    """
    return _WRITERS[table_format](rows, columns)


class TableFile:
    """A table that is rewritten as a whole, so that at every moment a whole one stands under its name.

    Parameters:
        location: a path or fsspec URL with a known ending.
        columns: the columns, in order.
        storage: the folder that it stands in, see `storage_of`; by default that of the path or URL.

    Raises:
        InvalidRequest: the ending is not known, or pyarrow is missing for Parquet.
    """

    def __init__(self, location: str, columns: Sequence[str], storage: Storage | None = None) -> None:
        """Look at the name only."""
        self.format = format_of(location)
        if self.format == "parquet":
            _pyarrow()
        self.columns = tuple(columns)
        folder, _, self.name = location.replace("\\", "/").rpartition("/")
        if not folder:
            folder = "/" if location.startswith("/") else "."
        self._storage: Storage = storage or target_at(folder).storage

    def write(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write the table beside its name and rename it; returns its path or URL. Blocks; run it in a thread."""
        content = encode_table(rows, self.columns, self.format)
        with self._storage.staging() as staged:
            staged.write_bytes(content)
            return self._storage.publish(staged, self.name)


def _path_of(location: str) -> PurePosixPath:
    path = location.partition("?")[0] if "://" in location else location
    return PurePosixPath(path.replace("\\", "/"))


def _read_csv(content: bytes) -> list[dict[str, Any]]:
    text = content.decode("utf-8-sig")  # spreadsheets put a byte order mark first
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    rows = list(reader)
    for row in rows:
        if "" in row and any(row[""]):
            raise _refusal(f"a row has more cells than there are columns: {str(row)[:200]}")
        row.pop("", None)
    if set(reader.fieldnames or ()) >= _OURS:
        rows = [{name: csv_value(cell or "") for name, cell in row.items()} for row in rows]
    return rows


def _read_jsonl(content: bytes) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise _refusal(f"line {number} is not a JSON object")
            rows.append(row)
    return rows


def _read_parquet(content: bytes) -> list[dict[str, Any]]:
    _, parquet = _pyarrow()
    rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist(maps_as_pydicts="strict")
    return [{name: _without_nulls(value) for name, value in row.items()} for row in rows]


def _without_nulls(value: Any) -> Any:
    """A Parquet value without its structs' nulls: each struct of a column has every field that any of them has."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _write_jsonl(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    lines = (json_text({name: row.get(name) for name in columns}) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    arrow, parquet = _pyarrow()
    output = io.BytesIO()
    values = {name: [_storable(row.get(name)) for row in rows] for name in columns}
    parquet.write_table(arrow.table(values), output)
    return output.getvalue()


def _storable(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # imported here: 0.2 s, and an optional extra
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        return pyarrow, parquet
    raise _refusal("Parquet needs pyarrow: pip install 'prefect-genmedia[parquet]'")


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).strip(): value for name, value in row.items() if value is not None and value != ""}


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest.of("The table", [FieldProblem("rows", problem)])


_READERS: dict[TableFormat, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
_WRITERS: dict[TableFormat, Callable[[Sequence[Mapping[str, Any]], Sequence[str]], bytes]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}


def folder_of(location: str) -> str:
    """The folder that a table stands in, where it is one that can be written into; the present one otherwise."""
    if "://" in location and urlsplit(location).scheme in ("http", "https"):
        return str(Path.cwd())
    folder, separator, _ = location.replace("\\", "/").rpartition("/")
    return folder if separator else "."

"""Reads and writes tables: CSV, TSV, JSON lines, Parquet and Excel, in local files or behind fsspec URLs; or rows."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import fsspec
from anyio import to_thread

from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect.targets import SCHEME, BlockFolder, target_of
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.columns import ColumnNames, refusal
from prefect_genmedia.batch.excel_table import check_excel, read_excel, write_excel
from prefect_genmedia.batch.frames import given_rows, plain, pyarrow
from prefect_genmedia.batch.parquet_table import read_parquet, write_parquet
from prefect_genmedia.batch.sql_table import SQL, SqlDatabase, SqlLocation, SqlResults, is_sql
from prefect_genmedia.batch.text_table import (
    PLAIN,
    Dialect,
    csv_head,
    csv_lines,
    jsonl_lines,
    read_csv,
    read_jsonl,
    write_csv,
    write_jsonl,
)
from prefect_genmedia.providers.inputs import local_path

if TYPE_CHECKING:
    from prefect_genmedia.batch.frames import Rows

TableFormat = Literal["csv", "tsv", "jsonl", "parquet", "xlsx"]

_FORMATS: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
}

_EXTRAS = {"s3fs": "prefect-genmedia[s3]", "pyarrow": "prefect-genmedia[parquet]"}
"""Extras that install a package; other packages are installed by their own name."""


@dataclass(frozen=True)
class ReadTable:
    """A table that is being read.

    Args:
        rows: its rows in order, without empty cells; iterate once. Iterating may raise `InvalidRequest`.
        dialect: the dialect of its text; for a non-text table, the dialect that spreadsheets read best.
    """

    rows: Iterator[dict[str, Any]]
    dialect: Dialect = PLAIN


def format_of(location: str) -> TableFormat:
    """Returns the format for the suffix of a path or URL.

    Raises:
        InvalidRequest: the suffix is not one of a supported format.
    """
    ending = _path_of(location).suffix.lower()
    if ending not in _FORMATS:
        hint = "; save it as .xlsx" if ending in (".xls", ".xlsb", ".ods") else ""
        raise refusal(f"{unsigned_text(location)!r} must end in {', '.join(_FORMATS)}{hint}")
    return _FORMATS[ending]


def name_of(location: str) -> str:
    """Returns the file's name without its folder, a URL's query (may contain a signature) or an SQL query."""
    if is_sql(location):
        return str(SqlLocation.of(location)).removeprefix(SQL)
    return _path_of(location).name


def stem_of(location: str) -> str:
    """Returns the file's name without folder and suffix; for a database, the table's name."""
    if is_sql(location):
        return SqlLocation.of(location).stem
    return _path_of(location).stem


def read_table(source: Rows, encoding: str | None = None) -> list[dict[str, Any]]:
    """Read every row of a table into memory. Blocks; run it in a thread.

    Args:
        source: a path or fsspec URL with a known suffix; or the rows, see `plain_table`.
        encoding: encoding of a text table; None to detect it.

    Returns:
        The rows in order, without empty cells.

    Raises:
        InvalidRequest: it cannot be read, or its format is not known.
    """
    return list(_read(source, encoding).rows)


def _read(source: Rows, encoding: str | None) -> ReadTable:
    if isinstance(source, str | os.PathLike):
        location = os.fspath(source)
        format_of(location)
        return _parsed(location, encoding, lambda: _content(location))
    return ReadTable(all_filled(given_rows(source)))


def _content(location: str) -> bytes:
    path = local_path(location)
    with path.open("rb") if path is not None else fsspec.open(location, "rb") as file:
        content: bytes = file.read()
        return content


def _parsed(location: str, encoding: str | None, content: Callable[[], bytes]) -> ReadTable:
    try:
        rows, dialect = _READERS[format_of(location)](content(), encoding)
    except _UNREADABLE as error:
        reason = _why(location, error)
    else:
        return ReadTable(_taken(location, all_filled(rows)), dialect)
    raise refusal(reason)


_UNREADABLE = (ImportError, OSError, ValueError, csv.Error)
"""Errors that reading a file can raise; Parquet errors are ValueErrors."""


def _taken(location: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except _UNREADABLE as error:
        reason = _why(location, error)
    else:
        return
    raise refusal(reason)


def _why(location: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{unsigned_text(location)!r} cannot be opened here: {_missing_package(error)}"
    return unsigned_text(f"{location!r} cannot be read: {type(error).__name__}: {error}")


def _missing_package(error: ImportError) -> str:
    """Returns what to install: the cause of fsspec's error is the failed import."""
    missing: BaseException | None = error
    while missing is not None and not isinstance(missing, ModuleNotFoundError):
        missing = missing.__cause__ or missing.__context__
    if missing is None or not missing.name:
        return str(error)
    package = missing.name.partition(".")[0]
    return f"the package {package} is missing: pip install '{_EXTRAS.get(package, package)}'"


async def read_rows(source: Rows, encoding: str | None = None) -> ReadTable:
    """Open a table, which may also be in a Block: `block://SLUG/NAME/path`. Rows are parsed during iteration.

    Args:
        source: see `read_table`.
        encoding: encoding of a text table; None to detect it.

    Raises:
        InvalidRequest: it cannot be read, its format is not known, or (raised during iteration) it has no rows.
    """
    if is_sql(source):
        database = await SqlDatabase.load(str(source))
        return ReadTable(_not_empty(all_filled(database.rows())))
    if isinstance(source, str) and source.startswith(SCHEME):
        format_of(source)
        storage = await storage_of(source)
        assert isinstance(storage, BlockFolder)  # because of its scheme
        found = await to_thread.run_sync(_parsed, source, encoding, partial(storage.read, source))
    else:
        found = await to_thread.run_sync(_read, source, encoding)
    return replace(found, rows=_not_empty(found.rows))


def _not_empty(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    first = next(rows, None)
    if first is None:
        raise refusal("it has no rows")
    yield first
    yield from rows


async def storage_of(location: str) -> Storage | SqlDatabase | None:
    """Returns the Block folder that contains a table, or its database; None if a path or URL is sufficient.

    Args:
        location: path or URL of the table.

    Raises:
        InvalidRequest: there is no such Block, or it does not store files.
    """
    if is_sql(location):
        return await SqlDatabase.load(location)
    if not location.startswith(SCHEME):
        return None
    return (await target_of(location.rpartition("/")[0], "The table")).storage


def encode_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], table_format: TableFormat, dialect: Dialect = PLAIN
) -> bytes:
    """Returns a table's bytes; every row has every column, in order.

    Args:
        rows: values by column.
        columns: the columns, in order; missing cells are empty.
        table_format: CSV, TSV, JSON lines, Parquet or Excel.
        dialect: how CSV and TSV are written.

    Raises:
        InvalidRequest: the package that writes the format is not installed.
    """
    if table_format in ("csv", "tsv"):
        return write_csv(rows, columns, replace(dialect, delimiter="\t") if table_format == "tsv" else dialect)
    return _WRITERS[table_format](rows, columns)


class TableFile:
    """A table that is replaced atomically, so that its file is complete at any time.

    Args:
        location: a path or fsspec URL with a known suffix.
        columns: the columns, in order.
        storage: its folder, see `storage_of`; by default that of the path or URL.
        dialect: how CSV is written.

    Raises:
        InvalidRequest: the suffix is not known, or the package that writes the format is not installed.
    """

    def __init__(
        self, location: str, columns: Sequence[str], storage: Storage | None = None, dialect: Dialect = PLAIN
    ) -> None:
        self.format = format_of(location)
        if self.format == "parquet":
            pyarrow()
        elif self.format == "xlsx":
            check_excel()
        self.columns = tuple(columns)
        self._dialect = replace(dialect, delimiter="\t") if self.format == "tsv" else dialect
        folder, _, self.name = location.replace("\\", "/").rpartition("/")
        if not folder:
            folder = "/" if location.startswith("/") else "."
        self._storage: Storage = storage or target_at(folder).storage

    @property
    def has_lines(self) -> bool:
        """Whether a changed row can be encoded without the other rows."""
        return self.format in ("csv", "tsv", "jsonl")

    def lines(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """Yields the text of each row in a line-based format.

        Args:
            rows: values by column.
        """
        if self.format == "jsonl":
            return jsonl_lines(rows, self.columns)
        return csv_lines(rows, self.columns, self._dialect)

    def write_lines(self, lines: Iterable[str]) -> str:
        """Write a table from encoded lines; see `write`.

        Args:
            lines: the text of every row, in order.
        """
        if self.format == "jsonl":
            return self._publish("".join(lines).encode())
        return self._publish("".join([csv_head(self.columns, self._dialect), *lines]).encode(self._dialect.encoding))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write the table to a temporary file and rename it; returns its path or URL. Blocks; run it in a thread.

        Args:
            rows: values by column.
        """
        return self._publish(self._encoded(rows))

    def _publish(self, content: bytes) -> str:
        with self._storage.staging() as staged:
            staged.write_bytes(content)
            return self._storage.publish(staged, self.name)

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        return encode_table(rows, self.columns, self.format, self._dialect)


def results_table(
    location: str, columns: Sequence[str], storage: Storage | SqlDatabase | None, dialect: Dialect
) -> TableFile | SqlResults:
    """Returns the table of results at a location: a file or a database table.

    Args:
        location: see `TableFile`, or `sql://BLOCK/TABLE`.
        columns: the columns, in order.
        storage: the result of `storage_of`.
        dialect: how CSV is written.
    """
    if isinstance(storage, SqlDatabase):
        return SqlResults(storage, columns)
    return TableFile(location, columns, storage, dialect)


def _path_of(location: str) -> PurePosixPath:
    path = location.partition("?")[0].partition("#")[0] if "://" in location else location
    return PurePosixPath(path.replace("\\", "/"))


_FOR_SPREADSHEETS = Dialect("utf-8-sig", spreadsheet=True)


def _read_tsv(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    rows, dialect = read_csv(content, encoding, delimiter="\t")
    return rows, replace(dialect, delimiter=",")


def _read_excel(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    return read_excel(content), _FOR_SPREADSHEETS


def all_filled(rows: Iterable[Mapping[Any, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the non-empty rows by column name, without their empty cells.

    Args:
        rows: values by header.

    Raises:
        InvalidRequest: two headers of a row name the same column.
    """
    names = ColumnNames()
    for each in rows:
        if row := _filled(names.row(each)):
            yield row


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's non-empty cells."""
    found = {}
    for name, cell in row.items():
        value = cell if type(cell) is str else plain(cell)
        if value is not None and value != "":
            found[name] = value
    return found


_READERS: dict[TableFormat, Callable[[bytes, str | None], tuple[Iterable[Any], Dialect]]] = {
    "csv": read_csv,
    "tsv": _read_tsv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "xlsx": _read_excel,
}
_WRITERS: dict[TableFormat, Callable[[Sequence[Mapping[str, Any]], Sequence[str]], bytes]] = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "xlsx": write_excel,
}


def folder_of(location: str) -> str:
    """Returns a table's folder; for http(s) URLs, which cannot be written to, the current folder."""
    if "://" in location and urlsplit(location).scheme in ("http", "https"):
        return str(Path.cwd())
    path = location.partition("?")[0] if "://" in location else location
    folder, separator, _ = path.replace("\\", "/").rpartition("/")
    return folder if separator else "."

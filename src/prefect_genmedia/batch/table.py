"""Tables in and out: CSV, TSV, JSON lines, Parquet and Excel, in a local file or behind any fsspec URL; or rows."""

from __future__ import annotations

import csv
import io
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
from prefect_genmedia.batch.frames import is_missing, plain, plain_table, pyarrow, rows_of_arrow
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
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.providers.inputs import local_path
from prefect_genmedia.text import storable

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
"""Extras that bring a package; another package is installed by its own name."""


@dataclass(frozen=True)
class ReadTable:
    """A table that was read.

    Parameters:
        rows: its rows in order; empty cells are left out.
        dialect: how its text was written; of a table that is no text, how a spreadsheet reads text best.
    """

    rows: list[dict[str, Any]]
    dialect: Dialect = PLAIN


def format_of(location: str) -> TableFormat:
    """The format that a path's or URL's ending names.

    Raises:
        InvalidRequest: it names none that can be read.
    """
    ending = _path_of(location).suffix.lower()
    if ending not in _FORMATS:
        hint = "; save it as .xlsx" if ending in (".xls", ".xlsb", ".ods") else ""
        raise refusal(f"{unsigned_text(location)!r} must end in {', '.join(_FORMATS)}{hint}")
    return _FORMATS[ending]


def name_of(location: str) -> str:
    """The file's name without folder; nothing of a URL's query, which may hold a signature."""
    return _path_of(location).name


def stem_of(location: str) -> str:
    """The file's name without folder and ending."""
    return _path_of(location).stem


def read_table(source: Rows, encoding: str | None = None) -> list[dict[str, Any]]:
    """Read every row of a table. Blocks; run it in a thread.

    Parameters:
        source: a path or fsspec URL with a known ending; or the rows, see `plain_table`.
        encoding: encoding of a text table; None to detect it.

    Returns:
        The rows in order; empty cells are left out.

    Raises:
        InvalidRequest: it cannot be read, or its format is not known.
    """
    return _read(source, encoding).rows


def _read(source: Rows, encoding: str | None) -> ReadTable:
    table = plain_table(source)
    if not isinstance(table, str):
        return ReadTable(_all_filled(table))
    format_of(table)
    return _parsed(table, encoding, lambda: _content(table))


def _content(location: str) -> bytes:
    path = local_path(location)
    with path.open("rb") if path is not None else fsspec.open(location, "rb") as file:
        content: bytes = file.read()
        return content


def _parsed(location: str, encoding: str | None, content: Callable[[], bytes]) -> ReadTable:
    reason = ""
    try:
        rows, dialect = _READERS[format_of(location)](content(), encoding)
        return ReadTable(_all_filled(rows), dialect)
    except InvalidRequest:
        raise
    except ImportError as error:
        reason = f"{unsigned_text(location)!r} cannot be opened here: {_missing_package(error)}"
    except (OSError, ValueError, csv.Error) as error:  # a Parquet file's own errors are ValueErrors
        reason = unsigned_text(f"{location!r} cannot be read: {type(error).__name__}: {error}")
    raise refusal(reason)


def _missing_package(error: ImportError) -> str:
    """What to install: fsspec's error has the import that failed as its cause."""
    missing: BaseException | None = error
    while missing is not None and not isinstance(missing, ModuleNotFoundError):
        missing = missing.__cause__ or missing.__context__
    if missing is None or not missing.name:
        return str(error)
    package = missing.name.partition(".")[0]
    return f"the package {package} is missing: pip install '{_EXTRAS.get(package, package)}'"


async def read_rows(source: Rows, encoding: str | None = None) -> ReadTable:
    """Read every row of a table that may also be in a Block: `block://SLUG/NAME/path`.

    Parameters:
        source: see `read_table`.
        encoding: encoding of a text table; None to detect it.

    Raises:
        InvalidRequest: it cannot be read, its format is not known, or it has no rows.
    """
    if isinstance(source, str) and source.startswith(SCHEME):
        format_of(source)
        storage = await storage_of(source)
        assert isinstance(storage, BlockFolder)  # the scheme says so
        found = await to_thread.run_sync(_parsed, source, encoding, partial(storage.read, source))
    else:
        found = await to_thread.run_sync(_read, source, encoding)
    if not found.rows:
        raise refusal("it has no rows")
    return found


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


def encode_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], table_format: TableFormat, dialect: Dialect = PLAIN
) -> bytes:
    """A table's bytes; every row has every column, in order.

    Parameters:
        rows: values by column.
        columns: the columns, in order; what a row lacks stays empty.
        table_format: CSV, TSV, JSON lines, Parquet or Excel.
        dialect: how CSV and TSV are written.

    Raises:
        InvalidRequest: the package that writes the format is not installed.
    """
    if table_format in ("csv", "tsv"):
        return write_csv(rows, columns, replace(dialect, delimiter="\t") if table_format == "tsv" else dialect)
    return _WRITERS[table_format](rows, columns)


class TableFile:
    """A table that is rewritten as a whole, so that at every moment a whole one stands under its name.

    Parameters:
        location: a path or fsspec URL with a known ending.
        columns: the columns, in order.
        storage: the folder that it stands in, see `storage_of`; by default that of the path or URL.
        dialect: how CSV is written.

    Raises:
        InvalidRequest: the ending is not known, or the package that writes the format is not installed.
    """

    def __init__(
        self, location: str, columns: Sequence[str], storage: Storage | None = None, dialect: Dialect = PLAIN
    ) -> None:
        """Look at the name only."""
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
        """Whether a row that has changed can be encoded anew without the others."""
        return self.format in ("csv", "tsv", "jsonl")

    def lines(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """The text of each row in a format that has lines.

        Parameters:
            rows: values by column.
        """
        if self.format == "jsonl":
            return jsonl_lines(rows, self.columns)
        return csv_lines(rows, self.columns, self._dialect)

    def write_lines(self, lines: Iterable[str]) -> str:
        """Write a table of lines that are there already; see `write`.

        Parameters:
            lines: the text of every row, in order.
        """
        if self.format == "jsonl":
            return self._publish("".join(lines).encode())
        return self._publish("".join([csv_head(self.columns, self._dialect), *lines]).encode(self._dialect.encoding))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write the table beside its name and rename it; returns its path or URL. Blocks; run it in a thread.

        Parameters:
            rows: values by column.
        """
        return self._publish(encode_table(rows, self.columns, self.format, self._dialect))

    def _publish(self, content: bytes) -> str:
        with self._storage.staging() as staged:
            staged.write_bytes(content)
            return self._storage.publish(staged, self.name)


def _path_of(location: str) -> PurePosixPath:
    path = location.partition("?")[0].partition("#")[0] if "://" in location else location
    return PurePosixPath(path.replace("\\", "/"))


_ROWS_AT_ONCE = 4096
"""Rows of a Parquet file that are held in Arrow's and Python's form at once."""

_FOR_SPREADSHEETS = Dialect("utf-8-sig", spreadsheet=True)


def _read_tsv(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    rows, dialect = read_csv(content, encoding, delimiter="\t")
    return rows, replace(dialect, delimiter=",")


def _read_parquet(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    _, parquet = pyarrow()
    file = parquet.ParquetFile(io.BytesIO(content))
    return rows_of_arrow(file.schema_arrow.names, file.iter_batches(_ROWS_AT_ONCE)), PLAIN


def _read_excel(content: bytes, encoding: str | None) -> tuple[Iterable[Any], Dialect]:
    return read_excel(content), _FOR_SPREADSHEETS


def _write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    arrow, parquet = pyarrow()
    output = io.BytesIO()
    values = {name: [_storable(row.get(name)) for row in rows] for name in columns}
    parquet.write_table(arrow.table(values), output)
    return output.getvalue()


def _storable(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def _all_filled(rows: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    names = ColumnNames()
    return [row for each in rows if (row := _filled(names.row(each)))]


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's cells that are not empty."""
    values = {name: plain(value) for name, value in row.items() if not is_missing(value)}
    return {name: value for name, value in values.items() if value is not None and value != ""}


_READERS: dict[TableFormat, Callable[[bytes, str | None], tuple[Iterable[Any], Dialect]]] = {
    "csv": read_csv,
    "tsv": _read_tsv,
    "jsonl": read_jsonl,
    "parquet": _read_parquet,
    "xlsx": _read_excel,
}
_WRITERS: dict[TableFormat, Callable[[Sequence[Mapping[str, Any]], Sequence[str]], bytes]] = {
    "jsonl": write_jsonl,
    "parquet": _write_parquet,
    "xlsx": write_excel,
}


def folder_of(location: str) -> str:
    """The folder that a table stands in, where it is one that can be written into; the present one otherwise."""
    if "://" in location and urlsplit(location).scheme in ("http", "https"):
        return str(Path.cwd())
    path = location.partition("?")[0] if "://" in location else location
    folder, separator, _ = path.replace("\\", "/").rpartition("/")
    return folder if separator else "."

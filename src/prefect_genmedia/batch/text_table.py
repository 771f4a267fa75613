"""Text tables: detects a file's encoding and CSV dialect, and writes tables of results in the same dialect."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from prefect_genmedia.batch.columns import Header, is_known, refusal
from prefect_genmedia.text import csv_cell, csv_value, json_text

_PIECE_BYTES = 1024**2
"""Number of bytes decoded at a time."""

_BEGINNING = 65_536
"""Characters of a table that are searched for its delimiter."""

DELIMITERS = ",;\t|"
"""Possible delimiters of a CSV file; the first one wins a tie."""

_OURS = frozenset({"job_key", "provider_job_id", "error_kind"})
"""Columns that only a table of results has. Its cells were escaped by `csv_cell`; those of users' tables were not."""

_BOMS = {  # UTF-32 first: its BOM begins with that of UTF-16
    BOM_UTF32_LE: "utf-32",
    BOM_UTF32_BE: "utf-32",
    BOM_UTF8: "utf-8-sig",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
}
_SPREADSHEET_ENCODINGS = frozenset({"utf-8-sig", "utf-16", "gb18030"})
_SEPARATOR_LINE = re.compile(r"\s*\"?sep=([^\r\n])\"?[ \t]*(?:\r\n|\r|\n)", re.IGNORECASE)
_NUMBER_LIKE = re.compile(r"0\d+|\d{12,}|\d+[eE]\d+")
"""Ids that a spreadsheet would change: it drops leading zeros and keeps only 15 digits."""
_GUARDED_NUMBER = re.compile(rf"\t({_NUMBER_LIKE.pattern})")


@dataclass(frozen=True)
class Dialect:
    """The format of a text table.

    Args:
        encoding: name of the codec.
        delimiter: the delimiter of cells.
        spreadsheet: whether a spreadsheet wrote it, and is likely to open the table of results.
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    spreadsheet: bool = False


PLAIN = Dialect()


def codec_of(content: bytes, encoding: str | None = None) -> str:
    """Returns the codec of a table's text.

    Without `encoding`: the one that a byte order mark names, else UTF-16 if every other byte of the beginning is zero,
    else UTF-8, else GB18030 if that gives ordinary Chinese text.

    Args:
        content: the file's bytes.
        encoding: name of the codec, if the user gives one.

    Raises:
        InvalidRequest: the bytes are not text in any of these codecs.
    """
    named = encoding or next((codec for mark, codec in _BOMS.items() if content.startswith(mark)), None)
    if named is not None and named.lower().replace("_", "-") in ("utf-8", "utf8") and content.startswith(BOM_UTF8):
        named = "utf-8-sig"
    if named is None:
        named = _utf_16(content[:256]) or "utf-8"
    try:
        wrong_at = _undecodable(content, named)
    except LookupError:
        wrong_at = -1
    if wrong_at == -1:
        raise refusal(f"{encoding!r} is not an encoding that Python knows")
    if wrong_at is None:
        return named
    if named == "utf-8" and encoding is None and _is_chinese(content):
        return "gb18030"
    line = content.count(b"\n", 0, wrong_at) + 1
    raise refusal(f"line {line} is not {named} text; give the file's encoding, such as encoding='cp1252'")


def _undecodable(content: bytes, codec: str) -> int | None:
    """Returns the position of the first byte that a codec cannot decode; None if there is none. The text is discarded.

    Raises:
        LookupError: there is no such codec, or it is not a text codec.
    """
    io.TextIOWrapper(io.BytesIO(), codec)
    decoder = codecs.getincrementaldecoder(codec)()
    end = 0
    for piece in _pieces(content):
        end += len(piece)
        try:
            decoder.decode(piece, final=end == len(content))
        except UnicodeDecodeError as error:
            return max(end - len(error.object) + error.start, 0)
        except UnicodeError:  # UTF-16 and UTF-32 without a byte order mark
            return 0
    return None


def _pieces(content: bytes) -> Iterator[bytes]:
    for begin in range(0, len(content), _PIECE_BYTES):
        yield content[begin : begin + _PIECE_BYTES]


def _utf_16(beginning: bytes) -> str | None:
    """Detects UTF-16 without a byte order mark: each letter of a header has a zero byte."""
    half = len(beginning) // 2
    if half and beginning[1::2].count(0) > half // 2:
        return "utf-16-le"
    return "utf-16-be" if half and beginning[0::2].count(0) > half // 2 else None


def _text(content: bytes, codec: str, newline: str = "") -> TextIO:
    """Returns a text stream that decodes during reading, without a byte order mark."""
    text = io.TextIOWrapper(io.BytesIO(content), codec, newline=newline)
    return text if text.read(1) == "\ufeff" else io.TextIOWrapper(io.BytesIO(content), codec, newline=newline)


def _is_chinese(content: bytes) -> bool:
    """Whether the content is GB18030 text. Western text decodes too, but into rare characters."""
    foreign = common = 0
    try:
        for text in codecs.iterdecode(_pieces(content), "gb18030"):
            foreign += sum(not c.isascii() for c in text)
            common += sum(bool(c.encode("gb2312", "ignore")) for c in text if not c.isascii())
    except UnicodeError:
        return False
    return common >= 0.8 * foreign


def read_csv(
    content: bytes, encoding: str | None = None, delimiter: str | None = None
) -> tuple[Iterator[dict[str, Any]], Dialect]:
    """Returns a lazy iterator of a CSV file's rows, and its dialect.

    Args:
        content: the file's bytes.
        encoding: name of its codec; None to detect it.
        delimiter: the delimiter of its cells; None to detect it.

    Raises:
        InvalidRequest: it cannot be read; the error names the line.
    """
    codec = codec_of(content, encoding)
    beginning, text = _text(content, codec).read(_BEGINNING), _text(content, codec)
    line = _SEPARATOR_LINE.match(beginning)
    if line is not None:
        text.read(line.end())
    delimiter = line[1] if line else delimiter or _delimiter(beginning)
    spreadsheet = line is not None or codec in _SPREADSHEET_ENCODINGS
    rows = _rows(text, delimiter, first_line=2 if line else 1)
    return rows, Dialect(_written(codec), delimiter, spreadsheet)


def _written(codec: str) -> str:
    """Returns the encoding for results beside a table: the table's own if it can encode every character."""
    name = codec.lower().replace("_", "-")
    if name.startswith("utf"):
        return "utf-16" if name.startswith("utf-16") else codec
    return "gb18030" if name.startswith("gb") else "utf-8-sig"


def _delimiter(text: str) -> str:
    """Returns the delimiter that gives the first line the most known column names."""

    def score(delimiter: str) -> tuple[int, int]:
        try:
            cells = next(cells for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if cells)
        except (csv.Error, StopIteration):
            return 0, 0
        return sum(map(is_known, cells)), len(cells)

    return max(DELIMITERS, key=score)


def _rows(text: TextIO, delimiter: str, first_line: int) -> Iterator[dict[str, Any]]:
    header: Header | None = None
    guarded = False
    for line, cells in _records(text, delimiter, first_line):
        if not any(cells):
            continue  # spreadsheets leave empty rows at the end
        if header is None:
            header = Header.of(cells)
            guarded = set(header.names) >= _OURS
        else:
            row = header.row(cells, f"line {line}")
            yield {name: _unguarded(cell) for name, cell in row.items()} if guarded else row


def _records(text: TextIO, delimiter: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Yields each record with the number of its first line."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = first_line + reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise refusal(f"line {line}: the quotes cannot be read: {error}") from None
        yield line, cells


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], dialect: Dialect = PLAIN) -> bytes:
    """Returns a CSV file's bytes in a dialect.

    Args:
        rows: values by column.
        columns: the columns, in order.
        dialect: the dialect to write in.
    """
    return "".join([csv_head(columns, dialect), *csv_lines(rows, columns, dialect)]).encode(dialect.encoding)


def csv_head(columns: Sequence[str], dialect: Dialect) -> str:
    """Returns the header line of a CSV file, with its line ending.

    Args:
        columns: the columns, in order.
        dialect: the dialect to write in.
    """
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=dialect.delimiter).writerow(columns)
    return text.getvalue()


def csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], dialect: Dialect) -> Iterator[str]:
    """Yields the text of each row, with its line ending; the text may contain line feeds.

    Args:
        rows: values by column.
        columns: the columns, in order.
        dialect: the dialect to write in.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=dialect.delimiter)
    guard = _number_guarded if dialect.spreadsheet else csv_cell
    for row in rows:
        writer.writerow([guard(row.get(name, "")) for name in columns])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _number_guarded(value: Any) -> Any:
    """Escapes a cell so that a spreadsheet neither runs it as a formula nor converts text to a number."""
    if isinstance(value, str) and _NUMBER_LIKE.fullmatch(value):
        return f"\t{value}"
    return csv_cell(value)


def _unguarded(cell: str) -> str:
    number = _GUARDED_NUMBER.fullmatch(cell)
    return number[1] if number else csv_value(cell)


def read_jsonl(content: bytes, encoding: str | None = None) -> tuple[Iterator[dict[str, Any]], Dialect]:
    """Returns a lazy iterator of a JSON lines file's rows: one object per line. Only a line feed ends a line.

    Args:
        content: the file's bytes.
        encoding: name of its codec; None to detect it.

    Raises:
        InvalidRequest: it cannot be read; the error names the line.
    """
    return _objects(_text(content, codec_of(content, encoding), newline="\n")), PLAIN


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise refusal(f"line {number}, column {error.colno} is not JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise refusal(f"line {number} cannot be read: {error}") from None
        if not isinstance(row, dict):
            raise refusal(f"line {number} is not a JSON object")
        yield row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {doubled!r} twice")
    return found


def write_jsonl(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Returns a JSON lines file's bytes.

    Args:
        rows: values by column.
        columns: the columns, in order; missing cells are null.
    """
    return "".join(jsonl_lines(rows, columns)).encode()


def jsonl_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yields the text of each row, with its line ending.

    Args:
        rows: values by column.
        columns: the columns, in order; missing cells are null.
    """
    return (f"{json_text({name: row.get(name) for name in columns})}\n" for row in rows)

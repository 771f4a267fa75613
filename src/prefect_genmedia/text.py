"""Text from outside: cleaned before it is stored or shown, and escaped where it must be kept as it is."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

STATUS_CHARACTERS = 128
"""Width of the ledger's column for a provider's status."""

CODE_CHARACTERS = 64
"""Width of the ledger's columns for an error's kind and code."""

WORDS_CHARACTERS = 500
"""How much of a provider's sentence is shown."""

ID_BYTES = 4096
"""The longest id of a provider that is stored, in UTF-8."""

SHOWN_ID_CHARACTERS = 128
"""How much of an id stands in logs, names, tables and cards; `jobs show` has all of it."""

BULLET = " • "
"""Stands before each of several problems in one line of text; what has more than a line makes a list of them."""

MASKED = "\ufffd"
"""Stands for a character that no database stores: NUL, and half of a surrogate pair."""

_NESTED = 32
"""JSON that is nested deeper than this, in levels, is cut: no provider documents more than five."""

# CSI sequences such as colours, OSC sequences such as titles and links, and the two-character ones (ECMA-48).
_ANSI = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b[ -/]*[0-~]"
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that show as nothing, although Unicode calls them letters, marks or symbols."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet runs as a formula, or that `csv_cell` has guarded already."""


def clean_text(text: str, limit: int | None = None) -> str:
    """The text on one line, without what could disguise it or command a terminal; safe for every database.

    Line breaks, tabs and other control characters become spaces. ANSI escape sequences, bidirectional overrides and
    invisible characters are removed. NUL and lone surrogates become U+FFFD.

    Args:
        text: what came from outside.
        limit: characters, at most; None for any number.
    """
    if limit is not None and len(text) > 8 * limit:
        text = text[: 8 * limit]  # what is cut away need not be cleaned first
    if not _is_clean(text):
        text = _ANSI.sub("", _UNSTORABLE.sub(MASKED, text))
        text = " ".join("".join(map(_cleaned, text)).split())
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


def clean_word(value: Any, limit: int | None = STATUS_CHARACTERS) -> str:
    """A word or number of a JSON answer as clean text; empty for anything else.

    Args:
        value: the JSON value.
        limit: characters, at most; None where a secret must be found in it before it is cut.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return clean_text(str(value), limit).strip()


def clean_json(value: Any, depth: int = _NESTED) -> Any:
    """A JSON value with every text in it cleaned; what is nested too deeply becomes an ellipsis.

    Args:
        value: the JSON value.
        depth: how many levels are kept.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict | list) and depth == 0:
        return "…"
    if isinstance(value, dict):
        return {clean_text(str(name)): clean_json(inner, depth - 1) for name, inner in value.items()}
    return [clean_json(inner, depth - 1) for inner in value] if isinstance(value, list) else value


def storable(text: str) -> str:
    """The text as every database and file can store it: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub(MASKED, text)


def escaped(text: str, limit: int | None = None) -> str:
    r"""The text on one line, with everything that cannot be seen written as `\x00` or `\u202e`.

    Args:
        text: an id, or another text that must be recognized.
        limit: characters, at most; None for any number.
    """
    shown = text if _is_clean(text) else "".join(c if _is_clean(c) else _code_point(c) for c in text)
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 1]}…"


def shown_id(provider_job_id: str | None) -> str:
    """A provider's id of a job for people: escaped and cut; empty for None."""
    return escaped(provider_job_id or "", SHOWN_ID_CHARACTERS)


def id_problem(provider_job_id: str) -> str | None:
    """Why an id cannot be stored unaltered; None where it can.

    Args:
        provider_job_id: the provider's id of a job.
    """
    if _UNSTORABLE.search(provider_job_id):
        return "it contains NUL or half of a surrogate pair"
    if len(provider_job_id.encode()) > ID_BYTES:
        return f"it is longer than {ID_BYTES} bytes"
    return None


def path_segment(text: str) -> str:
    """The text as one segment of a URL's path, whatever is in it: no `/`, `?`, `#` or `..` of it takes effect."""
    segment = quote(text, safe="", errors="surrogatepass")
    return segment.replace(".", "%2E") if segment in (".", "..") else segment


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that can be printed anywhere: control and invisible characters stand as JSON's own escapes.

    Args:
        value: what `json.dumps` takes.
        indent: spaces for each level; None for a single line.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if all(map(_is_clean, text.split("\n"))):
        return text
    return "".join(c if c == "\n" or _is_clean(c) else json.dumps(c)[1:-1] for c in text)


_VALIDATION = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
}
"""What pydantic says in a programmer's words, by the name of its finding."""

_SYSTEM: dict[type[OSError], str] = {
    FileNotFoundError: "there is no such file or folder",
    IsADirectoryError: "it is a folder",
    NotADirectoryError: "a part of its path is not a folder",
    PermissionError: "permission denied",
}


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of blocks, to the eighth of a character.

    Args:
        share: how much of the width is filled, from 0 to 1; what lies outside is cut.
        width: characters.
        ascii_only: whether only ASCII can be shown.
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if ascii_only:
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun, such as `1 job` or `2 jobs`.

    Args:
        number: how many.
        noun: what one of them is called.
        plural: what several are called; the noun and an s by default.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def validation_words(kind: str, message: str) -> str:
    """A finding of pydantic in a user's words, such as `is missing`.

    Args:
        kind: pydantic's name of the finding.
        message: pydantic's own sentence, which is kept where it is clear.
    """
    return _VALIDATION.get(kind, message.removeprefix("Value error, ").rstrip("."))


_NAMES_ITS_VALUE = re.compile(r"literal_error|enum|multiple_of|(greater|less)_than.*|(int|float|bool|decimal)_.*")
"""Pydantic's findings about choices, numbers and switches."""

_NUMBER_LIKE = re.compile(r"[0-9.,:x×+-]{1,12}")
"""Texts that are named: sizes, ratios, numbers. Any other may be a key that was pasted into the wrong field."""


def named_value(kind: str, value: object) -> str:
    """The value that does not fit, such as `, not 7`; empty if it must not be named.

    Args:
        kind: pydantic's name of the finding.
        value: what was given.
    """
    if not isinstance(value, str | int | float) or not _NAMES_ITS_VALUE.fullmatch(kind):
        return ""
    text = str(value)
    if not isinstance(value, bool) and not _NUMBER_LIKE.fullmatch(text):
        return ""
    return f", not {text!r}" if isinstance(value, str) else f", not {text}"


def error_words(error: BaseException, known: str = "") -> str:
    """An error of the operating system or of a library in words: without numbers, and without Python's names.

    Args:
        error: the error.
        known: the path that the sentence around it names, which is not repeated.
    """
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}".rstrip(": ")
    words = next((words for kind, words in _SYSTEM.items() if isinstance(error, kind)), "")
    words = words or (f"{error.strerror[:1].lower()}{error.strerror[1:]}" if error.strerror else "")
    if not words:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    detail = str(error.filename) if error.filename is not None else "" if error.strerror else str(error)
    return words if detail in ("", known) else f"{words}: {detail}"


def needing_person(number: int) -> str:
    """How many jobs need a person, such as `1 needs a person`.

    Args:
        number: how many.
    """
    return f"{number} {'needs' if number == 1 else 'need'} a person"


def cut_at_word(text: str, limit: int) -> str:
    """The text, or as many of its words as fit, with an ellipsis.

    Args:
        text: the text.
        limit: characters, at most.
    """
    if len(text) <= limit:
        return text
    whole_words = text[:limit].rpartition(" ")[0].rstrip(" ,;:·-(")
    # A text without blanks, such as Chinese or a URL, is cut where it must be.
    return f"{whole_words if len(whole_words) > limit // 2 else text[: limit - 1]}…"


def iso_time(seconds: float | None) -> str | None:
    """A time in ISO 8601, in UTC, such as `2026-05-01T10:00:00.250Z`; None for None and for 0.

    Args:
        seconds: seconds since 1970.
    """
    if not seconds:
        return None
    try:
        found = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):  # a provider may name any number
        return None
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def csv_cell(value: Any) -> Any:
    """The value as a cell that no spreadsheet runs as a formula, and that every file can store.

    Args:
        value: a cell's value; only text is changed.
    """
    if not isinstance(value, str):
        return value
    cell = storable(value)
    return f"'{cell}" if _FORMULA.match(cell) else cell


def csv_value(cell: str) -> str:
    """What a cell held before `csv_cell` guarded it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_clean(text: str) -> bool:
    if text.isprintable():
        return text.isascii() or _INVISIBLE.isdisjoint(text)
    return all(map(_is_clean_character, text))


def _is_clean_character(c: str) -> bool:
    # Ideographic and no-break spaces, private and not yet assigned characters are not "printable", and do no harm.
    return c not in _INVISIBLE and (c.isprintable() or unicodedata.category(c) in ("Zs", "Co", "Cn"))


def _cleaned(c: str) -> str:
    if _is_clean_character(c):
        return c
    return " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else ""


def _code_point(c: str) -> str:
    number = ord(c)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

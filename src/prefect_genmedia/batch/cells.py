"""Converts a table's cells to request fields: CSV has only text, and Parquet may have 5.0 for 5."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from prefect_genmedia.batch.columns import ATTRIBUTION, OWN, known_fields, near_miss
from prefect_genmedia.errors import FieldProblem
from prefect_genmedia.providers.inputs import is_input, is_public, local_path
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import clean_text, escaped, storable

_MISSING_WORDS = frozenset({"null", "none", "nil", "n/a", "#n/a", "na", "#na", "<na>", "nan", "-nan", "nat", "\\n"})
"""How databases, spreadsheets and pandas write an empty cell, in lower case. In text fields they are normal words."""

_LARGEST_EXACT = 2.0**53
"""Integers from this size on are not exact as floats: spreadsheets and pandas have rounded them."""

_SEPARATORS = (r"[\r\n]+", r"\s+", r",", r";", r"\|", r"[\s,;|]+")
"""Possible separators of several files in a cell; the first one that yields only files or URLs is used."""


_LISTED = re.compile(r"[\s,;|]")
"""Characters that occur in a list of URLs, but not in a single URL."""


class _Empty:
    """The type of the value that represents an empty cell."""


EMPTY = _Empty()


@dataclass
class SortedCells:
    """The cells of a row.

    Args:
        kind: the kind of the row's request.
        model: the request's model; None if there is no such kind.
        inputs: values of the request's fields.
        extra: cells of the user's own columns, which are not sent.
        problems: the problems of the cells.
    """

    kind: str
    model: type[GenerationRequest] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    problems: list[FieldProblem] = field(default_factory=list)


class CellSorter:
    """Sorts the cells of rows into request fields and the user's own columns.

    Args:
        kind: the kind for rows that name none.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._kinds = kinds()
        self._by_word = {name.casefold(): name for name in self._kinds}
        self._fields = known_fields()

    def sort(self, cells: Mapping[str, Any]) -> SortedCells:
        """Sort the cells of a row.

        Args:
            cells: the row's non-empty cells, by column.
        """
        word = bare(cells.get("kind", self._kind))
        word = self._kind if word.casefold() in _MISSING_WORDS else word
        row = SortedCells(self._by_word.get(word.casefold(), word))
        row.model = self._kinds.get(row.kind)
        if row.model is None:
            known = ", ".join(sorted(self._kinds)) or "none"
            row.problems.append(FieldProblem("kind", f"{word!r} is not a kind of request; the kinds are {known}"))
        for name, value in cells.items():
            if name in OWN:
                continue
            if row.model is not None and name in row.model.model_fields:
                self._take(row, name, value)
            elif name in ATTRIBUTION:
                row.extra[name] = value
            elif (problem := self._problem(row, name, value, cells)) is not None:
                row.problems.append(FieldProblem(name, problem))
            elif name not in self._fields:
                row.extra[name] = value
        return row

    def _take(self, row: SortedCells, name: str, value: Any) -> None:
        assert row.model is not None
        if isinstance(value, str) and (problem := _unstorable(value)) is not None:
            row.problems.append(FieldProblem(name, problem))
            return
        try:
            taken = cell_value(row.model, name, value)
        except ValueError as error:
            row.problems.append(FieldProblem(name, str(error)))
            return
        if taken is not EMPTY:
            row.inputs[name] = taken

    def _problem(self, row: SortedCells, name: str, value: Any, cells: Mapping[str, Any]) -> str | None:
        """Returns why a filled column that is not a field of the row's kind is a mistake; None for a user's column."""
        if row.model is None or (isinstance(value, str) and not bare(value)):
            return None
        meant = _meant(row.model, name, tuple(cells))
        hint = f"; did you mean {meant!r}?" if meant else ""
        if name in self._fields:
            if isinstance(value, str) and bare(value).casefold() in _MISSING_WORDS:
                return None
            others = sorted(kind for kind, model in self._kinds.items() if name in model.model_fields)
            return f"is no field of {row.kind}, but of {' and '.join(others)}{hint or ': empty the cell, or rename it'}"
        return f"is no field of {row.kind}{hint} A column of your own needs another name" if meant else None


@lru_cache(maxsize=4096)
def _meant(model: type[GenerationRequest], name: str, columns: tuple[str, ...]) -> str | None:
    """Returns the field, among those missing in the row, of which a column's name is a misspelling."""
    return near_miss(name, tuple(each for each in (*model.model_fields, "kind") if each not in columns))


_VISIBLE = frozenset(map(chr, range(33, 127)))
"""The visible ASCII characters."""


def bare(value: Any) -> str:
    """Returns a cell as a word, without surrounding white space and invisible characters.

    Args:
        value: the cell's value.
    """
    text = str(value).strip()
    if not text or (text[0] in _VISIBLE and text[-1] in _VISIBLE):
        return text
    while text and not clean_text(text[0]).strip():
        text = text[1:]
    while text and not clean_text(text[-1]).strip():
        text = text[:-1]
    return text


def whole(value: Any) -> Any:
    """Converts a float that is a whole number to an integer; returns any other value unchanged.

    Args:
        value: a cell's value.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def id_text(value: Any) -> str:
    """Returns a row's id as text; empty if it has none.

    Args:
        value: the cell's value.
    """
    return str(whole(value)).strip()


def id_problem(value: Any) -> str | None:
    """Returns why an id cannot be used as it is; None if it can.

    Args:
        value: the cell's value.
    """
    if isinstance(value, bool | list | dict):
        return "must be text or a number"
    if isinstance(value, float) and abs(value) >= _LARGEST_EXACT:
        return "is a number that was rounded on its way here: store ids as text"
    text = id_text(value)
    if clean_text(text) != text:
        return f"has characters that cannot be seen: {escaped(text, 80)!r}"
    return None


def _unstorable(text: str) -> str | None:
    if storable(text) == text:
        return None
    what = "NUL" if "\0" in text else "half of a surrogate pair"
    return f"contains {what}, which is no text that could be sent"


def cell_value(model: type[GenerationRequest], name: str, value: Any) -> Any:
    """Converts a cell to the type of its field; returns `EMPTY` for an empty cell.

    Text fields keep the cell unchanged. For other fields, surrounding white space is ignored, and words such as NULL
    count as empty.

    Args:
        model: the request's model.
        name: the field.
        value: the cell's value.

    Raises:
        ValueError: the value is invalid; the message says why.
    """
    return _reader(model, name)(whole(value))


@lru_cache(maxsize=1024)
def _reader(model: type[GenerationRequest], name: str) -> Callable[[Any], Any]:
    """Returns the function that converts cells of a field, chosen by the field's type."""
    described = model.model_fields[name]
    annotation = described.annotation
    if _is_sequence(annotation):
        is_files = is_input(described)
        return lambda value: _several(value, is_files)
    if is_input(described) or "fetchable" in repr((annotation, described.metadata)):
        return _one_file
    choices = {bare(choice).casefold(): choice for choice in _choices(annotation)}
    if choices:
        return lambda value: _choice(value, choices)
    if not _takes_text(annotation):
        return _json_value
    if name == model.model_key and isinstance(described.default, str):
        default = described.default
        return lambda value: _choice(value, {default.casefold(): default})
    return _text


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _word(value: Any) -> str | None:
    """Returns a cell of a non-text field as a word; None if it is empty."""
    word = bare(value)
    return None if not word or word.casefold() in _MISSING_WORDS else word


def _choice(value: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return _choice(str(value), choices) if isinstance(value, int | float) else value
    if (known := choices.get(bare(value).casefold())) is not None:
        return known
    return EMPTY if (word := _word(value)) is None else word


def _json_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if (word := _word(value)) is None:
        return EMPTY
    try:
        return whole(json.loads(value))
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return word


def _one_file(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if (word := _word(value)) is None:
        return EMPTY
    if len(_files(word) or ()) > 1:
        raise ValueError("names several files; this field takes one")
    return word


def _several(value: Any, is_files: bool) -> Any:
    if isinstance(value, list | tuple):
        return [each for each in value if each is not None]
    if not isinstance(value, str):
        return value
    if (word := _word(value)) is None:
        return EMPTY
    if word.startswith("["):
        return _json_value(word)
    if not is_files:
        return word.split()
    files = _files(word)
    if files is not None:
        return files
    if re.search(r"[,;|]", word) and not is_public(word):
        raise ValueError(f"{word[:120]!r} is neither a file nor a list of URLs and files; separate them by spaces")
    return word.split()  # URLs contain no spaces; the inspection reports missing files


def _files(text: str) -> list[str] | None:
    """Returns the URLs and existing files that a cell names; None if it names anything else."""
    if is_public(text) and not _LISTED.search(text):
        return [text]
    if _exists(text):
        return [text]
    for separator in _SEPARATORS:
        parts = [part.strip() for part in re.split(separator, text) if part.strip()]
        if len(parts) > 1 and all(_is_url(part) or _exists(part) for part in parts):
            # A further separator in a part, such as a comma after a URL, may form a list within the list.
            return [file for part in parts for file in (_files(part) or [part])]
    return [text] if _is_url(text) and not re.search(r"\s", text) else None


def _is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://\S", text) is not None and local_path(text) is None


def _exists(text: str) -> bool:
    path = None if is_public(text) else local_path(text)
    try:
        return path is not None and path.is_file()
    except (OSError, ValueError):  # the name is too long, or contains NUL
        return False


def _inner(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        yield from get_args(annotation)


def _takes_text(annotation: Any) -> bool:
    return annotation is str or any(map(_takes_text, _inner(annotation))) or bool(_choices(annotation))


def _choices(annotation: Any) -> list[str]:
    """Returns the only texts that a field accepts, if it has such a list."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    inner = list(_inner(annotation))
    return [] if str in inner else [choice for each in inner for choice in _choices(each)]


def _is_sequence(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(map(_is_sequence, _inner(annotation)))

"""Escapes text of providers and users for Markdown in the Prefect UI: shown unchanged, never interpreted.

The UI renders markdown artifacts, descriptions and forms as GitHub-flavoured Markdown with HTML; its first version also
renders the text cells of table artifacts. A link in a provider's text would become a link of the page, and an image
would be requested as soon as somebody opens the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

# Invisible characters that reorder or hide text. U+200C and U+200D stay, because scripts and emoji need them.
_HIDDEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")

# A word has every character that an address can have, except those that end or break a code span.
_WORD_OR_MARK = re.compile(r"[!-\[\]-_a-{}~]+|[\\`|]")
_ADDRESS = re.compile(r"://|@|www\.", re.IGNORECASE)
# Inside a word, `_` is an emphasis mark only at an edge; `#` is a mark only where a word begins.
_SPECIAL = re.compile(r"[*\[\]<~]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|(?<!.)#")
_LINE_START = re.compile(r"^(?:([0-9]{1,9})(?=[.)])|(?=[-+>=:]))")
_CODE = re.compile(r"`([^`]+)`")

Cell: TypeAlias = str | list[str]
"""A text in a table artifact."""

_MARKS = frozenset("*<>[]()|`\\ ")
"""Characters that could end a bare URL in Markdown, or change its meaning."""

_KEPT_IN_URLS = "/:?#@!$&=+,%~"
"""Characters of a link's target that are not escaped: none of them ends it or forms an entity."""


def clean(text: Any) -> str:
    """Returns the text on one line, without control, bidirectional and hidden characters.

    Args:
        text: the text to show; the items of a list are joined by commas.
    """
    joined = ", ".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
    return _CONTROLS.sub("\ufffd", _BREAKS.sub(" ", _HIDDEN.sub("", joined))).strip()


def escape(text: Any) -> str:
    """Returns Markdown that renders as the cleaned text, in paragraphs, headings, table cells and link texts.

    Addresses become code: otherwise the UI turns them into links, even if all their characters are escaped.

    Args:
        text: the text to show.
    """
    return _LINE_START.sub(r"\1\\", _inline(clean(text)))


def code(text: Any) -> str:
    """Returns Markdown that shows the cleaned text as code, or as plain text if a code span cannot contain it.

    Args:
        text: the text to show.
    """
    cleaned = clean(text)
    # A pipe is not safe in a code span of a table: `\\|` has more than one meaning there.
    return f"`{cleaned}`" if cleaned and not set("`|") & set(cleaned) else escape(cleaned)


def prose(text: str) -> str:
    """As `escape`, but text between two backticks is shown as code: messages of this package contain commands.

    Args:
        text: the text to show; a value in it can at most be shown as code.
    """
    parts = _CODE.split(clean(text))
    shown = (code(part) if number % 2 else _inline(part) for number, part in enumerate(parts))
    return _LINE_START.sub(r"\1\\", "".join(shown))


def link(uri: str) -> str:
    """Returns Markdown that links to a file if a browser may open it, and otherwise shows its path or URL as code.

    Args:
        uri: a path or URL; only http and https URLs without user and password become links.
    """
    target = _link_target(uri)
    return code(uri) if target is None else f"[{escape(uri)}]({target})"


def linked(text: str, url: str) -> str:
    """Returns Markdown that links a text to a URL; only the text if the URL cannot be a link.

    Args:
        text: the text to show.
        url: an http or https URL.
    """
    target = _link_target(url)
    return escape(text) if target is None else f"[{escape(text)}]({target})"


def link_cell(url: str) -> Cell:
    """Returns a table artifact's value for a URL of this package: a link in the UI that renders cells as Markdown.

    Args:
        url: an http or https URL; anything else is shown unchanged.
    """
    return url if _link_target(url) == url and not set(url) & _MARKS else cell(url)


def bullets(texts: Iterable[str]) -> list[str]:
    """Returns the lines of a Markdown list.

    Args:
        texts: the texts to show.
    """
    return [f"- {escape(text)}" for text in texts]


def cell(text: str) -> Cell:
    """Returns a table artifact's value that shows the cleaned text.

    Args:
        text: the text to show.
    """
    return verbatim(clean(text))


def verbatim(text: str) -> Cell:
    """Returns a table artifact's value that a program reads back with `read_cell`; the text is not cleaned.

    One of Prefect's two UIs renders cells as Markdown, and the other shows them unchanged, so no escaped text is right
    in both. Text that could be taken for Markdown is put into a list, which neither UI interprets.

    Args:
        text: the text to show.
    """
    return text if text in (escape(text), prose(text)) else [text]


def read_cell(value: Cell) -> str:
    """Returns the text in a table artifact's value.

    Args:
        value: a value from `cell` or `verbatim`.
    """
    return value if isinstance(value, str) else value[0]


def _inline(text: str) -> str:
    return _WORD_OR_MARK.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    word = found.group()
    if word in ("\\", "`", "|"):
        return f"\\{word}"
    return f"`{word}`" if _ADDRESS.search(word) else _SPECIAL.sub(r"\\\g<0>", word)


def _link_target(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return None
    trusted = parts.scheme in ("http", "https") and host and "@" not in parts.netloc and "[" not in parts.netloc
    return quote(uri, safe=_KEPT_IN_URLS) if trusted and clean(uri) == uri else None

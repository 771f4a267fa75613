"""The project and tags that a job is charged to. They are not part of the identity and are never sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.text import clean_text

PROJECT_CHARACTERS = 100
"""Width of the ledger's column. A longer project is truncated: a label must not stop a job."""

TAG_CHARACTERS = 64
MOST_TAGS = 20


@dataclass(frozen=True)
class Attribution:
    """A project and tags, cleaned and bounded. Use `of` to construct it.

    Args:
        project: what the job is charged to; empty if not given.
        tags: further words to group jobs by, each once.
    """

    project: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, project: Any = "", tags: Any = ()) -> Attribution:
        """Read a project and tags as a user wrote them.

        Args:
            project: text or a number; None for none.
            tags: texts; or one text that separates them by commas, semicolons, bars or line breaks, or is a JSON array.
        """
        words = (_word(tag, TAG_CHARACTERS) for tag in _listed(tags))
        return cls(_word(project, PROJECT_CHARACTERS), tuple(dict.fromkeys(filter(None, words)))[:MOST_TAGS])

    def over(self, other: Attribution) -> Attribution:
        """Returns this attribution with the other's project if this one has none, and with the tags of both.

        Args:
            other: the less specific attribution.
        """
        tags = tuple(dict.fromkeys((*self.tags, *other.tags)))[:MOST_TAGS]
        return Attribution(self.project or other.project, tags)


def _word(value: Any, limit: int) -> str:
    if value is None or isinstance(value, bool | dict | list | tuple):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet's 2026.0
    text = str(value)
    return clean_text(unsigned_text(text[: 8 * limit]), limit).strip()


def _listed(tags: Any) -> Iterable[Any]:
    if not isinstance(tags, str):
        return tags if isinstance(tags, Iterable) and not isinstance(tags, dict) else (tags,)
    if tags.lstrip().startswith("["):
        try:
            found = json.loads(tags)
        except (ValueError, RecursionError):  # starts with a bracket, but is not JSON
            pass
        else:
            return found if isinstance(found, list) else (found,)
    return re.split(r"[,;|\r\n，；、]+", tags)

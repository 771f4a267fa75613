"""The map of field cases: `cases*.toml` in this folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One case: its id, its family, where it is from, and the test that shows it."""

    id: str
    kind: str
    source: str
    test: str


def all_cases() -> list[Case]:
    found = []
    for file in sorted(FOLDER.glob("cases*.toml")):
        tables = tomllib.loads(file.read_text("utf-8")).get("case", [])
        found += [Case(**table) for table in tables]
    return found

"""The map of field cases is complete: each case has a source and a test, and each test of this folder has a case."""

from __future__ import annotations

import ast
import re
from collections import Counter

from field_cases import FOLDER, all_cases


def tests_here() -> set[str]:
    """Each test of the folder, as `file::function`, but for those of this file."""
    found = set()
    for file in FOLDER.glob("test_*.py"):
        if file.name == "test_field_cases.py":
            continue
        tree = ast.parse(file.read_text("utf-8"))
        functions = [each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        found |= {f"{file.name}::{each.name}" for each in functions if each.name.startswith("test_")}
    return found


def test_each_case_has_an_id_of_its_own_a_kind_and_a_public_source() -> None:
    cases = all_cases()
    assert [each for each, count in Counter(case.id for case in cases).items() if count > 1] == []
    assert [case.id for case in cases if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", case.id)] == []
    assert [case.id for case in cases if not case.kind] == []
    assert [case.id for case in cases if not re.fullmatch(r"https://[^\s/]+\.[^\s/]+/\S*", case.source)] == []


def test_each_case_names_a_test_that_exists() -> None:
    there = tests_here()
    assert [case.id for case in all_cases() if case.test.partition("[")[0] not in there] == []


def test_each_test_shows_a_case() -> None:
    assert tests_here() - {case.test.partition("[")[0] for case in all_cases()} == set()

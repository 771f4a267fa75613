"""Who reads a public function's docstring learns what each of its parameters is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path
    for folder in ("src/prefect_genmedia", "flows", "deployments")
    for path in (ROOT / folder).rglob("*.py")
    if not {"migrations", "simulator"} & set(path.parts)
)
"""The simulator is a program, not a library; its options are the command line's."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Functions, and methods of classes, whose names do not begin with an underscore."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield prefix + node.name, node


def parameters_of(function: Function) -> list[str]:
    every = function.args
    names = [each.arg for each in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def silent_about(function: Function) -> set[str]:
    """Parameters that the docstring neither lists (`name: what it is`) nor names in its sentences."""
    text = ast.get_docstring(function) or ""
    listed = re.findall(r"^\s+(\w+(?:, \w+)*): |^(\w+)$", text, re.MULTILINE)
    named = {name for names, alone in listed for name in (names or alone).split(", ")}
    return set(parameters_of(function)) - named - set(re.findall(r"`(\w+)`", text))


@pytest.fixture(scope="module")
def explained() -> set[tuple[str, ...]]:
    """Methods that are explained where they are declared, in a protocol or a base class."""
    trees = [ast.parse(module.read_text("utf-8")) for module in MODULES]
    return {
        (function.name, *parameters_of(function))
        for tree in trees
        for name, function in public_functions(tree.body)
        if "." in name and not silent_about(function)
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_parameter_of_a_public_function_is_explained(module: Path, explained: set[tuple[str, ...]]) -> None:
    silent = {}
    for name, function in public_functions(ast.parse(module.read_text("utf-8")).body):
        parameters = parameters_of(function)
        known = "." in name and (function.name, *parameters) in explained
        if len(parameters) > 1 and not known and (missing := silent_about(function)):
            silent[f"{name}:{function.lineno}"] = sorted(missing)
    assert silent == {}


def test_the_sections_of_docstrings_have_googles_names() -> None:
    folders = ("src", "flows", "deployments", "examples", "tests", "benchmarks", ".ci")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    other = re.compile(r"^ +(Parameters|Params|Arguments|Return|Raise|Yield):$", re.MULTILINE)
    assert [str(path.relative_to(ROOT)) for path in files if other.search(path.read_text("utf-8"))] == []

"""What holds for the repository as a whole: its words, its habits, and the pages that are not in `docs/`."""

from __future__ import annotations

import ast
import email
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from documents import FENCE, ROOT, project

RETIRED = frozenset("lane keeper conduct mortal landing told discreet seen judged beat surroundings".split())
"""Words that say less than the terms in use: slot, supervisor, run, ephemeral, staged, reported, redacted, inspected,
validated, heartbeat, context."""
STORED = {"seen_at": "a column of the ledger"}
"""Names with such a word that stay, since data has them."""

SOURCES = [
    path
    for folder in ("src", "flows", "deployments", "blocks", "tests", "benchmarks", "examples", ".ci")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def words_of(name: str) -> set[str]:
    """The words of an identifier, in the singular: `LaneKeepers` has `lane` and `keeper`."""
    separate = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return {form for word in separate.split("_") for form in (word, word.removesuffix("s"))}


def identifiers_of(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines, uses or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            yield node.name or ""
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
        elif isinstance(node, ast.alias):
            yield from [*node.name.split("."), node.asname or ""]
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from node.names


def test_no_identifier_has_a_retired_word() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in (path.stem, *identifiers_of(ast.parse(path.read_text("utf-8"))))
        if words_of(name) & RETIRED and name not in STORED
    }
    assert sorted(found) == []


@pytest.mark.parametrize("name", ["tell_lanes", "TokenKeeper", "test_it_is_told_once", "BEAT_SECONDS", "was_seen"])
def test_a_retired_word_is_found_in_any_spelling(name: str) -> None:
    assert set(identifiers_of(ast.parse(f"def {name}(): pass"))) == {name}
    assert words_of(name) & RETIRED


def test_a_retired_word_inside_of_another_word_is_none() -> None:
    assert not words_of("HEARTBEAT_SECONDS unforeseen planes misconduct".replace(" ", "_")) & RETIRED


# --- no code is there twice ---

SHORTEST_REPEAT = 12
REPEATED_ON_PURPOSE = (
    ("flows/", "flows/"),
    ("src/prefect_genmedia/providers/", "src/prefect_genmedia/providers/"),
    ("src/prefect_genmedia/__init__.py", "src/prefect_genmedia/sync.py"),
)
"""Where whole runs of lines are repeated; docs/architecture.md says why."""


def code_of(path: Path) -> list[str]:
    """A file's lines that are not empty, without imports and without the list of its public names."""
    text = path.read_text("utf-8")
    left_out: set[int] = set()
    for node in ast.parse(text).body:
        is_names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if is_names or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return [line.strip() for number, line in lines if line.strip() and number not in left_out]


def repeats(files: dict[str, list[str]]) -> set[tuple[str, str, str]]:
    """Pairs of files that share a run of lines, and the first of these lines."""
    first: dict[tuple[str, ...], str] = {}
    found = {}
    for name, lines in files.items():
        for start in range(len(lines) - SHORTEST_REPEAT + 1):
            run = tuple(lines[start : start + SHORTEST_REPEAT])
            if (other := first.setdefault(run, name)) != name:
                found.setdefault((other, name), run[0])
    return {(*pair, line) for pair, line in found.items()}


def test_no_twelve_lines_are_in_two_files_unless_that_is_explained() -> None:
    found = repeats({str(path.relative_to(ROOT)): code_of(path) for path in SOURCES})
    unexplained = [
        pair
        for pair in sorted(found)
        if not any(pair[0].startswith(one) and pair[1].startswith(other) for one, other in REPEATED_ON_PURPOSE)
    ]
    assert unexplained == []


def test_a_repeated_run_of_lines_is_found_wherever_it_begins() -> None:
    run = [f"line {number}" for number in range(SHORTEST_REPEAT)]
    assert repeats({"a.py": ["x", *run], "b.py": [*run, "y"], "c.py": run[1:]}) == {("a.py", "b.py", "line 0")}


# --- the pages beside the documentation ---

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_repositorys_own_files_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(FENCE.sub("", page.read_text("utf-8")))]
    inside = [link for link in links if link and not link.startswith(("http://", "https://"))]
    assert [link for link in inside if not (page.parent / link).exists()] == []


# --- the changelog ---

HEADINGS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_changelog_begins_with_what_is_not_released_and_has_known_headings_only() -> None:
    releases = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", each) for each in releases[1:])
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= set(HEADINGS)
    assert re.findall(r"^\[(.+)\]: https://", CHANGELOG, re.MULTILINE) == [each.split("]")[0][1:] for each in releases]


RELEASED = "## [Unreleased]\n\n### Added\n\n## [1.2.0] - 2027-01-31\n\n### Added\n\n- A.\n\n## [1.1.0] - 2027-01-01\n"


@pytest.mark.parametrize(
    ("changelog", "tags", "installed", "problem"),
    [
        (RELEASED, ["v1.2.0"], "1.2.0", ""),
        (RELEASED, [], "1.2.0.dev0", ""),
        (RELEASED, ["v1.3.0"], "1.3.0", "not the changelog's newest version 1.2.0"),
        (RELEASED, ["v1.2.0"], "1.2.0.dev3", "the package that is installed has the version 1.2.0.dev3"),
        (RELEASED.replace("### Added\n\n##", "### Added\n\n- B.\n\n##", 1), ["v1.2.0"], "1.2.0", "not in it: - B."),
        (RELEASED.replace("[1.1.0]", "[1.2.1]"), [], "1.2.0.dev0", "are not in descending order"),
        ("## [Unreleased]\n", [], "0.0.1", "has no version"),
    ],
)
def test_a_release_is_refused_unless_tag_changelog_and_package_agree(
    changelog: str, tags: list[str], installed: str, problem: str
) -> None:
    found = runpy.run_path(str(ROOT / ".ci" / "release_check.py"))["version_problems"](changelog, tags, installed)
    assert len(found) == bool(problem)
    assert problem in "".join(found)


# --- what runs for each change ---


def workflow() -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w.-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_the_workflow_tests_every_python_that_is_declared_with_both_versions_of_prefect() -> None:
    matrix = workflow()["jobs"]["test"]["strategy"]["matrix"]
    declared = re.findall(r"Python :: (3\.\d+)$", "\n".join(project()["classifiers"]), re.MULTILINE)
    assert matrix["python"] == declared
    assert {each["prefect"]: each["target"] for each in matrix["include"]} == {
        "newest": "test",
        "lowest": "test-prefect-3.8",
    }


def test_the_workflow_and_the_hooks_run_make_targets_that_exist() -> None:
    matrix = workflow()["jobs"]["test"]["strategy"]["matrix"]
    steps = [step.get("run", "") for job in workflow()["jobs"].values() for step in job["steps"]]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    commands = [*steps, *(hook["entry"] for hook in hooks), (ROOT / ".ci" / "run").read_text("utf-8")]
    used = {target for command in commands for target in re.findall(r"^make ([\w.-]+)", command, re.MULTILINE)}
    used |= {each["target"] for each in matrix["include"]}
    assert used <= make_targets()
    assert {"check", "test", "test-prefect-3.8", "test-lowest", "release-check"} <= used


@pytest.mark.parametrize("page", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda page: page.name)
def test_the_forms_and_settings_of_the_repository_are_yaml(page: Path) -> None:
    assert isinstance(yaml.safe_load(page.read_text("utf-8")), dict)


# --- decisions ---

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    listed = LINK.findall((ROOT / "docs" / "decisions" / "index.md").read_text("utf-8"))
    assert [link for link in listed if link.startswith("0")] == [page.name for page in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_a_decision_says_why_what_and_what_follows(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.findall(r"^##? (.+)$", text, re.MULTILINE)[1:] == ["Context", "Decision", "Consequences"]
    assert re.search(r"^Status: (accepted|replaced by \d{4})$", text, re.MULTILINE)


# --- what is released ---


@pytest.mark.parametrize(
    ("stated", "is_allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("Artistic License OR GPL-2.0-or-later", True),
        ("LGPL-2.1", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_that_nobody_knows_or_that_binds_users_is_not_let_through(stated: str, is_allowed: bool) -> None:
    check = runpy.run_path(str(ROOT / ".ci" / "release_check.py"))
    text = email.message_from_string(f"Name: x\nVersion: 1\nLicense-Expression: {stated}\n\n")
    family, _ = check["licence_of"](SimpleNamespace(metadata=text))
    assert (family in check["ALLOWED"]) is is_allowed


def test_the_bill_of_materials_has_what_is_installed_with_the_package_and_no_tool() -> None:
    check = runpy.run_path(str(ROOT / ".ci" / "release_check.py"))
    check["closure"].__globals__["EXTRAS"] = ()
    bill = check["sbom"](check["closure"]())
    names = {each["name"] for each in bill["components"]}
    assert {"prefect", "httpx", "opentelemetry-api", "av"} <= names
    assert not names & {"pytest", "mypy", "opentelemetry-sdk", "prefect-genmedia"}
    assert all(each["purl"].startswith("pkg:pypi/") and each["licenses"] for each in bill["components"])


# --- tests that the documents name ---


def test_names() -> set[str]:
    """Every test function of the repository."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


test_names.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["guarantees.md", "stability.md", "telemetry.md"])
def test_each_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "docs" / page).read_text("utf-8")))
    assert named
    assert sorted(named - test_names()) == []


def test_each_guarantee_names_a_test() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith(("| promise", "| ---"))]
    assert len(rows) >= 20
    assert [row for row in rows if not re.search(r"`test_[a-z0-9_]+`", row)] == []

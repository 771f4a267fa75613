"""The documentation is true: its links lead somewhere, and its tables match the code.

Tables between `<!-- generated: … -->` and `<!-- end -->` are made from the code, and written anew by
`UPDATE_DOCS=1 pytest tests/docs/test_docs.py`. (`test_docs_code.py` runs the code, `test_first_hour.py` types it.)
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import FENCE, PAGES, ROOT, TRANSLATED, Block, blocks_of, name_of, project
from prefect import Flow
from walk import walk_table

from prefect_genmedia import errors
from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia.cli.app import app
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.plugin import plugin_named
from prefect_genmedia.settings import GenMediaSettings
from prefect_genmedia.simulator.faults import STAGES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_settings_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for command in re.findall(r"`prefect-genmedia ([^`]+)`", text):
        words = [word for word in command.split() if re.fullmatch(r"[a-z]+", word)]
        chain, _, unused = app.parse_commands(words[:2])
        assert chain, command
        assert not (chain == ("jobs",) and unused), command
    settings = re.findall(r"PREFECT_INTEGRATIONS_GENMEDIA_([A-Z_]+[A-Z])", text)
    assert {name.lower() for name in settings} <= set(GenMediaSettings.model_fields)


# --- links ---

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("http://", "https://", "data:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TRANSLATED, ids=name_of)
def test_a_chinese_page_shows_the_same_code(page: Path) -> None:
    english, chinese = ([bare(block) for block in blocks_of(each)] for each in (TRANSLATED[page], page))
    assert chinese == english


@pytest.mark.parametrize("page", [page for page in TRANSLATED if page.parent.name == "zh"], ids=name_of)
def test_a_chinese_page_has_every_part_of_the_english_one(page: Path) -> None:
    """The READMEs are left out: the Chinese one also lists the Chinese pages."""
    assert parts_of(page) == parts_of(TRANSLATED[page])


def parts_of(page: Path) -> list[str]:
    """A page's headings by level, rows of tables by their first code, list items and pictures, in order."""
    marks = (
        re.match(r"(#+ |- |!\[|\| (?:`[^`]+`)?)", line) for line in FENCE.sub("", page.read_text("utf-8")).splitlines()
    )
    return [mark[1] for mark in marks if mark]


def bare(block: Block) -> tuple[str, list[str]]:
    """A block without its comments, which are translated."""
    return block.language, [re.sub(r"\s+#.*$", "", line) for line in block.text.splitlines()]


# --- what is made from the code, or must name all of it ---


def every_flow() -> dict[str, Flow[..., Any]]:
    found = {}
    for path in sorted((ROOT / "flows").glob("[a-z]*.py")):
        members = vars(importlib.import_module(f"prefect_genmedia.flows.{path.stem}"))
        found |= {f"{path.stem}.{name}": member for name, member in members.items() if isinstance(member, Flow)}
    return found


def fault_table() -> str:
    rows = [f"| `{name}` | {stage} | {words} |" for stage, names in STAGES.items() for name, words in names.items()]
    return "\n".join(["| fault | stage | what it does |", "| --- | --- | --- |", *rows])


def settings_table() -> str:
    rows = []
    for name, field in GenMediaSettings.model_fields.items():
        words = cell(field.description or "")
        rows.append(f"| `PREFECT_INTEGRATIONS_GENMEDIA_{name.upper()}` | {default_words(field.default)} | {words} |")
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])


def flow_table(flow: Flow[..., Any]) -> str:
    schema = flow.parameters
    rows = []
    for name, parameter in schema.properties.items():
        required = name in (schema.required or [])
        default = "required" if required else default_words(parameter.get("default"))
        kind = cell(type_words(parameter, schema.definitions or {}))
        rows.append(f"| `{name}` | {kind} | {default} | {cell(parameter.get('description', ''))} |")
    return "\n".join(["| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def type_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    reference = schema.get("$ref") or next((each["$ref"] for each in schema.get("allOf", []) if "$ref" in each), None)
    if reference:
        title = definitions.get(reference.rpartition("/")[2], {}).get("block_type_slug")
        return "Block" if title else "object"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        words = [type_words(each, definitions) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if schema.get("type") == "array":
        inner = schema.get("items", {})
        return f"list of {type_words(inner, definitions)}" if inner.get("type") else "list"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    bounds = " ".join(f"{word} {schema[key]:g}" for key, word in BOUNDS.items() if key in schema)
    return words.get(schema.get("type", ""), "object") + (f", {bounds}" if bounds else "")


BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def default_words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if value != "" else "empty"


def cell(text: str) -> str:
    lines = re.sub(r"\s*\n- ", "<br>", text)
    return " ".join(lines.split()).replace("|", "\\|")


def generated() -> dict[str, str]:
    """Every generated table by its name."""
    tables = {"faults": fault_table(), "settings": settings_table(), "walk": walk_table()}
    return tables | {f"flow {name}": flow_table(flow) for name, flow in every_flow().items()}


def test_tables_that_are_made_from_the_code_are_up_to_date() -> None:
    tables = generated()
    used = set()
    for page in PAGES:
        text = page.read_text("utf-8")

        def fresh(found: re.Match[str]) -> str:
            used.add(found[1])
            return f"<!-- generated: {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- end -->"

        wanted = re.sub(r"<!-- generated: (.+?) -->.*?<!-- end -->", fresh, text, flags=re.DOTALL)
        if wanted != text and os.environ.get("UPDATE_DOCS"):
            page.write_text(wanted, "utf-8")
            text = wanted
        assert text == wanted, f"{name_of(page)} is behind the code: UPDATE_DOCS=1 pytest tests/docs/test_docs.py"
    assert used == set(tables), "a table stands in no page"


def every_error() -> Iterator[str]:
    for name, member in vars(errors).items():
        if isinstance(member, type) and issubclass(member, GenMediaError) and member is not GenMediaError:
            yield name


def test_the_table_of_errors_has_every_error_and_so_does_troubleshooting() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    missing = [name for name in every_error() if f"\n| `{name}` |" not in text or f"\n### {name}\n" not in text]
    assert missing == []


@pytest.mark.parametrize("provider", list(credentials_types()))
def test_a_providers_page_has_every_option(provider: str) -> None:
    text = (ROOT / "docs" / "providers" / f"{provider}.md").read_text("utf-8")
    requests = plugin_named(provider).requests
    names = {name for model in (credentials_types()[provider], *requests) for name in model.model_fields}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("| --- | --- |\n")[2]
    given = set()
    for row in table.splitlines():
        names, _, extra = row.split("|")[1].partition("(extra ")
        given |= {(name.partition("(")[0].strip(), extra.strip(" )`")) for name in names.split(",")}
    declared = {"": project()["dependencies"], **project()["optional-dependencies"]}
    wanted = {
        (re.split(r"[\[<>=;~! ]", requirement)[0], extra)
        for extra, requirements in declared.items()
        for requirement in requirements
        if not requirement.startswith("prefect-genmedia[")
    }
    assert given == wanted


def test_the_pages_name_no_machine() -> None:
    for page in [*PAGES, ROOT / "mkdocs.yml"]:
        assert not re.search(r"/(work|root)/|/home/\w|file:///opt", page.read_text("utf-8")), page


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("griffe_pydantic")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "reference" / "tasks" / "index.html").read_text("utf-8")
    assert "wait_for_job" in reference
    requests = (tmp_path / "site" / "reference" / "requests" / "index.html").read_text("utf-8")
    assert "300 characters or fewer are recommended" in requests, "the fields' descriptions are missing"

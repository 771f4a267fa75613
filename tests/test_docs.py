"""The documentation is true: its code runs, its commands exist, its links lead somewhere, its tables match the code.

Tables between `<!-- generated: … -->` and `<!-- end -->` are made from the code, and written anew by
`UPDATE_DOCS=1 pytest tests/test_docs.py`.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect import Flow

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia.blocks import CREDENTIALS
from prefect_genmedia.cli.app import app
from prefect_genmedia.deploying.files import PrefectFile
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers import registry
from prefect_genmedia.settings import GenMediaSettings
from prefect_genmedia.simulator import RunningSimulator, run_simulator, world
from prefect_genmedia.simulator.faults import STAGES
from prefect_genmedia.simulator.media import Recipe, render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
RUN = [page for page in PAGES if page.name != "README.zh-CN.md"]
"""The Chinese README has the same blocks as the English one, which another test makes sure of."""
MOST_NOT_RUN = 0
"""Blocks under `<!-- not run: reason -->`, in all pages together."""
SIMULATOR = "http://127.0.0.1:8787"
FRAME_RATE = 6

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(page, text[: found.start("text")].count("\n"), found["language"], found["text"], found["why"])
        for found in FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- code ---


@pytest.fixture(scope="module")
def running_simulator() -> Iterator[RunningSimulator]:
    """A simulator whose videos have few frames a second: the pages ask for many, and nobody looks at them."""

    def render_quickly(recipe: Recipe) -> bytes:
        frames = None if recipe.frames is None else round(recipe.frames * FRAME_RATE / recipe.rate)
        return render(replace(recipe, rate=FRAME_RATE, frames=frames))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "render", render_quickly)
        with run_simulator() as simulator:
            yield simulator


@pytest.fixture(scope="module")
def stored_blocks(prefect_server: None, running_simulator: RunningSimulator) -> Callable[[], None]:
    """Stores the credentials that a reader has after the first step, for the simulator; has done so once."""
    key = running_simulator.key

    def store() -> None:
        TokenOpsCredentials(api_key=key, base_url=running_simulator.tokenops_url).save("default", overwrite=True)
        JeniusCredentials(api_key=key, base_url=running_simulator.jenius_url).save("default", overwrite=True)
        HiDreamCredentials(api_key=key, base_url=running_simulator.hidream_url).save("default", overwrite=True)

    store()
    return store


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder; the hosts of the examples do not exist; what a page registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_PROVIDERS", dict(registry._PROVIDERS))
    look_up = socket.getaddrinfo

    def look_up_real_hosts(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith("example.com"):
            raise socket.gaierror(socket.EAI_NONAME, "exists only in documentation")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_real_hosts)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", [page for page in RUN if blocks_of(page)], ids=name_of)
def test_what_a_page_shows_works_in_the_order_in_which_it_is_read(
    page: Path, simulator: RunningSimulator, stored_blocks: Callable[[], None], tmp_path: Path
) -> None:
    names: dict[str, Any] = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    for block in blocks_of(page):
        text = block.text.replace(SIMULATOR, simulator.url)
        if block.not_run:
            continue
        if block.language == "python":
            run_python(text, names, tmp_path / f"{page.stem}_{block.line}.py")
            if ".save(" in text:
                stored_blocks()  # in place of the real addresses that the page has just stored
        elif block.language == "console":
            for line in text.splitlines():
                assert line.startswith("$ "), f"{block.place}: a command begins with `$ `"
                check_command(line[2:], block)
        else:
            PARSERS[block.language](text)


def run_python(text: str, names: dict[str, Any], path: Path) -> None:
    path.write_text(text, "utf-8")  # Prefect looks for the source of a flow
    code = compile(text, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(code, names)
    if pending is not None:
        asyncio.run(pending)


def parse_yaml(text: str) -> None:
    document = yaml.safe_load(text)
    if "deployments" in document:
        spec = PrefectFile.model_validate(document)
        for deployment in spec.deployments:
            module, _, flow = deployment.entrypoint.rpartition(".")
            known = getattr(importlib.import_module(module), flow).parameters.properties
            assert set(deployment.parameters) <= set(known)


def parse_toml(text: str) -> None:
    settings = tomllib.loads(text).get("integrations", {}).get("genmedia", {})
    assert set(settings) <= set(GenMediaSettings.model_fields)


PARSERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "text": str,
    "toml": parse_toml,
    "yaml": parse_yaml,
}


def test_every_fence_is_one_that_is_checked() -> None:
    for page in PAGES:
        found = blocks_of(page)
        assert page.read_text("utf-8").count("```") == 2 * len(found), f"{name_of(page)} has a fence that is not read"
        unknown = [block.place for block in found if block.language not in {"python", "console", *PARSERS}]
        assert unknown == []


def test_few_blocks_are_not_run() -> None:
    left_out = [f"{block.place}: {block.not_run}" for page in PAGES for block in blocks_of(page) if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN, left_out


# --- commands ---


def check_command(command: str, block: Block) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] in COMMANDS, f"{block.place}: {words[0]} is a command that no test knows"
    COMMANDS[words[0]](words[1:])


def check_own_command(words: list[str]) -> None:
    command, arguments, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    if words[:2] in (["jobs", "list"], ["jobs", "export"]) and "--output" not in words:
        command(*arguments.args, **arguments.kwargs)


def check_prefect_command(words: list[str]) -> None:
    cli = importlib.import_module("prefect.cli._app")
    importlib.import_module("prefect.cli").app  # noqa: B018 - registers the commands
    cli._app.parse_args(words, print_error=False, exit_on_error=False)


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words[0] in targets


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = project()["optional-dependencies"]
    for wanted in words[1:]:
        name, _, extra = wanted.partition("[")
        assert name == "prefect-genmedia" or wanted.startswith("dist/prefect_genmedia-")
        assert not extra or extra.rstrip("]") in extras


def check_curl(words: list[str]) -> None:
    options = dict(zip(words[::2], words[1::2], strict=False)) if len(words) > 1 else {}
    url = next(word for word in words if word.startswith("http"))
    data = options.get("-d") or (words[words.index("-d") + 1] if "-d" in words else None)
    answer = httpx.request("POST" if "-X" in words else "GET", url, content=data)
    assert answer.is_success, answer.text


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
    else:
        assert words[0].endswith(".py")


def check_export(words: list[str]) -> None:
    prefix = "PREFECT_INTEGRATIONS_GENMEDIA_"
    declared = (ROOT / "blocks" / "documents.yaml").read_text() + (ROOT / "Makefile").read_text()
    for word in words:
        name = word.partition("=")[0]
        known = name.removeprefix(prefix).lower() in GenMediaSettings.model_fields or name in declared
        assert known, f"nothing reads {name}"


def check_files(words: list[str]) -> None:
    for word in words:
        if word.startswith(("deployments/", "docs/", "tests/")):
            assert (ROOT / word).exists(), word


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "cp": check_files,
    "curl": check_curl,
    "docker": check_files,
    "export": check_export,
    "make": check_make,
    "pip": check_pip,
    "prefect": check_prefect_command,
    "prefect-genmedia": check_own_command,
    "python": check_python,
    "source": lambda words: None,
}


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


def test_the_chinese_readme_shows_the_same_code() -> None:
    english, chinese = ([bare(block) for block in blocks_of(ROOT / name)] for name in ("README.md", "README.zh-CN.md"))
    assert chinese == english


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
    least = next((f", {sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema), "")
    return words.get(schema.get("type", ""), "object") + least


BOUNDS = {"minimum": "from", "exclusiveMinimum": "above"}


def default_words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if value != "" else "empty"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def generated() -> dict[str, str]:
    """Every generated table by its name."""
    tables = {"faults": fault_table(), "settings": settings_table()}
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
        assert text == wanted, f"{name_of(page)} is behind the code: UPDATE_DOCS=1 pytest tests/test_docs.py"
    assert used == set(tables), "a table stands in no page"


def every_error() -> Iterator[str]:
    for name, member in vars(errors).items():
        if isinstance(member, type) and issubclass(member, GenMediaError) and member is not GenMediaError:
            yield name


def test_the_table_of_errors_has_every_error_and_so_does_troubleshooting() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    missing = [name for name in every_error() if f"\n| `{name}` |" not in text or f"\n### {name}\n" not in text]
    assert missing == []


@pytest.mark.parametrize("provider", list(CREDENTIALS))
def test_a_providers_page_has_every_option(provider: str) -> None:
    text = (ROOT / "docs" / "providers" / f"{provider}.md").read_text("utf-8")
    requests = registry.provider_named(provider).requests
    names = {name for model in (CREDENTIALS[provider], *requests) for name in model.model_fields}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Dependencies")[2]
    names = [re.split(r"[\[<>=;~! ]", each)[0] for each in project()["dependencies"]]
    assert [name for name in names if name not in text] == []


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

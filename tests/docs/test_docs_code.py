"""The code blocks of the documentation run, in the order in which they are read, and its commands exist."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from documents import PAGES, ROOT, TRANSLATED, Block, blocks_of, name_of, project

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials
from prefect_genmedia.cli.app import app
from prefect_genmedia.deploy.files import PrefectFile
from prefect_genmedia.providers import plugin
from prefect_genmedia.settings import GenMediaSettings
from prefect_genmedia.simulator import RunningSimulator, run_simulator, world
from prefect_genmedia.simulator.media import Recipe, render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN = [page for page in PAGES if page not in TRANSLATED]
"""A Chinese page has the same blocks as the English one, which another test makes sure of."""
MOST_NOT_RUN = 0
"""Blocks under `<!-- not run: reason -->`, in all pages together."""
SIMULATOR = "http://127.0.0.1:8787"
FRAME_RATE = 6


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
def store_blocks(prefect_server: None, running_simulator: RunningSimulator) -> Iterator[Callable[[], None]]:
    """Stores the credentials that a reader has after the first step, for the simulator."""
    key = running_simulator.key

    def store() -> None:
        TokenOpsCredentials(api_key=key, base_url=running_simulator.tokenops_url).save("default", overwrite=True)
        JeniusCredentials(api_key=key, base_url=running_simulator.jenius_url).save("default", overwrite=True)
        HiDreamCredentials(api_key=key, base_url=running_simulator.hidream_url).save("default", overwrite=True)

    yield store
    for block in (TokenOpsCredentials, JeniusCredentials, HiDreamCredentials):
        block.delete("default")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder; the hosts of the examples do not exist; what a page registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin._REGISTRY, "registered", dict(plugin._REGISTRY.registered))
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
    page: Path, simulator: RunningSimulator, store_blocks: Callable[[], None], tmp_path: Path
) -> None:
    store_blocks()
    names: dict[str, Any] = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    for block in blocks_of(page):
        text = block.text.replace(SIMULATOR, simulator.url)
        if block.not_run:
            continue
        if block.language == "python":
            run_python(text, names, tmp_path / f"{page.stem}_{block.line}.py")
            if ".save(" in text:
                store_blocks()  # in place of the real addresses that the page has just stored
        elif block.language == "console":
            for line in text.splitlines():
                assert line.startswith("$ "), f"{block.place}: a command begins with `$ `"
                check_command(line[2:], block)
        else:
            PARSERS[block.language](text)


def run_python(text: str, names: dict[str, Any], path: Path) -> None:
    path.write_text(text, "utf-8")  # Prefect looks for the source of a flow
    code = compile(text, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
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
        assert name in ("prefect-genmedia", "prefect-docker") or wanted.startswith("dist/prefect_genmedia-")
        assert not extra or extra.rstrip("]") in extras


def check_curl(words: list[str]) -> None:
    options = dict(zip(words[::2], words[1::2], strict=False)) if len(words) > 1 else {}
    url = next(word for word in words if word.startswith("http"))
    data = options.get("-d") or (words[words.index("-d") + 1] if "-d" in words else None)
    answer = httpx.request("POST" if "-X" in words else "GET", url, content=data, timeout=120.0)
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
    "python3": check_python,
    "source": lambda words: None,
    "unset": check_export,
}

"""Nothing outside of a provider's folder knows a provider, a model, a kind or a field of one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia.providers.plugin import ProviderPlugin, plugins
from prefect_genmedia.providers.protocol import GenerationRequest, MediaExpectation

SOURCE = Path(__file__).parents[2] / "src" / "prefect_genmedia"
SHIPPED = [plugin for plugin in plugins() if plugin.requests[0].__module__.startswith("prefect_genmedia.")]
MAY_NAME_PROVIDERS = {SOURCE / name for name in ("__init__.py", "sync.py", "_compat.py", "cli/app.py", "cli/init.py")}
"""Public names, paths of earlier versions, and the examples of the command line."""
MODULES = sorted(
    path
    for path in [*SOURCE.rglob("*.py"), SOURCE.parent / "pytest_genmedia.py"]
    if path not in MAY_NAME_PROVIDERS and path.relative_to(SOURCE.parent).parts[2:3] not in [(p.name,) for p in SHIPPED]
)
OTHER_MEANINGS = {"model", "seconds", "content", "seed", "frames", "size", "style", "poster", "extra_body"}
"""Names and fields that are words of the package, too: the model of a job, the style of a terminal, a poster frame."""
OTHER_MEANINGS |= {"request_id", "video_url"}
"""Members that answers of any provider or gateway have: the id of an HTTP request, the URL of a result."""


def names_of(plugin: ProviderPlugin) -> set[str]:
    """A provider's name, title, Block, kinds, request classes and models."""
    block = credentials_types()[plugin.name]
    names = {plugin.name, plugin.title, block.__name__, block.get_block_type_slug(), *plugin.prices}
    names |= {name for request in plugin.requests for name in (request.kind, request.__name__)}
    return {name for name in names if len(name) > 3} - OTHER_MEANINGS


def fields_of(plugin: ProviderPlugin) -> set[str]:
    """The fields of its requests."""
    fields = {name for request in plugin.requests for name in request.model_fields}
    common = {*GenerationRequest.model_fields, *MediaExpectation.model_fields}
    return fields - common - OTHER_MEANINGS


def words_in(path: Path) -> Iterator[tuple[int, str]]:
    """The attributes, parameters and whole string literals of a module: where it would use a field."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE.parent)))
def test_no_module_outside_of_its_folder_names_a_provider(path: Path) -> None:
    names = {name for plugin in SHIPPED for name in names_of(plugin)}
    pattern = re.compile(
        rf"(?<![A-Za-z0-9-])({'|'.join(map(re.escape, sorted(names)))})(?![A-Za-z0-9-])", re.IGNORECASE
    )
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    assert [f"{number}: {line.strip()}" for number, line in lines if pattern.search(line)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE.parent)))
def test_no_module_outside_of_its_folder_uses_a_field_of_one(path: Path) -> None:
    fields = {name for plugin in SHIPPED for name in fields_of(plugin)}
    assert [f"{number}: {word}" for number, word in words_in(path) if word in fields] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("request.image_url\n")
    fields = {name for plugin in SHIPPED for name in fields_of(plugin)}
    assert {word for _, word in words_in(tmp_path / "module.py")} & fields == {"image_url"}
    assert {plugin.name for plugin in SHIPPED} < {name for plugin in SHIPPED for name in names_of(plugin)}

"""The names that stored data, other programs and users rely on: none may change without a migration or an alias."""

from __future__ import annotations

import importlib
import inspect
import json
import sqlite3
from pathlib import Path
from typing import Any

import access
import pytest

NAMES: dict[str, Any] = json.loads((Path(__file__).parent / "names.json").read_text("utf-8"))


def changed(expected: Any, present: Any, place: str = "") -> list[str]:
    """What is not there any more, or is something else now; what was added is no change."""
    if isinstance(expected, dict) and isinstance(present, dict):
        return [
            line
            for name, value in expected.items()
            for line in changed(value, present.get(name, "(gone)"), f"{place}.{name}")
        ]
    if isinstance(expected, list) and isinstance(present, list) and all(isinstance(each, str) for each in expected):
        return [f"{place}: {each} is gone" for each in expected if each not in present]
    return [] if expected == present else [f"{place}: {expected!r} is {present!r} now"]


def ledger_tables(file: Path) -> dict[str, Any]:
    """Every table of a SQLite database: columns as `[type, is nullable]`, the key, and indexes."""
    with sqlite3.connect(file) as database:
        names = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {name: _table(database, name) for name in names}


def _table(database: sqlite3.Connection, name: str) -> dict[str, Any]:
    columns = database.execute(f"PRAGMA table_info({name})").fetchall()
    indexes = {}
    for _, index, unique, origin, _ in database.execute(f"PRAGMA index_list({name})").fetchall():
        if origin == "c":
            words = [row[2] for row in database.execute(f"PRAGMA index_info({index})")]
            indexes[index] = {"columns": words, "unique": bool(unique)}
    return {
        "columns": {column: [kind, not filled] for _, column, kind, filled, _, _ in columns},
        "key": [column for _, column, _, _, _, place in sorted(columns, key=lambda each: each[5]) if place],
        "indexes": dict(sorted(indexes.items())),
    }


async def test_the_ledgers_tables_columns_and_indexes(tmp_path: Path) -> None:
    async with access.ledger_at(tmp_path / "ledger.db"):
        pass
    assert changed(NAMES["ledger"], ledger_tables(tmp_path / "ledger.db")) == []


def block_names() -> dict[str, Any]:
    return {provider: names_of(block) for provider, block in access.BLOCKS.items()}


def job_block_names() -> dict[str, Any]:
    return names_of(access.JOB_BLOCK)


def names_of(block: Any) -> dict[str, Any]:
    return {
        "slug": block.get_block_type_slug(),
        "name": block.get_block_type_name(),
        "capabilities": sorted(block.get_block_capabilities()),
        "fields": {name: shown_default(field) for name, field in block.model_fields.items()},
    }


def shown_default(field: Any) -> Any:
    return "required" if field.is_required() else field.get_default(call_default_factory=True)


def flow_names() -> dict[str, Any]:
    """By entrypoint: the flow's name, and its parameters in order with their defaults."""
    found = {}
    for entrypoint in entrypoints().values():
        flow = access.flow_at(entrypoint)
        schema = flow.parameters
        found[entrypoint] = {
            "name": flow.name,
            "parameters": {
                name: "required" if name in (schema.required or ()) else schema.properties.get(name, {}).get("default")
                for name in inspect.signature(flow.fn).parameters
            },
        }
    return found


def entrypoints() -> dict[str, str]:
    return {each["name"]: each["entrypoint"] for each in access.prefect_file()["deployments"]}


def task_names() -> dict[str, Any]:
    """By the task function's name: the task's name, and its parameters with their defaults."""
    return {
        task.fn.__name__: {
            "name": task.name,
            "parameters": {
                name: "required" if each.default is each.empty else json.loads(json.dumps(each.default))
                for name, each in inspect.signature(task.fn).parameters.items()
            },
        }
        for task in access.every_task()
    }


def setting_names() -> dict[str, Any]:
    return {
        f"PREFECT_INTEGRATIONS_GENMEDIA_{name.upper()}": field.default
        for name, field in access.settings_fields().items()
    }


def command_names(app: Any = None, path: str = "prefect-genmedia") -> dict[str, list[str]]:
    """Every command with its arguments."""
    app = access.cli if app is None else app
    found = {}
    if app.default_command:
        found[path] = [name for argument in app.assemble_argument_collection() for name in argument.names]
    for name in app:
        if not name.startswith("-"):
            found |= command_names(app[name], f"{path} {name}")
    return found


def error_kinds() -> dict[str, Any]:
    return {
        name: {"retryable": kind.retryable, "outcome": kind.outcome, "kind": kind("It went wrong.").kind}
        for name, kind in access.every_error().items()
    }


def request_fields() -> dict[str, list[str]]:
    return {kind: list(request.model_fields) for kind, request in access.REQUESTS.items()}


@pytest.mark.parametrize(
    ("names", "present"),
    [
        ("blocks", block_names),
        ("job_block", job_block_names),
        ("deployments", entrypoints),
        ("flows", flow_names),
        ("tasks", task_names),
        ("settings", setting_names),
        ("commands", command_names),
        ("errors", error_kinds),
        ("moves", access.legal_moves),
        ("kinds", access.registered_kinds),
        ("requests", request_fields),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_names_stay_the_same(names: str, present: Any) -> None:
    assert changed(NAMES[names], present()) == []


@pytest.mark.parametrize("name", NAMES["imports"])
def test_what_the_documents_import_is_there(name: str) -> None:
    module, member = name.split(":")
    assert hasattr(importlib.import_module(module), member)

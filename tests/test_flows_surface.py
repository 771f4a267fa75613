"""What people call: every flow's parameters, described and typed for the run form, and how the tasks take theirs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from prefect import Flow, Task

import prefect_genmedia.flows
from prefect_genmedia import tasks
from prefect_genmedia.providers.tokenops import tasks as subject_tasks


def every_flow() -> list[Flow[..., object]]:
    found = []
    for module in pkgutil.iter_modules(prefect_genmedia.flows.__path__):
        members = vars(importlib.import_module(f"prefect_genmedia.flows.{module.name}")).values()
        found += [member for member in members if isinstance(member, Flow)]
    return found


def every_task() -> list[Task[..., object]]:
    members = [*vars(tasks).values(), *vars(subject_tasks).values()]
    return [member for member in members if isinstance(member, Task)]


@pytest.mark.parametrize("flow", every_flow(), ids=lambda flow: flow.name)
def test_every_parameter_is_described_in_the_run_form(flow: Flow[..., object]) -> None:
    undescribed = [
        name for name, schema in flow.parameters.properties.items() if not (schema.get("description") or "").strip()
    ]
    assert undescribed == []
    assert flow.description


@pytest.mark.parametrize("flow", every_flow(), ids=lambda flow: flow.name)
def test_no_parameter_takes_a_secret(flow: Flow[..., object]) -> None:
    assert not {"api_key", "token", "secret", "password"} & set(flow.parameters.properties)


@pytest.mark.parametrize("task", every_task(), ids=lambda task: task.name)
def test_a_task_takes_credentials_and_what_follows_them_by_name(task: Task[..., object]) -> None:
    parameters = inspect.signature(task.fn).parameters
    names = list(parameters)
    after = names[names.index("credentials") :] if "credentials" in names else []
    assert {parameters[each].kind for each in after} <= {inspect.Parameter.KEYWORD_ONLY}


def test_importing_the_package_loads_neither_database_nor_decoder() -> None:
    """They take three times as long to import as all the rest, and whoever loads a Block needs none of them."""
    code = "import sys, prefect_genmedia; print(*{'sqlalchemy', 'av'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.split() == []

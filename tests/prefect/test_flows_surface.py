"""What people call: every flow's parameters, described and typed for the run form, and how the tasks take theirs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
from prefect import Flow, Task
from prefect.utilities.callables import parameter_schema
from prefect.utilities.names import generate_slug

import prefect_genmedia.flows
from prefect_genmedia import tasks
from prefect_genmedia._prefect.run_names import is_made_up
from prefect_genmedia.flows.batch import generate_batch
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
    reported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert reported.split() == []


def parts_of(schema: object) -> list[dict[str, object]]:
    """A schema and all that is in it."""
    if isinstance(schema, dict):
        return [schema, *(inner for value in schema.values() for inner in parts_of(value))]
    return [inner for value in schema for inner in parts_of(value)] if isinstance(schema, list) else []


@pytest.mark.parametrize("flow", every_flow(), ids=lambda flow: flow.name)
def test_no_field_of_a_run_form_can_be_none(flow: Flow[..., object]) -> None:
    properties = flow.parameters.properties
    nullable = [name for name, each in properties.items() if any(part.get("type") == "null" for part in parts_of(each))]
    assert nullable == []
    assert [name for name, schema in properties.items() if "default" in schema and schema["default"] is None] == []
    optional = set(properties) - set(flow.parameters.required or ())
    assert all("default" in properties[name] for name in optional)


@pytest.mark.parametrize("flow", every_flow(), ids=lambda flow: flow.name)
def test_every_field_of_a_run_form_has_a_title_of_its_own_in_words(flow: Flow[..., object]) -> None:
    titles = [schema["title"] for schema in flow.parameters.properties.values()]
    assert len(set(titles)) == len(titles)
    assert [title for title in titles if not title[0].isupper() or ("_" in title and "(" not in title)] == []
    assert parameter_schema(flow).model_dump_for_openapi() == flow.parameters.model_dump_for_openapi()


FORMS = [flow for flow in every_flow() if flow.name != "generate-shard"]  # its only parameter is not in the form


@pytest.mark.parametrize("flow", FORMS, ids=lambda flow: flow.name)
def test_null_is_taken_for_every_parameter_that_has_a_default_and_means_it(flow: Flow[..., object]) -> None:
    schema = flow.parameters
    required: dict[str, Any] = dict.fromkeys(schema.required or (), "auto")
    optional = {name: each["default"] for name, each in schema.properties.items() if name not in required}
    required = {name: EXAMPLES.get(name, value) for name, value in required.items()}
    given = flow.validate_parameters(required | dict.fromkeys(optional))
    assert {name: given[name] for name in optional} == optional


EXAMPLES: dict[str, Any] = {
    "scene": "youqian",
    "fields": {},
    "decision": "undo",
    "job": "key",
    "kind": "poster",
    "then": [{"kind": "stylize", "style": "anime"}],
}


def test_what_people_never_set_is_not_in_the_form_and_is_taken_all_the_same() -> None:
    assert "shard" not in generate_batch.parameters.properties
    assert generate_batch.validate_parameters({"table": "a.csv", "shard": None})["shard"] is None


COMMON_FIRST = {
    "jimeng-video": ["prompt", "model", "image_urls", "seconds", "aspect_ratio", "credentials", "output"],
    "omnihuman-video": ["image_url", "audio_url", "prompt", "subject", "output_resolution", "credentials", "output"],
    "stylize-video": ["video_url", "style", "prompt", "credentials", "output"],
    "live-poster": ["image_url", "scene", "credentials", "output"],
    "generate-batch": ["table", "kind", "credentials", "batch_id", "output", "dry_run", "max_cost"],
}


ORDERED = [flow for flow in every_flow() if flow.name in COMMON_FIRST]


@pytest.mark.parametrize("flow", ORDERED, ids=lambda flow: flow.name)
def test_a_run_form_begins_with_what_most_people_set(flow: Flow[..., object]) -> None:
    ordered = sorted(flow.parameters.properties, key=lambda name: flow.parameters.properties[name]["position"])
    common = COMMON_FIRST[flow.name]
    assert ordered[: len(common)] == common


@pytest.mark.parametrize(
    "name", ["determined-hoatzin", "psi-aquarii-cluster", "alpha5-lupi", "eta3--tensor", "Awesome-Vicuña"]
)
def test_a_name_that_prefect_makes_up_is_known_as_such(name: str) -> None:
    assert is_made_up(name)


@pytest.mark.parametrize("name", ["Anna's portrait", "summer-campaign", "spring-2027", "launch", "Lake-Dawn", "a-b-c"])
def test_a_name_that_a_person_gives_is_not(name: str) -> None:
    assert not is_made_up(name)


def test_every_name_that_prefects_server_gives_is_known_as_made_up() -> None:
    assert [name for name in (generate_slug(2) for _ in range(300)) if not is_made_up(name)] == []

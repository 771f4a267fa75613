"""What Prefect has stored (results of tasks and flows, and errors) loads after the code has moved.

Each entry of `pickles/*.json` names the module paths that its pickle holds: those must stay importable, as aliases
where the class has moved.
"""

from __future__ import annotations

import base64
import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import access
import pytest
from contents import contents, missing_from
from make_pickles import named_in

ENTRIES = {
    f"{file.stem}: {name}": entry
    for file in sorted((Path(__file__).parent / "pickles").glob("*.json"))
    for name, entry in json.loads(file.read_text("utf-8")).items()
}
each_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
each_pickler = pytest.mark.parametrize("pickler", ["pickle", "cloudpickle"])

MODULES = sorted({name for entry in ENTRIES.values() for name in entry["names"] if name.startswith("prefect_genmedia")})


def loaded(entry: dict[str, Any], pickler: str = "cloudpickle") -> Any:
    return pickle.loads(base64.b64decode(entry[pickler]))


@each_pickler
@each_entry
def test_a_stored_value_loads_with_all_that_was_in_it(entry: dict[str, Any], pickler: str) -> None:
    assert missing_from(entry["contents"], contents(loaded(entry, pickler))) == []


@each_pickler
@each_entry
def test_the_record_says_which_paths_the_pickle_names(entry: dict[str, Any], pickler: str) -> None:
    named = named_in(base64.b64decode(entry[pickler]))
    assert {name for name in named if name.startswith("prefect_genmedia")} == {
        name for name in entry["names"] if name.startswith("prefect_genmedia")
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_path_that_a_pickle_names_is_importable(name: str) -> None:
    module, member = name.split(":")
    assert hasattr(importlib.import_module(module), member)


@each_entry
def test_a_stored_value_is_one_of_todays_class(entry: dict[str, Any]) -> None:
    """Not of a copy that an alias module keeps: `isinstance` and `except` must find it."""
    value = loaded(entry)
    first = value[0] if isinstance(value, list) else value
    known = {**access.VALUES, **access.every_error()}
    name = entry["contents"]["class"] if isinstance(entry["contents"], dict) else type(first).__name__
    assert type(first) is known[name]


@each_entry
def test_what_is_pickled_again_loads_again(entry: dict[str, Any]) -> None:
    again = pickle.loads(pickle.dumps(loaded(entry)))
    assert missing_from(entry["contents"], contents(again)) == []


async def test_stored_requests_are_unprepared_and_are_the_same_request() -> None:
    requests = json.loads((Path(__file__).parent / "pickles" / "requests.json").read_text("utf-8"))
    for name, entry in requests.items():
        request = loaded(entry)
        plain = loaded(requests[name.removesuffix(", prepared")])
        assert request == plain
        block = access.BLOCKS[request.provider](api_key="sk-golden-one")
        digests = [await access.identity(block, each, "key:golden", 0) for each in (request, plain)]
        assert digests[0] == digests[1]

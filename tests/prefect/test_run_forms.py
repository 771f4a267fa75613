"""The run form of every deployed flow, filled in and submitted by a person who touches only what must be touched.

In both UIs of a real server. The runs are not executed: what a run would be given is asked of its flow.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from prefect.flows import load_flow_from_entrypoint
from servers import until
from test_ui import CHROMIUM, Desk, desk
from test_ui_injection import UIS

from prefect_genmedia._prefect.run_names import is_made_up

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["desk"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]


def whole(title: str) -> re.Pattern[str]:
    """A field's title, and not that of another field that contains it.

    Prefect writes a star after a required field's title, or "(Optional)" after another one's.
    """
    return re.compile(rf"^\s*{re.escape(title)}\s*(\*|\(Optional\))?\s*$")


class Form(Protocol):
    """How a person finds the fields of a run form."""

    def field(self, title: str) -> Locator: ...

    def choose(self, title: str, choice: str) -> None: ...


@dataclass
class FirstForm:
    page: Page

    def field(self, title: str) -> Locator:
        label = self.page.locator(".schema-form-property__label", has_text=whole(title))
        return self.page.locator(".schema-form-property").filter(has=label).last

    def choose(self, title: str, choice: str) -> None:
        self.field(title).locator(".p-select-button__control").press("Space")
        self.page.locator(".p-select-option").filter(has_text=choice).click()


@dataclass
class SecondForm:
    page: Page

    def field(self, title: str) -> Locator:
        return self.page.locator("div.group").filter(has=self.page.locator("label", has_text=whole(title))).last

    def choose(self, title: str, choice: str) -> None:
        self.field(title).get_by_role("button", name=f"Select {title}").click()
        self.page.get_by_role("option").filter(has_text=choice).first.click()


FORMS: dict[str, type[FirstForm] | type[SecondForm]] = {"first": FirstForm, "second": SecondForm}


@dataclass(frozen=True)
class Filled:
    """What a person does: texts, choices and JSON by the fields' titles, and the parameters that must come of it."""

    deployment: str
    parameters: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)


PICTURE, SPEECH, CLIP = "https://example.com/a.jpg", "https://example.com/a.mp3", "https://example.com/v.mp4"
ROW = {"prompt": "a lake"}
FILLED = [
    Filled("jimeng-video/jimeng", {"prompt": "a lake"}, {"Prompt": "a lake"}),
    Filled(
        "omnihuman-video/omnihuman",
        {"image_url": PICTURE, "audio_url": SPEECH},
        {"Picture": PICTURE, "Recording": SPEECH},
    ),
    Filled(
        "live-poster/posters",
        {"image_url": PICTURE, "scene": "firework"},
        {"Picture": PICTURE},
        {"Scene": "firework"},
    ),
    Filled("stylize-video/stylize", {"video_url": CLIP, "style": "anime"}, {"Video": CLIP}, {"Style": "anime"}),
    Filled("generate-media/any", {"kind": "jimeng", "fields": ROW}, {"Kind": "jimeng"}, objects={"Fields": ROW}),
    Filled("generate-batch/batch", {"table": "s3://bucket/lakes.csv"}, {"Table": "s3://bucket/lakes.csv"}),
    Filled("decide-job/decide", {"job": "0a1b2c", "decision": "abandon"}, {"Job": "0a1b2c"}, {"Decision": "abandon"}),
    Filled("reconcile-jobs/reconcile", {}),
    Filled("report-spend/spend", {"by": "day"}, choices={"Group by": "day"}),
    Filled(
        "import-bill/bill",
        {"file": "s3://bucket/november.csv", "mapping": "s3://bucket/tokenops.toml"},
        {"Bill": "s3://bucket/november.csv", "Mapping": "s3://bucket/tokenops.toml"},
    ),
    Filled("prune-jobs/prune", {}),
    Filled("generate-shard/batch-shard", {}),
]


@pytest.mark.parametrize("ui", FORMS)
@pytest.mark.parametrize("filled", FILLED, ids=lambda each: each.deployment)
def test_a_form_is_submitted_with_only_the_fields_that_a_person_touches(ui: str, filled: Filled, desk: Desk) -> None:
    deployment = desk.call("GET", f"/deployments/name/{filled.deployment}")
    desk.open(f"{UIS[ui]}/deployments/deployment/{deployment['id']}/run")
    submit = desk.page.get_by_role("button", name="Submit", exact=True)
    submit.wait_for()
    form = FORMS[ui](desk.page)
    for title, text in filled.texts.items():
        form.field(title).locator("textarea").fill(text)
    for title, choice in filled.choices.items():
        form.choose(title, choice)
    for title, value in filled.objects.items():
        form.field(title).locator("textarea, .cm-content").fill(json.dumps(value))
    assert desk.page.get_by_text("None", exact=True).count() == 0
    assert desk.page.get_by_text("Property is type").count() == 0
    desk.photograph(f"form-{ui}-{deployment['name']}")
    before = runs_of(desk, deployment["id"])
    submit.click()
    run = submitted(desk, deployment["id"], before)
    assert is_made_up(run["name"])
    if filled.deployment == "generate-shard/batch-shard":
        return  # only a batch knows what it takes
    flow: Any = load_flow_from_entrypoint(deployment["entrypoint"])
    schema = deployment["parameter_openapi_schema"]["properties"]
    defaults = {name: each["default"] for name, each in schema.items() if "default" in each}
    given = flow.validate_parameters(run["parameters"])
    assert {name: given[name] for name in schema} == defaults | deployment["parameters"] | filled.parameters


def runs_of(desk: Desk, deployment: str) -> set[str]:
    found = desk.call("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
    return {run["id"] for run in found if not run["auto_scheduled"]}


def submitted(desk: Desk, deployment: str, before: set[str]) -> dict[str, Any]:
    new: list[str] = []

    def is_there() -> bool:
        new[:] = runs_of(desk, deployment) - before
        if not new and desk.page.get_by_text("Something went wrong").count():
            desk.page.get_by_role("button", name="Submit", exact=True).click()  # the server was busy
            desk.page.wait_for_timeout(2000)
        return bool(new)

    until(is_there, lambda: f"the form is submitted:\n{desk.page.locator('body').inner_text()[-1500:]}")
    run: dict[str, Any] = desk.call("GET", f"/flow_runs/{new[0]}")
    return run

"""What is deployed as code: what is given is written, what a person set in the UI stays, what is there is taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials
from prefect_genmedia.deploy import Options, Outcome
from prefect_genmedia.deploy import apply as apply_all
from prefect_genmedia.deploy.deployments import apply_deployment
from prefect_genmedia.deploy.documents import apply_document
from prefect_genmedia.deploy.files import DeploymentSpec, DocumentSpec
from prefect_genmedia.deploy.infrastructure import apply_work_pool
from prefect_genmedia.errors import InvalidRequest

pytestmark = pytest.mark.usefixtures("prefect_server")

SPEC = DocumentSpec(
    block="hidream-credentials",
    name="from-code",
    fields={"api_key": "KEY", "token": "TOKEN", "user_id": "USER", "max_in_flight": "AT_ONCE"},
)


async def apply(**values: str) -> tuple[Outcome, HiDreamCredentials]:
    async with get_client() as client:
        change, block = await apply_document(client, SPEC, values, dry=False)
    assert isinstance(block, HiDreamCredentials)
    return change.outcome, block


async def test_what_a_person_set_in_the_ui_stays_where_no_variable_gives_it() -> None:
    await apply(KEY="sk-one", USER="u1")
    in_the_ui = await HiDreamCredentials.aload("from-code")
    in_the_ui.max_in_flight = 3
    await in_the_ui.asave("from-code", overwrite=True)

    assert (await apply(KEY="sk-one", USER="u1"))[0] is Outcome.UNCHANGED
    outcome, block = await apply(KEY="sk-two")
    assert outcome is Outcome.UPDATED
    assert (block.max_in_flight, block.user_id) == (3, "u1")

    outcome, block = await apply(TOKEN="t-1", AT_ONCE="5")
    assert outcome is Outcome.UPDATED
    assert (block.max_in_flight, block.api_key) == (5, None), "a token stands in place of the key"

    outcome, block = await apply(AT_ONCE="7")
    stored: Any = await HiDreamCredentials.aload("from-code")
    assert stored.token.get_secret_value() == "t-1", "a limit alone leaves the secret"
    assert stored.max_in_flight == block.max_in_flight == 7


@pytest.mark.parametrize("already_there", [True, False], ids=["by the name", "by the status"])
async def test_a_work_pool_that_appears_between_looking_and_creating_is_taken_as_it_is(already_there: bool) -> None:
    class Late:
        """A client whose pool was created by a request whose answer was lost."""

        created = 0

        async def read_work_pool(self, name: str) -> Any:
            if not self.created:
                raise ObjectNotFound(Exception("no pool"))
            return SimpleNamespace(type="process")

        async def read_worker_metadata(self) -> Any:
            return {"prefect": {"process": {"type": "process", "default_base_job_configuration": {}}}}

        async def create_work_pool(self, pool: Any) -> None:
            self.created += 1
            if already_there:
                raise ObjectAlreadyExists(Exception("409"))
            request = httpx.Request("POST", "http://127.0.0.1/api/work_pools/")
            raise PrefectHTTPStatusError("409", request=request, response=httpx.Response(409, request=request))

    client: Any = Late()
    change, kind = await apply_work_pool(client, "media", "process", dry=False)
    assert (change.outcome, kind, client.created) == (Outcome.UNCHANGED, "process", 1)


async def test_a_deployments_own_variables_do_not_take_the_shared_ledger_from_its_containers() -> None:
    profile = {"image": "ours", "env": {"LEDGER_URL": "shared", "OUTPUT": "s3://bucket/media"}}
    spec = DeploymentSpec(
        name="with-env",
        entrypoint="prefect_genmedia.flows.decide.decide_job",
        description="A deployment with a variable of its own.",
        work_pool={"name": "merging", "job_variables": {"image": "own", "env": {"TZ": "UTC", "OUTPUT": "s3://own"}}},
    )
    async with get_client() as client:
        await apply_work_pool(client, "merging", "process", dry=False)
        await apply_deployment(client, spec, "merging", profile, dry=False)
        stored = await client.read_deployment_by_name("decide-job/with-env")
        await client.delete_deployment(stored.id)
        await client.delete_work_pool("merging")
    assert stored.job_variables == {
        "image": "own",
        "env": {"LEDGER_URL": "shared", "OUTPUT": "s3://own", "TZ": "UTC"},
    }


WRONG = {
    "an automation": ("automations_file", "automations: [{name: wrong, trigger: {type: event, posture: Never}}]"),
    "an entrypoint": (
        "prefect_file",
        "{name: x, pull: [], deployments: [{name: d, entrypoint: prefect_genmedia.flows.nothing, description: d}]}",
    ),
    "a Block type": ("documents_file", "documents: [{block: no-such, name: d, fields: {}}]"),
}


@pytest.mark.parametrize("wrong", [*WRONG, "the alerts' Block", "a pool's type", "a pool of containers", "an output"])
async def test_what_cannot_be_right_is_reported_before_anything_is_changed(wrong: str, tmp_path: Path) -> None:
    documents = "{block: tokenops-credentials, name: untouched, fields: {api_key: KEY}}"
    given: dict[str, Any] = {"documents_file": f"documents: [{documents}]"}
    options: dict[str, Any] = {"environment": {"KEY": "sk-one"}, "pool": "untouched"}
    if wrong in WRONG:
        name, text = WRONG[wrong]
        given[name] = text.replace("[{block", f"[{documents}, {{block")
    for name, text in given.items():
        options[name] = tmp_path / name
        options[name].write_text(text, "utf-8")
    options |= {
        "the alerts' Block": {"alerts": "slack-webhook/nobody"},
        "a pool's type": {"pool_type": "no-such"},
        "a pool of containers": {"pool_type": "docker"},
        "an output": {"output": "sftp://me:hunter2@store.example/media"},
    }.get(wrong, {})

    with pytest.raises(InvalidRequest):
        [change async for change in apply_all(Options(**options))]

    with pytest.raises(ValueError, match="untouched"):
        await TokenOpsCredentials.aload("untouched")
    async with get_client() as client:
        with pytest.raises(ObjectNotFound):
            await client.read_work_pool("untouched")


async def test_a_stored_null_becomes_the_default_that_the_form_shows() -> None:
    schedule = {"slug": "daily", "cron": "0 8 * * *", "parameters": {"frames": None, "max_cost": None, "prompt": "a"}}
    spec = DeploymentSpec(
        name="with-nulls",
        entrypoint="prefect_genmedia.flows.jimeng.jimeng_video",
        description="A deployment from before.",
        parameters={"image_urls": None, "output": None, "seed": 7},
        schedules=[schedule],
        work_pool={"name": "nulls"},
    )
    async with get_client() as client:
        await apply_work_pool(client, "nulls", "process", dry=False)
        await apply_deployment(client, spec, "nulls", {}, dry=False)
        stored = await client.read_deployment_by_name("jimeng-video/with-nulls")
        again = await apply_deployment(client, spec, "nulls", {}, dry=False)
        await client.create_flow_run_from_deployment(stored.id, parameters={**stored.schedules[0].parameters})
        await client.delete_deployment(stored.id)
        await client.delete_work_pool("nulls")
    assert stored.parameters == {"image_urls": [], "output": "", "seed": 7}
    assert stored.schedules[0].parameters == {"frames": "auto", "max_cost": -1, "prompt": "a"}
    assert again.outcome is Outcome.UNCHANGED

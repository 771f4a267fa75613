"""What is deployed as code: what is given is written, what a person set in the UI stays, what is there is taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia.deploying.changes import Outcome
from prefect_genmedia.deploying.documents import apply_document
from prefect_genmedia.deploying.files import DocumentSpec
from prefect_genmedia.deploying.infrastructure import apply_work_pool

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

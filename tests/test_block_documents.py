"""Block documents as code: what is given is written, what a person set in the UI stays."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.orchestration import get_client

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia.deploying.changes import Outcome
from prefect_genmedia.deploying.documents import apply_document
from prefect_genmedia.deploying.files import DocumentSpec

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

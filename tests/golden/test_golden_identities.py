"""What makes two requests the same one may not change: a digest that changes pays again for what the ledger has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import access
import pytest

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "identities.json").read_text("utf-8"))


def block_of(account: dict[str, str]) -> Any:
    options = dict(account)
    return access.BLOCKS[options.pop("block")](**options)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_a_requests_identity_and_account_stay_the_same(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)  # one's own files are named by relative paths
    block = block_of(case["account"])
    request = access.REQUESTS[case["kind"]](**case["fields"])
    if "sent" in case:
        request = access.prepared(request, case["sent"])
    assert await access.account_of(block) == case["payer"]
    assert await access.identity(block, request, case["scope"], case["variant"]) == case["identity"]
    now = await access.identity(block, request, case["scope"], case["variant"], version=2)
    assert now == case.get("identity of version 2", case["identity"])


EQUAL = [
    ("omnihuman, a subject without masks", "omnihuman, a subject with masks"),
    ("omnihuman, least", "omnihuman, one's own files as file URLs", False),
    ("jimeng, text of ten seconds by frames", "jimeng, text of ten seconds by seconds"),
    ("jimeng, text", "jimeng, text of five seconds as text"),
    ("jimeng, text", "jimeng, text in content"),
    ("jimeng, text", "jimeng, req_key given"),
    ("stylize, style", "stylize, with a call's own words"),
    ("signed URL, S3 v4", "signed URL, S3 v2"),
    ("signed URL, Google v4", "signed URL, a lone token"),
    ("account, HiDream by token with user_id", "account, HiDream by another token with the same user_id"),
    ("account, HiDream by token", "account, HiDream by token with user_id", False),
    ("poster, firework", "account, another key", False),
    ("poster, firework", "variant, the second", False),
]
"""Cases of one identity, and where the third is False, of two: what the digests above mean."""


@pytest.mark.parametrize("pair", EQUAL, ids=lambda pair: f"{pair[0]} / {pair[1]}")
def test_the_recorded_identities_tell_apart_what_is_another_request(pair: tuple[Any, ...]) -> None:
    one, other, *same = pair
    digests = {case["name"]: case["identity"] for case in CASES}
    assert (digests[one] == digests[other]) is (same != [False])

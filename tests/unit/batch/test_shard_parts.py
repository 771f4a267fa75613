"""A shard is a part of a batch's rows and places: what it is told to do, and what it tells when it has ended."""

from __future__ import annotations

import pytest

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia.batch.accounts import names_of
from prefect_genmedia.batch.result import Result
from prefect_genmedia.batch.shards import Shard, ShardEnd, shards_of, share_of
from prefect_genmedia.batch.spec import ShardJob
from prefect_genmedia.errors import BudgetStop, InvalidRequest

LEDGER = "0123456789abcdef"


def shards(count: int) -> list[Shard]:
    return shards_of(count, LEDGER)


def test_every_row_is_in_exactly_one_shard_wherever_it_stands_in_the_table() -> None:
    table = [{"id": f"row-{number}"} for number in range(200)]
    parts = [shard.part_of(table) for shard in shards(4)]
    assert sorted(row["id"] for part in parts for row in part) == sorted(row["id"] for row in table)
    assert min(map(len, parts)) > 30
    assert [shard.part_of(part) for shard, part in zip(shards(4), parts, strict=True)] == parts
    longer = [{"id": "new"}, *reversed(table)]
    assert all(row in shard.part_of(longer) for shard, part in zip(shards(4), parts, strict=True) for row in part)


def test_an_id_that_is_a_number_in_the_table_is_in_the_shard_of_its_text() -> None:
    assert [shard.part_of([{"id": 7.0}]) != [] for shard in shards(5)] == [shard.has("7") for shard in shards(5)]


def test_places_are_split_so_that_all_shards_together_have_as_many() -> None:
    assert [share_of(11, shard) for shard in shards(4)] == [3, 3, 3, 2]
    with pytest.raises(InvalidRequest, match="more than max_in_flight, which is 3"):
        share_of(3, shards(4)[0])


def test_there_is_no_shard_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="not so many"):
        Shard(number=3, of=2, ledger=LEDGER)


def test_the_end_of_a_shard_tells_what_the_ledger_does_not_know() -> None:
    rows = {
        "a": Result("a", "not_sent", error_kind="InvalidRequest", error_message="the picture is too small"),
        "b": Result("b", "submitted", error_kind="JobTimeout", error_message="x" * 5000),
        "c": Result("c", "invalid", error_kind="InvalidRequest", error_message="there is no such file here"),
    }
    reported = ShardEnd.of(ShardEnd(BudgetStop("It is used up."), rows).lines())
    assert isinstance(reported.stop, BudgetStop)
    assert reported.stop.message == "It is used up."
    assert reported.rows["a"] == rows["a"]
    assert (reported.rows["b"].state, len(reported.rows["b"].error_message or "")) == ("submitted", 1000)
    assert reported.rows["c"].state == "not_sent"
    assert ShardEnd.of(ShardEnd().lines()) == ShardEnd()


def test_a_shard_is_given_the_names_of_all_accounts_and_never_a_key() -> None:
    block = TokenOpsCredentials(api_key="sk-secret")
    with pytest.raises(InvalidRequest, match="must be a Block that is saved"):
        names_of(["a", block])
    block._block_document_name = "b"
    names = names_of(["a", block])
    assert names == ["a", "b"]
    job = ShardJob(
        shard=Shard(number=1, of=2, ledger="l"),
        table="t.csv",
        kind="jimeng",
        credentials=names,
        batch_id="b",
        output="o",
        max_in_flight=1,
        breaker=3,
        timeout_seconds=60,
        budget="b",
    )
    assert ShardJob.model_validate_json(job.model_dump_json()).spec().credentials == ["a", "b"]

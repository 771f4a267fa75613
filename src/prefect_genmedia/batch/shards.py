"""A batch on several machines: the assignment of rows to shards, and each shard's reports to the run that started it.

Shards report through Prefect artifacts, because all machines can reach the Prefect server: a progress bar that is
updated every few seconds while the run is alive, and a final table of problems. A run counts as lost if it has ended
without that table, or if its progress bar is no longer updated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from prefect_genmedia import errors
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._prefect.markdown import Cell, escape, read_cell, verbatim
from prefect_genmedia.batch.results import INVALID, NOT_SENT, Result, Results
from prefect_genmedia.batch.rows import id_of
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest
from prefect_genmedia.text import counted

HEARTBEAT_KEY = "genmedia-batch-shard"
"""Artifact key of a shard's progress bar."""

END_KEY = "genmedia-batch-shard-end"
"""Artifact key of a shard's final table."""

HEARTBEAT_SECONDS = 10.0
"""Maximum interval between two updates of a running shard's progress bar, in seconds."""

_SHOWN_MESSAGE = 1000
"""Maximum characters of an error's message in a row of the final table."""


class Shard(BaseModel):
    """One part of a table, done by a run of its own. A run of `generate_batch` with `shards` makes these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1, description="Which part, from 1.")
    of: int = Field(ge=1, description="How many parts there are.")
    ledger: str = Field(description="Digest that tells the batch's ledger from others: all parts must use the same.")
    unfit: frozenset[str] = Field(
        frozenset(), description="Ids of its rows that the batch leaves out for what is in their inputs."
    )

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.number > self.of:
            raise ValueError("there are not so many shards")
        return self

    def __str__(self) -> str:
        """Returns the shard's name for display."""
        return f"shard {self.number} of {self.of}"

    def has(self, row_id: str) -> bool:
        """Whether a row belongs to this shard and is to be processed."""
        return row_id not in self.unfit and _part_of(row_id, self.of) == self.number

    def part_of(self, table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the table's rows that belong to this shard."""
        return [fields for fields in table if self.has(id_of(fields))]

    async def check_ledger(self, ledger: Ledger) -> None:
        """Check that this machine uses the same ledger as the others.

        Raises:
            InvalidRequest: it uses another ledger.
        """
        if await ledger.fingerprint() != self.ledger:
            problem = FieldProblem(
                "ledger_url",
                "the worker of this shard uses another ledger than the run that started it; set "
                "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL to the same PostgreSQL on all machines",
            )
            raise InvalidRequest.of("The shard", [problem])


def shards_of(count: int, ledger: str, unfit: Set[str] = frozenset()) -> list[Shard]:
    """Returns every shard of a split batch.

    Args:
        count: the number of shards.
        ledger: the digest of the batch's ledger.
        unfit: ids of rows that are skipped because of their inputs.
    """
    return [
        Shard(
            number=number,
            of=count,
            ledger=ledger,
            unfit=frozenset(row_id for row_id in unfit if _part_of(row_id, count) == number),
        )
        for number in range(1, count + 1)
    ]


def _part_of(row_id: str, count: int) -> int:
    """Returns the shard of a row. It depends only on the row's id, so it does not change when the table grows."""
    digest = hashlib.sha256(row_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def share_of(total: int, shard: Shard) -> int:
    """Returns a shard's share of a number of slots. The shares add up to the number and differ by at most one.

    Args:
        total: the number of slots.
        shard: the shard.

    Raises:
        InvalidRequest: there are fewer slots than shards.
    """
    if total < shard.of:
        raise refused("shards", f"must not be more than max_in_flight, which is {total} and is split among them")
    return total // shard.of + (shard.number <= total % shard.of)


def refused(field: str, problem: str) -> InvalidRequest:
    """Returns the error for a batch that cannot be split because the parameter `field` has a `problem`."""
    return InvalidRequest.of("The batch", [FieldProblem(field, problem)])


@dataclass(frozen=True)
class ShardTarget:
    """The deployment that runs the shards.

    Args:
        id: the deployment's id.
        takes_job: whether it belongs to `generate_shard`, which takes a `ShardJob`; otherwise to `generate_batch`.
    """

    id: UUID
    takes_job: bool


async def deployment_for(runs: int, name: str | None) -> ShardTarget:
    """Returns the deployment that runs the shards.

    Args:
        runs: the number of concurrent runs.
        name: `flow/deployment`; None for the current run's deployment.

    Raises:
        InvalidRequest: there is no such deployment, it belongs to another flow, or its runs would wait for each other.
    """
    own: str | None = deployment.id
    if name is None and own is None:
        raise refused(
            "shard_deployment", "names the deployment that runs the shards, such as generate-shard/batch-shard"
        )
    async with get_client() as client:
        try:
            found = await (client.read_deployment_by_name(name) if name else client.read_deployment(UUID(own or "")))
            flow = await client.read_flow(found.flow_id)
            pool = await client.read_work_pool(found.work_pool_name) if found.work_pool_name else None
        except ObjectNotFound:
            raise refused("shard_deployment", f"there is no deployment {name!r}, or it has no work pool") from None
    # The included flows omit these parameters from their forms; a user's own flow may have them.
    parameters = {flow.name, *(found.parameter_openapi_schema or {}).get("properties", {})}
    takes_job = not parameters.isdisjoint(("generate-shard", "job"))
    if not takes_job and parameters.isdisjoint(("generate-batch", "shard")):
        raise refused("shard_deployment", f"{name!r} is no deployment of generate-shard or generate-batch")
    limit = found.global_concurrency_limit
    _check_places("The deployment", None if limit is None else limit.limit, runs + (str(found.id) == str(own)))
    _check_places("Its work pool", None if pool is None else pool.concurrency_limit, runs)
    return ShardTarget(found.id, takes_job)


def _check_places(whose: str, limit: int | None, wanted: int) -> None:
    if limit is not None and limit < wanted:
        raise refused(
            "shard_deployment",
            f"{whose} has a concurrency limit of {limit}, and the batch needs {counted(wanted, 'run')} at once",
        )


@dataclass
class ShardEnd:
    """How a shard ended: the error that stopped it early, if any, and every row with a problem.

    Args:
        stop: the error that stopped it.
        rows: results with an error, by row id; only `state`, `error_kind` and `error_message` are used.
    """

    stop: GenMediaError | None = None
    rows: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def read(cls, artifact: Artifact) -> ShardEnd:
        """Parses an artifact written by `publish`."""
        return cls.of(json.loads(str(artifact.data)))

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Cell]]) -> ShardEnd:
        """Parses the table's lines."""
        end = cls()
        for line in lines:
            row, state, kind, message = (read_cell(line[name]) for name in ("row", "state", "error", "message"))
            if row:
                # The check of the whole table accepted this row, so it is invalid only on the shard's machine.
                state = NOT_SENT if state == INVALID else state
                end.rows[row] = Result(row, state, error_kind=kind, error_message=message)
            elif kind:
                end.stop = getattr(errors, kind, errors.BatchIncomplete)(message)
        return end

    def lines(self) -> list[dict[str, Cell]]:
        """Returns the table: the shard itself in the first line, then every row with a problem."""
        whole = Result(
            "",
            "stopped" if self.stop else "done",
            error_kind=self.stop.kind if self.stop else None,
            error_message=self.stop.message
            if self.stop
            else f"{counted(len(self.rows), 'row')} {'has' if len(self.rows) == 1 else 'have'} an error",
        )
        return [
            {
                "row": verbatim(result.id),
                "state": verbatim(result.state),
                "error": verbatim(result.error_kind or ""),
                "message": verbatim((result.error_message or "")[:_SHOWN_MESSAGE]),
            }
            for result in (whole, *self.rows.values())
        ]

    async def publish(self, shard: Shard) -> None:
        """Publish it on the run's page, where the waiting run reads it."""
        await acreate_table_artifact(key=END_KEY, table=self.lines(), description=escape(shard))

    def take(self, results: Results) -> None:
        """Collect every row with a problem."""
        self.rows = {result.id: result for result in results.all() if result.error_kind}


@asynccontextmanager
async def report_end(shard: Shard | None) -> AsyncIterator[ShardEnd]:
    """Publish how a shard ended, for the waiting run; not if it is cancelled, or fails with a retryable error.

    Args:
        shard: the shard that this run processes; None if it processes the whole table and no run waits.
    """
    end = ShardEnd()
    try:
        yield end
    except GenMediaError as error:
        if error.retryable or shard is None:
            raise
        if not end.rows:
            end.stop = end.stop or error  # the shard did not begin
        await end.publish(shard)
        raise
    if shard is not None:
        await end.publish(shard)

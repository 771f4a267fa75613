"""A batch's options, built once and passed as a whole, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._core.budgets import BudgetPeriod
from prefect_genmedia._core.model import JobState
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.shards import Shard
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.prices import CURRENCY, MOST_CNY, Price, amount_problems
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.settings import Verify

AUTO_ROWS = 2000
"""Up to this many rows, a batch has a task run per row by default: nobody views more of them individually, and each
costs Prefect's server 13 ms of CPU time."""

_SWITCH = {True: "on", False: "off"}


def _word(value: Any) -> Any:
    """Convert booleans back to words: YAML reads `on` and `off` as booleans."""
    return _SWITCH[value] if isinstance(value, bool) else value


RowTaskRuns = Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)]
"""Whether each row of a batch has a task run of its own."""


def has_task_runs(wanted: RowTaskRuns, by_setting: RowTaskRuns, rows: int) -> bool:
    """Whether each row of a batch has a task run of its own.

    Args:
        wanted: the batch's option; `auto` uses the setting.
        by_setting: the setting; `auto` enables them for up to `AUTO_ROWS` rows.
        rows: the number of rows in the whole batch.
    """
    word = by_setting if wanted == "auto" else wanted
    return rows <= AUTO_ROWS if word == "auto" else word == "on"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a batch. Times are in seconds.

    Args:
        max_in_flight: the maximum number of in-flight jobs per account.
        canary: how many rows must succeed before the others start.
        breaker: how many consecutive errors of the same breaking kind stop it; 0 for never.
        timeout_seconds: how long to wait for a result.
        concurrency_limit: a Prefect global concurrency limit held by each job, or None.
    """

    max_in_flight: int = 8
    canary: int = 0
    breaker: int = 3
    timeout_seconds: float = 1800.0
    concurrency_limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Money:
    """What a batch may cost. The flow `generate_batch` describes each option."""

    prices: Mapping[str, float | Price] | None = None
    max_jobs: int | None = None
    max_cost: float | None = None
    confirm_above: float | None = None
    budget: str | None = None
    period: BudgetPeriod = "total"
    per_account: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that have no effect or are not valid amounts.

        Raises:
            InvalidRequest: one of them is infinite, not a number, negative or too large.
        """
        amounts = {"max_cost": self.max_cost, "confirm_above": self.confirm_above}
        given = {name: amount for name, amount in amounts.items() if amount is not None}
        problems = [problem for name, amount in given.items() for problem in amount_problems(name, amount)]
        if self.max_jobs is not None and not 0 <= self.max_jobs <= MOST_CNY:
            problems.append(FieldProblem("max_jobs", f"must be a number from 0 to {MOST_CNY:,}"))
        if problems:
            raise InvalidRequest.of("The batch", problems)

    @property
    def limited(self) -> bool:
        """Whether costs or jobs are limited, so that reservations are needed."""
        return self.max_jobs is not None or self.max_cost is not None


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a batch is split over machines. The flow `generate_batch` describes each option.

    The runs of the shards get the parameters of the flow run that starts them, limited to their shard.
    """

    shards: int = 1
    deployment: str | None = None
    shard: Shard | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """All options of a batch.

    Args:
        table: rows, a frame, or the URL or path of a table.
        kind: the kind for rows that name none.
        credentials: the provider's Block, or its name.
        batch_id: the batch's name; None uses the table's name, or the root flow run.
        output: folder for the files; None uses the setting.
        results: path or URL of the table of results; None places it beside the table or, for in-memory rows, with the
            files.
        encoding: encoding of a text table; None to detect it.
        limits: limits on concurrency, and conditions for stopping.
        money: limits on cost.
        skip_invalid: whether to skip invalid rows instead of refusing the batch.
        preflight: whether to inspect the inputs of all rows before anything is submitted.
        dry_run: whether only to check and estimate, without submitting.
        overwrite: whether delivered files that the user has edited are replaced by the provider's files.
        convert_inputs: whether local pictures are converted to formats that the providers accept.
        verify: how results are verified; `auto` uses the setting, or `structure` if that is not set.
        only: ids of the rows to process; None for all.
        regenerate: ids of rows whose results are regenerated, and paid again, once per root flow run.
        min_delivered: share of the rows, from 0 to 1, that must be delivered for the run to complete.
        attribution: the project of rows without their own, and tags for all rows.
        row_task_runs: whether each row has its own task run.
        reverify: whether to read delivered files again instead of trusting their size and modification time.
        sharding: the shard that this is, or the number of shards to split into.
    """

    table: Rows
    kind: str
    credentials: ProviderCredentials | str = "default"
    batch_id: str | None = None
    output: str | None = None
    results: str | None = None
    encoding: str | None = None
    limits: Limits = field(default_factory=Limits)
    money: Money = field(default_factory=Money)
    skip_invalid: bool = False
    preflight: bool = True
    dry_run: bool = False
    overwrite: bool = False
    convert_inputs: bool = False
    verify: Verify = "auto"
    only: Sequence[str] | None = None
    regenerate: Sequence[str] | None = None
    min_delivered: float = 1.0
    attribution: Attribution = field(default_factory=Attribution)
    row_task_runs: RowTaskRuns = "auto"
    reverify: bool = False
    sharding: Sharding = field(default_factory=Sharding)


class ShardJob(BaseModel):
    """What the run of one shard is given: its part of the batch, and the batch's options. The batch's run makes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: Shard = Field(description="Which part of the table this is.")
    table: str | list[dict[str, Any]] = Field(description="Where the table is; or this part's rows.")
    kind: str = Field(description="Kind of the rows that name none.")
    credentials: str = Field(description="Name of the credentials Blocks.")
    batch_id: str = Field(description="The batch's name.")
    output: str = Field(description="Folder or URL for the files.")
    max_in_flight: int = Field(ge=1, description="This part's share of the jobs in flight.")
    breaker: int = Field(ge=0, description="Stop after this many of the same breaking error in a row; 0 never stops.")
    timeout_seconds: float = Field(gt=0, description="How long to wait for each result, in seconds.")
    concurrency_limit: str | None = Field(default=None, description="A Prefect limit that each job holds.")
    prices: dict[str, float | Price] | None = Field(default=None, description="Prices in CNY by `provider/model`.")
    max_jobs: int | None = Field(default=None, description="Most jobs of the budget.")
    max_cost: float | None = Field(default=None, description="Most CNY of the budget, estimated.")
    budget: str = Field(description="Name of the budget that all parts share.")
    budget_period: BudgetPeriod = Field(default="total", description="Whether each UTC day has its own budget.")
    budget_per_account: bool = Field(default=False, description="Whether each account has its own budget.")
    overwrite: bool = Field(default=False, description="Replace delivered files that were edited since.")
    convert_inputs: bool = Field(default=False, description="Convert local pictures to what the providers take.")
    verify: Verify = Field(default="auto", description="How results are verified.")
    only: list[str] | None = Field(default=None, description="Ids of the rows to do; all by default.")
    encoding: str | None = Field(default=None, description="Encoding of a text table; detected by default.")
    project: str = Field(default="", description="Whom rows are paid for that do not say.")
    tags: list[str] = Field(default_factory=list, description="Words to group the jobs of all rows by.")
    row_task_runs: RowTaskRuns = Field(default="auto", description="Whether each row has a task run of its own.")
    reverify: bool = Field(default=False, description="Read delivered files again, instead of trusting size and time.")

    def spec(self) -> BatchSpec:
        """Returns the batch options for this shard. The whole table was checked and inspected before."""
        return BatchSpec(
            table=self.table,
            kind=self.kind,
            credentials=self.credentials,
            batch_id=self.batch_id,
            output=self.output,
            encoding=self.encoding,
            limits=Limits(
                max_in_flight=self.max_in_flight,
                breaker=self.breaker,
                timeout_seconds=self.timeout_seconds,
                concurrency_limit=self.concurrency_limit,
            ),
            money=Money(
                prices=self.prices,
                max_jobs=self.max_jobs,
                max_cost=self.max_cost,
                budget=self.budget,
                period=self.budget_period,
                per_account=self.budget_per_account,
            ),
            skip_invalid=True,
            preflight=False,
            overwrite=self.overwrite,
            convert_inputs=self.convert_inputs,
            verify=self.verify,
            only=self.only,
            attribution=Attribution.of(self.project, self.tags),
            row_task_runs=self.row_task_runs,
            reverify=self.reverify,
            sharding=Sharding(shard=self.shard),
        )


class BatchReport(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(frozen=True)

    batch_id: str = Field(description="The batch's name: the same name and rows mean the same paid results.")
    rows: int = Field(description="Rows in the table.")
    states: dict[str, int] = Field(description="How many rows are in each state; `delivered` have a verified file.")
    estimated_cost: float = Field(description="What the jobs probably cost, or would cost in a dry run; estimated.")
    currency: str = CURRENCY
    results: str | None = Field(default=None, description="Path or URL of the table of results; None for a dry run.")
    dry_run: bool = False

    @property
    def delivered(self) -> int:
        """Rows with a verified file."""
        return self.states.get(JobState.DELIVERED.value, 0)

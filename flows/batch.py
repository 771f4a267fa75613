"""A table of wanted results: check → (canary) → generate each row → results, gallery, failures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia._prefect.session import AnyCredentials
from prefect_genmedia.batch import BatchReport, BatchSpec, Limits, Money, Price, Sharding, ShardJob, run_batch
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.shards import Shard
from prefect_genmedia.batch.spec import RowTaskRuns
from prefect_genmedia.batch.table import name_of
from prefect_genmedia.generate import check_run
from prefect_genmedia.settings import Verify
from prefect_genmedia.text import counted


def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    table = parameters["table"]
    name = parameters["batch_id"] or (name_of(table) if isinstance(table, str) else counted(len(table), "row"))
    return f"batch · {name} · {parameters['shard']}" if parameters["shard"] else f"batch · {name}"


@flow(name="generate-batch", flow_run_name=RunName(_run_name))
@run_form(
    hidden=("shard",),
    table="Table",
    max_jobs="Max jobs (-1: no limit)",
    canary="Canary rows",
    results="Table of results",
    max_in_flight="Jobs in flight",
    breaker="Stop after errors",
)
async def generate_batch(
    table: Rows,
    kind: str = "omnihuman",
    credentials: AnyCredentials | str = "default",
    batch_id: str = "",
    output: str = "",
    dry_run: bool = False,
    max_cost: MaxCost = NO_LIMIT,
    max_jobs: Annotated[int, Field(ge=NO_LIMIT)] = NO_LIMIT,
    confirm_above: MaxCost = NO_LIMIT,
    canary: Annotated[int, Field(ge=0)] = 0,
    results: str = "",
    max_in_flight: Annotated[int, Field(ge=1)] = 8,
    concurrency_limit: str = "",
    breaker: Annotated[int, Field(ge=0)] = 3,
    budget: str = "",
    budget_period: Literal["total", "day"] = "total",
    budget_per_account: bool = False,
    prices: dict[str, float | Price] = {},  # noqa: B006 - nothing writes into it
    skip_invalid: bool = False,
    preflight: bool = True,
    overwrite: bool = False,
    convert_inputs: bool = False,
    verify: Verify = "auto",
    only: list[str] = [],  # noqa: B006 - nothing writes into it
    regenerate: list[str] = [],  # noqa: B006 - nothing writes into it
    min_delivered: Annotated[float, Field(ge=0, le=1)] = 1.0,
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800,
    encoding: str = "",
    project: str = "",
    tags: list[str] = [],  # noqa: B006 - nothing writes into it
    row_task_runs: RowTaskRuns = "auto",
    reverify: bool = False,
    shards: Annotated[int, Field(ge=1, le=100)] = 1,
    shard_deployment: str = "",
    shard: Shard | None = None,
) -> BatchReport:
    """Generate every row of a table: each paid once, verified, within the limits. Run it again to do the rest.

    Args:
        table: The rows: a path, fsspec URL or block://SLUG/NAME/path ending in .csv, .tsv, .jsonl, .parquet or .xlsx;
            sql://BLOCK/TABLE or sql://BLOCK/SELECT … of a database; or the rows themselves: dicts, or a frame of
            pandas, polars or Arrow. Each has an id, a kind, and the fields of that kind of request. Other columns are
            not sent, and are carried into the results.
        kind: Kind of the rows that do not name one.
        credentials: Credentials: a Block, or the name that the Blocks of all providers in the table have.
        batch_id: The same id and rows mean the same paid results, in any run; the file's name by default.
        output: Folder or fsspec URL for the videos.
        dry_run: Only show what would be done and its estimated cost.
        max_cost: Most CNY that may be paid, estimated, over all runs that share the budget; -1 sets no limit.
        max_jobs: Most jobs that may be paid for, over the same runs; -1 sets no limit.
        confirm_above: Ask a person, with the plan, before anything is sent if the rows to be sent would cost more CNY
            than this, estimated, or one of them has no price; -1 takes the setting.
        canary: Number of rows that must be delivered before the others start.
        results: Table of results to write (.csv, .tsv, .jsonl, .parquet, .xlsx, or sql://BLOCK/TABLE); beside the table
            by default.
        max_in_flight: Jobs of each account at its provider at once.
        concurrency_limit: A Prefect global concurrency limit that each job holds until it has ended.
        breaker: Stop after this many consecutive rows with the same credentials, quota, storage or unknown-submission
            error; 0 never stops.
        budget: Name of the budget, to share it between batches; the batch's id by default.
        budget_period: Whether each UTC day has a budget of its own.
        budget_per_account: Whether each account has a budget of its own.
        prices: Prices in CNY by `provider/model`, over the list prices: a number is per second, `{"per_job": 2.0}` is
            per result. Every sum is an estimate.
        skip_invalid: Leave invalid rows out, instead of refusing the table.
        preflight: Check what the providers document about the inputs of all rows before anything is submitted.
        overwrite: Replace delivered files that were edited since; by default your edits are kept.
        convert_inputs: Convert local pictures that the provider does not take: HEIC, AVIF, WebP, CMYK, too large.
        verify: How results are verified: full decodes every frame, structure reads the container and one frame, none
            believes the file. auto is the setting, or structure.
        only: Ids of the rows to do; all by default. The others keep their lines in the table of results.
        regenerate: Ids of rows whose results are made anew and paid again, once in this run and its retries.
        min_delivered: Share of the rows that must be delivered for the run to complete, such as 0.95.
        timeout_seconds: How long to wait for each result, in seconds.
        encoding: Encoding of a CSV or JSON lines table, such as gb18030; detected by default.
        project: Whom the rows are paid for that have no `project` of their own; by default the credentials' project, or
            else the deployment's name.
        tags: Further words to group the jobs of all rows by, beside a row's own `tags`.
        row_task_runs: Whether each row has a task run of its own: `on`, `off`, or `auto` for up to 2,000 rows. Without
            them the table of results, gallery, failures and progress are the record.
        reverify: Read the files of delivered rows again; by default they are trusted while size and time are the same.
        shards: Parts that the table is split into, each done by a deployment's run on any machine.
        shard_deployment: The deployment that runs the shards, `flow/deployment`; by default this run's own.
        shard: Leave empty: a batch sets it for runs of this flow that do its shards; see generate_shard.

    Raises:
        InvalidRequest: rows cannot be right; all of them are named, and nothing was submitted.
        BudgetStop: the budget is used up; what it held is done.
        BatchIncomplete: some rows have no file; the table of results says why.
    """
    await check_run()
    return await run_batch(
        BatchSpec(
            table=table,
            kind=kind,
            credentials=credentials,
            batch_id=batch_id or None,
            output=output or None,
            results=results or None,
            encoding=encoding or None,
            limits=Limits(
                max_in_flight=max_in_flight,
                canary=canary,
                breaker=breaker,
                timeout_seconds=timeout_seconds,
                concurrency_limit=concurrency_limit or None,
            ),
            money=Money(
                prices=prices or None,
                max_jobs=None if max_jobs == NO_LIMIT else max_jobs,
                max_cost=limit(max_cost),
                confirm_above=limit(confirm_above),
                budget=budget or None,
                period=budget_period,
                per_account=budget_per_account,
            ),
            skip_invalid=skip_invalid,
            preflight=preflight,
            dry_run=dry_run,
            overwrite=overwrite,
            convert_inputs=convert_inputs,
            verify=verify,
            only=only or None,
            regenerate=regenerate or None,
            min_delivered=min_delivered,
            attribution=Attribution.of(project, tags),
            row_task_runs=row_task_runs,
            reverify=reverify,
            sharding=Sharding(shards=shards, deployment=shard_deployment or None, shard=shard),
        )
    )


def _shard_run_name() -> str:
    job: ShardJob = flow_run.parameters["job"]
    return f"batch · {job.batch_id} · {job.shard}"


@flow(name="generate-shard", flow_run_name=RunName(_shard_run_name))
@run_form(hidden=("job",))
async def generate_shard(job: ShardJob) -> BatchReport:
    """Generate one part of a batch. A run of generate_batch with `shards` starts this; people do not.

    Args:
        job: The part, and the batch's options.

    Raises:
        InvalidRequest: this worker uses another ledger than the batch.
        BudgetStop: the budget is used up; what it held is done.
        BatchIncomplete: some rows have no file; the batch's table of results says why.
    """
    return await run_batch(job.spec())

"""A table of wanted results: check → (canary) → generate each row in one task run → results, gallery, failures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials
from prefect_genmedia.batch import BatchReport, Price, conduct
from prefect_genmedia.batch.conduct import Money
from prefect_genmedia.batch.run import Limits


def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    table = parameters["table"]
    name = parameters["batch_id"] or (table.rpartition("/")[2] if isinstance(table, str) else f"{len(table)} rows")
    return f"batch · {name}"


@flow(name="generate-batch", flow_run_name=_run_name)
async def generate_batch(
    table: Annotated[
        str | list[dict[str, Any]],
        Field(
            description="The rows: a path or fsspec URL ending in .csv, .jsonl or .parquet, or the rows themselves. "
            "Each has an id, a kind, and the fields of that kind of request."
        ),
    ],
    kind: Annotated[
        Literal["omnihuman", "jimeng", "poster", "stylize"], Field(description="The kind of rows that name none.")
    ] = "omnihuman",
    credentials: Annotated[
        TokenOpsCredentials | JeniusCredentials | HiDreamCredentials | str,
        Field(description="Credentials: a Block, or the name that the Blocks of all providers in the table have."),
    ] = "default",
    batch_id: Annotated[
        str | None,
        Field(description="The same id and rows mean the same paid results, in any run; the file's name by default."),
    ] = None,
    output: Annotated[str | None, Field(description="Folder or fsspec URL for the videos.")] = None,
    results: Annotated[
        str | None,
        Field(description="Table of results to write (.csv, .jsonl, .parquet); beside the table by default."),
    ] = None,
    max_in_flight: Annotated[int, Field(description="Jobs at the providers at once.", ge=1)] = 8,
    concurrency_limit: Annotated[
        str | None, Field(description="A Prefect global concurrency limit that each job holds until it has ended.")
    ] = None,
    canary: Annotated[int, Field(description="So many rows must pass before the rest is begun.", ge=0)] = 0,
    breaker: Annotated[
        int,
        Field(description="So many of the same credentials, quota or unknown error in a row stop it; 0: never.", ge=0),
    ] = 3,
    max_jobs: Annotated[int | None, Field(description="Jobs that the budget holds, over all its runs.", ge=0)] = None,
    max_cost: Annotated[
        float | None, Field(description="CNY that the budget holds, over all its runs; estimated.", ge=0)
    ] = None,
    budget: Annotated[
        str | None, Field(description="Name of the budget, to share it between batches; the batch's id by default.")
    ] = None,
    budget_period: Annotated[
        Literal["total", "day"], Field(description="Whether each UTC day has a budget of its own.")
    ] = "total",
    budget_per_account: Annotated[bool, Field(description="Whether each account has a budget of its own.")] = False,
    prices: Annotated[
        dict[str, float | Price] | None,
        Field(description="CNY per second by `provider/model`, in place of the list prices; every sum is an estimate."),
    ] = None,
    skip_invalid: Annotated[bool, Field(description="Leave rows out that cannot be right.")] = False,
    dry_run: Annotated[bool, Field(description="Only show what would be done and its estimated cost.")] = False,
    timeout_seconds: Annotated[float, Field(description="How long to wait for each result, in seconds.", gt=0)] = 1800,
) -> BatchReport:
    """Generate every row of a table: each paid once, verified, within the limits. Run it again to do the rest.

    Raises:
        InvalidRequest: rows cannot be right; all of them are named, and nothing was submitted.
        BudgetStop: the budget is used up; what it held is done.
        BatchIncomplete: some rows have no file; the table of results says why.
    """
    limits = Limits(max_in_flight, canary, breaker, timeout_seconds, concurrency_limit)
    money = Money(prices, max_jobs, max_cost, budget, budget_period, budget_per_account)
    return await conduct(table, kind, credentials, batch_id, output, results, limits, money, skip_invalid, dry_run)

"""Conducting a batch: check the table, open what it needs, run it, and show it while it goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia.batch import show
from prefect_genmedia._core.budgets import Budget, BudgetPeriod, budget_name
from prefect_genmedia.batch.gallery import publish_gallery
from prefect_genmedia.batch.held import Opened, quiet_rows
from prefect_genmedia.batch.supervisor import Sharding, keeper_of
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.plan import plan_of, plan_text, plan_words
from prefect_genmedia.batch.preflight import Looked, look_over
from prefect_genmedia.batch.results import INVALID, Results
from prefect_genmedia.batch.rows import BadRow, Row, check_rows, refuse
from prefect_genmedia.batch.scheduler import BatchRun, Limits
from prefect_genmedia.batch.shards import BEAT_KEY, BEAT_SECONDS, Shard, end_told
from prefect_genmedia.batch.table import folder_of, format_of, read_rows, stem_of, storage_of
from prefect_genmedia._prefect.credentials import ProviderCredentials, load_credentials
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, FieldProblem, InvalidRequest
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import JobState
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia.providers.prices import CURRENCY, Price, price_table, priced_as
from prefect_genmedia.settings import current_settings
from prefect_genmedia._prefect.concurrency import check_limit
from prefect_genmedia._prefect.environment import place_of_files, refuse_passing
from prefect_genmedia._prefect.run import explained, retried_by_person, root_run_id
from prefect_genmedia._prefect.terminal import Bar, terminal_bar

LOOK_SECONDS = 0.5
"""How often it is seen whether progress and results are due, in seconds."""


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


@dataclass(frozen=True, kw_only=True)
class Money:
    """What a batch may cost. See the flow `generate_batch` for each."""

    prices: Mapping[str, float | Price] | None = None
    max_jobs: int | None = None
    max_cost: float | None = None
    budget: str | None = None
    period: BudgetPeriod = "total"
    per_account: bool = False

    @property
    def limited(self) -> bool:
        """Whether anything is to be reserved."""
        return self.max_jobs is not None or self.max_cost is not None


async def conduct(
    table: str | Sequence[Mapping[str, Any]],
    *,
    kind: str,
    credentials: ProviderCredentials | str,
    batch_id: str | None,
    output: str | None,
    results: str | None,
    limits: Limits,
    money: Money,
    skip_invalid: bool = False,
    preflight: bool = True,
    dry_run: bool = False,
    sharding: Sharding | None = None,
) -> BatchReport:
    """Do a whole batch, or one shard of it, inside a flow run; see the flow `generate_batch`.

    Parameters:
        table: rows, or the URL or path of a table.
        kind: what each row asks for.
        credentials: the provider's Block, or its name.
        batch_id: what the batch is called; None takes the table's name, or the root flow run.
        output: folder for the files; None takes the setting.
        results: path or URL of the table of results; None puts it beside the table, or with the files of given rows.
        limits: what may be done at once, and when to stop.
        money: what may be spent.
        skip_invalid: leave out rows that cannot be right, instead of ending.
        preflight: look at the inputs of all rows before anything is submitted.
        dry_run: check and estimate only; nothing is submitted.
        sharding: which part of the batch this is, or into how many it is split; None does all of it here.

    Raises:
        InvalidRequest: rows cannot be right, or settings contradict each other; nothing was submitted.
        BudgetStop: the budget did not hold every row; those that it held are done.
        BatchIncomplete: some rows have no file; the others are done.
    """
    split = sharding or Sharding()
    shard = split.shard
    async with explained(), end_told(shard) as end, AsyncExitStack() as stack:
        settings = current_settings()
        read = table if isinstance(table, str) else None
        await refuse_passing({"table": read, **place_of_files(output, settings), "results": results})
        name = batch_id or (stem_of(table) if isinstance(table, str) else root_run_id())
        wanted = await read_rows(table)
        rows, bad = check_rows(wanted, kind, shard.has if shard else None)
        prices = price_table({**(settings.prices or {}), **(money.prices or {})})
        _check_prices(rows, prices, money)
        folder = anywhere(output or f"{settings.media_folder.rstrip('/')}/{file_stem(name)}")
        location = results or _beside(table, folder, name)
        _check_location(location, table)
        places = (None, None) if shard else (location, await storage_of(location))
        ledger = await stack.enter_async_context(open_ledger(settings.ledger))
        if shard is not None:
            await shard.check_ledger(ledger)
        opened = await _opened(stack, rows, credentials, limits)
        jobs = Known(name, rows, opened, ledger)
        known = await jobs.begin()
        asker, now = Asker(root_run_id(), retried_by_person=await retried_by_person()), SYSTEM_CLOCK.now()
        to_submit = [row for row in rows if next_attempt(known.get(row.id), asker, now) is not None]
        looked = await look_over(to_submit, opened) if preflight else Looked()
        bad = sorted([*bad, *looked.bad], key=lambda row: row.position)
        if bad and not skip_invalid:
            raise refuse(bad)
        unfit = {row.id for row in looked.bad}
        rows = [row for row in rows if row.id not in unfit]
        kept = Results([row.id for row in rows], bad, *places)
        run = BatchRun(
            batch_id=name,
            rows=rows,
            opened=opened,
            jobs=jobs,
            asker=asker,
            output=folder,
            limits=limits,
            prices=prices,
            results=kept,
            known=known,
            preflight=preflight,
            looked=looked,
        )
        if dry_run:
            return await _plan(run, bad)
        left_out = {row.position for row in bad}
        rest = [fields for position, fields in enumerate(wanted) if position not in left_out]
        keeper = None if split.shards == 1 else await keeper_of(run, split, table, rest, unfit)
        run.budgets = await _budgets(run, money)
        get_run_logger().info("Batch %s: %d rows, %d of them known to the ledger", name, len(rows), len(run.known))
        with quiet_rows(len(rows)), terminal_bar(name) as bar:
            async with _shown(name, kept, bar, shard):
                await (keeper or run).go()
        end.stop = run.stop
        end.take(kept)
        return _report(run, kept)


async def _opened(
    stack: AsyncExitStack, rows: Sequence[Row], credentials: ProviderCredentials | str, limits: Limits
) -> dict[str, Opened]:
    """One lease of each client around the whole batch: the rows' own share it."""
    opened = {}
    for provider in sorted({row.request.provider for row in rows}):
        block = await load_credentials(provider, credentials)
        opened[provider] = Opened(block, await stack.enter_async_context(block.client()))
    for limit in {limits.concurrency_limit or each.block.concurrency_limit for each in opened.values()}:
        if limit:
            await check_limit(limit)
    return opened


def _report(run: BatchRun, results: Results) -> BatchReport:
    words = show.summary_of(results)
    place = f" The table of results is {results.location}." if results.location else ""
    get_run_logger().info("Batch %s: %s.%s", run.batch_id, words, place)
    again = f"run the batch again with batch_id {run.batch_id!r}: what is delivered is not paid again."
    if run.stop is not None:
        run.stop.paid = words
        if isinstance(run.stop, BudgetStop):
            run.stop.next_step = f"raise max_jobs or max_cost, and {again}"
        raise run.stop
    report = BatchReport(
        batch_id=run.batch_id,
        rows=len(results.all()),
        states=dict(results.counts()),
        estimated_cost=round(results.cost(), 6),
        results=results.location,
    )
    if report.delivered + report.states.get(INVALID, 0) < report.rows:
        next_step = f"look at the table of failures, then {again}"
        raise BatchIncomplete(f"Batch {run.batch_id!r}: {words}.{place}", next_step=next_step)
    return report


@asynccontextmanager
async def _shown(name: str, results: Results, bar: Bar, shard: Shard | None) -> AsyncIterator[None]:
    """Progress and the table of results while the block runs, and all that a person looks at when it has ended."""
    progress = show.Progress(name, results, bar)
    if shard is not None:
        progress = show.Progress(f"{name}, {shard}", results, bar, BEAT_KEY, BEAT_SECONDS)
    await results.save(now=True)  # before anything is paid: a table that cannot be written must stop the batch here
    await progress.show(now=True)

    async def keep_showing() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await results.save()
                await progress.show()
            except Exception as error:  # paid jobs do not end because a picture of them cannot be drawn
                get_run_logger().warning("Progress or results cannot be written now: %s", error)

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        await results.save(now=True)
        await progress.show(now=True)
        if shard is None:  # else the run that waits for it shows them
            delivered = [result for result in results.all() if result.state == JobState.DELIVERED.value]
            await publish_gallery(name, show.summary_of(results), delivered, results.location)
            await show.publish_failures(name, results)


async def _plan(run: BatchRun, bad: Sequence[BadRow]) -> BatchReport:
    """Show what a run would do now; nothing is sent to a provider."""
    plan = await plan_of(run, bad)
    words = plan_words(plan)
    get_run_logger().info("Dry run of batch %s: %s\n%s", run.batch_id, words, plan_text(plan))
    await show.publish_plan(run.batch_id, [row.line() for row in plan], words)
    return BatchReport(
        batch_id=run.batch_id,
        rows=len(plan),
        states=dict(Counter(row.what for row in plan)),
        estimated_cost=round(sum(row.cost or 0.0 for row in plan), 6),
        dry_run=True,
    )


async def _budgets(run: BatchRun, money: Money) -> dict[str, Budget]:
    if not money.limited:
        return {}
    budgets = {}
    for opened in run.opened.values():
        account = str(opened.account)
        name = budget_name(money.budget or run.batch_id, money.period, account if money.per_account else None)
        budgets[account] = Budget(run.jobs.ledger, name, money.max_jobs, money.max_cost)
        state = await budgets[account].open()
        get_run_logger().info(
            "Budget %s: %d jobs and about %.2f %s (estimate) are reserved", name, state.jobs, state.cost, CURRENCY
        )
    return budgets


def _check_prices(rows: Sequence[Row], prices: Mapping[str, Price], money: Money) -> None:
    """A limit on cost that some rows cannot be counted against would be no limit."""
    if money.max_cost is None:
        return
    unpriced = sorted({priced_as(row.request) for row in rows} - prices.keys())
    if unpriced:
        problems = [
            FieldProblem(f"prices.{name}", "is needed for max_cost, and no price is known") for name in unpriced
        ]
        raise InvalidRequest.of("The batch", problems)


def _check_location(location: str, table: str | Sequence[Mapping[str, Any]]) -> None:
    if isinstance(table, str) and anywhere(location) == anywhere(table):
        raise InvalidRequest.of("The batch", [FieldProblem("results", "is the table itself")])


def _beside(table: str | Sequence[Mapping[str, Any]], folder: str, name: str) -> str:
    """Where results go that nobody named a place for: beside the table, in its format."""
    if isinstance(table, str):
        return f"{folder_of(table)}/{stem_of(table)}.results.{format_of(table)}"
    return f"{folder.rstrip('/')}/{file_stem(name)}.results.jsonl"

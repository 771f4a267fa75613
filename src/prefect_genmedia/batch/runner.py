"""Runs a batch: checks the table, opens sessions, runs the rows, and shows progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread
from prefect.logging import get_run_logger

from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.budgets import Budget, budget_name, length_limit, priced_as
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.destination import check_destination
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia._core.session import Session
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia._prefect.concurrency import check_limit
from prefect_genmedia._prefect.environment import named_output, refuse_relative
from prefect_genmedia._prefect.run import explained, retried_by_person, root_run_id
from prefect_genmedia._prefect.session import load_credentials, prices_of, session_of
from prefect_genmedia._prefect.terminal import Bar, terminal_bar
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch import show
from prefect_genmedia.batch.choice import chosen_rows, given_fields, rows_anew
from prefect_genmedia.batch.confirm import confirm_batch
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.gallery import publish_gallery
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.plan import plan_of
from prefect_genmedia.batch.preflight import Inspected, inspect_inputs
from prefect_genmedia.batch.report import report_of
from prefect_genmedia.batch.results import INVALID, Carried, Results
from prefect_genmedia.batch.row_task import RowHooks
from prefect_genmedia.batch.rows import BadRow, Row, check_rows, refuse
from prefect_genmedia.batch.scheduler import BatchScheduler
from prefect_genmedia.batch.shards import HEARTBEAT_KEY, HEARTBEAT_SECONDS, Shard, report_end
from prefect_genmedia.batch.show import quiet_rows
from prefect_genmedia.batch.spec import BatchReport, BatchSpec, Money
from prefect_genmedia.batch.sql_table import SqlLocation, is_sql
from prefect_genmedia.batch.supervisor import supervisor_of
from prefect_genmedia.batch.table import folder_of, format_of, read_rows, stem_of, storage_of
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, FieldProblem, InvalidRequest, StorageError
from prefect_genmedia.prices import CURRENCY, Price, PriceTable, price_table
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings, verify_level
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text, counted

CHECK_SECONDS = 0.5
"""Interval at which to check whether progress and results are due, in seconds."""


@dataclass(frozen=True)
class Found:
    """The jobs of a batch's rows from earlier runs, the requesting run, and the output."""

    known: Mapping[str, Job]
    asker: Asker
    folder: str


@dataclass(frozen=True)
class OpenBatch:
    """A batch with a checked table and open sessions.

    Args:
        name: the batch's name.
        scheduler: runs its rows.
        rows: the rows to process.
        bad: the rows that are skipped.
        fit: the rows to process in their original form; empty if the table is not split, or is read from a file.
        unfit: ids of rows that are skipped because of their inputs.
    """

    name: str
    scheduler: BatchScheduler
    rows: Sequence[Row]
    bad: Sequence[BadRow]
    fit: Sequence[Mapping[str, Any]]
    unfit: frozenset[str]


async def run_batch(spec: BatchSpec) -> BatchReport:
    """Run a whole batch, or one shard of it, inside a flow run; see the flow `generate_batch`.

    Args:
        spec: the batch.

    Raises:
        InvalidRequest: rows are invalid, or settings contradict each other; nothing was submitted.
        BudgetStop: the budget did not allow every row; the allowed rows are done.
        BatchIncomplete: some rows have no file; the others are done.
    """
    shard = spec.sharding.shard
    async with explained(), report_end(shard) as end, AsyncExitStack() as stack:
        batch = await _opened(stack, spec)
        if spec.dry_run:
            return await _plan(batch.scheduler, batch.bad)
        scheduler, results = batch.scheduler, batch.scheduler.results
        await confirm_batch(batch, spec)
        supervisor = None if spec.sharding.shards == 1 else await supervisor_of(batch, spec)
        scheduler.budgets = await _budgets(scheduler, spec.money)
        known = len(scheduler.known)
        get_run_logger().info(
            "Batch %s: %s, %d of them known to the ledger", batch.name, counted(len(batch.rows), "row"), known
        )
        with quiet_rows(len(batch.rows)), terminal_bar(batch.name) as bar:
            async with _shown(scheduler, bar, shard):
                await (supervisor or scheduler).go()
        end.stop = scheduler.stop
        end.take(results)
        return _report(scheduler)


async def _opened(stack: AsyncExitStack, spec: BatchSpec) -> OpenBatch:
    """Read and check the table, open the sessions of its rows, and find the jobs of earlier runs."""
    settings, shard = current_settings(), spec.sharding.shard
    read = spec.table if isinstance(spec.table, str) and not is_sql(spec.table) else None
    await refuse_relative({"table": read, **named_output(spec.output, settings), "results": spec.results})
    name = spec.batch_id or (stem_of(spec.table) if isinstance(spec.table, str) else root_run_id())
    table = await read_rows(spec.table, spec.encoding)
    rows, bad = await to_thread.run_sync(check_rows, table.rows, spec.kind, shard.has if shard else None)
    carried = Carried.from_rows([*rows, *bad], table.dialect)
    if carried.columns and shard is None:
        get_run_logger().info("Columns that are not sent, and stand in the results: %s", ", ".join(carried.columns))
    prices = price_table(prices_of(settings), spec.money.prices)
    if spec.money.max_cost is not None:
        _check_prices(rows, prices, "max_cost")
    folder = anywhere(spec.output or f"{settings.media_folder.rstrip('/')}/{file_stem(name)}")
    location = spec.results or _beside(spec.table, folder, name)
    _check_location(location, spec.table)
    written, storage = (None, None) if shard else (location, await storage_of(location))
    ledger = await stack.enter_async_context(open_ledger(settings.ledger))
    if shard is not None:
        await shard.check_ledger(ledger)
    sessions = await _sessions(stack, rows, spec, prices, ledger)
    for provider, session in sessions.items():
        if caps := [cap.name for cap in session.caps.each() if cap.is_money]:
            _check_prices([row for row in rows if row.provider == provider], prices, caps[0])
    jobs = Known(name, rows, sessions, ledger)
    rows, others, bad = chosen_rows(spec, rows, bad)
    left = {row.id for row in others}
    anew = rows_anew(spec, rows)
    known = await jobs.begin(anew, root_run_id(), fix=not spec.dry_run)
    if anew and not spec.dry_run:
        get_run_logger().info("%s to be generated anew, and paid again once in this run", counted(len(anew), "row"))
    asker = Asker(root_run_id(), retried_by_person=await retried_by_person())
    inspected = await _inspected(spec, rows, bad, sessions, Found(known, asker, folder))
    rows = [row for row in rows if row.id not in inspected.unfit]
    with_results = [] if spec.dry_run else [*rows, *others]
    carried = carried.with_cells(with_results)
    without = [] if spec.dry_run else inspected.bad
    results = Results([row.id for row in with_results], without, written, storage, carried, left)
    for row in others:
        if row.id in known and not spec.dry_run:
            results.of(row.id).take_job(known[row.id], row.request, prices)
    scheduler = BatchScheduler(
        name=name,
        rows=rows,
        sessions=sessions,
        jobs=jobs,
        asker=asker,
        output=folder,
        prices=prices,
        spec=spec,
        results=results,
        known=known,
        inspected=inspected,
    )
    left_out = {row.position for row in inspected.bad} | {row.position for row in others}
    return OpenBatch(name, scheduler, rows, inspected.bad, given_fields(spec, left_out), inspected.unfit)


async def _inspected(
    spec: BatchSpec, rows: Sequence[Row], bad: Sequence[BadRow], sessions: Mapping[str, Session], found: Found
) -> Inspected:
    """Inspect the inputs of the rows to submit; the problems of all rows are raised as one error."""
    now = SYSTEM_CLOCK.now()
    to_submit = [row for row in rows if next_attempt(found.known.get(row.id), found.asker, now) is not None]
    inspected = await inspect_inputs(to_submit, sessions, spec.preflight)
    all_bad = sorted([*bad, *inspected.bad], key=lambda row: row.position)
    output = await _output_problems(found.folder, sessions, {row.provider for row in to_submit}, spec.dry_run)
    if output or (all_bad and not spec.skip_invalid):
        raise refuse([] if spec.skip_invalid else all_bad, output, spec.kind)
    cells = {row.position: row.cells for row in rows} if inspected.bad else {}
    all_bad = [replace(row, cells=cells.get(row.position, row.cells)) for row in all_bad]
    return replace(inspected, bad=all_bad, unfit=frozenset(row.id for row in inspected.bad))


async def _output_problems(
    folder: str, sessions: Mapping[str, Session], senders: Set[str], dry_run: bool
) -> list[FieldProblem]:
    """Returns the problems of a batch's output folder, which is tested once for all rows to submit."""
    if not sessions:
        return []
    first, *others = sessions.values()
    try:
        if senders and not dry_run:
            await check_destination(first, folder)
        else:
            await first.target_of(folder)
    except InvalidRequest as refusal:
        return list(refusal.problems)
    for session in others:
        session.writable.update(first.writable)
    return []


async def _sessions(
    stack: AsyncExitStack, rows: Sequence[Row], spec: BatchSpec, prices: PriceTable, ledger: Ledger
) -> dict[str, Session]:
    """Opens one session per account for the whole batch; the account's rows share its client."""
    sessions, settings = {}, current_settings()
    for provider in sorted({row.provider for row in rows}):
        block = await load_credentials(provider, spec.credentials)
        client = await stack.enter_async_context(block.client())
        session = await session_of(block, client, ledger, settings, RowHooks())
        limit = spec.limits.concurrency_limit or session.concurrency_limit
        if limit:
            await check_limit(limit)
        sessions[provider] = replace(
            session,
            prices=prices,
            concurrency_limit=limit,
            is_batch=True,
            convert_inputs=spec.convert_inputs,
            verify=verify_level(spec.verify, "structure"),
        )
    return sessions


def _report(run: BatchScheduler) -> BatchReport:
    results = run.results
    words = show.summary_of(results)
    place = f" The table of results is {results.location}." if results.location else ""
    get_run_logger().info("Batch %s: %s.%s", run.name, words, place)
    again = f"run the batch again with batch_id {run.name!r}: what is delivered is not paid again."
    if run.stop is not None:
        run.stop.paid = words
        if isinstance(run.stop, BudgetStop):
            run.stop.next_step = f"{run.stop.remedy}, and {again}"
        raise run.stop
    report = BatchReport(
        batch_id=run.name,
        rows=len(results.asked_for()),
        states=dict(results.counts()),
        estimated_cost=round(results.cost(), 6),
        results=results.location,
    )
    if results.unwritten is not None:
        raise StorageError(
            f"Batch {run.name!r}: {words}. The table of results cannot be written: {results.unwritten}.",
            paid=words,
            next_step=f"make {results.location} writable, then {again}",
            retryable=False,
        )
    most = report.rows - report.states.get(INVALID, 0)
    if report.delivered < most and report.delivered >= run.spec.min_delivered * most:
        get_run_logger().warning(
            "Batch %s: %d of %d rows have no file, which min_delivered allows: %s",
            run.name,
            most - report.delivered,
            most,
            again,
        )
    elif report.delivered < most:
        next_step = f"look at the table of failures, then {again}"
        raise BatchIncomplete(f"Batch {run.name!r}: {words}.{place}", next_step=next_step)
    return report


@asynccontextmanager
async def _shown(run: BatchScheduler, bar: Bar, shard: Shard | None) -> AsyncIterator[None]:
    """Shows progress and the table of results while the block runs, and publishes the artifacts when it has ended."""
    name, results = run.name, run.results
    progress = show.Progress(name, results, bar)
    if shard is not None:
        progress = show.Progress(f"{name}, {shard}", results, bar, HEARTBEAT_KEY, HEARTBEAT_SECONDS)
    await results.save(now=True)  # before paying: if the table cannot be written, the batch must stop here
    await progress.show(now=True)

    async def keep_showing() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await results.save()
                await progress.show()
            except Exception as error:  # paid jobs do not end because a picture of them cannot be drawn
                get_run_logger().warning("Progress or results cannot be written now: %s", _words(error))

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        await _save_at_last(results)
        await progress.show(now=True)
        if shard is None:  # otherwise the run that waits for the shard shows them
            report = await report_of(run)
            delivered = [result for result in results.all() if result.state == JobState.DELIVERED.value]
            await publish_gallery(name, show.summary_of(results), delivered, results.location, report)
            await show.publish_failures(name, results)
            await show.publish_results(name, results)


async def _save_at_last(results: Results) -> None:
    """Write the table for the last time; if that fails, the batch still reports its results."""
    try:
        await results.save(now=True)
    except Exception as error:
        results.unwritten = _words(error)
        get_run_logger().error("The table of results cannot be written: %s", results.unwritten)


def _words(error: Exception) -> str:
    """An error of a storage or a database in words; its text may quote a signed URL."""
    return clean_text(f"{type(error).__name__}: {unsigned_text(str(error))}", WORDS_CHARACTERS)


async def _plan(run: BatchScheduler, bad: Sequence[BadRow]) -> BatchReport:
    """Publish the plan; nothing is sent to a provider."""
    plan = await plan_of(run, bad)
    words = plan.words()
    get_run_logger().info("Dry run of batch %s: %s\n%s", run.name, words, plan.text())
    await show.publish_plan(run.name, [row.line() for row in plan.first], words, len(plan) - len(plan.first))
    return BatchReport(
        batch_id=run.name,
        rows=len(plan),
        states=dict(plan.counts),
        estimated_cost=float(round(plan.cost, 6)),
        dry_run=True,
    )


async def _budgets(run: BatchScheduler, money: Money) -> dict[str, Budget]:
    if not money.limited:
        return {}
    budgets = {}
    for session in run.sessions.values():
        account = session.tokens[0]
        name = budget_name(money.budget or run.name, money.period, account if money.per_account else None)
        budgets[account] = Budget(run.jobs.ledger, name, money.max_jobs, money.max_cost)
        state = await budgets[account].open()
        get_run_logger().info(
            "Budget %s: %s and about %.2f %s (estimate) are reserved",
            name,
            counted(state.jobs, "job"),
            state.cost,
            CURRENCY,
        )
    return budgets


def _check_prices(rows: Sequence[Row], prices: Mapping[str, Price], limit: str) -> None:
    """Refuse a cost limit if some rows have no price, because they could not be counted against it."""
    found = {(priced_as(row.request), _price_problem(row.request, prices, limit)) for row in rows}
    problems = [FieldProblem(f"prices.{name}", problem) for name, problem in sorted(found) if problem]
    if problems:
        raise InvalidRequest.of("The batch", problems)


def _price_problem(request: GenerationRequest, prices: Mapping[str, Price], limit: str) -> str:
    price = prices.get(priced_as(request))
    if price is None:
        return f"is needed for {limit}, and no price is known"
    if price.per_second and request.length_is_extra and length_limit(request) is None:
        return f"is per second, and extra_body changes how long the result plays: {limit} needs a price per_job"
    return ""


def _check_location(location: str, table: Rows) -> None:
    if is_sql(table) and is_sql(location):
        is_same = SqlLocation.of(location) == SqlLocation.of(str(table))
    else:
        is_same = isinstance(table, str) and anywhere(location) == anywhere(table)
    if is_same:
        raise InvalidRequest.of("The batch", [FieldProblem("results", "is the table itself")])


def _beside(table: Rows, folder: str, name: str) -> str:
    """Returns the default location of the table of results: beside the input table, in its format."""
    if isinstance(table, str) and not is_sql(table):
        return f"{folder_of(table)}/{stem_of(table)}.results.{format_of(table)}"
    return f"{folder.rstrip('/')}/{file_stem(name)}.results.jsonl"

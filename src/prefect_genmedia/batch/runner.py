"""Runs a batch: checks the table, opens sessions, runs the rows, and shows progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread
from prefect.logging import get_run_logger

from prefect_genmedia._core.attempts import Asker
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.destination import check_destination
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia._core.reviews import decisions_of
from prefect_genmedia._core.session import Session
from prefect_genmedia._core.spend import account_names
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia._prefect.environment import named_output, refuse_relative
from prefect_genmedia._prefect.quality import required_policy
from prefect_genmedia._prefect.run import explained, retried_by_person, root_run_id
from prefect_genmedia._prefect.session import prices_of
from prefect_genmedia._prefect.targets import SCHEME
from prefect_genmedia._prefect.terminal import Bar, terminal_bar
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch import show
from prefect_genmedia.batch.accounts import open_pools
from prefect_genmedia.batch.chain import NO_BLOCK
from prefect_genmedia.batch.choice import chosen_rows, given_fields, rows_anew
from prefect_genmedia.batch.confirm import confirm_batch
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.known import Known, StepJobs, steps_to_submit
from prefect_genmedia.batch.plan import plan_of
from prefect_genmedia.batch.preflight import AskedStep, Inspected, check_prices, inspect_inputs
from prefect_genmedia.batch.publish import publish_batch
from prefect_genmedia.batch.reservations import open_budgets
from prefect_genmedia.batch.result import INVALID, QUALITY, STEPS
from prefect_genmedia.batch.results import REVIEW_COLUMNS, Carried, Results, unsent_columns
from prefect_genmedia.batch.review import Review, check_review
from prefect_genmedia.batch.rows import BadRow, Row, check_rows, refuse
from prefect_genmedia.batch.scheduler import BatchScheduler
from prefect_genmedia.batch.shards import HEARTBEAT_KEY, HEARTBEAT_SECONDS, Shard, report_end
from prefect_genmedia.batch.show import quiet_rows
from prefect_genmedia.batch.spec import BatchReport, BatchSpec
from prefect_genmedia.batch.sql_table import SqlLocation, is_sql
from prefect_genmedia.batch.supervisor import supervisor_of
from prefect_genmedia.batch.table import folder_of, format_of, read_rows, stem_of, storage_of
from prefect_genmedia.batch.text_table import PLAIN
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, FieldProblem, InvalidRequest, StorageError
from prefect_genmedia.prices import price_table
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text, counted, error_words

CHECK_SECONDS = 0.5
"""Interval at which to check whether progress and results are due, in seconds."""


@dataclass(frozen=True)
class Found:
    """The jobs of a batch's rows from earlier runs, the requesting run, and the output."""

    known: Mapping[str, StepJobs]
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
        batch = await open_batch(stack, spec)
        if spec.dry_run:
            return await _plan(batch.scheduler, batch.bad)
        scheduler, results = batch.scheduler, batch.scheduler.results
        await confirm_batch(batch, spec)
        supervisor = None if spec.sharding.shards == 1 else await supervisor_of(batch, spec)
        scheduler.limit(await open_budgets(scheduler.accounts(), batch.name, spec.money))
        known = len(scheduler.known)
        get_run_logger().info(
            "Batch %s: %s, %d of them known to the ledger", batch.name, counted(len(batch.rows), "row"), known
        )
        scheduler.review = Review(scheduler, lambda: publish_batch(scheduler)) if spec.review else None
        with quiet_rows(len(batch.rows)), terminal_bar(batch.name) as bar:
            async with _shown(scheduler, bar, shard):
                await (supervisor or scheduler).go()
                if scheduler.review is not None and scheduler.stop is None:
                    await scheduler.review.afterwards()
        end.stop = scheduler.stop
        end.take(results)
        return _report(scheduler)


async def open_batch(stack: AsyncExitStack, spec: BatchSpec) -> OpenBatch:
    """Read and check the table, open the sessions of its rows, and find the jobs of earlier runs.

    Args:
        stack: closes the sessions.
        spec: the batch.

    Raises:
        InvalidRequest: with every problem of every row.
    """
    settings, shard = current_settings(), spec.sharding.shard
    has_quality = required_policy(spec.quality, spec.quality_checks).mode != "off"
    read = spec.table if isinstance(spec.table, str) and not is_sql(spec.table) else None
    await refuse_relative({"table": read, **named_output(spec.output, settings), "results": spec.results})
    name = spec.batch_id or (stem_of(spec.table) if isinstance(spec.table, str) else root_run_id())
    check_review(spec)
    rows: list[Row] = [] if spec.single is None else [spec.single.row]
    bad: list[BadRow] = []
    dialect = PLAIN
    if spec.single is None:
        table = await read_rows(spec.table, spec.encoding)
        rows, bad = await to_thread.run_sync(check_rows, table.rows, spec.kind, shard.has if shard else None)
        dialect = table.dialect
    prices = price_table(prices_of(settings), spec.money.prices)
    if spec.money.max_cost is not None:
        check_prices(rows, prices, "max_cost")
    folder = anywhere(spec.output or f"{settings.media_folder.rstrip('/')}/{file_stem(name)}")
    location = spec.results or _beside(spec.table, folder, name)
    _check_location(location, spec.table)
    written, storage = (None, None) if shard or spec.single else (location, await storage_of(location))
    ledger = await stack.enter_async_context(open_ledger(settings.ledger))
    if shard is not None:
        await shard.check_ledger(ledger)
    decisions = [] if shard else await decisions_of(ledger, name)
    has_review = bool(decisions or spec.review)
    carried = Carried.from_rows([*rows, *bad], dialect, has_review)
    if (own := unsent_columns(carried.columns)) and shard is None:
        get_run_logger().info("Columns that are not sent, and stand in the results: %s", ", ".join(own))
    pools = await open_pools(stack, {each for row in rows for each in row.providers}, spec, prices, ledger)
    for provider, its_sessions in pools.items():
        if caps := [cap.name for session in its_sessions for cap in session.caps.each() if cap.is_money]:
            check_prices(rows, prices, caps[0], provider)
    sessions = {provider: its_sessions[0] for provider, its_sessions in pools.items()}
    payers = await ledger.transact(account_names)
    jobs = Known(name, rows, sessions, ledger, spec.single.scope if spec.single else "")
    rows, others, bad = chosen_rows(spec, rows, bad)
    left = {row.id for row in others}
    anew = rows_anew(spec, rows)
    known = await jobs.begin(anew, root_run_id(), fix=not spec.dry_run)
    if anew and not spec.dry_run:
        get_run_logger().info("%s to be generated anew, and paid again once in this run", counted(len(anew), "row"))
    asker = Asker(root_run_id(), retried_by_person=await retried_by_person())
    inspected = await _inspected(spec, rows, bad, pools, Found(known, asker, folder))
    rows = [row for row in rows if row.id not in inspected.unfit]
    with_results = [] if spec.dry_run else [*rows, *others]
    carried = carried.with_cells(with_results)
    without = [] if spec.dry_run else inspected.bad
    optional = [
        *([QUALITY] if has_quality else ()),
        *([STEPS] if any(row.then for row in with_results) else ()),
        *(REVIEW_COLUMNS if has_review else ()),
    ]
    ids = [row.id for row in with_results]
    results = Results(ids, without, written, storage, carried, left, optional, decisions)
    results.root_run_id = root_run_id()
    results.has_accounts = any(len(each) > 1 for each in pools.values())
    for row in others:
        if row.id in known and not spec.dry_run:
            results.of(row.id).take_steps(known[row.id], row.requests, prices, payers)
    scheduler = BatchScheduler(
        name=name,
        rows=rows,
        pools=pools,
        payers=payers,
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
    spec: BatchSpec, rows: Sequence[Row], bad: Sequence[BadRow], pools: Mapping[str, Sequence[Session]], found: Found
) -> Inspected:
    """Inspect the inputs of the rows to submit; the problems of all rows are raised as one error."""
    now = SYSTEM_CLOCK.now()
    to_submit = [
        AskedStep(row, number, row.requests[number - 1])
        for row in rows
        for number in steps_to_submit(row, found.known.get(row.id, ()), found.asker, now)
    ]
    sessions = {provider: its_sessions[0] for provider, its_sessions in pools.items()}
    inspected = await inspect_inputs(to_submit, sessions, spec.preflight)
    all_bad = sorted([*bad, *inspected.bad], key=lambda row: row.position)
    everyone = [session for its_sessions in pools.values() for session in its_sessions]
    output = await _output_problems(found.folder, everyone, bool(to_submit) and not spec.dry_run)
    if found.folder.startswith(SCHEME) and any(row.then for row in rows):
        output = [*output, FieldProblem("output", NO_BLOCK)]
    if output or (all_bad and not spec.skip_invalid):
        raise refuse([] if spec.skip_invalid else all_bad, output, spec.kind)
    cells = {row.position: row.cells for row in rows} if inspected.bad else {}
    all_bad = [replace(row, cells=cells.get(row.position, row.cells)) for row in all_bad]
    return replace(inspected, bad=all_bad, unfit=frozenset(row.id for row in inspected.bad))


async def _output_problems(folder: str, sessions: Sequence[Session], sends: bool) -> list[FieldProblem]:
    """Returns the problems of a batch's output folder, which is tested once for all rows to submit."""
    if not sessions:
        return []
    first, *others = sessions
    try:
        if sends:
            await check_destination(first, folder)
        else:
            await first.target_of(folder)
    except InvalidRequest as refusal:
        return list(refusal.problems)
    for session in others:
        session.writable.update(first.writable)
    return []


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
        estimated_cost_of_run=round(results.cost_of_run(), 6),
        results=results.location,
        rejected=results.rejected(),
    )
    if results.unwritten is not None:
        raise StorageError(
            f"Batch {run.name!r}: {words}. The table of results cannot be written: {results.unwritten}.",
            paid=words,
            next_step=f"make {results.location} writable, then {again}",
            retryable=False,
        )
    most = report.rows - report.states.get(INVALID, 0)
    good = report.delivered - report.rejected
    if good < most and good >= run.spec.min_delivered * most:
        get_run_logger().warning(
            "Batch %s: %d of %d rows have no file%s, which min_delivered allows: %s",
            run.name,
            most - good,
            most,
            " or were rejected" if report.rejected else "",
            again,
        )
    elif good < most:
        look = "the table of failures" if report.delivered < most else "the reasons in the table of results"
        next_step = f"look at {look}, then {again}{show.flawed_step(results)}"
        if report.rejected:
            next_step += " Name rejected rows in `regenerate` to pay for new results."
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
            await publish_batch(run)


async def _save_at_last(results: Results) -> None:
    """Write the table for the last time; if that fails, the batch still reports its results."""
    try:
        await results.save(now=True)
    except Exception as error:
        results.unwritten = _words(error)
        get_run_logger().error("The table of results cannot be written: %s", results.unwritten)


def _words(error: Exception) -> str:
    """An error of a storage or a database in words; its text may quote a signed URL."""
    return clean_text(unsigned_text(error_words(error)), WORDS_CHARACTERS)


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

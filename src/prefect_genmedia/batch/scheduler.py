"""Schedules a batch: runs rows in order, within the limits, and keeps their current results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from anyio import to_thread
from prefect.events import emit_event
from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import report_budget
from prefect_genmedia._core.attempts import Asker
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.quality import findings_of, is_checked, quality_error
from prefect_genmedia._core.session import Session
from prefect_genmedia._core.standing import still_there
from prefect_genmedia._core.start import finish
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.quality import quality_policy
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.batch.chain import failed_step
from prefect_genmedia.batch.known import Known, StepJobs, current_step, is_delivered, step_to_begin
from prefect_genmedia.batch.pool import AccountPool, Lease, PayingAccount
from prefect_genmedia.batch.preflight import Inspected
from prefect_genmedia.batch.reservations import RowCosts
from prefect_genmedia.batch.result import IN_FLIGHT
from prefect_genmedia.batch.results import Results
from prefect_genmedia.batch.row_task import ROW, SharedLimits
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.slots import Breaker, Slots
from prefect_genmedia.batch.spec import BatchSpec, has_task_runs
from prefect_genmedia.batch.steps import RowSteps, account_for
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, GenMediaError
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import counted

if TYPE_CHECKING:
    from prefect_genmedia.batch.review import Review

_ROWS_AT_ONCE = 100
"""Number of delivered rows whose files are checked in one call in a thread."""


@dataclass(frozen=True)
class _ProviderRows:
    """The limits that rows of one provider wait for, independent of other providers.

    Parameters:
        pool: the accounts that may pay for them, with their in-flight slots.
        begun: limits its running rows, so that slow downloads do not pile up.
    """

    pool: AccountPool
    begun: asyncio.Semaphore

    @classmethod
    def of(cls, sessions: Sequence[Session], spec: BatchSpec) -> _ProviderRows:
        most = spec.limits.max_in_flight
        accounts = [PayingAccount(each, Slots(min(most, each.max_in_flight or most))) for each in sessions]
        pool = AccountPool(accounts, has_own_budgets=spec.money.limited and spec.money.per_account)
        return cls(pool, asyncio.Semaphore(2 * most * len(sessions) + 8))


@dataclass(kw_only=True)
class BatchScheduler:
    """Runs the rows of a batch within its limits.

    Parameters:
        name: the batch's name; rows with the same batch name and content are the same requested result.
        rows: the rows.
        pools: the sessions of the accounts that may pay, by provider, in the user's order.
        jobs: finds the rows' jobs in the ledger.
        asker: the requesting run.
        output: folder for the files.
        prices: the price table.
        spec: the batch's options.
        results: the result of each row.
        known: the jobs of earlier runs, by row id: those of each row's steps.
        inspected: the inspection results of the inputs.
        payers: the accounts' names, by id and by text, for the table of results.
        stop: why nothing more is submitted; None while the batch goes on.
        failure: the last error of a row; None if there was none.
        review: the review of its results; None if nobody reviews them.
    """

    name: str
    rows: Sequence[Row]
    pools: Mapping[str, Sequence[Session]]
    jobs: Known
    asker: Asker
    output: str
    prices: PriceTable
    spec: BatchSpec
    results: Results
    known: dict[str, StepJobs]
    inspected: Inspected
    payers: Mapping[str, str] = field(default_factory=dict)
    stop: GenMediaError | None = None
    failure: Exception | None = None
    review: Review | None = None

    def __post_init__(self) -> None:
        """Set up the limits of each account, with all slots free."""
        self._providers = {name: _ProviderRows.of(each, self.spec) for name, each in self.pools.items()}
        self.quality = quality_policy(self.spec.quality, self.spec.quality_checks)
        self.breaker = Breaker(self.spec.limits.breaker)
        self.shared = SharedLimits(self.breaker.accepted, lambda: self.stop is not None)
        self.sessions = {name: each[0] for name, each in self.pools.items()}
        self.costs = RowCosts(
            sessions=self.sessions,
            jobs=self.jobs,
            asker=self.asker,
            prices=self.prices,
            lengths=dict(self.inspected.seconds),
        )
        of_setting = current_settings().row_task_runs
        self.has_task_runs = has_task_runs(self.spec.row_task_runs, of_setting, len(self.rows))

    def limit(self, budgets: Mapping[str, Budget]) -> None:
        """Set the budgets that the rows count against.

        Parameters:
            budgets: the budgets by account (its first identity token); empty if costs are not limited.
        """
        self.costs.budgets = budgets

    async def go(self) -> None:
        """Run every row that the limits allow; `results` and `stop` hold the outcome."""
        await self.run_rows(await self.go_ahead())

    async def go_ahead(self) -> list[Row]:
        """Run the canary rows, and the review of the first rows.

        Returns:
            The other rows in order, which must not be started if `stop` is set.
        """
        canary = self.rows[: self.spec.limits.canary]
        rest = sorted(self.rows[self.spec.limits.canary :], key=self.turn)
        if canary:
            # Jobs that are already at the provider may hold the in-flight slots that the canary waits for.
            joined = [row for row in rest if self.turn(row) == 0]
            rest = rest[len(joined) :]
            await self.run_rows([*joined, *canary])
        failed = [row for row in canary if self.results.of(row.id).state != JobState.DELIVERED.value]
        if failed and self.stop is None:
            first = self.results.of(failed[0].id)
            self.end_early(
                BatchIncomplete(
                    f"{len(failed)} of {len(canary)} canary rows have no file, the first is {failed[0].id!r} "
                    f"({first.error_kind}: {first.error_message}); the rest was not begun."
                )
            )
        return rest if self.review is None or self.stop is not None else await self.review.ahead(rest)

    def turn(self, row: Row) -> int:
        """Returns a row's rank: jobs at the provider first, because they expire; then new rows; then delivered rows.

        Parameters:
            row: the row.
        """
        _, known = current_step(row, self.known.get(row.id, ()))
        if known is None or self.next_attempt(known) is not None:
            return 1
        if known.state in (JobState.DELIVERED, JobState.UNKNOWN, JobState.ABANDONED):
            return 2
        return 0

    async def run_rows(self, rows: Sequence[Row]) -> None:
        """Run rows, in order within the provider of their first step: a slow provider does not delay the others.

        Parameters:
            rows: the rows.
        """
        under_way: set[asyncio.Task[None]] = set()
        by_provider: dict[str, list[Row]] = {}
        for row in rows:
            number = step_to_begin(row, self.known.get(row.id, ())) if row.then else 1
            by_provider.setdefault(row.provider_of(number), []).append(row)
        for provider, its_rows in by_provider.items():
            _keep(under_way, asyncio.create_task(self._begin(its_rows, self._providers[provider], under_way)))
        try:
            await _all_of(under_way)
        except BaseException:
            for doing in under_way:
                doing.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)  # each logs that its job continues at the provider
            raise

    async def _begin(self, rows: Sequence[Row], limits: _ProviderRows, under_way: set[asyncio.Task[None]]) -> None:
        """Start rows of one provider as slots of its accounts become free."""
        delivered: list[Row] = []
        for row in rows:
            if is_delivered(row, self.known.get(row.id, ())):
                delivered.append(row)
            elif not await self._begin_one(row, limits, under_way):
                break
            if len(delivered) == _ROWS_AT_ONCE:
                _keep(under_way, asyncio.create_task(self._see(delivered, limits, under_way)))
                delivered = []
        if delivered:
            _keep(under_way, asyncio.create_task(self._see(delivered, limits, under_way)))

    async def _begin_one(self, row: Row, limits: _ProviderRows, under_way: set[asyncio.Task[None]]) -> bool:
        """Start a row when a slot is free; returns False if the batch has stopped."""
        await limits.begun.acquire()
        _, job = current_step(row, self.known.get(row.id, ()))
        lease = Lease(limits.pool, await account_for(job, limits.pool))
        if self.stop is not None:
            lease.release()
            limits.begun.release()
            return False
        _keep(under_way, asyncio.create_task(self._one(row, lease, limits.begun)))
        return True

    def _passes(self, job: Job) -> bool:
        """Whether a delivered job needs no quality check, and the run does not fail for one."""
        checks = self.quality.checks_of(job.expectation)
        if job.delivery is None or not is_checked(job.delivery, checks):
            return False
        return self.quality.mode != "fail" or not findings_of(job.delivery, checks)

    async def _see(self, rows: Sequence[Row], limits: _ProviderRows, under_way: set[asyncio.Task[None]]) -> None:
        """Accept delivered rows whose files are unchanged without running them; start the others."""
        storage = (await target_of(self.output)).storage
        deliveries = [self.known[row.id][-1].delivery for row in rows]
        async with self.shared.delivering:
            found = await to_thread.run_sync(_standing, deliveries, storage, self.spec.reverify)
        for row, whole in zip(rows, found, strict=True):
            if isinstance(whole, Exception):
                await self._failed(RowSteps(self, row, self.known.pop(row.id)), whole)
            elif whole and self._passes(self.known[row.id][-1]):
                self.take(row, self.known.pop(row.id))
            elif not await self._begin_one(row, limits, under_way):
                return

    async def _one(self, row: Row, lease: Lease, begun: asyncio.Semaphore) -> None:
        ROW.set(row.id)  # set in the context of the row's task
        steps = RowSteps(self, row, self.known.pop(row.id, ()))
        try:
            await steps.go(lease)
        except BudgetStop as stop:
            await self._not_paid(steps, stop)
        except Exception as error:
            await self._failed(steps, error)
        except BaseException:  # the run is cancelled, or was suspended
            await finish(self._interrupted(steps))
            raise
        else:
            self.take(row, steps.done)
            await self.costs.release_after(row, len(steps.done))
        finally:
            lease.release()
            steps.release()
            begun.release()

    async def _not_paid(self, steps: RowSteps, stop: BudgetStop) -> None:
        """Stop the batch at the end of a budget. What the row's steps before cost is kept."""
        if steps.reservation.spend is not None:
            await steps.give_back(None)
        else:
            await self.costs.release_after(steps.row, steps.step.number - 1)
        self.take(steps.row, steps.done)
        self.results.of(steps.row.id).take_error(stop)
        self.failure = stop
        await report_budget(steps.payer, "reached", stop.facts)
        self.end_early(stop)

    async def _interrupted(self, steps: RowSteps) -> None:
        """Leave a row to the next run of the batch, with no money reserved for what was not sent."""
        job = await steps.newest()
        self.take(steps.row, steps.jobs(job))
        await steps.give_back(job)

    async def _failed(self, steps: RowSteps, error: Exception) -> None:
        row, step, job = steps.row, steps.step, await steps.newest()
        self.take(row, steps.jobs(job))
        result = self.results.of(row.id)
        result.take_error(error)
        self.failure = error
        if row.then:
            place, message = (step.number, row.steps), result.error_message or ""
            result.error_message = failed_step(place, step.request.kind, message, steps.jobs(None))
        await steps.give_back(job)
        if isinstance(error, GenMediaError):
            self.breaker.failed(error)
        if self.breaker.reason is not None and self.stop is None:
            reason = self.breaker.reason
            self.end_early(
                BatchIncomplete(
                    f"Stopped after {counted(self.spec.limits.breaker, 'row')} in a row with the same {reason.kind}: "
                    f"{reason.message}",
                    next_step=reason.next_step,
                ).about(reason.job_key, None)
            )

    def take(self, row: Row, jobs: Sequence[Job]) -> None:
        """Record the state of a row by the jobs of its steps. The quality checks count for the file of the last step.

        Parameters:
            row: the row.
            jobs: the newest job of each step that has one, in order.
        """
        result = self.results.of(row.id)
        result.take_steps(jobs, row.requests, self.prices, self.payers)
        if len(jobs) < row.steps:
            return
        job = jobs[-1]
        checks = self.quality.checks_of(job.expectation)
        findings = findings_of(job.delivery, checks) if job.delivery is not None else []
        if self.quality.mode == "fail" and findings and job.state is JobState.DELIVERED:
            self.failure = quality_error(job, findings)
            result.take_error(self.failure)

    def show_step(self, row: Row, done: Sequence[Job]) -> None:
        """Show the cost of the steps so far of a chain that goes on.

        Parameters:
            row: the row.
            done: the jobs of its delivered steps.
        """
        self.take(row, done)
        self.results.of(row.id).state = IN_FLIGHT

    def end_early(self, reason: GenMediaError) -> None:
        """Submit nothing more; the batch ends with this error when the rows under way have ended.

        Parameters:
            reason: the error; only the first one counts.
        """
        if self.stop is not None:
            return
        self.stop = reason
        counts = self.results.counts()
        get_run_logger().error("Nothing more is submitted: %s", reason.message)
        emit_event(
            event="genmedia.batch.stopped",
            resource={"prefect.resource.id": f"genmedia.batch.{self.name}", "prefect.resource.name": self.name},
            payload={"error": reason.kind, "message": reason.message, "rows": dict(counts)},
        )

    def next_attempt(self, known: Job | None) -> int | None:
        """Returns the attempt that `submit_once` sends for a row; None if it sends nothing. See `_core.attempts`."""
        return self.costs.next_attempt(known)

    def accounts(self) -> list[Session]:
        """Returns the sessions of all accounts that may pay."""
        return [session for its_sessions in self.pools.values() for session in its_sessions]

    def pool_of(self, provider: str) -> AccountPool:
        """Returns the accounts of a provider.

        Parameters:
            provider: the provider.
        """
        return self._providers[provider].pool

    async def estimate(self, request: GenerationRequest) -> Decimal | None:
        """Returns a request's estimated cost in CNY; uses the maximum duration if the duration cannot be measured."""
        return await self.costs.estimate(request)


def _standing(deliveries: Sequence[Delivery | None], storage: Storage, reverify: bool) -> list[bool | Exception]:
    """Returns which delivered files still exist, or an error if that cannot be determined. Blocks."""
    found: list[bool | Exception] = []
    for delivery in deliveries:
        try:
            found.append(delivery is not None and still_there(delivery, storage, reverify))
        except Exception as error:
            found.append(error)
    return found


def _keep(under_way: set[asyncio.Task[None]], doing: asyncio.Task[None]) -> None:
    under_way.add(doing)
    doing.add_done_callback(under_way.discard)


async def _all_of(doing: set[asyncio.Task[None]]) -> None:
    while doing:
        done, _ = await asyncio.wait(set(doing), return_when=asyncio.FIRST_EXCEPTION)
        for each in done:
            each.result()

"""Schedules a batch: runs rows in order, within the limits, and keeps their current results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from anyio import to_thread
from prefect.events import emit_event
from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import tell_of_budget
from prefect_genmedia._core.attempts import Asker
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.standing import still_there
from prefect_genmedia._core.start import finish
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.pool import AccountPool, Lease, PayingAccount
from prefect_genmedia.batch.preflight import Inspected
from prefect_genmedia.batch.reservations import Reservation, RowCosts
from prefect_genmedia.batch.results import IN_FLIGHT, NOT_SENT, Results
from prefect_genmedia.batch.row_task import ROW, RowRun, SharedLimits, generate_row
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.slots import Breaker, Slots
from prefect_genmedia.batch.spec import BatchSpec, has_task_runs
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, GenMediaError
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import counted

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
        known: the jobs of earlier runs, by row id.
        inspected: the inspection results of the inputs.
        payers: the accounts' names, by id and by text, for the table of results.
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
    known: dict[str, Job]
    inspected: Inspected
    payers: Mapping[str, str] = field(default_factory=dict)
    stop: GenMediaError | None = None

    def __post_init__(self) -> None:
        """Set up the limits of each account, with all slots free."""
        self._providers = {name: _ProviderRows.of(each, self.spec) for name, each in self.pools.items()}
        self.breaker = Breaker(self.spec.limits.breaker)
        self._shared = SharedLimits(self.breaker.accepted, lambda: self.stop is not None)
        self.sessions = {name: each[0] for name, each in self.pools.items()}
        self._costs = RowCosts(
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
        self._costs.budgets = budgets

    async def go(self) -> None:
        """Run every row that the limits allow; `results` and `stop` hold the outcome."""
        await self._all(await self.go_ahead())

    async def go_ahead(self) -> list[Row]:
        """Run the canary rows; returns the other rows in order, which must not be started if `stop` is set."""
        canary = self.rows[: self.spec.limits.canary]
        rest = sorted(self.rows[self.spec.limits.canary :], key=self._turn)
        if canary:
            # Jobs that are already at the provider may hold the in-flight slots that the canary waits for.
            joined = [row for row in rest if self._turn(row) == 0]
            rest = rest[len(joined) :]
            await self._all([*joined, *canary])
        failed = [row for row in canary if self.results.of(row.id).state != JobState.DELIVERED.value]
        if failed and self.stop is None:
            first = self.results.of(failed[0].id)
            self._stop(
                BatchIncomplete(
                    f"{len(failed)} of {len(canary)} canary rows have no file, the first is {failed[0].id!r} "
                    f"({first.error_kind}: {first.error_message}); the rest was not begun."
                )
            )
        return rest

    def _turn(self, row: Row) -> int:
        """Returns a row's rank: jobs at the provider first, because they expire; then new rows; then delivered rows."""
        known = self.known.get(row.id)
        if known is None or self.next_attempt(known) is not None:
            return 1
        if known.state in (JobState.DELIVERED, JobState.UNKNOWN, JobState.ABANDONED):
            return 2
        return 0

    async def _all(self, rows: Sequence[Row]) -> None:
        """Run rows, in order within each provider: a slow provider does not delay the others."""
        under_way: set[asyncio.Task[None]] = set()
        by_provider: dict[str, list[Row]] = {}
        for row in rows:
            by_provider.setdefault(row.request.provider, []).append(row)
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
            if self._is_delivered(row):
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
        lease = Lease(limits.pool, await self._account_for(row, limits.pool))
        if self.stop is not None:
            lease.release()
            limits.begun.release()
            return False
        _keep(under_way, asyncio.create_task(self._one(row, lease, limits.begun)))
        return True

    async def _account_for(self, row: Row, pool: AccountPool) -> PayingAccount:
        """Takes a slot of the account that is to pay for a row, or that has paid for it and has its job now."""
        known = self.known.get(row.id)
        is_at_provider = known is not None and known.state is JobState.SUBMITTED
        payer = pool.join(known) if known is not None and is_at_provider and not pool.is_single else None
        return payer or await pool.acquire()

    def _is_delivered(self, row: Row) -> bool:
        known = self.known.get(row.id)
        return known is not None and known.state is JobState.DELIVERED and known.delivery is not None

    async def _see(self, rows: Sequence[Row], limits: _ProviderRows, under_way: set[asyncio.Task[None]]) -> None:
        """Accept delivered rows whose files are unchanged without running them; start the others."""
        storage = (await target_of(self.output)).storage
        deliveries = [self.known[row.id].delivery for row in rows]
        async with self._shared.delivering:
            found = await to_thread.run_sync(_standing, deliveries, storage, self.spec.reverify)
        for row, whole in zip(rows, found, strict=True):
            if isinstance(whole, Exception):
                self.known.pop(row.id)
                await self._failed(row, Reservation(self._costs, row), whole)
            elif whole:
                self._take(row, self.known.pop(row.id))
            elif not await self._begin_one(row, limits, under_way):
                return

    async def _one(self, row: Row, lease: Lease, begun: asyncio.Semaphore) -> None:
        ROW.set(row.id)  # set in the context of the row's task
        known = self.known.pop(row.id, None)
        reservation = Reservation(self._costs, row)
        try:
            self.results.of(row.id).state = IN_FLIGHT
            row_run = RowRun(self._spec_of(row), known, lease, self._shared, reservation)
            await row_run.reserve()
            job = await (generate_row(row.id, row_run) if self.has_task_runs else row_run.run())
            self.results.of(row.id).task_run_id = row_run.task_run_id
        except BudgetStop as stop:
            if reservation.spend is not None:
                await reservation.give_back(None)
            result = self.results.of(row.id)
            result.state = NOT_SENT
            result.take_error(stop)
            await tell_of_budget(lease.session, "reached", stop.facts)
            self._stop(stop)
        except Exception as error:
            await self._failed(row, reservation, error)
        except BaseException:  # the run is cancelled, or was suspended
            await finish(self._interrupted(row, reservation))
            raise
        else:
            self.breaker.delivered()
            self._take(row, job)
            if not reservation.is_for(job):
                await reservation.give_back(job)
        finally:
            lease.release()
            begun.release()

    def _spec_of(self, row: Row) -> JobSpec:
        """Returns the options of a row's job."""
        attribution = row.attribution.over(self.spec.attribution)
        return JobSpec(
            row.request,
            scope=self.jobs.scope(row),
            variant=self.jobs.variant(row),
            label=row.id,
            output=f"{self.output.rstrip('/')}/{row.file_name}",
            timeout_seconds=self.spec.limits.timeout_seconds,
            preflight=self.spec.preflight,
            overwrite=self.spec.overwrite,
            inspected=self.inspected.results.get(row.id, {}),
            project=attribution.project,
            tags=attribution.tags,
        )

    async def _interrupted(self, row: Row, reservation: Reservation) -> None:
        """Leave a row to the next run of the batch, with no money reserved for what was not sent."""
        job = await self.jobs.newest(row)
        self._take(row, job)
        await reservation.give_back(job)

    async def _failed(self, row: Row, reservation: Reservation, error: Exception) -> None:
        job = await self.jobs.newest(row)
        self._take(row, job)
        self.results.of(row.id).take_error(error)
        await reservation.give_back(job)
        if isinstance(error, GenMediaError):
            self.breaker.failed(error)
        if self.breaker.reason is not None and self.stop is None:
            reason = self.breaker.reason
            self._stop(
                BatchIncomplete(
                    f"Stopped after {counted(self.spec.limits.breaker, 'row')} in a row with the same {reason.kind}: "
                    f"{reason.message}",
                    next_step=reason.next_step,
                ).about(reason.job_key, None)
            )

    def _take(self, row: Row, job: Job | None) -> None:
        result = self.results.of(row.id)
        if job is None:
            result.state = NOT_SENT
        else:
            result.take_job(job, row.request, self.prices, self.payers)

    def _stop(self, reason: GenMediaError) -> None:
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
        return self._costs.next_attempt(known)

    async def estimate(self, request: GenerationRequest) -> Decimal | None:
        """Returns a request's estimated cost in CNY; uses the maximum duration if the duration cannot be measured."""
        return await self._costs.estimate(request)


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

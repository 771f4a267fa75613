"""Schedules a batch: runs rows in order, within the limits, and keeps their current results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from anyio import to_thread
from prefect.events import emit_event
from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import report_budget
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.budgets import Budget, estimated_cost, holder_of, priced_as
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.standing import still_there
from prefect_genmedia._core.start import finish
from prefect_genmedia._inputs import measured
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.preflight import Inspected
from prefect_genmedia.batch.results import IN_FLIGHT, NOT_SENT, Results
from prefect_genmedia.batch.row_task import ROW, RowRun, SharedLimits, Slot, generate_row
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.slots import Breaker, Slots
from prefect_genmedia.batch.spec import BatchSpec, Limits, has_task_runs
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, GenMediaError
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import counted

_MEASURED_AT_ONCE = 4

_ROWS_AT_ONCE = 100
"""Number of delivered rows whose files are checked in one call in a thread."""


@dataclass(frozen=True)
class _AccountRows:
    """The limits that rows of one account wait for, independent of other accounts.

    Args:
        slots: its in-flight slots.
        begun: limits its running rows, so that slow downloads do not pile up.
    """

    slots: Slots
    begun: asyncio.Semaphore

    @classmethod
    def of(cls, session: Session, limits: Limits) -> _AccountRows:
        most = min(limits.max_in_flight, session.max_in_flight or limits.max_in_flight)
        return cls(Slots(most), asyncio.Semaphore(2 * limits.max_in_flight + 8))


@dataclass(kw_only=True)
class BatchScheduler:
    """Runs the rows of a batch within its limits.

    Args:
        name: the batch's name; rows with the same batch name and content are the same requested result.
        rows: the rows.
        sessions: the session of each account, by provider.
        jobs: finds the rows' jobs in the ledger.
        asker: the requesting run.
        output: folder for the files.
        prices: the price table.
        spec: the batch's options.
        results: the result of each row.
        known: the jobs of earlier runs, by row id.
        inspected: the inspection results of the inputs.
        budgets: the budgets by account (its first identity token); empty if costs are not limited.
    """

    name: str
    rows: Sequence[Row]
    sessions: Mapping[str, Session]
    jobs: Known
    asker: Asker
    output: str
    prices: PriceTable
    spec: BatchSpec
    results: Results
    known: dict[str, Job]
    inspected: Inspected
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    stop: GenMediaError | None = None

    def __post_init__(self) -> None:
        """Set up the limits of each account, with all slots free."""
        self._accounts = {name: _AccountRows.of(each, self.spec.limits) for name, each in self.sessions.items()}
        self.breaker = Breaker(self.spec.limits.breaker)
        self._shared = SharedLimits(self.breaker.accepted, lambda: self.stop is not None)
        self._measuring = asyncio.Semaphore(_MEASURED_AT_ONCE)
        self._lengths = dict(self.inspected.seconds)
        of_setting = current_settings().row_task_runs
        self.has_task_runs = has_task_runs(self.spec.row_task_runs, of_setting, len(self.rows))

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
        """Run rows, in order within each account: a slow account does not delay the others."""
        under_way: set[asyncio.Task[None]] = set()
        by_provider: dict[str, list[Row]] = {}
        for row in rows:
            by_provider.setdefault(row.request.provider, []).append(row)
        for provider, its_rows in by_provider.items():
            _keep(under_way, asyncio.create_task(self._begin(its_rows, self._accounts[provider], under_way)))
        try:
            await _all_of(under_way)
        except BaseException:
            for doing in under_way:
                doing.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)  # each logs that its job continues at the provider
            raise

    async def _begin(self, rows: Sequence[Row], account: _AccountRows, under_way: set[asyncio.Task[None]]) -> None:
        """Start rows of one account as slots become free."""
        delivered: list[Row] = []
        for row in rows:
            if self._is_delivered(row):
                delivered.append(row)
            elif not await self._begin_one(row, account, under_way):
                break
            if len(delivered) == _ROWS_AT_ONCE:
                _keep(under_way, asyncio.create_task(self._see(delivered, account, under_way)))
                delivered = []
        if delivered:
            _keep(under_way, asyncio.create_task(self._see(delivered, account, under_way)))

    async def _begin_one(self, row: Row, account: _AccountRows, under_way: set[asyncio.Task[None]]) -> bool:
        """Start a row when a slot is free; returns False if the batch has stopped."""
        await account.begun.acquire()
        await account.slots.acquire()
        if self.stop is not None:
            account.slots.release()
            account.begun.release()
            return False
        _keep(under_way, asyncio.create_task(self._one(row, account)))
        return True

    def _is_delivered(self, row: Row) -> bool:
        known = self.known.get(row.id)
        return known is not None and known.state is JobState.DELIVERED and known.delivery is not None

    async def _see(self, rows: Sequence[Row], account: _AccountRows, under_way: set[asyncio.Task[None]]) -> None:
        """Accept delivered rows whose files are unchanged without running them; start the others."""
        storage = (await target_of(self.output)).storage
        deliveries = [self.known[row.id].delivery for row in rows]
        async with self._shared.delivering:
            found = await to_thread.run_sync(_standing, deliveries, storage, self.spec.reverify)
        for row, whole in zip(rows, found, strict=True):
            if isinstance(whole, Exception):
                self.known.pop(row.id)
                await self._failed(row, None, whole)
            elif whole:
                self._take(row, self.known.pop(row.id))
            elif not await self._begin_one(row, account, under_way):
                return

    async def _one(self, row: Row, account: _AccountRows) -> None:
        ROW.set(row.id)  # set in the context of the row's task
        slot = Slot(account.slots)
        known = self.known.pop(row.id, None)
        session = self.sessions[row.request.provider]
        attempt: int | None = None
        spend: Spend | None = None
        try:
            self.results.of(row.id).state = IN_FLIGHT
            attempt, spend = await self._reserve(row, known)
            attribution = row.attribution.over(self.spec.attribution)
            spec = JobSpec(
                row.request,
                scope=self.jobs.scope(row),
                variant=self.jobs.variant(row),
                label=row.id,
                output=f"{self.output.rstrip('/')}/{row.file_name}",
                timeout_seconds=self.spec.limits.timeout_seconds,
                preflight=self.spec.preflight,
                overwrite=self.spec.overwrite,
                spend=spend,
                inspected=self.inspected.results.get(row.id, {}),
                project=attribution.project,
                tags=attribution.tags,
            )
            row_run = RowRun(session, spec, known, slot, self._shared)
            job = await (generate_row(row.id, row_run) if self.has_task_runs else row_run.run())
            self.results.of(row.id).task_run_id = row_run.task_run_id
        except BudgetStop as stop:
            if spend is not None:
                await self._give_back(row, attempt, None)
            result = self.results.of(row.id)
            result.state = NOT_SENT
            result.take_error(stop)
            await report_budget(session, "reached", stop.facts)
            self._stop(stop)
        except Exception as error:
            await self._failed(row, attempt, error)
        except BaseException:  # the run is cancelled, or was suspended
            await finish(self._interrupted(row, attempt))
            raise
        else:
            self.breaker.delivered()
            self._take(row, job)
            if attempt not in (None, job.attempt):
                await self._give_back(row, attempt, job)
        finally:
            slot.release()
            account.begun.release()

    async def _interrupted(self, row: Row, attempt: int | None) -> None:
        """Leave a row to the next run of the batch, with no money reserved for what was not sent."""
        job = await self.jobs.newest(row)
        self._take(row, job)
        await self._give_back(row, attempt, job)

    async def _failed(self, row: Row, attempt: int | None, error: Exception) -> None:
        job = await self.jobs.newest(row)
        self._take(row, job)
        self.results.of(row.id).take_error(error)
        await self._give_back(row, attempt, job)
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
            result.take_job(job, row.request, self.prices)

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

    async def _give_back(self, row: Row, attempt: int | None, job: Job | None) -> None:
        """Release the row's reservation if its job was not sent or cost nothing."""
        budget, identity = self._budget(row), job.identity if job else self.jobs.identity(row)
        if budget is not None and identity is not None:
            # Another run may have made a later attempt than the planned one.
            for each in {attempt or 1, job.attempt if job else 1}:
                await budget.release(identity, each)

    def _budget(self, row: Row) -> Budget | None:
        return self.budgets.get(self.sessions[row.request.provider].tokens[0])

    async def _reserve(self, row: Row, known: Job | None) -> tuple[int | None, Spend | None]:
        """Reserve the row's cost before any work on it, if it will be submitted.

        Returns:
            The attempt that it is for, and the function that ensures the reservation when the job is sent: other runs
            of the row share this reservation and may release it in the meantime.
        """
        budget, identity, attempt = self._budget(row), self.jobs.identity(row), self.next_attempt(known)
        if budget is None:
            return None, None
        if attempt is None or identity is None:
            return None, budget.spender(None)
        if known is not None and known.attempt < attempt:
            # A run that was killed after the job's failure may not have released the reservation.
            await budget.release(identity, known.attempt)
        cost = await self.estimate(row.request)
        near = await budget.reserve(holder_of(identity, attempt), cost)
        await report_budget(self.sessions[row.request.provider], "warning", near)
        return attempt, budget.spender(cost)

    def next_attempt(self, known: Job | None) -> int | None:
        """Returns the attempt that `submit_once` sends for a row; None if it sends nothing. See `_core.attempts`."""
        return next_attempt(known, self.asker, SYSTEM_CLOCK.now())

    async def estimate(self, request: GenerationRequest) -> Decimal | None:
        """Returns a request's estimated cost in CNY; uses the maximum duration if the duration cannot be measured."""
        price = self.prices.get(priced_as(request))
        is_by_length = price is not None and price.per_second > 0
        return estimated_cost(request, self.prices, await self._length(request) if is_by_length else None)

    async def _length(self, request: GenerationRequest) -> float | None:
        """Returns the seconds of the input that determines the result's duration; None if not measurable."""
        source = request.duration_source()
        if source is None or request.length_is_extra:
            return None
        async with self._measuring:
            if source.url not in self._lengths:
                rules = self.sessions[request.provider].client.fetch_rules
                self._lengths[source.url] = await measured(source.url, rules)
        return self._lengths[source.url] or None


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

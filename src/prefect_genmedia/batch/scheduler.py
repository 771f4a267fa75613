"""Schedules a batch: runs rows in order, within the limits, and keeps their current results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anyio import to_thread
from prefect.events import emit_event
from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import tell_of_budget
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.model import TAKEN, Delivery, Job, JobState
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.standing import still_there
from prefect_genmedia._core.start import finish
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.batch.chain import check_unchanged, failed_step, made_from, step_output
from prefect_genmedia.batch.known import Known, StepJobs, current_step
from prefect_genmedia.batch.preflight import Inspected
from prefect_genmedia.batch.reservations import PlannedStep, Reservations
from prefect_genmedia.batch.results import IN_FLIGHT, Results
from prefect_genmedia.batch.row_task import ROW, RowRun, SharedLimits, Slot, generate_row
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.slots import Breaker, Slots
from prefect_genmedia.batch.spec import BatchSpec, Limits, has_task_runs
from prefect_genmedia.errors import BatchIncomplete, BudgetStop, GenMediaError
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import counted

_ROWS_AT_ONCE = 100
"""Number of delivered rows whose files are checked in one call in a thread."""


@dataclass(frozen=True)
class _AccountRows:
    """The limits that rows of one account wait for, independent of other accounts.

    Parameters:
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

    Parameters:
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
    known: dict[str, StepJobs]
    inspected: Inspected
    stop: GenMediaError | None = None
    failure: Exception | None = None
    """The last error of a row."""

    def __post_init__(self) -> None:
        """Set up the limits of each account, with all slots free."""
        self._accounts = {name: _AccountRows.of(each, self.spec.limits) for name, each in self.sessions.items()}
        self.breaker = Breaker(self.spec.limits.breaker)
        self._shared = SharedLimits(self.breaker.accepted, lambda: self.stop is not None)
        self.reservations = Reservations(self.sessions, self.jobs, self.prices, dict(self.inspected.seconds))
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
        _, known = current_step(row, self.known.get(row.id, ()))
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
            by_provider.setdefault(self._waits_for(row), []).append(row)
        for provider, its_rows in by_provider.items():
            _keep(under_way, asyncio.create_task(self._begin(its_rows, self._accounts[provider], under_way)))
        try:
            await _all_of(under_way)
        except BaseException:
            for doing in under_way:
                doing.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)  # each logs that its job continues at the provider
            raise

    def _waits_for(self, row: Row) -> str:
        """Returns the provider whose limits a row waits for: that of its first step to do."""
        if not row.then:
            return row.provider
        number, _ = current_step(row, self.known.get(row.id, ()))
        return row.requests[number - 1].provider

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
        jobs = self.known.get(row.id, ())
        return len(jobs) == row.steps and jobs[-1].state is JobState.DELIVERED and jobs[-1].delivery is not None

    async def _see(self, rows: Sequence[Row], account: _AccountRows, under_way: set[asyncio.Task[None]]) -> None:
        """Accept delivered rows whose files are unchanged without running them; start the others."""
        storage = (await target_of(self.output)).storage
        deliveries = [self.known[row.id][-1].delivery for row in rows]
        async with self._shared.delivering:
            found = await to_thread.run_sync(_standing, deliveries, storage, self.spec.reverify)
        for row, whole in zip(rows, found, strict=True):
            if isinstance(whole, Exception):
                jobs = self.known.pop(row.id)
                await self._failed(PlannedStep(row, row.steps, row.requests[-1], jobs[-1]), jobs[:-1], whole)
            elif whole:
                self._take(row, self.known.pop(row.id))
            elif not await self._begin_one(row, account, under_way):
                return

    async def _one(self, row: Row, account: _AccountRows) -> None:
        """Run the steps of a row that are to be done; a row that is no chain has one."""
        ROW.set(row.id)  # set in the context of the row's task
        slot = Slot(account.slots)
        known = self.known.pop(row.id, ())
        number, current = current_step(row, known)
        # The step before makes sure that the input is there. A job that the provider has does not need it any more.
        begin = number if number == 1 or (current is not None and current.state in TAKEN) else number - 1
        done = list(known[: begin - 1])
        step = PlannedStep(row, begin, row.requests[begin - 1])
        try:
            for number in range(begin, row.steps + 1):
                if number > begin:
                    slot = await self._slot_of(row, number)
                    if self.stop is not None and not isinstance(self.stop, BudgetStop):
                        break  # at the end of a budget, chains that have begun go on: all of their steps are reserved
                step = await self._planned(row, number, known[number - 1] if number <= len(known) else None, done)
                done.append(await self._do(step, done, slot, is_first=number == begin))
                self._show_step(row, done)
        except BudgetStop as stop:
            await self._give_back(step, None)
            self._take(row, done)
            self.results.of(row.id).take_error(stop)
            await tell_of_budget(self.sessions[step.request.provider], "reached", stop.facts)
            self._stop(stop)
        except Exception as error:
            await self._failed(step, done, error)
        except BaseException:  # the run is cancelled, or was suspended
            await finish(self._interrupted(step, done))
            raise
        else:
            self._take(row, done)
            await self.reservations.release_after(row, len(done))
        finally:
            slot.release()
            account.begun.release()

    async def _slot_of(self, row: Row, number: int) -> Slot:
        """Wait for a slot of a later step, before rows that have not begun."""
        slots = self._accounts[row.requests[number - 1].provider].slots
        await slots.acquire(first=True)
        return Slot(slots)

    async def _planned(self, row: Row, number: int, known: Job | None, done: Sequence[Job]) -> PlannedStep:
        attempt = self.next_attempt(known)
        if number == 1:
            return PlannedStep(row, number, row.request, known, self.jobs.identity(row), attempt)
        before = done[-1].delivery
        assert before is not None  # only delivered steps are done
        identities = await self.jobs.step_identities(row, number, before)
        identity = identities.new if known is None else known.identity
        return PlannedStep(row, number, made_from(row.requests[number - 1], before.uri), known, identity, attempt)

    async def _do(self, step: PlannedStep, done: Sequence[Job], slot: Slot, is_first: bool) -> Job:
        """Run one step to its verified file.

        Parameters:
            step: the step.
            done: the jobs of the steps before.
            slot: its in-flight slot.
            is_first: whether the run does no earlier step of the row; then it reserves the later ones, too.
        """
        row = step.row
        self.results.of(row.id).state = IN_FLIGHT
        if step.number > 1 and step.attempt is not None and done[-1].delivery is not None:
            await check_unchanged(done[-1].delivery, (await target_of(self.output)).storage, step.number, step.request)
        spend = await self.reservations.reserve(step)
        if is_first and row.then:
            await self.reservations.reserve_after(row, step.number)
        attribution = row.attribution.over(self.spec.attribution)
        spec = JobSpec(
            step.request,
            scope=self.jobs.scope(row, step.number),
            variant=self.jobs.variant(row),
            label=self.spec.single.label if self.spec.single else row.id,
            output=self._output_of(step),
            timeout_seconds=self.spec.limits.timeout_seconds,
            preflight=self.spec.preflight,
            overwrite=self.spec.overwrite,
            spend=spend,
            inspected=self.inspected.results.get(row.id, {}) if step.number == 1 else {},
            project=attribution.project,
            tags=attribution.tags,
            publish=step.number > 1,
        )
        row_run = RowRun(self.sessions[step.request.provider], spec, step.known, slot, self._shared)
        name = f"{spec.label} · step {step.number} of {row.steps}" if row.then else row.id
        job = await (generate_row(name, row_run) if self.has_task_runs else row_run.run())
        self.results.of(row.id).task_run_id = row_run.task_run_id
        self.breaker.delivered()
        if step.attempt not in (None, job.attempt):
            await self.reservations.give_back(step, job)
        return job

    def _output_of(self, step: PlannedStep) -> str:
        if self.spec.single is not None:
            return step_output(self.output, step.number, step.row.steps)
        return f"{self.output.rstrip('/')}/{step.row.file_name(step.number)}"

    async def _interrupted(self, step: PlannedStep, done: Sequence[Job]) -> None:
        """Leave a row to the next run of the batch, with no money reserved for what was not sent."""
        job = await self._newest(step, done)
        self._take(step.row, [*done, *([job] if job else [])])
        await self._give_back(step, job)

    async def _failed(self, step: PlannedStep, done: Sequence[Job], error: Exception) -> None:
        job, row = await self._newest(step, done), step.row
        self._take(row, [*done, *([job] if job else [])])
        result = self.results.of(row.id)
        result.take_error(error)
        self.failure = error
        if row.then:
            place, kind = (step.number, row.steps), step.request.kind
            result.error_message = failed_step(place, kind, result.error_message or "", done)
        await self._give_back(step, job)
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

    async def _newest(self, step: PlannedStep, done: Sequence[Job]) -> Job | None:
        before = done[-1].delivery if step.number > 1 and done else None
        return await self.jobs.newest(step.row, step.number, before)

    async def _give_back(self, step: PlannedStep, job: Job | None) -> None:
        await self.reservations.give_back(step, job)
        await self.reservations.release_after(step.row, step.number - 1)

    def _take(self, row: Row, jobs: Sequence[Job]) -> None:
        self.results.of(row.id).take_steps(jobs, row.requests, self.prices)

    def _show_step(self, row: Row, done: Sequence[Job]) -> None:
        """Show the cost of the steps so far of a chain that goes on."""
        if len(done) < row.steps:
            self._take(row, done)
            self.results.of(row.id).state = IN_FLIGHT

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
        return next_attempt(known, self.asker, SYSTEM_CLOCK.now())


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

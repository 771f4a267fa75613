"""Runs the steps of one row, in order; a row that is no chain has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.batch.chain import check_unchanged, made_from, step_output
from prefect_genmedia.batch.known import StepJobs, step_to_begin
from prefect_genmedia.batch.pool import AccountPool, Lease, PayingAccount
from prefect_genmedia.batch.reservations import PlannedStep, Reservation
from prefect_genmedia.batch.result import IN_FLIGHT
from prefect_genmedia.batch.row_task import RowRun, generate_row, step_run_name
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.errors import BudgetStop

if TYPE_CHECKING:
    from prefect_genmedia.batch.scheduler import BatchScheduler


async def account_for(job: Job | None, pool: AccountPool, *, first: bool = False) -> PayingAccount:
    """Takes a slot of the account that is to pay for a step, or that has paid for it and has its job now.

    Args:
        job: the step's job; None if it has none.
        pool: the accounts of its provider.
        first: whether to have priority over rows that have not begun.
    """
    is_at_provider = job is not None and job.state is JobState.SUBMITTED
    payer = pool.join(job) if job is not None and is_at_provider and not pool.is_single else None
    return payer or await pool.acquire(first=first)


class RowSteps:
    """The steps of one row that a run comes to.

    Args:
        run: the batch.
        row: the row.
        known: the jobs of its steps from earlier runs.
    """

    def __init__(self, run: BatchScheduler, row: Row, known: StepJobs) -> None:
        self.row = row
        self._run = run
        self._known = known
        self._begin = step_to_begin(row, known)
        self.done: list[Job] = list(known[: self._begin - 1])
        """The jobs of the delivered steps, in order."""
        self.reservation = self._unplanned(self._begin)
        """What the step under way has reserved."""
        self._lease: Lease | None = None

    @property
    def step(self) -> PlannedStep:
        """The step under way."""
        return self.reservation.step

    @property
    def payer(self) -> Session:
        """The account that is to pay for the step under way."""
        return self._run.sessions[self.step.request.provider] if self._lease is None else self._lease.session

    async def go(self, lease: Lease) -> None:
        """Run each step to its verified file.

        Args:
            lease: the in-flight slot of the first step that the run comes to.
        """
        self._lease = lease
        for number in range(self._begin, self.row.steps + 1):
            if number > self._begin:
                self.reservation = self._unplanned(number)
                lease = await self._leased(number)
                stop = self._run.stop
                if stop is not None and not isinstance(stop, BudgetStop):
                    return  # at the end of a budget, chains that have begun go on: all of their steps are reserved
            self.reservation = Reservation(self._run.costs, await self._planned(number))
            self.done.append(await self._do(lease))
            if number < self.row.steps:
                self._run.show_step(self.row, self.done)

    def release(self) -> None:
        """Release the in-flight slot if it is still held."""
        if self._lease is not None:
            self._lease.release()

    def jobs(self, newest: Job | None) -> list[Job]:
        """Returns the jobs of the steps before the one under way, and its job if it has one.

        Args:
            newest: the newest job of the step under way.
        """
        before = self.done[: self.step.number - 1]
        return before if newest is None else [*before, newest]

    async def newest(self) -> Job | None:
        """Returns the newest job of the step under way; None if it has none."""
        before = self.done[self.step.number - 2].delivery if self.step.number > 1 else None
        return await self._run.jobs.newest(self.row, self.step.number, before)

    async def give_back(self, job: Job | None) -> None:
        """Release what the step under way has reserved if it cost nothing, and what the steps after it have.

        Args:
            job: the job of the step under way.
        """
        await self.reservation.give_back(job)
        await self._run.costs.release_after(self.row, self.step.number - 1)

    async def _leased(self, number: int) -> Lease:
        """Wait for a slot of a later step, before rows that have not begun."""
        self.release()
        pool = self._run.pool_of(self.row.requests[number - 1].provider)
        self._lease = Lease(pool, await account_for(self._known_job(number), pool, first=True))
        return self._lease

    def _unplanned(self, number: int) -> Reservation:
        return Reservation(self._run.costs, PlannedStep(self.row, number, self.row.requests[number - 1]))

    def _known_job(self, number: int) -> Job | None:
        return self._known[number - 1] if number <= len(self._known) else None

    async def _planned(self, number: int) -> PlannedStep:
        jobs, known = self._run.jobs, self._known_job(number)
        attempt = self._run.next_attempt(known)
        if number == 1:
            return PlannedStep(self.row, number, self.row.request, known, jobs.identity(self.row), attempt)
        before = self.done[-1].delivery
        assert before is not None  # only delivered steps are done
        identities = await jobs.step_identities(self.row, number, before)
        identity = identities.new if known is None else known.identity
        request = made_from(self.row.requests[number - 1], before.uri)
        return PlannedStep(self.row, number, request, known, identity, attempt)

    async def _do(self, lease: Lease) -> Job:
        """Run the step under way to its verified file; the first step that a run does reserves the later ones, too."""
        run, step = self._run, self.step
        run.results.of(self.row.id).state = IN_FLIGHT
        before = self.done[-1].delivery if step.number > 1 else None
        if step.attempt is not None and before is not None:
            await check_unchanged(before, (await target_of(run.output)).storage, step.number, step.request)
        row_run = RowRun(self._spec(), step.known, lease, run.shared, self.reservation)
        await row_run.reserve()
        if self.row.then and step.number == self._begin:
            await run.costs.reserve_after(self.row, step.number)
        label = self.row.id if run.spec.single is None else run.spec.single.label
        name = step_run_name(label, step.number, self.row.steps)
        try:
            job = await (generate_row(name, row_run) if run.has_task_runs else row_run.run())
        finally:
            run.results.of(self.row.id).task_run_id = row_run.task_run_id
        run.breaker.delivered()
        if not self.reservation.is_for(job):
            await self.reservation.give_back(job)
        return job

    def _spec(self) -> JobSpec:
        """Returns the options of the job of the step under way."""
        run, step, row = self._run, self.step, self.row
        attribution = row.attribution.over(run.spec.attribution)
        return JobSpec(
            step.request,
            scope=run.jobs.scope(row, step.number),
            variant=run.jobs.variant(row),
            label=run.spec.single.label if run.spec.single else row.id,
            output=self._output(),
            timeout_seconds=run.spec.limits.timeout_seconds,
            preflight=run.spec.preflight,
            overwrite=run.spec.overwrite,
            inspected=run.inspected.results.get(row.id, {}) if step.number == 1 else {},
            project=attribution.project,
            tags=attribution.tags,
            publish=step.number > 1,
        )

    def _output(self) -> str:
        run, step = self._run, self.step
        if run.spec.single is not None:
            return step_output(run.output, step.number, self.row.steps)
        return f"{run.output.rstrip('/')}/{self.row.file_name(step.number)}"

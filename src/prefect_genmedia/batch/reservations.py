"""What the rows of a batch reserve of its budgets: before any work on a row, and anew for each account it tries."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import report_budget
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.budgets import Budget, budget_name, estimated_cost, holder_of, priced_as
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import measured
from prefect_genmedia.batch.chain import UNMADE
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.spec import Money
from prefect_genmedia.prices import CURRENCY, PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import counted

_MEASURED_AT_ONCE = 4


@dataclass(frozen=True)
class PlannedStep:
    """A step of a row that a run works on.

    Args:
        row: the row.
        number: the step, from 1.
        request: its request, with its input.
        known: its job, if it has one.
        identity: the identity of its job; None if that depends on files that were not read.
        attempt: the attempt that would be sent; None if nothing is.
    """

    row: Row
    number: int
    request: GenerationRequest
    known: Job | None = None
    identity: str | None = None
    attempt: int | None = None


@dataclass(kw_only=True)
class RowCosts:
    """Estimates what rows cost, and has the budgets that they count against.

    A chain reserves all of its steps before the first is sent. Neither the identity of a later step nor the account
    that will pay for it is known by then: until the step is sent, a placeholder holds its reservation, in the budget
    of the first account of its provider.

    Args:
        sessions: a session of each provider, which measures recordings: that of its first account.
        jobs: finds the rows' jobs in the ledger.
        asker: the requesting run.
        prices: the price table.
        lengths: durations of recordings in seconds, by URL; None if not measurable.
        budgets: the budgets by account (its first identity token); empty if costs are not limited.
    """

    sessions: Mapping[str, Session]
    jobs: Known
    asker: Asker
    prices: PriceTable
    lengths: dict[str, float | None]
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    _measuring: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MEASURED_AT_ONCE))

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
        if source is None or request.length_is_extra or source.url == UNMADE:
            return None
        async with self._measuring:
            if source.url not in self.lengths:
                rules = self.sessions[request.provider].client.fetch_rules
                self.lengths[source.url] = await measured(source.url, rules)
        return self.lengths[source.url] or None

    def budget_of(self, session: Session) -> Budget | None:
        """Returns the budget that an account's jobs count against; None if costs are not limited.

        Args:
            session: the account.
        """
        return self.budgets.get(session.own_tokens[0])

    async def reserve_after(self, row: Row, number: int) -> None:
        """Reserve the cost of all steps after one, with placeholders.

        Args:
            row: the row.
            number: the step, from 1.

        Raises:
            BudgetStop: a budget does not hold it.
        """
        for later, request in list(enumerate(row.requests, 1))[number:]:
            session = self.sessions[request.provider]
            budget = self.budget_of(session)
            if budget is not None:
                near = await budget.reserve(holder_of(self._placeholder(row, later), 1), await self.estimate(request))
                await report_budget(session, "warning", near)

    async def release_after(self, row: Row, number: int) -> None:
        """Release what placeholders reserve for the steps after one, which will not be sent.

        Args:
            row: the row.
            number: the step, from 1; 0 for all steps.
        """
        if not self.budgets or not row.then:
            return
        for later, request in list(enumerate(row.requests, 1))[max(number, 1) :]:
            budget = self.budget_of(self.sessions[request.provider])
            if budget is not None:
                await budget.release(self._placeholder(row, later), 1)

    def placeholder_of(self, step: PlannedStep) -> tuple[Budget | None, str]:
        """Returns the placeholder that reserves a step's cost, and the budget that it is in; none for a first step.

        Args:
            step: the step.
        """
        if step.number == 1:
            return None, ""
        budget = self.budget_of(self.sessions[step.request.provider])
        return budget, self._placeholder(step.row, step.number)

    def _placeholder(self, row: Row, number: int) -> str:
        """What stands for the identity of a step after the first as long as that is not known."""
        text = f"{self.jobs.scope(row, number)}:{self.jobs.variant(row)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Reservation:
    """What one step of a row has reserved of the budget of the account that is to pay for it.

    Args:
        costs: the estimates and budgets.
        step: the step.
    """

    def __init__(self, costs: RowCosts, step: PlannedStep) -> None:
        self._costs = costs
        self.step = step
        self._budget: Budget | None = None
        self._identity: str | None = None
        self.attempt: int | None = None
        self.spend: Spend | None = None
        """Ensures the reservation when the job is sent: other runs of the row share it and may have released it."""

    async def take(self, session: Session, known: Job | None) -> None:
        """Reserve the step's cost in an account's budget before any work on it, if it will be submitted.

        Args:
            session: the account that is to pay.
            known: the step's newest job.

        Raises:
            BudgetStop: the budget does not hold it.
        """
        self.attempt = self.spend = self._identity = None
        self._budget = budget = self._costs.budget_of(session)
        identity, attempt = self.step.identity, self._costs.next_attempt(known)
        if budget is None:
            return
        before, placeholder = self._costs.placeholder_of(self.step)
        replaced = ""
        if attempt is None or identity is None:
            self.spend = budget.spender(None)
        else:
            await self._release_earlier(session, identity, attempt, known)
            cost = await self._costs.estimate(self.step.request)
            replaced = holder_of(placeholder, 1) if before is not None and before.name == budget.name else ""
            near = await budget.reserve(holder_of(identity, attempt), cost, instead_of=replaced)
            self.attempt, self._identity, self.spend = attempt, identity, budget.spender(cost)
            await report_budget(session, "warning", near)
        if before is not None and not replaced:
            await before.release(placeholder, 1)

    async def _release_earlier(self, session: Session, identity: str, attempt: int, known: Job | None) -> None:
        """Release what a run that was killed may have left: for an attempt that failed, or for another account."""
        for each in self._budgets_of(session):
            if known is not None and known.attempt < attempt:
                await each.release(identity, known.attempt)
            if each is not self._budget:
                await each.release(identity, attempt)

    def _budgets_of(self, session: Session) -> list[Budget]:
        members = session.pool or (session,)
        found = (self._costs.budget_of(each) for each in members)
        return list({each.name: each for each in found if each is not None and self._budget is not None}.values())

    def is_for(self, job: Job) -> bool:
        """Whether nothing else is reserved than what a job needs: a run may have joined another attempt or identity.

        Args:
            job: the row's job.
        """
        return self.attempt is None or (self._identity, self.attempt) == (job.identity, job.attempt)

    async def give_back(self, job: Job | None) -> None:
        """Release the reservation if the step's job was not sent or cost nothing.

        Args:
            job: the step's newest job.
        """
        identities = {job.identity if job else self.step.identity, self._identity}
        if self._budget is None:
            return
        for identity in filter(None, identities):
            # Another run may have made a later attempt than the planned one.
            for each in {self.attempt or 1, job.attempt if job else 1}:
                await self._budget.release(identity, each)


async def open_budgets(sessions: Iterable[Session], batch_id: str, money: Money) -> dict[str, Budget]:
    """Returns the budgets of a batch by account (its first identity token); none if it has no limit.

    Args:
        sessions: the accounts that may pay.
        batch_id: the batch's name.
        money: its limits.
    """
    if not money.limited:
        return {}
    budgets = {}
    for session in sessions:
        account = session.own_tokens[0]
        name = budget_name(money.budget or batch_id, money.period, account if money.per_account else None)
        budgets[account] = Budget(session.ledger, name, money.max_jobs, money.max_cost)
        state = await budgets[account].open()
        get_run_logger().info(
            "Budget %s: %s and about %.2f %s (estimate) are reserved",
            name,
            counted(state.jobs, "job"),
            state.cost,
            CURRENCY,
        )
    return budgets

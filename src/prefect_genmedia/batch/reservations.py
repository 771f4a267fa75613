"""What the rows of a batch reserve of its budgets, and what each of them is estimated to cost."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from prefect.logging import get_run_logger

from prefect_genmedia._core.admission import tell_of_budget
from prefect_genmedia._core.budgets import (
    Budget,
    budget_name,
    estimated_cost,
    holder_of,
    length_limit,
    priced_as,
)
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import measured
from prefect_genmedia.batch.chain import UNMADE
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.spec import Money
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.prices import CURRENCY, Price, PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import counted

_MEASURED_AT_ONCE = 4


@dataclass(frozen=True)
class PlannedStep:
    """A step of a row that a run works on.

    Parameters:
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


@dataclass
class Reservations:
    """Reserves what steps may cost, and releases it if they cost nothing.

    A chain reserves all of its steps before the first is sent. The identity of a later step is not known by then, so a
    placeholder holds its reservation until the step is sent.

    Parameters:
        sessions: the session of each account, by provider.
        jobs: finds the rows' jobs in the ledger.
        prices: the price table.
        lengths: durations of recordings in seconds, by URL.
        budgets: the budgets by account (its first identity token); empty if costs are not limited.
    """

    sessions: Mapping[str, Session]
    jobs: Known
    prices: PriceTable
    lengths: dict[str, float | None] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Limit the concurrent measurements."""
        self._measuring = asyncio.Semaphore(_MEASURED_AT_ONCE)

    async def reserve(self, step: PlannedStep) -> Spend | None:
        """Reserve a step's cost before any work on it, if it will be submitted.

        Parameters:
            step: the step.

        Returns:
            The function that ensures the reservation when the job is sent: other runs of the row share this reservation
            and may release it in the meantime.
        """
        budget = self._budget(step.request)
        if budget is None:
            return None
        placeholder = self._placeholder(step.row, step.number)
        if step.attempt is None or step.identity is None:
            if placeholder:
                await budget.release(placeholder, 1)
            return budget.spender(None)
        if step.known is not None and step.known.attempt < step.attempt:
            # A run that was killed after the job's failure may not have released the reservation.
            await budget.release(step.identity, step.known.attempt)
        cost = await self.estimate(step.request)
        replaced = holder_of(placeholder, 1) if placeholder else ""
        near = await budget.reserve(holder_of(step.identity, step.attempt), cost, instead_of=replaced)
        await tell_of_budget(self.sessions[step.request.provider], "warning", near)
        return budget.spender(cost)

    async def reserve_after(self, row: Row, number: int) -> None:
        """Reserve the cost of all steps after one.

        Parameters:
            row: the row.
            number: the step, from 1.
        """
        for later, request in list(enumerate(row.requests, 1))[number:]:
            budget = self._budget(request)
            if budget is not None:
                cost = await self.estimate(request)
                near = await budget.reserve(holder_of(self._placeholder(row, later), 1), cost)
                await tell_of_budget(self.sessions[request.provider], "warning", near)

    async def release_after(self, row: Row, number: int) -> None:
        """Release what placeholders reserve for the steps after one, which will not be sent.

        Parameters:
            row: the row.
            number: the step, from 1; 0 for all steps.
        """
        if not self.budgets or not row.then:
            return
        for later, request in list(enumerate(row.requests, 1))[max(number, 1) :]:
            budget = self._budget(request)
            if budget is not None:
                await budget.release(self._placeholder(row, later), 1)

    async def give_back(self, step: PlannedStep, job: Job | None) -> None:
        """Release a step's reservation if its job was not sent or cost nothing.

        Parameters:
            step: the step.
            job: its job; None if there is none.
        """
        budget, identity = self._budget(step.request), job.identity if job else step.identity
        if budget is not None and identity is not None:
            # Another run may have made a later attempt than the planned one.
            for each in {step.attempt or 1, job.attempt if job else 1}:
                await budget.release(identity, each)

    def _budget(self, request: GenerationRequest) -> Budget | None:
        return self.budgets.get(self.sessions[request.provider].tokens[0])

    def _placeholder(self, row: Row, number: int) -> str:
        """What stands for a step's identity as long as that is not known; empty for the first step."""
        text = f"{self.jobs.scope(row, number)}:{self.jobs.variant(row)}"
        return "" if number == 1 else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    async def estimate(self, request: GenerationRequest) -> Decimal | None:
        """Returns a request's estimated cost in CNY; uses the maximum duration if the duration cannot be measured.

        Parameters:
            request: the request.
        """
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


async def open_budgets(reservations: Reservations, batch_id: str, money: Money) -> dict[str, Budget]:
    """Returns the budgets of a batch by account; none if it has no limit.

    Parameters:
        reservations: the batch's sessions and ledger.
        batch_id: the batch's name.
        money: its limits.
    """
    if not money.limited:
        return {}
    budgets = {}
    for session in reservations.sessions.values():
        account = session.tokens[0]
        name = budget_name(money.budget or batch_id, money.period, account if money.per_account else None)
        budgets[account] = Budget(reservations.jobs.ledger, name, money.max_jobs, money.max_cost)
        state = await budgets[account].open()
        get_run_logger().info(
            "Budget %s: %s and about %.2f %s (estimate) are reserved",
            name,
            counted(state.jobs, "job"),
            state.cost,
            CURRENCY,
        )
    return budgets


def check_prices(rows: Sequence[Row], prices: Mapping[str, Price], limit: str, provider: str = "") -> None:
    """Refuse a cost limit if some steps have no price, because they could not be counted against it.

    Parameters:
        rows: the rows.
        prices: the price table.
        limit: the limit's name.
        provider: only steps of this provider; empty for all.
    """
    requests = (request for row in rows for request in row.requests)
    counted_ones = (request for request in requests if provider in ("", request.provider))
    found = {(priced_as(request), _price_problem(request, prices, limit)) for request in counted_ones}
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

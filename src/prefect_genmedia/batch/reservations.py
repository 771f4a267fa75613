"""What the rows of a batch reserve of its budgets: before any work on a row, and anew for each account it tries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from prefect_genmedia._core.admission import tell_of_budget
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.budgets import Budget, estimated_cost, holder_of, priced_as
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import measured
from prefect_genmedia.batch.known import Known
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest

_MEASURED_AT_ONCE = 4


@dataclass(kw_only=True)
class RowCosts:
    """Estimates what rows cost, and has the budgets that they count against.

    Parameters:
        sessions: a session of each provider, which measures recordings.
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
        if source is None or request.length_is_extra:
            return None
        async with self._measuring:
            if source.url not in self.lengths:
                rules = self.sessions[request.provider].client.fetch_rules
                self.lengths[source.url] = await measured(source.url, rules)
        return self.lengths[source.url] or None


class Reservation:
    """What one row has reserved of the budget of the account that is to pay for it.

    Parameters:
        costs: the estimates and budgets.
        row: the row.
    """

    def __init__(self, costs: RowCosts, row: Row) -> None:
        self._costs = costs
        self._row = row
        self._budget: Budget | None = None
        self._identity: str | None = None
        self.attempt: int | None = None
        self.spend: Spend | None = None
        """Ensures the reservation when the job is sent: other runs of the row share it and may have released it."""

    async def take(self, session: Session, known: Job | None) -> None:
        """Reserve the row's cost in an account's budget before any work on it, if it will be submitted.

        Parameters:
            session: the account that is to pay.
            known: the row's newest job.

        Raises:
            BudgetStop: the budget does not hold it.
        """
        self.attempt = self.spend = self._identity = None
        self._budget = budget = self._costs.budgets.get(session.own_tokens[0])
        identity, attempt = self._costs.jobs.identity(self._row), self._costs.next_attempt(known)
        if budget is None:
            return
        if attempt is None or identity is None:
            self.spend = budget.spender(None)
            return
        await self._release_earlier(session, identity, attempt, known)
        cost = await self._costs.estimate(self._row.request)
        near = await budget.reserve(holder_of(identity, attempt), cost)
        self.attempt, self._identity, self.spend = attempt, identity, budget.spender(cost)
        await tell_of_budget(session, "warning", near)

    async def _release_earlier(self, session: Session, identity: str, attempt: int, known: Job | None) -> None:
        """Release what a run that was killed may have left: for an attempt that failed, or for another account."""
        for each in self._budgets_of(session):
            if known is not None and known.attempt < attempt:
                await each.release(identity, known.attempt)
            if each is not self._budget:
                await each.release(identity, attempt)

    def _budgets_of(self, session: Session) -> list[Budget]:
        members = session.pool or (session,)
        found = (self._costs.budgets.get(each.own_tokens[0]) for each in members)
        return list({each.name: each for each in found if each is not None and self._budget is not None}.values())

    def is_for(self, job: Job) -> bool:
        """Whether nothing else is reserved than what a job needs: a run may have joined another attempt or identity.

        Parameters:
            job: the row's job.
        """
        return self.attempt is None or (self._identity, self.attempt) == (job.identity, job.attempt)

    async def give_back(self, job: Job | None) -> None:
        """Release the reservation if the row's job was not sent or cost nothing.

        Parameters:
            job: the row's newest job.
        """
        identities = {job.identity if job else self._costs.jobs.identity(self._row), self._identity}
        if self._budget is None:
            return
        for identity in filter(None, identities):
            # Another run may have made a later attempt than the planned one.
            for each in {self.attempt or 1, job.attempt if job else 1}:
                await self._budget.release(identity, each)

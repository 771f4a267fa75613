"""Budgets: reservations in the ledger that bound what several runs and machines spend together. Also estimates a job's
cost from its request and the price table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, or_, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.caps import WARNING_SHARE, Facts
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger, Spend
from prefect_genmedia._core.model import NEVER_PAID, Job, JobState
from prefect_genmedia.errors import BudgetStop
from prefect_genmedia.prices import CURRENCY, PriceTable, from_micros, in_micros, limit_in_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest
from prefect_genmedia.text import counted

REPLACED = -1
"""The cost in the ledger of a reservation that another holder's has replaced. It does not count."""

BudgetPeriod = Literal["total", "day"]


@dataclass(frozen=True)
class BudgetState:
    """How much of a budget is reserved. Costs are estimates in CNY."""

    name: str
    jobs: int
    cost: Decimal
    max_jobs: int | None
    max_cost: Decimal | None


def budget_name(name: str, period: BudgetPeriod, account: str | None, clock: Clock = SYSTEM_CLOCK) -> str:
    """Returns the name under which the ledger counts a budget.

    Args:
        name: what the user calls it.
        period: `day` counts each UTC day separately.
        account: counts each account separately; None counts all accounts together.
        clock: the time source.
    """
    parts = [name]
    if period == "day":
        parts.append(datetime.fromtimestamp(clock.now(), timezone.utc).strftime("%Y-%m-%d"))
    if account is not None:
        parts.append(account)
    return " · ".join(parts)[:255]


class Budget:
    """One budget, as used by this process.

    Args:
        ledger: where it is recorded.
        name: its name; see `budget_name`.
        max_jobs: the maximum number of jobs; None for no limit.
        max_cost: the maximum cost in CNY; None for no limit.
        clock: the time source.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        max_jobs: int | None,
        max_cost: Decimal | float | None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.max_jobs = max_jobs
        self.max_cost = max_cost
        self._ledger = ledger
        self._clock = clock

    async def open(self) -> BudgetState:
        """Record the limits. The last call sets them; existing reservations stay."""
        now = self._clock.now()
        limits: dict[str, Any] = {
            "limit_jobs": self.max_jobs,
            "limit_micros": None if self.max_cost is None else limit_in_micros(self.max_cost),
            "updated_at": now,
        }
        fresh = {"name": self.name, "reserved_jobs": 0, "reserved_micros": 0, "currency": CURRENCY, "created_at": now}

        def write(connection: Connection) -> None:
            connection.execute(schema.insert_new(connection, schema.budgets).values(**fresh, **limits))
            connection.execute(update(schema.budgets).where(schema.budgets.c.name == self.name).values(**limits))

        await self._ledger.transact(write)
        return await self.state()

    async def reserve(self, holder: str, cost: Decimal | float | None, instead_of: str = "") -> Facts:
        """Reserve a job and its cost, unless this holder has reserved them already.

        Args:
            holder: the identity and attempt that the reservation is for; see `holder_of`.
            cost: CNY, estimated; None counts as nothing.
            instead_of: a holder whose reservation this one replaces; it stays if the budget is exceeded. The holder
                then counts as reserved without cost, so that another run does not reserve for it again.

        Returns:
            The event payload for the limit that is now nearly reached; empty if none is.

        Raises:
            BudgetStop: the job would exceed the budget.
        """
        micros = in_micros(cost or 0)
        return await self._ledger.transact(lambda connection: self._reserve(connection, holder, micros, instead_of))

    def spender(self, cost: Decimal | float | None) -> Spend:
        """Returns a function that reserves a job's cost in the transaction that moves it to `sending`.

        If another run has released the reservation before then, it is made again; if that fails, the job is not sent.

        Args:
            cost: CNY, estimated; None uses the cost in the job's row.
        """

        def spend(connection: Connection, job: Job) -> None:
            micros = job.micros if cost is None else in_micros(cost)
            self._reserve(connection, holder_of(job.identity, job.attempt), micros or 0)

        return spend

    async def release(self, identity: str, attempt: int) -> bool:
        """Release the reservation of an attempt, unless its job was sent and may be paid.

        Args:
            identity: identity of the requested result.
            attempt: number of the attempt.

        Returns:
            Whether there was a reservation to release.
        """
        held, jobs, holder = schema.reservations, schema.jobs, holder_of(identity, attempt)
        free = jobs.c.state.in_([state.value for state in NEVER_PAID])
        failed_free = and_(
            jobs.c.state == JobState.FAILED.value, jobs.c.provider.in_(sorted(providers_with_free_failures()))
        )
        paid = select(jobs.c.key).where(jobs.c.identity == identity, jobs.c.attempt == attempt, ~or_(free, failed_free))

        def give(connection: Connection) -> bool:
            self._lock(connection)
            mine = delete(held).where(held.c.budget == self.name, held.c.holder == holder, ~paid.exists())
            row = connection.execute(mine.returning(held.c.micros)).first()
            if row is None or row[0] == REPLACED:
                return False
            connection.execute(self._change(-1, -row[0]))
            return True

        return await self._ledger.transact(give)

    async def state(self) -> BudgetState:
        """Returns how much is reserved now."""
        return await self._ledger.transact(self._state)

    def _state(self, connection: Connection) -> BudgetState:
        budgets = schema.budgets
        row = connection.execute(select(budgets).where(budgets.c.name == self.name)).one()
        limit = row.limit_micros
        return BudgetState(
            name=self.name,
            jobs=row.reserved_jobs,
            cost=from_micros(row.reserved_micros),
            max_jobs=row.limit_jobs,
            max_cost=None if limit is None else from_micros(limit),
        )

    def _lock(self, connection: Connection) -> None:
        """Write the budget's row first, so that concurrent callers wait here before they read the reservations."""
        mine = update(schema.budgets).where(schema.budgets.c.name == self.name)
        connection.execute(mine.values(updated_at=self._clock.now()))

    def _reserve(self, connection: Connection, holder: str, micros: int, instead_of: str = "") -> Facts:
        budgets, held = schema.budgets, schema.reservations
        self._lock(connection)
        if instead_of:
            before = held.c.budget == self.name, held.c.holder == instead_of, held.c.micros != REPLACED
            for row in connection.execute(select(held.c.micros).where(*before)).all():
                connection.execute(update(held).where(*before).values(micros=REPLACED))
                connection.execute(self._change(-1, -row[0]))
        mine = select(held.c.holder).where(held.c.budget == self.name, held.c.holder == holder)
        if connection.execute(mine).first() is not None:
            return {}
        fits = self._change(1, micros).where(
            or_(budgets.c.limit_jobs.is_(None), budgets.c.reserved_jobs + 1 <= budgets.c.limit_jobs),
            or_(budgets.c.limit_micros.is_(None), budgets.c.reserved_micros + micros <= budgets.c.limit_micros),
        )
        if connection.execute(fits.returning(budgets.c.name)).first() is None:
            raise _stop(self._state(connection), from_micros(micros))
        values = {"budget": self.name, "holder": holder, "micros": micros, "created_at": self._clock.now()}
        connection.execute(held.insert().values(**values))
        return _near(self._state(connection), WARNING_SHARE)

    def _change(self, jobs: int, micros: int) -> Any:
        budgets = schema.budgets
        more = {
            "reserved_jobs": budgets.c.reserved_jobs + jobs,
            "reserved_micros": budgets.c.reserved_micros + micros,
        }
        return update(budgets).where(budgets.c.name == self.name).values(**more)


def holder_of(identity: str, attempt: int) -> str:
    """Returns the holder of a reservation: an attempt at a requested result, in any process.

    Args:
        identity: identity of the requested result.
        attempt: number of the attempt.
    """
    return f"{identity}:{attempt}"


def _near(state: BudgetState, share: Decimal) -> Facts:
    """Returns the event payload for the first limit of which at least `share` is reserved."""
    taken = {"max_cost": (state.cost, state.max_cost), "max_jobs": (Decimal(state.jobs), state.max_jobs)}
    for cap, (reserved, limit) in taken.items():
        if limit is not None and reserved >= share * limit:
            return {
                "scope": f"budget.{state.name}",
                "of": f"the budget {state.name!r}",
                "cap": cap,
                "block": "",
                "limit": float(limit),
                "spent": 0,
                "reserved": float(reserved),
                "unit": CURRENCY if cap == "max_cost" else "jobs",
                "period": "all of it",  # the name of a daily budget contains the day
                "period_ends": "",
            }
    return {}


def _stop(state: BudgetState, cost: Decimal) -> BudgetStop:
    limits = []
    if state.max_jobs is not None:
        limits.append(f"{state.jobs} of {counted(state.max_jobs, 'job')}")
    if state.max_cost is not None:
        limits.append(f"an estimated {state.cost:.2f} of {state.max_cost:.2f} {CURRENCY}")
    wanted = f" another estimated {cost:.2f} {CURRENCY}" if cost else " another job"
    stop = BudgetStop(f"The budget {state.name!r} has {' and '.join(limits)} reserved and does not hold{wanted}.")
    full = _near(state, Decimal(1)) or _near(state, Decimal(0))
    stop.facts = dict(full)
    return stop


def priced_as(request: GenerationRequest) -> str:
    """Returns a request's key in the price table: `provider/model`.

    Args:
        request: the request.
    """
    return f"{request.provider}/{request.model_name}"


def length_limit(request: GenerationRequest) -> float | None:
    """Returns the maximum duration of the result in seconds, as far as the request alone determines it.

    Args:
        request: the request.
    """
    if not request.length_is_extra and (seconds := request.expectation().seconds) is not None:
        return seconds
    source = request.duration_source()
    return source.below_seconds if source else None


def cost_of(prepared: PreparedRequest[Any], prices: PriceTable) -> Decimal | None:
    """Estimate the cost of a prepared request, in CNY, from the duration of its inputs.

    Args:
        prepared: the request with its inputs inspected.
        prices: by `provider/model`.
    """
    seconds = None if prepared.request.length_is_extra else prepared.expectation().seconds
    return estimated_cost(prepared.request, prices, seconds)


def estimated_cost(request: GenerationRequest, prices: PriceTable, seconds: float | None) -> Decimal | None:
    """Estimate what a result costs, in CNY; None if no price is known, or it depends on an unknown length.

    Args:
        request: the request.
        prices: by `provider/model`.
        seconds: duration of the result; None if not known: then the longest duration that the request allows is used.
    """
    price = prices.get(priced_as(request))
    return None if price is None else price.of(length_limit(request) if seconds is None else seconds)

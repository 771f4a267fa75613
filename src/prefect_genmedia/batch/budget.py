"""Budgets: reservations in the ledger, so that runs and machines that spend together never spend too much."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from sqlalchemy import Connection, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from prefect_genmedia.errors import BudgetStop
from prefect_genmedia.jobs import schema
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.ledger import Ledger
from prefect_genmedia.jobs.prices import CURRENCY, MICROS, in_micros

BudgetPeriod = Literal["total", "day"]


@dataclass(frozen=True)
class BudgetState:
    """How much of a budget is taken. Costs in CNY, estimated."""

    name: str
    jobs: int
    cost: float
    max_jobs: int | None
    max_cost: float | None


def budget_name(name: str, period: BudgetPeriod, account: str | None, clock: Clock = SYSTEM_CLOCK) -> str:
    """The name under which a budget is counted.

    Parameters:
        name: what the user calls it.
        period: `day` counts each UTC day for itself.
        account: counts each account for itself; None for all together.
        clock: the time.
    """
    parts = [name]
    if period == "day":
        parts.append(datetime.fromtimestamp(clock.now(), timezone.utc).strftime("%Y-%m-%d"))
    if account is not None:
        parts.append(account)
    return " · ".join(parts)[:255]


class Budget:
    """One budget, as this process sees it.

    Parameters:
        ledger: where it is counted.
        name: which one; see `budget_name`.
        max_jobs: how many jobs it holds; None for any number.
        max_cost: how much money, in CNY; None for any sum.
        clock: the time.
    """

    def __init__(
        self, ledger: Ledger, name: str, max_jobs: int | None, max_cost: float | None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Write nothing yet."""
        self.name = name
        self.max_jobs = max_jobs
        self.max_cost = max_cost
        self._ledger = ledger
        self._clock = clock

    async def open(self) -> BudgetState:
        """Write the limits down; the last one to say them counts, what is reserved stays."""
        now = self._clock.now()
        limits: dict[str, Any] = {
            "limit_jobs": self.max_jobs,
            "limit_micros": None if self.max_cost is None else in_micros(self.max_cost),
            "updated_at": now,
        }
        fresh = {"name": self.name, "reserved_jobs": 0, "reserved_micros": 0, "currency": CURRENCY, "created_at": now}

        def write(connection: Connection) -> None:
            statement = _insert(connection, schema.budgets).values(**fresh, **limits)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=limits))

        await self._ledger.transact(write)
        return await self.state()

    async def reserve(self, holder: str, cost: float | None) -> None:
        """Take a job and its cost out of the budget, unless this holder has done so already.

        Parameters:
            holder: the identity and attempt that the money is for.
            cost: CNY, estimated; None counts as nothing.

        Raises:
            BudgetStop: the budget does not hold it.
        """
        micros = in_micros(cost or 0.0)

        def take(connection: Connection) -> bool:
            # The budget's row is written first: whoever comes at the same time waits here and then counts anew.
            if connection.execute(self._take(holder, micros)).first() is None:
                return self._is_held(connection, holder)
            if connection.execute(self._hold(connection, holder, micros)).first() is None:
                # Taken by the same holder in another process at this very moment: once is enough.
                connection.execute(self._give(micros))
            return True

        if not await self._ledger.transact(take):
            raise await self._stop(cost)

    async def release(self, holder: str) -> bool:
        """Give back what this holder has reserved: surely nothing was paid. False where it held nothing."""
        budgets, held = schema.budgets, schema.reservations

        def give(connection: Connection) -> bool:
            # The same order of locks as in `reserve`: the budget's row, then the reservation's.
            mine = update(budgets).where(budgets.c.name == self.name)
            connection.execute(mine.values(updated_at=self._clock.now()))
            gone = delete(held).where(held.c.budget == self.name, held.c.holder == holder).returning(held.c.micros)
            row = connection.execute(gone).first()
            if row is not None:
                connection.execute(self._give(row[0]))
            return row is not None

        return await self._ledger.transact(give)

    async def state(self) -> BudgetState:
        """How much is taken now."""
        budgets = schema.budgets
        statement = select(budgets).where(budgets.c.name == self.name)
        row = await self._ledger.transact(lambda connection: connection.execute(statement).one())
        limit = row.limit_micros
        return BudgetState(
            name=self.name,
            jobs=row.reserved_jobs,
            cost=row.reserved_micros / MICROS,
            max_jobs=row.limit_jobs,
            max_cost=None if limit is None else limit / MICROS,
        )

    def _is_held(self, connection: Connection, holder: str) -> bool:
        held = schema.reservations
        statement = select(held.c.holder).where(held.c.budget == self.name, held.c.holder == holder)
        return connection.execute(statement).first() is not None

    def _give(self, micros: int) -> Any:
        budgets = schema.budgets
        less = {
            "reserved_jobs": budgets.c.reserved_jobs - 1,
            "reserved_micros": budgets.c.reserved_micros - micros,
        }
        return update(budgets).where(budgets.c.name == self.name).values(**less)

    def _take(self, holder: str, micros: int) -> Any:
        budgets, held = schema.budgets, schema.reservations
        mine = select(held.c.holder).where(held.c.budget == self.name, held.c.holder == holder).exists()
        return (
            update(budgets)
            .where(
                budgets.c.name == self.name,
                or_(budgets.c.limit_jobs.is_(None), budgets.c.reserved_jobs + 1 <= budgets.c.limit_jobs),
                or_(budgets.c.limit_micros.is_(None), budgets.c.reserved_micros + micros <= budgets.c.limit_micros),
                ~mine,
            )
            .values(
                reserved_jobs=budgets.c.reserved_jobs + 1,
                reserved_micros=budgets.c.reserved_micros + micros,
                updated_at=self._clock.now(),
            )
            .returning(budgets.c.name)
        )

    def _hold(self, connection: Connection, holder: str, micros: int) -> Any:
        values = {"budget": self.name, "holder": holder, "micros": micros, "created_at": self._clock.now()}
        statement = _insert(connection, schema.reservations).values(**values)
        return statement.on_conflict_do_nothing().returning(schema.reservations.c.holder)

    async def _stop(self, cost: float | None) -> BudgetStop:
        state = await self.state()
        limits = []
        if state.max_jobs is not None:
            limits.append(f"{state.jobs} of {state.max_jobs} jobs")
        if state.max_cost is not None:
            limits.append(f"an estimated {state.cost:.2f} of {state.max_cost:.2f} {CURRENCY}")
        wanted = f" another estimated {cost:.2f} {CURRENCY}" if cost else " another job"
        return BudgetStop(f"The budget {self.name!r} has {' and '.join(limits)} reserved and does not hold{wanted}.")


def _insert(connection: Connection, table: Any) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)

"""The caps of an account: what a credentials Block allows it to spend in a day or a month, in a time zone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Select, func, select

from prefect_genmedia._core import schema
from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.statements import lock_number
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.prices import CURRENCY, from_micros
from prefect_genmedia.text import counted

_CAPS = schema.account_caps

WARNING_SHARE = Decimal("0.8")
"""The share of a limit from which an event warns."""

Facts = Mapping[str, str | float]
"""The payload of an event about a limit."""


@dataclass(frozen=True)
class Period:
    """A day or a month of a time zone. Times are seconds since 1970.

    Args:
        name: the date or month, and the time zone.
        begins_at: its start, inclusive.
        ends_at: its end, exclusive.
        end: `ends_at` in human-readable form.
    """

    name: str
    begins_at: float
    ends_at: float
    end: str


@dataclass(frozen=True)
class Cap:
    """One limit on what an account spends.

    Args:
        name: the Block's field.
        limit: millionths of the currency, or jobs.
        block: the name of the Block; empty if it was never saved.
        time_zone: where its days and months begin.
    """

    name: str
    limit: int
    block: str = ""
    time_zone: str = "UTC"

    @property
    def is_money(self) -> bool:
        """Whether it limits costs; otherwise it limits the number of jobs."""
        return self.name != "max_jobs_per_day"

    def shown(self, amount: int) -> str:
        """Returns an amount in the cap's unit, formatted for messages.

        Args:
            amount: millionths, or jobs.
        """
        return shown_amount(from_micros(amount)) if self.is_money else counted(amount, "job")

    def plain(self, amount: int) -> float:
        """Returns an amount in the cap's unit, as a number for events.

        Args:
            amount: millionths, or jobs.
        """
        return float(from_micros(amount)) if self.is_money else amount

    def period(self, now: float) -> Period:
        """Returns the period that contains a time.

        Args:
            now: seconds since 1970.
        """
        zone = time_zone(self.time_zone)
        today = datetime.fromtimestamp(now, zone).date()
        if self.name == "max_cost_per_month":
            first = today.replace(day=1)
            name, after = f"{first:%Y-%m}", (first + timedelta(days=31)).replace(day=1)
        else:
            first, name, after = today, f"{today:%Y-%m-%d}", today + timedelta(days=1)
        end = _midnight(after, zone)
        words = f"{end.isoformat(sep=' ')} ({self.time_zone})"
        return Period(f"{name} {self.time_zone}", _midnight(first, zone).timestamp(), end.timestamp(), words)


@dataclass(frozen=True)
class Caps:
    """The caps of one credentials Block.

    Args:
        block: the name under which the Block is saved; empty if it was never saved.
        day_micros: maximum cost per day, in millionths of the currency; None for no limit.
        month_micros: maximum cost per calendar month, likewise.
        day_jobs: maximum number of jobs per day; None for no limit.
        time_zone: where days and months begin.
    """

    block: str = ""
    day_micros: int | None = None
    month_micros: int | None = None
    day_jobs: int | None = None
    time_zone: str = "UTC"

    def each(self) -> list[Cap]:
        """The caps that are set."""
        limits = {
            "max_cost_per_day": self.day_micros,
            "max_cost_per_month": self.month_micros,
            "max_jobs_per_day": self.day_jobs,
        }
        return [Cap(name, limit, self.block, self.time_zone) for name, limit in limits.items() if limit is not None]


async def remember_caps(ledger: Ledger, record: AccountRecord, caps: Caps) -> None:
    """Record the caps of a saved Block, so that they apply to the account in every process; writes only changes.

    Args:
        ledger: where they are recorded.
        record: the Block's account.
        caps: the Block's caps; if none is set, the recorded ones are removed.
    """
    if not record.id or not caps.block:
        return
    mine = (_CAPS.c.account_id == record.id, _CAPS.c.block == caps.block)
    rows = await ledger.query(select(_CAPS).where(*mine))
    present = [_caps_of(row._mapping) for row in rows]
    wanted = [caps] if caps.each() else []
    if present == wanted:
        return

    def write(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(lock_number(f"caps {record.id}"))))
        connection.execute(_CAPS.delete().where(*mine))
        for each in wanted:
            connection.execute(_CAPS.insert().values(account_id=record.id, updated_at=ledger.now(), **vars(each)))

    await ledger.transact(write)


def stored_caps(connection: Connection, ids: Sequence[str]) -> list[Caps]:
    """Returns the caps of every saved Block of an account, as each Block last declared them.

    Args:
        connection: inside a transaction.
        ids: the account's ids.
    """
    if not ids:
        return []
    return [_caps_of(row._mapping) for row in connection.execute(_caps_of_accounts(tuple(ids)))]


@functools.lru_cache(maxsize=64)
def _caps_of_accounts(ids: tuple[str, ...]) -> Select[Any]:
    return select(_CAPS).where(_CAPS.c.account_id.in_(ids)).order_by(_CAPS.c.block)


def _caps_of(row: Mapping[Any, Any]) -> Caps:
    return Caps(**{name: row[name] for name in Caps.__dataclass_fields__})


def time_zone(name: str, what: str = "The Block", field: str = "budget_time_zone") -> ZoneInfo:
    """A time zone by its IANA name.

    Args:
        name: such as `Asia/Shanghai`.
        what: what names it, for the error.
        field: the field that names it, for the error.

    Raises:
        InvalidRequest: this machine has no data for it.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        problem = FieldProblem(field, f"{name!r} is not a time zone that this machine knows")
    raise InvalidRequest.of(what, [problem])


def shown_amount(amount: Decimal, currency: str = CURRENCY) -> str:
    """Formats an amount of money for messages: two decimals, or as many as needed.

    Args:
        amount: the amount.
        currency: its currency.
    """
    plain = f"{amount.normalize():f}"
    return f"{amount:.2f} {currency}" if len(plain.partition(".")[2]) < 2 else f"{plain} {currency}"


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)

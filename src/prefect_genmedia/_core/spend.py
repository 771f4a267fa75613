"""Spending by project, account, model or day. Every sum is an estimate from the price table, never a bill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, Connection, Text, and_, case, cast, func, or_, select
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core import schema
from prefect_genmedia._core.account_budgets import Payer, micros_column, spending
from prefect_genmedia._core.accounts import AccountRecord, all_accounts, learn_accounts
from prefect_genmedia._core.caps import Cap, Facts, time_zone
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import NEVER_PAID, JobState
from prefect_genmedia.errors import BudgetStop
from prefect_genmedia.prices import CURRENCY, PriceTable, from_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.text import storable

_JOBS = schema.jobs

SpendBy = Literal["project", "account", "model", "day"]
"""What jobs are grouped by."""

_UNCERTAIN = (JobState.SENDING.value, JobState.UNKNOWN.value, JobState.ABANDONED.value)

_BUCKET_SECONDS = 900
"""Days are composed of these intervals: the UTC offset of every current time zone is a multiple of 15 minutes."""


@dataclass(frozen=True, kw_only=True)
class SpendFilter:
    """Which jobs count, by the time they were sent. Times are seconds since 1970; None means no limit.

    Args:
        since: from this time on.
        until: before this time.
        zone: name of the time zone in which days begin.
        project: only jobs of this project; empty for those without one.
        tag: only jobs with this tag.
    """

    since: float | None = None
    until: float | None = None
    zone: str = "UTC"
    project: str | None = None
    tag: str | None = None

    def conditions(self) -> Iterable[ColumnElement[bool]]:
        """Returns the conditions on the ledger's rows, including that the job was paid, or may be."""
        yield _JOBS.c.sent_at.is_not(None)
        yield _JOBS.c.state.not_in(sorted(state.value for state in NEVER_PAID))
        free = providers_with_free_failures()
        yield or_(_JOBS.c.state != JobState.FAILED.value, _JOBS.c.provider.not_in(sorted(free)))
        if self.since is not None:
            yield _JOBS.c.sent_at >= self.since
        if self.until is not None:
            yield _JOBS.c.sent_at < self.until
        if self.project is not None:
            yield func.coalesce(_JOBS.c.project, "") == storable(self.project)
        if self.tag is not None:
            yield cast(_JOBS.c.tags, Text).contains(json.dumps(storable(self.tag)), autoescape=True)


class SpendLine(BaseModel):
    """What the jobs of a group cost together, in one currency: an estimate."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="The project, account, model or day; empty for jobs that have none.")
    currency: str = Field(description="The currency of the sums.")
    jobs: int = Field(default=0, description="Jobs that were paid, or may be.")
    cost: Decimal = Field(default=Decimal(0), description="Estimated cost of those whose price is known.")
    uncertain: Decimal = Field(
        default=Decimal(0), description="The part of it that is of jobs without a certain answer: perhaps not paid."
    )
    without_price: int = Field(default=0, description="Jobs whose price is not known: they are not in the cost.")

    def plus(self, other: SpendLine) -> SpendLine:
        """Returns the sum of both, under this line's name.

        Args:
            other: a line in the same currency.
        """
        if other.currency != self.currency:
            raise ValueError("amounts of two currencies are never added")
        numbers = {
            name: getattr(self, name) + getattr(other, name) for name in ("jobs", "cost", "uncertain", "without_price")
        }
        return self.model_copy(update=numbers)


class CapLine(BaseModel):
    """A cap of an account, and what counts against it in its present period."""

    model_config = ConfigDict(frozen=True)

    account: str = Field(description="The account.")
    facts: dict[str, str | float] = Field(default_factory=dict, description="As an event about the cap has them.")
    problem: str = Field(default="", description="Why the caps of the account cannot be checked; empty where they can.")

    @property
    def share(self) -> float:
        """The share of the limit that is spent or reserved; 1 for a limit of 0."""
        used, limit = (float(self.facts[name]) for name in ("spent", "limit"))
        return (used + float(self.facts["reserved"])) / limit if limit else 1.0


async def spend_by(ledger: Ledger, by: SpendBy, wanted: SpendFilter) -> list[SpendLine]:
    """Returns the spending per project, account, model or day: largest sums first, or days in order.

    Args:
        ledger: the jobs.
        by: what they are grouped by.
        wanted: which jobs count.

    Raises:
        InvalidRequest: this machine has no data for the time zone.
    """
    zone = time_zone(wanted.zone)

    def read(connection: Connection) -> list[SpendLine]:
        columns = _GROUPS[by](connection)
        uncertain = case((_JOBS.c.state.in_(_UNCERTAIN), 1), else_=0)
        micros = micros_column()
        currency = func.coalesce(_JOBS.c.currency, CURRENCY)
        sums = (func.count(), func.sum(micros), func.count() - func.count(micros))
        statement = select(*columns, uncertain, currency, *sums).where(and_(*wanted.conditions()))
        rows = connection.execute(statement.group_by(*columns, uncertain, currency)).fetchall()
        names = account_names(connection) if by == "account" else {}
        lines = [_line(row, len(columns), lambda key: _name(by, key, zone, names)) for row in map(tuple, rows)]
        return added(lines)

    found = await ledger.transact(read)
    if by == "day":
        return sorted(found, key=lambda line: (line.currency, line.name))
    return sorted(found, key=lambda line: (line.currency, -line.cost, line.name))


def added(lines: Iterable[SpendLine]) -> list[SpendLine]:
    """Adds up the lines with the same name and currency.

    Args:
        lines: the lines.
    """
    found: dict[tuple[str, str], SpendLine] = {}
    for line in lines:
        key = (line.name, line.currency)
        found[key] = found[key].plus(line) if key in found else line
    return list(found.values())


def totals(lines: Iterable[SpendLine]) -> list[SpendLine]:
    """Returns one line per currency.

    Args:
        lines: the lines.
    """
    return added(line.model_copy(update={"name": "total"}) for line in lines)


async def caps_now(ledger: Ledger, prices: PriceTable) -> list[CapLine]:
    """Returns every cap that a saved Block gives an account, and what counts against it now.

    Args:
        ledger: accounts and jobs.
        prices: by `provider/model`, for jobs that were sent without a price.
    """

    def read(connection: Connection) -> list[CapLine]:
        learn_accounts(connection)
        found = []
        for record in all_accounts(connection):
            if record.merged_into is not None:
                continue
            payer = Payer(record, next(iter(record.tokens), ""), prices)
            try:
                facts = spending(connection, payer, ledger.now())
            except BudgetStop as stop:
                found.append(CapLine(account=_shown(record), problem=stop.message))
                continue
            found += [CapLine(account=_shown(record), facts=dict(each)) for each in facts]
        return found

    return await ledger.transact(read)


def is_of_month(facts: Facts) -> bool:
    """Whether an event payload is about a cap per calendar month.

    Args:
        facts: the payload of an event about a cap.
    """
    return facts.get("cap") == "max_cost_per_month"


def month_to_date(now: float, zone: str = "UTC") -> SpendFilter:
    """Returns a filter for the jobs of the current calendar month.

    Args:
        now: seconds since 1970.
        zone: name of the time zone in which the month begins.
    """
    period = Cap("max_cost_per_month", 0, time_zone=zone).period(now)
    return SpendFilter(since=period.begins_at, until=period.ends_at, zone=zone)


def _line(row: tuple[Any, ...], width: int, name: Callable[[tuple[Any, ...]], str]) -> SpendLine:
    is_uncertain, currency, jobs, micros, unpriced = row[width:]
    cost = from_micros(int(micros or 0))
    return SpendLine(
        name=name(row[:width]),
        currency=currency,
        jobs=jobs,
        cost=cost,
        uncertain=cost if is_uncertain else Decimal(0),
        without_price=unpriced,
    )


def _bucket(connection: Connection) -> list[ColumnElement[Any]]:
    quarters = _JOBS.c.sent_at / _BUCKET_SECONDS
    whole = quarters if connection.dialect.name == "sqlite" else func.floor(quarters)  # a cast truncates, or rounds
    return [cast(whole, BigInteger)]


_GROUPS: dict[SpendBy, Callable[[Connection], list[ColumnElement[Any]]]] = {
    "project": lambda _: [func.coalesce(_JOBS.c.project, "")],
    "account": lambda _: [_JOBS.c.provider, _JOBS.c.account_id, _JOBS.c.account],
    "model": lambda _: [_JOBS.c.provider, _JOBS.c.model],
    "day": _bucket,
}


def _name(by: SpendBy, key: tuple[Any, ...], zone: Any, accounts: Mapping[str, str]) -> str:
    if by == "day":
        return f"{datetime.fromtimestamp(key[0] * _BUCKET_SECONDS, zone):%Y-%m-%d}"
    if by == "account":
        provider, account_id, text = key
        return accounts.get(account_id or "") or accounts.get(text) or f"{provider}/{text}"
    return "/".join(key)


def account_names(connection: Connection) -> dict[str, str]:
    """Returns account names, keyed by the account's ids, the ids of accounts merged into it, and its account texts.

    Args:
        connection: inside a transaction.
    """
    learn_accounts(connection)
    records = all_accounts(connection)
    by_id = {record.id: record for record in records}
    present = [record for record in records if record.merged_into is None]
    shown = [_shown(record) for record in present]
    names = {}
    for record in records:
        last = record
        while last.merged_into is not None:
            last = by_id[last.merged_into]
        name = _shown(last)
        names[record.id] = name if shown.count(name) == 1 else f"{name} ({last.id})"
    return names | {token: names[record.id] for record in records for token in record.tokens}


def _shown(record: AccountRecord) -> str:
    return f"{record.provider}/{next(iter(record.names), record.id)}"

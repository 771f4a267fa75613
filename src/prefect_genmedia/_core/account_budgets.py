"""Enforces what an account may spend in a day or a month, across all tasks, flows, batches, processes and machines.

The jobs themselves are the reservations. A job counts from the transaction that moves it to `sending`, in the period of
its `sent_at`, until it is certain that it cost nothing. So a reservation can be neither lost nor left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import BigInteger, Connection, case, cast, func, select
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core import schema
from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia._core.caps import WARNING_SHARE, Cap, Caps, Facts, Period, stored_caps
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import NEVER_PAID, JobState
from prefect_genmedia._core.statements import lock_number
from prefect_genmedia.errors import BudgetStop
from prefect_genmedia.prices import CURRENCY, MICROS, PriceTable, in_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures

_JOBS = schema.jobs


@dataclass(frozen=True)
class Wanted:
    """A job that is about to be sent.

    Args:
        micros: its estimated cost in millionths; None if no price is known.
        model: `provider/model`, the key of the price table.
        at: when it is sent, in seconds since 1970.
        key: its key in the ledger, if it has one.
    """

    micros: int | None
    model: str
    at: float
    key: str = ""


@dataclass(frozen=True)
class Payer:
    """Whose jobs are counted.

    Args:
        record: the account; None if the ledger has none for this text.
        text: its text in the column `account`.
        prices: by `provider/model`, for jobs that were sent without a price.
    """

    record: AccountRecord | None
    text: str
    prices: PriceTable

    @property
    def scope(self) -> str:
        """The account in events."""
        return f"account.{self.record.id if self.record else self.text}"

    @property
    def shown(self) -> str:
        """The account in messages."""
        return self.record.shown if self.record else self.text


@dataclass(frozen=True)
class Spent:
    """What counts in a period, in millionths or jobs.

    Args:
        certain: of jobs that the provider accepted.
        reserved: of jobs that are being sent, or have no certain answer.
    """

    certain: int = 0
    reserved: int = 0

    def plus(self, amount: int, is_reserved: bool) -> Spent:
        """With another amount.

        Args:
            amount: millionths, or jobs.
            is_reserved: whether it is reserved only.
        """
        if is_reserved:
            return replace(self, reserved=self.reserved + amount)
        return replace(self, certain=self.certain + amount)


def check_caps(connection: Connection, payer: Payer, own: Caps, wanted: Wanted) -> list[Facts]:
    """Refuse a job that would exceed an account's caps. Call it in the transaction that moves the job to `sending`.

    The caps of the account's other Blocks apply too, as those Blocks last declared them. Every job of the account
    counts, regardless of the Block or package version that sent it.

    Args:
        connection: inside a transaction.
        payer: the account.
        own: the caps of the Block in use.
        wanted: the job.

    Returns:
        The caps that reach 80 % with this job, for events.

    Raises:
        BudgetStop: the job would exceed a cap, or a cap on costs cannot be checked because a price is not known.
    """
    ids = ids_of(connection, payer.record)
    caps = [
        *own.each(),
        *(cap for each in stored_caps(connection, ids) if each.block != own.block for cap in each.each()),
    ]
    if not caps:
        return []
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(lock_number(f"budget {payer.scope}"))))
    near = []
    for cap in caps:
        period = cap.period(wanted.at)
        spent = _spent(connection, payer, ids, cap, period, wanted)
        more = wanted.micros if cap.is_money else 1
        if more is None or spent.certain + spent.reserved + more > cap.limit:
            raise _stop(payer, cap, period, spent, wanted)
        if spent.certain + spent.reserved + more >= WARNING_SHARE * cap.limit:
            near.append(_facts(payer, cap, period, spent.plus(more, is_reserved=True)))
    return near


def spending(connection: Connection, payer: Payer, now: float) -> list[Facts]:
    """Returns what counts now against each cap that saved Blocks give an account.

    Args:
        connection: inside a transaction.
        payer: the account.
        now: seconds since 1970.

    Raises:
        BudgetStop: a cap on costs cannot be checked, since a job was sent without a price and has none now.
    """
    ids, found = ids_of(connection, payer.record), []
    provider = payer.record.provider if payer.record else ""
    for cap in (cap for caps in stored_caps(connection, ids) for cap in caps.each()):
        period = cap.period(now)
        spent = _spent(connection, payer, ids, cap, period, Wanted(None, f"{provider}/", now))
        found.append(_facts(payer, cap, period, spent))
    return found


async def is_first(ledger: Ledger, what: str, facts: Facts) -> bool:
    """Whether an event about a cap is the first in its period; marks it as emitted.

    Args:
        ledger: where emitted events are recorded.
        what: the event.
        facts: the event's payload.
    """
    events = schema.budget_events
    scope = f"{facts['scope']} {facts['cap']} {facts['block']}"[:255]
    values = {"scope": scope, "period": str(facts["period"]), "event": what, "emitted_at": ledger.now()}

    def write(connection: Connection) -> bool:
        return connection.execute(schema.insert_new(connection, events).values(**values)).rowcount == 1

    return await ledger.transact(write)


def counts_as_spent(provider: str) -> ColumnElement[bool]:
    """Returns the SQL condition that a job was paid, or may have been.

    Args:
        provider: the provider's name.
    """
    free = {state.value for state in NEVER_PAID}
    if provider in providers_with_free_failures():
        free.add(JobState.FAILED.value)
    return _JOBS.c.state.not_in(sorted(free))


def micros_column() -> ColumnElement[int]:
    """Returns a job's cost in millionths, also for jobs recorded by earlier versions."""
    by_float = cast(func.round(_JOBS.c.estimated_cost * MICROS), BigInteger)
    return case((_JOBS.c.cost_micros.is_not(None), _JOBS.c.cost_micros), else_=by_float)


_MERGED = select(schema.accounts.c.id, schema.accounts.c.merged_into).where(schema.accounts.c.merged_into.is_not(None))


def ids_of(connection: Connection, record: AccountRecord | None) -> list[str]:
    """Returns the ids of an account and of the accounts merged into it: jobs and caps refer to them.

    Args:
        connection: inside a transaction.
        record: the account; None returns no ids.
    """
    if record is None:
        return []
    rows, ids = connection.execute(_MERGED).fetchall(), [record.id]
    for known in ids:
        ids.extend(row.id for row in rows if row.merged_into == known)
    return ids


def _counted(payer: Payer, ids: Sequence[str], period: Period, wanted: Wanted) -> list[list[ColumnElement[bool]]]:
    """Conditions for the jobs that count, one per index: jobs with the account's id, and jobs with only its text."""
    common = [
        _JOBS.c.sent_at >= period.begins_at,
        _JOBS.c.sent_at < period.ends_at,
        _JOBS.c.key != wanted.key,
        counts_as_spent(wanted.model.partition("/")[0]),
    ]
    tokens = payer.record.tokens if payer.record else (payer.text,)
    by_text = (
        [_JOBS.c.account.in_(tokens)]
        if payer.record is None
        else [_JOBS.c.account_id.is_(None), _JOBS.c.account.in_(tokens)]
    )
    return [[*by_text, *common]] if not ids else [[_JOBS.c.account_id.in_(ids), *common], [*by_text, *common]]


def _spent(connection: Connection, payer: Payer, ids: Sequence[str], cap: Cap, period: Period, wanted: Wanted) -> Spent:
    where = _counted(payer, ids, period, wanted)
    return _money(connection, where, payer, cap, period) if cap.is_money else _jobs(connection, where)


_RESERVED = {JobState.SENDING.value, JobState.UNKNOWN.value}


def _jobs(connection: Connection, conditions: Iterable[list[ColumnElement[bool]]]) -> Spent:
    spent = Spent()
    for where in conditions:
        counted = select(_JOBS.c.state, func.count()).where(*where).group_by(_JOBS.c.state)
        for state, jobs in connection.execute(counted).fetchall():
            spent = spent.plus(jobs, state in _RESERVED)
    return spent


def _money(
    connection: Connection, conditions: Iterable[list[ColumnElement[bool]]], payer: Payer, cap: Cap, period: Period
) -> Spent:
    spent, micros = Spent(), micros_column()
    for where in conditions:
        sums = select(_JOBS.c.state, func.sum(micros), func.count() - func.count(micros)).where(*where)
        for state, known, unpriced in connection.execute(sums.group_by(_JOBS.c.state)).fetchall():
            spent = spent.plus(int(known or 0), state in _RESERVED)
            if unpriced:
                spent = spent.plus(_repriced(connection, where, state, payer, cap, period), state in _RESERVED)
    return spent


def _repriced(
    connection: Connection, where: list[ColumnElement[bool]], state: str, payer: Payer, cap: Cap, period: Period
) -> int:
    """The cost, at current prices, of the jobs that were sent without a price."""
    columns = (_JOBS.c.key, _JOBS.c.provider, _JOBS.c.model, _JOBS.c.expectation["seconds"].as_float())
    unpriced = select(*columns).where(*where, _JOBS.c.state == state, micros_column().is_(None))
    total = 0
    for key, provider, model, seconds in connection.execute(unpriced).fetchall():
        price = payer.prices.get(f"{provider}/{model}")
        cost = None if price is None else price.of(seconds)
        if cost is None:
            raise _unpriced(payer, cap, period, f"{provider}/{model}", f"job {key}, which was sent in this period,")
        total += in_micros(cost)
    return total


def _facts(payer: Payer, cap: Cap, period: Period, spent: Spent) -> Facts:
    return {
        "scope": payer.scope,
        "of": f"account {payer.shown}",
        "cap": cap.name,
        "block": cap.block,
        "limit": cap.plain(cap.limit),
        "spent": cap.plain(spent.certain),
        "reserved": cap.plain(spent.reserved),
        "unit": CURRENCY if cap.is_money else "jobs",
        "period": period.name,
        "period_ends": period.end,
    }


def _cap_words(payer: Payer, cap: Cap) -> str:
    block = f" of the Block {cap.block!r}" if cap.block else ""
    return f"The cap {cap.name}{block} lets account {payer.shown} spend {cap.shown(cap.limit)} until"


def _stop(payer: Payer, cap: Cap, period: Period, spent: Spent, wanted: Wanted) -> BudgetStop:
    so_far = f"{cap.shown(spent.certain)} spent and {cap.shown(spent.reserved)} reserved"
    begin = f"{_cap_words(payer, cap)} {period.end}"
    if cap.is_money and wanted.micros is None:
        return _unpriced(payer, cap, period, wanted.model, "the job", so_far)
    more = f"this one would cost {cap.shown(wanted.micros or 0)}" if cap.is_money else "this would be another one"
    estimated = ", estimated" if cap.is_money else ""
    stop = BudgetStop(f"{begin}: there are {so_far}{estimated}, and {more}. It was not sent.", paid="nothing")
    return _with_facts(stop, f"raise {cap.name}, or wait for the end of the period", payer, cap, period, spent)


def _unpriced(payer: Payer, cap: Cap, period: Period, model: str, what: str, so_far: str = "") -> BudgetStop:
    stop = BudgetStop(
        f"{_cap_words(payer, cap)} {period.end}{f': there are {so_far}' if so_far else ''}. It cannot be checked, "
        f"since the cost of {what} is not known: {model} has no price, or one that depends on an unknown length. "
        "The job was not sent.",
        paid="nothing",
    )
    return _with_facts(stop, f"give {model} a price per_job in the setting PRICES", payer, cap, period, Spent())


def _with_facts(stop: BudgetStop, remedy: str, payer: Payer, cap: Cap, period: Period, spent: Spent) -> BudgetStop:
    stop.remedy = remedy
    stop.next_step = f"{remedy}, and run again."
    stop.facts = dict(_facts(payer, cap, period, spent))
    return stop

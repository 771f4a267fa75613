"""Reads the values of gauges from the ledger: open jobs, the oldest of them, expiry, budgets and pauses."""

from __future__ import annotations

import logging
from collections import Counter

from sqlalchemy import Connection, func, select

from prefect_genmedia._core import telemetry
from prefect_genmedia._core.account_budgets import Payer, spending
from prefect_genmedia._core.accounts import all_accounts
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import AT_PROVIDER, JobState
from prefect_genmedia._core.statements import JOBS
from prefect_genmedia._core.telemetry import Figures
from prefect_genmedia.errors import BudgetStop, GenMediaError
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.plugin import list_prices

logger = logging.getLogger(__name__)

OPEN = (*AT_PROVIDER, JobState.RESERVED, JobState.SENDING, JobState.UNKNOWN)
"""The states that have gauges; jobs that have ended are counted by counters."""


async def publish_figures(ledger: Ledger, prices: PriceTable | None = None) -> None:
    """Read the figures from the ledger and publish them as gauges. A failure is only logged.

    Args:
        ledger: where jobs are recorded.
        prices: the price table for jobs without a price; None for the list prices.
    """
    now, table = ledger.now(), list_prices() if prices is None else prices
    try:
        telemetry.publish(await ledger.transact(lambda connection: read_figures(connection, table, now)))
    except GenMediaError as error:
        logger.warning("The ledger's figures cannot be read for telemetry: %s", error.message)


def read_figures(connection: Connection, prices: PriceTable, now: float) -> Figures:
    """Returns the ledger's current figures.

    Args:
        connection: inside a transaction.
        prices: the price table for jobs without a price.
        now: seconds since 1970.
    """
    accepted = func.min(func.coalesce(JOBS.c.submitted_at, JOBS.c.created_at))
    columns = (JOBS.c.provider, JOBS.c.state, func.count(), accepted, func.min(JOBS.c.expires_at))
    states = sorted(state.value for state in OPEN)
    found = select(*columns).where(JOBS.c.state.in_(states)).group_by(JOBS.c.provider, JOBS.c.state)
    rows = connection.execute(found).fetchall()
    accounts = [each for each in all_accounts(connection) if each.merged_into is None]
    providers = {row[0] for row in rows} | {each.provider for each in accounts}
    jobs = {(provider, state): 0 for provider in providers for state in states}
    oldest: dict[str, float] = {}
    expires: dict[str, float] = {}
    for provider, state, count, since, until in rows:
        jobs[provider, state] = count
        if JobState(state) in AT_PROVIDER:
            oldest[provider] = min(oldest.get(provider, since), since)
            if until is not None:
                expires[provider] = min(expires.get(provider, until), until)
    budget_left: dict[tuple[str, str, str, str], float] = {}
    for record in accounts:
        try:
            facts = spending(connection, Payer(record, next(iter(record.tokens), ""), prices), now)
        except BudgetStop:  # a job has no price, so the remaining amount is not known
            continue
        for each in facts:
            left = float(each["limit"]) - float(each["spent"]) - float(each["reserved"])
            name = (record.id, record.provider, str(each["cap"]), str(each["unit"]))
            budget_left[name] = min(budget_left.get(name, left), left)
    paused = Counter(dict.fromkeys(providers, 0))
    paused.update(each.provider for each in accounts if each.paused_at is not None)
    return Figures(now, jobs, oldest, expires, budget_left, dict(paused))

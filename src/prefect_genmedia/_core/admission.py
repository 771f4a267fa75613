"""Checks made in the transaction that moves a job to `sending`, so that they hold across all processes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.account_budgets import (
    Payer,
    Wanted,
    check_caps,
    counts_as_spent,
    is_first,
    micros_column,
)
from prefect_genmedia._core.accounts import AccountRecord, accounts_at
from prefect_genmedia._core.attempts import holds_payment
from prefect_genmedia._core.budgets import cost_of, priced_as
from prefect_genmedia._core.caps import Facts, shown_amount
from prefect_genmedia._core.confirmations import check_confirmed
from prefect_genmedia._core.identity import identities_of, identity_of
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.statements import job_of, lock_number
from prefect_genmedia.errors import AccountConflict, AccountPaused, BudgetStop, GenMediaError
from prefect_genmedia.prices import CURRENCY, from_micros, in_micros, limit_in_micros
from prefect_genmedia.providers.protocol import PreparedRequest


class SentUnderOtherToken(Exception):
    """The same account already sent the request under another of its identity tokens; the caller joins that job.

    Args:
        record: the account, with tokens that the session did not have.
    """

    def __init__(self, record: AccountRecord) -> None:
        super().__init__()
        self.record = record


class Admission:
    """The checks that `Ledger.start_sending` makes in its transaction: check the account, then reserve the job's cost.

    Calling it raises `AccountPaused`, `AccountConflict`, `BudgetStop`, `SentUnderOtherToken`, or what the spec's
    `spend` raises. In each case the job stays reserved.

    Args:
        session: the account that pays.
        spec: the job.
        prepared: the spec's request with its inputs prepared.
    """

    def __init__(self, session: Session, spec: JobSpec, prepared: PreparedRequest[Any]) -> None:
        self._session, self._spec, self._prepared = session, spec, prepared
        self._allowed = spec.allow_second_account or session.allow_second_account
        self._lock = lock_number(f"request {identity_of('', prepared, spec.scope, spec.variant)}")
        cost = cost_of(prepared, session.prices)
        self.micros = None if cost is None else in_micros(cost)
        self.near: list[Facts] = []
        """The caps that this job brings close to their limit."""

    def __call__(self, connection: Connection, job: Job) -> None:
        """Check the account and reserve the cost; the job is `sending` in this transaction."""
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(self._lock)))
        payer = str(self._session.account)
        records = accounts_at(connection, self._session.account, shared_lock=True)
        mine = _paying(records, payer)
        check_not_paused(mine)
        self._check_other_accounts(connection, job, records, mine)
        changes: dict[str, Any] = {}
        if job.account != payer:  # reserved with an earlier key
            changes |= {"account": payer, "account_id": mine.id if mine else None}
        if job.cost_micros != self.micros:  # reserved by an earlier version, or at other prices
            changes |= costs_of(self.micros)
        if job.root_run_id != self._session.run.root_run_id:  # reserved by another run, which did not send it
            changes["root_run_id"] = self._session.run.root_run_id
        if changes:
            connection.execute(update(schema.jobs).where(schema.jobs.c.key == job.key).values(**changes))
        self.check_budget(connection, mine, job)
        if self._spec.spend is not None:
            self._spec.spend(connection, job)

    def check_budget(self, connection: Connection, mine: AccountRecord | None, job: Job | None) -> None:
        """Refuse a job that would exceed the spec's `max_cost` or a cap of the account, or that is not confirmed.

        Args:
            connection: inside a transaction.
            mine: the account.
            job: the job, in state `sending`; or the newest job of the requested result, if there is one.
        """
        session, at = self._session, self._session.clock.now()
        sending = job if job is not None and job.state is JobState.SENDING else None
        if sending is not None:
            at = sending.sent_at or at
        if self._spec.max_cost is not None:
            self._check_max_cost(connection, self._spec.max_cost, job)
        if self._spec.confirm_above is not None:
            key = sending.key if sending else ""
            check_confirmed(connection, session.run.root_run_id, self.micros, self._spec.confirm_above, key)
        payer = Payer(mine, str(session.account), session.prices)
        wanted = Wanted(self.micros, priced_as(self._prepared.request), at, sending.key if sending else "")
        self.near = check_caps(connection, payer, session.caps, wanted)

    def _check_other_accounts(
        self, connection: Connection, job: Job, records: list[AccountRecord], mine: AccountRecord | None
    ) -> None:
        now = self._session.clock.now()
        for record in records:
            if record is not mine and self._allowed:
                continue
            identities = identities_of(record.tokens, self._prepared, self._spec.scope, self._spec.variant)
            paid = _paid_elsewhere(connection, job, identities, now)
            if paid is not None:
                if record is mine:
                    raise SentUnderOtherToken(record)
                raise _second_account(record, mine, paid, str(self._session.account))

    def _check_max_cost(self, connection: Connection, max_cost: Decimal, job: Job | None) -> None:
        """Refuse a job whose result would cost more than `max_cost`; earlier attempts count."""
        before = 0 if job is None else paid_for_result(connection, job)
        if self.micros is not None and before + self.micros <= limit_in_micros(max_cost):
            return
        begin = f"max_cost lets this result cost {shown_amount(max_cost)}, estimated"
        if self.micros is None:
            model = priced_as(self._prepared.request)
            stop = BudgetStop(
                f"{begin}. That cannot be checked: {model} has no price, or one that depends on an unknown length. "
                "The job was not sent.",
                paid="nothing",
            )
            stop.remedy = f"give {model} a price per_job in the setting PRICES"
        else:
            this = shown_amount(from_micros(self.micros))
            earlier = f", after {shown_amount(from_micros(before))} for earlier attempts" if before else ""
            stop = BudgetStop(f"{begin}: this job would cost {this}{earlier}. It was not sent.", paid="nothing")
            stop.remedy = "raise max_cost"
        stop.next_step = f"{stop.remedy}, and run again."
        raise stop


def paid_for_result(connection: Connection, job: Job) -> int:
    """Returns the estimated cost, in millionths, of the other attempts at a job's result that were or may be paid.

    Args:
        connection: inside a transaction.
        job: an attempt. Its own cost counts unless it is `sending`.
    """
    jobs = schema.jobs
    own = [jobs.c.key != job.key] if job.state is JobState.SENDING else []
    total = select(func.sum(micros_column())).where(jobs.c.identity == job.identity, *own)
    return int(connection.execute(total.where(counts_as_spent(job.provider))).scalar() or 0)


async def refuse_early(session: Session, spec: JobSpec, prepared: PreparedRequest[Any], newest: Job | None) -> None:
    """Refuse a job before any request to the provider or any wait, if it would be refused when sent.

    Args:
        session: the account.
        spec: the job.
        prepared: the spec's request with its inputs prepared.
        newest: the newest job of the requested result, if there is one.

    Raises:
        AccountPaused: the account is paused.
        BudgetStop: the job would exceed its caps or the spec's `max_cost`.
        NotConfirmed: a person must confirm it first.
    """
    admit = Admission(session, spec, prepared)

    def check(connection: Connection) -> None:
        mine = _paying(accounts_at(connection, session.account), str(session.account))
        check_not_paused(mine)
        admit.check_budget(connection, mine, newest)

    await session.ledger.transact(check)


async def report_budget(session: Session, what: str, facts: Facts) -> None:
    """Report a cap that is nearly reached, or that a job would exceed. Only one process reports it, once per period.

    Args:
        session: the account.
        what: `warning` or `reached`.
        facts: the event's payload; if empty, nothing is reported.
    """
    try:
        if facts and await is_first(session.ledger, what, facts):
            session.hooks.budget(what, facts)
    except GenMediaError as error:  # does not change whether the job is sent or refused
        session.log.warning("The event that a cap is near or reached cannot be emitted: %s", error.message)


def _paying(records: list[AccountRecord], payer: str) -> AccountRecord | None:
    return next((each for each in records if each.pays_for(payer)), None)


def costs_of(micros: int | None) -> dict[str, Any]:
    """Returns the values of a job's cost columns.

    Args:
        micros: millionths of the currency; None if no price is known.
    """
    if micros is None:
        return {"cost_micros": None, "estimated_cost": None, "currency": None}
    return {"cost_micros": micros, "estimated_cost": float(from_micros(micros)), "currency": CURRENCY}


def check_not_paused(record: AccountRecord | None) -> None:
    """Refuse an account that is paused.

    Args:
        record: the account; None if the ledger has no such account.

    Raises:
        AccountPaused: it is paused.
    """
    if record is not None and record.paused_at is not None:
        reason = f": {record.pause_reason}" if record.pause_reason else ""
        raise AccountPaused(
            f"Account {record.shown} of {record.provider} was paused by {record.paused_by or 'somebody'}{reason}.",
            next_step=f"`prefect-genmedia accounts resume {record.id}`, then run again.",
        )


def _paid_elsewhere(connection: Connection, job: Job, identities: list[str], now: float) -> Job | None:
    """Returns the newest other job under one of these identities that was paid, or may have been."""
    jobs = schema.jobs
    wanted = [identity for identity in identities if identity != job.identity]
    if not wanted:
        return None
    rows = connection.execute(select(jobs).where(jobs.c.identity.in_(wanted)).order_by(jobs.c.attempt)).fetchall()
    newest = {row.identity: row for row in rows}
    return next((found for found in map(job_of, newest.values()) if holds_payment(found, now)), None)


def _second_account(other: AccountRecord, mine: AccountRecord | None, paid: Job, payer: str) -> AccountConflict:
    return AccountConflict(
        f"The same request is {paid.state.value} under another account of {other.provider} at {other.base_url}: job "
        f"{paid.key} of account {other.shown}. It was not sent for account {mine.shown if mine else payer}.",
        paid="nothing: the other account's job is not paid again",
        next_step=(
            f"if both are one account at the provider: `prefect-genmedia accounts merge {other.id} "
            f"{mine.id if mine else 'ACCOUNT'}`, then run again. To pay a second time: allow_second_account=True."
        ),
    )

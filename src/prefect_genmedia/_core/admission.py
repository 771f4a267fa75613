"""What is checked in the transaction in which a job begins to be sent, so that it holds over all processes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.accounts import AccountRecord, accounts_at, read_accounts
from prefect_genmedia._core.attempts import holds_payment
from prefect_genmedia._core.identity import identities_of, identity_of
from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.statements import job_of, lock_number
from prefect_genmedia.errors import AccountConflict, AccountPaused
from prefect_genmedia.providers.protocol import PreparedRequest


class SentUnderOtherToken(Exception):
    """The same account has sent the request under another of its identity tokens: that job is joined.

    Parameters:
        record: the account, with tokens that the session did not know.
    """

    def __init__(self, record: AccountRecord) -> None:
        super().__init__()
        self.record = record


def admission(session: Session, spec: JobSpec, prepared: PreparedRequest[Any]) -> Spend:
    """What `Ledger.start_sending` shall do in its transaction: check the account, then reserve the spec's money.

    It raises `AccountPaused`, `AccountConflict` or `SentUnderOtherToken`, and what the spec's `spend` raises; the job
    stays reserved then.

    Parameters:
        session: the account that pays.
        spec: the job.
        prepared: the spec's request with its inputs prepared.
    """
    allowed = spec.allow_second_account or session.allow_second_account
    request_lock = lock_number(f"request {identity_of('', prepared, spec.scope, spec.variant)}")

    def admit(connection: Connection, job: Job) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(request_lock)))
        payer = str(session.account)
        records = accounts_at(connection, session.account, shared_lock=True)
        mine = next((each for each in records if each.pays_for(payer)), None)
        check_not_paused(mine)
        now = session.clock.now()
        for record in records:
            if record is not mine and allowed:
                continue
            identities = identities_of(record.tokens, prepared, spec.scope, spec.variant)
            paid = _paid_elsewhere(connection, job, identities, now)
            if paid is not None:
                raise SentUnderOtherToken(record) if record is mine else _second_account(record, mine, paid, payer)
        if job.account != payer:  # reserved with an earlier key
            mine_is = {"account": payer, "account_id": mine.id if mine else None}
            connection.execute(update(schema.jobs).where(schema.jobs.c.key == job.key).values(**mine_is))
        if spec.spend is not None:
            spec.spend(connection, job)

    return admit


async def refuse_if_paused(session: Session) -> None:
    """Refuse whatever would ask the account's provider for something new, if the account is paused.

    Parameters:
        session: the account.

    Raises:
        AccountPaused: it is paused.
    """
    records = await read_accounts(session.ledger, session.account)
    check_not_paused(next((each for each in records if each.pays_for(str(session.account))), None))


def check_not_paused(record: AccountRecord | None) -> None:
    """Refuse an account that is paused.

    Parameters:
        record: the account; None for one that the ledger does not know.

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
    """The newest job under one of these identities that is paid or may be, but for the job itself."""
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

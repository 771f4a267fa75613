"""What a person does with accounts: list, rename, merge, pause and resume them."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.account_budgets import Payer, ids_of, spending
from prefect_genmedia._core.accounts import (
    AccountRecord,
    all_accounts,
    change_account,
    learn_accounts,
    lock_accounts,
)
from prefect_genmedia._core.caps import Facts
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.text import clean_text

ID_CHARACTERS = 4
"""The minimum length of an id prefix that identifies an account."""

MAX_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class ListedAccount:
    """An account and its number of in-flight jobs."""

    record: AccountRecord
    in_flight: int


async def list_accounts(ledger: Ledger) -> list[ListedAccount]:
    """Returns every account of the ledger, oldest first, including those that workers of earlier versions used.

    Args:
        ledger: where accounts are recorded.
    """

    def read(connection: Connection) -> list[AccountRecord]:
        learn_accounts(connection)
        return [record for record in all_accounts(connection) if record.merged_into is None]

    records = await ledger.transact(read)
    return [ListedAccount(each, await ledger.in_flight(each.tokens[0]) if each.tokens else 0) for each in records]


async def rename_account(ledger: Ledger, account: str, name: str) -> AccountRecord:
    """Rename an account. The old name becomes free: a Block with that name may then belong to another account.

    Args:
        ledger: where accounts are recorded.
        account: the name to replace; or the account's id, which replaces its first name.
        name: the new name.

    Raises:
        InvalidRequest: there is no such account, several match, or another one has the new name.
    """
    new = clean_text(name).strip()
    if not new or len(new) > MAX_NAME_CHARACTERS:
        raise _refusal("name", f"must have from 1 to {MAX_NAME_CHARACTERS} characters")

    def rename(connection: Connection) -> AccountRecord:
        records = _locked(connection)
        record = _found(records, account)
        taken = [each for each in records if _same_provider(each, record) and new in each.names and each != record]
        if taken:
            raise _refusal("name", f"{new!r} is a name of account {taken[0].shown} already; merge them if they are one")
        old = account if account in record.names else next(iter(record.names), None)
        names = list(dict.fromkeys([new, *(each for each in record.names if each != old)]))
        change_account(connection, record, names=names)
        return _again(connection, record)

    return await ledger.transact(rename)


async def merge_accounts(ledger: Ledger, into: str, other: str) -> AccountRecord:
    """Merge two accounts: the first gets the names, keys and identity tokens of the second. No job is changed.

    Args:
        ledger: where accounts are recorded.
        into: the account that stays; its first token is still used for new identities.
        other: the account that is merged into it.

    Raises:
        InvalidRequest: there is no such account, several match, or the two cannot be merged.
    """

    def merge(connection: Connection) -> AccountRecord:
        records = _locked(connection)
        kept, joined = _found(records, into), _found(records, other)
        if kept == joined:
            raise _refusal("account", f"{into!r} and {other!r} are one account already")
        if not _same_provider(kept, joined):
            raise _refusal("account", "only accounts of one provider and base URL can be merged")
        tokens = schema.account_tokens
        connection.execute(
            update(tokens)
            .where(tokens.c.account_id == joined.id)
            .values(account_id=kept.id, position=tokens.c.position + len(kept.tokens))
        )
        paused = kept if kept.paused_at is not None else joined  # a paused account stays paused
        change_account(
            connection,
            kept,
            names=list(dict.fromkeys((*kept.names, *joined.names))),
            fingerprints=list(dict.fromkeys((*kept.fingerprints, *joined.fingerprints))),
            paused_at=paused.paused_at,
            paused_by=paused.paused_by,
            pause_reason=paused.pause_reason,
        )
        change_account(connection, joined, merged_into=kept.id)
        return _again(connection, kept)

    return await ledger.transact(merge)


async def pause_account(ledger: Ledger, account: str, reason: str = "", by: str | None = None) -> AccountRecord:
    """Stop an account from sending jobs; waiting and delivery continue. After this returns, no submission starts.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.
        reason: why; shown to users whose jobs are refused.
        by: who pauses it; the operating system's user by default.

    Raises:
        InvalidRequest: there is no such account, or several may be meant.
    """

    def pause(connection: Connection) -> AccountRecord:
        record = _found(_locked(connection), account)
        values = {"paused_by": clean_text(by or getpass.getuser(), 128), "pause_reason": clean_text(reason) or None}
        change_account(connection, record, paused_at=ledger.now(), **values)
        return _again(connection, record)

    return await ledger.transact(pause)


async def resume_account(ledger: Ledger, account: str) -> AccountRecord:
    """Allow a paused account to send again.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.

    Raises:
        InvalidRequest: there is no such account, several match, or it is not paused.
    """

    def resume(connection: Connection) -> AccountRecord:
        record = _found(_locked(connection), account)
        if record.paused_at is None:
            raise _refusal("account", f"{record.shown} is not paused")
        change_account(connection, record, paused_at=None, paused_by=None, pause_reason=None)
        return _again(connection, record)

    return await ledger.transact(resume)


async def account_budget(ledger: Ledger, account: str, prices: PriceTable) -> tuple[AccountRecord, list[Facts]]:
    """Returns an account's caps and what counts against each in the current period.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.
        prices: by `provider/model`, for jobs that were sent without a price.

    Raises:
        InvalidRequest: there is no such account, or several may be meant.
        BudgetStop: a cap on costs cannot be checked, because a job was sent without a price and no price is known now.
    """

    def read(connection: Connection) -> tuple[AccountRecord, list[Facts]]:
        record = _found(_locked(connection), account)
        return record, spending(connection, Payer(record, next(iter(record.tokens), ""), prices), ledger.now())

    return await ledger.transact(read)


async def find_account(ledger: Ledger, account: str) -> AccountRecord:
    """Returns the account with an id or name.

    Args:
        ledger: where accounts are recorded.
        account: its id, the beginning of it, one of its names, or `provider/name`.

    Raises:
        InvalidRequest: there is no such account, or several may be meant.
    """
    return await ledger.transact(lambda connection: _found(_locked(connection), account))


async def forget_caps(ledger: Ledger, account: str, block: str) -> AccountRecord:
    """Remove the caps that a Block gave an account. They return when a Block of that name with caps is used again.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.
        block: the name under which the Block was saved.

    Raises:
        InvalidRequest: there is no such account, several match, or the Block gave it no caps.
    """

    def forget(connection: Connection) -> AccountRecord:
        record, caps = _found(_locked(connection), account), schema.account_caps
        ids = ids_of(connection, record)
        gone = connection.execute(caps.delete().where(caps.c.account_id.in_(ids), caps.c.block == block))
        if not gone.rowcount:
            raise _refusal("block", f"no Block {block!r} caps account {record.shown}")
        return record

    return await ledger.transact(forget)


def _locked(connection: Connection) -> list[AccountRecord]:
    lock_accounts(connection)
    learn_accounts(connection)
    return all_accounts(connection)


def _found(records: Sequence[AccountRecord], named: str) -> AccountRecord:
    """Returns the account for an id, an id prefix, a name or `provider/name`; for a merged one, its successor."""
    present = [each for each in records if each.merged_into is None]
    found = [each for each in present if named in each.names or named in {f"{each.provider}/{n}" for n in each.names}]
    exact = [each for each in records if each.id == named]
    if len(named) >= ID_CHARACTERS and not exact and not found:
        exact = [each for each in records if each.id.startswith(named)]
    found = exact or found
    if not found:
        raise _refusal("account", f"the ledger has no account {named!r}; see `prefect-genmedia accounts list`")
    if len(found) > 1:
        meant = ", ".join(f"{each.id} ({each.provider} at {each.base_url})" for each in found)
        raise _refusal("account", f"{named!r} may be any of {meant}; give its id")
    (record,) = found
    by_id = {each.id: each for each in records}
    while record.merged_into is not None:
        record = by_id[record.merged_into]
    return record


def _again(connection: Connection, record: AccountRecord) -> AccountRecord:
    return next(each for each in all_accounts(connection) if each.id == record.id)


def _same_provider(one: AccountRecord, other: AccountRecord) -> bool:
    return (one.provider, one.base_url) == (other.provider, other.base_url)


def _refusal(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest.of("The account", [FieldProblem(field, problem)])

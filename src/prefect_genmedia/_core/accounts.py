"""Accounts: who pays, independent of the current key and of how the base URL is spelled.

An identity token is a text `provider:fingerprint@base_url`. Versions without accounts used this text as the account:
it is part of every identity digest and is stored in the column `account` of every job. An account keeps all such texts
that were used for it, so a rotated key or another spelling of the base URL changes no identity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import Connection, Row, Select, func, select, update

from prefect_genmedia._core import schema
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.statements import lock_number
from prefect_genmedia.errors import AccountConflict
from prefect_genmedia.providers.protocol import Account

MAX_TOKEN_CHARACTERS = 2000
"""Longer account texts get no account, because they do not fit into a PostgreSQL index."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

_ACCOUNTS, _TOKENS, _JOBS = schema.accounts, schema.account_tokens, schema.jobs


@dataclass(frozen=True)
class AccountRecord:
    """An account in the ledger. Times are seconds since 1970.

    Args:
        id: its id, as used in commands.
        provider: the provider's name.
        base_url: the normalised base URL, see `normalized_base_url`.
        names: its names; the first is shown, the others are aliases.
        fingerprints: fingerprints of its keys, the oldest first.
        tokens: its identity tokens. The first is used for new identities; look-ups try all.
        created_at: when it was first recorded.
        paused_at: when it was paused; None if it is not.
        paused_by: who paused it.
        pause_reason: why.
        merged_into: id of the account that now has its keys, names and tokens; None if it was not merged.
    """

    id: str
    provider: str
    base_url: str
    names: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    created_at: float = 0.0
    paused_at: float | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    merged_into: str | None = None

    @property
    def shown(self) -> str:
        """Returns the account as shown in messages: its id, and its first name if it has one."""
        return f"{self.id} ({self.names[0]})" if self.names else self.id

    def pays_for(self, account_text: str) -> bool:
        """Whether a job with this text in its column `account` belongs to the account.

        Args:
            account_text: the text.
        """
        return account_text in self.tokens


def normalized_base_url(base_url: str) -> str:
    """Returns the base URL as used for comparison: lower-case scheme and host, explicit port, no trailing slash.

    Args:
        base_url: the URL as a Block or a ledger has it; returned unchanged if it cannot be parsed.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        return base_url
    host = url.raw_host.decode("ascii").rstrip(".")
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if not host or port is None:
        return base_url
    path = url.raw_path.decode("ascii").partition("?")[0].rstrip("/")
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


async def resolve_account(ledger: Ledger, account: Account, name: str | None, strict: bool = True) -> AccountRecord:
    """Returns the ledger's account for a client; creates it, or adds a new key, name or base URL spelling to it.

    A known key fingerprint selects the account, and a new name becomes an alias. Otherwise a known name selects it, and
    the key's fingerprint is added: the key was rotated. Otherwise a new account is created.

    Args:
        ledger: where accounts are recorded.
        account: provider, base URL and key fingerprint of the client.
        name: the account's name from the Block; None if it has none.
        strict: whether to refuse a name and a key that belong to two accounts. If False, the key decides and nothing is
            added.

    Raises:
        AccountConflict: name and key belong to two accounts.
    """
    base_url = normalized_base_url(account.base_url)
    by_key, by_name = _matches(await read_accounts(ledger, account), account, name)
    if by_key is not None and (by_name is by_key or not name) and by_key.pays_for(str(account)):
        return by_key
    if len(str(account)) > MAX_TOKEN_CHARACTERS:
        return AccountRecord("", account.provider, base_url, tokens=(str(account),))
    return await ledger.transact(lambda connection: _resolved(connection, account, name, ledger.now(), strict))


async def read_accounts(ledger: Ledger, account: Account) -> list[AccountRecord]:
    """Returns every account of a provider and base URL, oldest first, without merged ones.

    Args:
        ledger: where accounts are recorded.
        account: provider and base URL.
    """
    return _folded(await ledger.query(_accounts_at(account.provider, normalized_base_url(account.base_url))))


def learn_accounts(connection: Connection, provider: str | None = None) -> None:
    """Create accounts for the account texts of jobs from earlier versions, and from workers that still run them.

    Texts of one provider with the same normalised base URL and key fingerprint belong to one account.

    Args:
        connection: inside a transaction.
        provider: only texts of this provider; None for all.
    """
    lock_accounts(connection)
    first_job = func.min(_JOBS.c.created_at)
    texts = select(_JOBS.c.provider, _JOBS.c.account, first_job).where(_JOBS.c.account.not_in(select(_TOKENS.c.token)))
    if provider is not None:
        texts = texts.where(_JOBS.c.provider == provider)
    found = connection.execute(texts.group_by(_JOBS.c.provider, _JOBS.c.account).order_by(first_job, _JOBS.c.account))
    for its_provider, token, created_at in found.fetchall():
        account = _read_token(its_provider, token)
        if account is None:
            continue
        by_key, _ = _matches(accounts_at(connection, account), account, None)
        record = by_key or _create(connection, account, created_at)
        _add_tokens(connection, record, [token])


def accounts_at(connection: Connection, account: Account, shared_lock: bool = False) -> list[AccountRecord]:
    """Returns every account of a provider and base URL, oldest first, without merged ones.

    Args:
        connection: inside a transaction.
        account: provider and base URL.
        shared_lock: whether to lock the accounts against changes until the transaction ends. SQLite needs no lock: it
            has a single writer.
    """
    statement = _accounts_at(account.provider, normalized_base_url(account.base_url), shared_lock)
    return _folded(connection.execute(statement))


def all_accounts(connection: Connection) -> list[AccountRecord]:
    """Every account of the ledger, merged ones too, the oldest first.

    Args:
        connection: inside a transaction.
    """
    return _folded(connection.execute(_selected()))


def lock_accounts(connection: Connection) -> None:
    """Lock the accounts against changes until the transaction ends. SQLite needs no lock: it has a single writer.

    Args:
        connection: inside a transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(lock_number("accounts"))))


def change_account(connection: Connection, record: AccountRecord, **values: Any) -> None:
    """Set columns of an account.

    Args:
        connection: inside a transaction.
        record: the account.
        **values: the columns.
    """
    connection.execute(update(_ACCOUNTS).where(_ACCOUNTS.c.id == record.id).values(**values))


def account_conflict(by_name: AccountRecord, by_key: AccountRecord, name: str) -> AccountConflict:
    """Returns the error for a Block whose name and key belong to two accounts.

    Args:
        by_name: the account of the name.
        by_key: the account of the key.
        name: the name.
    """
    return AccountConflict(
        f"The name {name!r} belongs to account {by_name.shown} of {by_name.provider} at {by_name.base_url}, but the "
        f"key belongs to account {by_key.shown}. `prefect-genmedia accounts merge {by_name.id} {by_key.id}` makes them "
        "one.",
        next_step="merge them if both are one account at the provider. If the Block now has another customer's key: "
        f"`prefect-genmedia accounts rename {by_name.id} NEW_NAME`, or give the Block another account_name.",
    )


def _resolved(connection: Connection, account: Account, name: str | None, now: float, strict: bool) -> AccountRecord:
    lock_accounts(connection)
    by_key, by_name = _matches(accounts_at(connection, account), account, name)
    if by_key is None:  # a worker of an earlier version may have used this key
        learn_accounts(connection, account.provider)
        by_key, by_name = _matches(accounts_at(connection, account), account, name)
    if name and by_key is not None and by_name is not None and by_name != by_key:
        if strict:
            raise account_conflict(by_name, by_key, name)
        return by_key
    record = by_key or by_name or _create(connection, account, now)
    change_account(
        connection,
        record,
        names=_with(record.names, [name] if name else []),
        fingerprints=_with(record.fingerprints, [account.fingerprint]),
    )
    _add_tokens(connection, record, [str(account)])
    return next(each for each in accounts_at(connection, account) if each.id == record.id)


def _matches(
    records: Iterable[AccountRecord], account: Account, name: str | None
) -> tuple[AccountRecord | None, AccountRecord | None]:
    """Returns the account that has the key, and the account that has the name."""
    by_key = by_name = None
    for record in records:
        if account.fingerprint in record.fingerprints:
            by_key = by_key or record
        if name in record.names:
            by_name = by_name or record
    return by_key, by_name


def _create(connection: Connection, account: Account, created_at: float) -> AccountRecord:
    values: dict[str, Any] = {
        "id": uuid4().hex[:8],
        "provider": account.provider,
        "base_url": normalized_base_url(account.base_url),
        "names": [],
        "fingerprints": [account.fingerprint],
        "created_at": created_at,
    }
    connection.execute(_ACCOUNTS.insert().values(**values))
    return _record({**values, "names": (), "fingerprints": (account.fingerprint,)})


def _add_tokens(connection: Connection, record: AccountRecord, tokens: Iterable[str]) -> None:
    known = select(_TOKENS.c.token).where(_TOKENS.c.account_id == record.id)
    present = set(connection.execute(known).scalars())
    for position, token in enumerate(dict.fromkeys(each for each in tokens if each not in present), len(present)):
        connection.execute(_TOKENS.insert().values(token=token, account_id=record.id, position=position))


def _read_token(provider: str, token: str) -> Account | None:
    """Parses an account text; returns None if it is not one, or is too long to be stored."""
    fingerprint, _, base_url = token.removeprefix(f"{provider}:").partition("@")
    if not fingerprint or not base_url or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    return Account(provider, base_url, fingerprint)


def _selected() -> Select[Any]:
    joined = _ACCOUNTS.outerjoin(_TOKENS, _TOKENS.c.account_id == _ACCOUNTS.c.id)
    order = (_ACCOUNTS.c.created_at, _ACCOUNTS.c.id, _TOKENS.c.position)
    return select(_ACCOUNTS, _TOKENS.c.token).select_from(joined).order_by(*order)


@functools.lru_cache(maxsize=64)
def _accounts_at(provider: str, base_url: str, shared_lock: bool = False) -> Select[Any]:
    mine = (_ACCOUNTS.c.provider == provider, _ACCOUNTS.c.base_url == base_url, _ACCOUNTS.c.merged_into.is_(None))
    statement = _selected().where(*mine)
    return statement.with_for_update(read=True, of=_ACCOUNTS) if shared_lock else statement


def _folded(rows: Iterable[Row[Any]]) -> list[AccountRecord]:
    """Groups rows, which have one token each, into accounts."""
    columns: dict[str, dict[str, Any]] = {}
    for row in rows:
        values = dict(row._mapping)
        token = values.pop("token")
        its = columns.setdefault(values["id"], {**values, "tokens": []})
        if token is not None:
            its["tokens"].append(token)
    lists = ("names", "fingerprints", "tokens")
    return [_record({**each, **{name: tuple(each[name]) for name in lists}}) for each in columns.values()]


def _record(values: dict[str, Any]) -> AccountRecord:
    return AccountRecord(**values)


def _with(present: Sequence[str], more: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((*present, *more)))

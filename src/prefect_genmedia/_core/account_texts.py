"""Conditions and locks by account, for statements that know a job's account text only."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, or_, select
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core import schema

_TOKENS = schema.account_tokens


def same_account(column: ColumnElement[str], account_text: str) -> ColumnElement[bool]:
    """The condition that a text stands for the same account as another one.

    Parameters:
        column: the text.
        account_text: the other one.
    """
    mine, its = _TOKENS.alias(), _TOKENS.alias()
    texts = select(its.c.token).join(mine, mine.c.account_id == its.c.account_id).where(mine.c.token == account_text)
    return or_(column == account_text, column.in_(texts))


def account_key(connection: Connection, account_text: str) -> str:
    """What locks of an account are named after: its id, or the text if it has no account.

    Parameters:
        connection: inside a transaction.
        account_text: one of its tokens.
    """
    found = connection.execute(select(_TOKENS.c.account_id).where(_TOKENS.c.token == account_text)).scalar()
    return account_text if found is None else str(found)


def lock_number(name: str) -> int:
    """The number of an advisory lock in PostgreSQL: 64 bits with a sign.

    Parameters:
        name: what is locked.
    """
    return int.from_bytes(hashlib.sha256(f"genmedia {name}".encode()).digest()[:8], "big", signed=True)

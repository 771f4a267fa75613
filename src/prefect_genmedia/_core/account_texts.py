"""Conditions and locks by account, for statements that know a job's account text only."""

from __future__ import annotations

import hashlib

from sqlalchemy import or_, select
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


def lock_number(name: str) -> int:
    """The number of an advisory lock in PostgreSQL: 64 bits with a sign.

    Parameters:
        name: what is locked.
    """
    return int.from_bytes(hashlib.sha256(f"genmedia {name}".encode()).digest()[:8], "big", signed=True)

"""The ledger's column types: they accept any text that a provider or a user wrote."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Dialect, String, Text, TypeDecorator
from sqlalchemy.types import TypeEngine

from prefect_genmedia.text import storable


class StoredText(TypeDecorator[str]):
    """Text of any origin: characters that a database cannot store are replaced, and overlong text is cut.

    Recording the outcome of a paid job must not fail because of a text. Invalid ids are refused earlier; see
    `providers.protocol.Accepted`.

    Args:
        width: the column's maximum number of characters; None for no limit.
    """

    impl = Text
    cache_ok = True

    def __init__(self, width: int | None = None) -> None:
        """Store the width, which SQLAlchemy uses for DDL and in its statement cache key."""
        super().__init__()
        self.width = width

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`VARCHAR(width)`, or `TEXT`."""
        return dialect.type_descriptor(Text() if self.width is None else String(self.width))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean a value on its way to the database.

        Args:
            value: the text.
            dialect: the database's.
        """
        return value if value is None else storable(value)[: self.width]


class StoredJson(TypeDecorator[Any]):
    """JSON with texts that every database can store; Python's None is stored as NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Clean every text in a value on its way to the database.

        Args:
            value: what the column holds.
            dialect: the database's.
        """
        return _storable(value)


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(str(name)): _storable(inner) for name, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, list | tuple) else value

"""Database tables (extra `sql`): `sql://BLOCK/TABLE` or `sql://BLOCK/SELECT …`, through a prefect-sqlalchemy Block.

Reads use a read-only transaction. The connection comes from the Block: no parameter, name, log or error contains a URL,
user or password.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect.blocks.core import Block
from sqlalchemy import Column, Connection, Float, Integer, MetaData, Table, Text, delete, inspect
from sqlalchemy.exc import SQLAlchemyError

from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.columns import Header, refusal
from prefect_genmedia.errors import FieldProblem, InvalidRequest, StorageError
from prefect_genmedia.text import clean_text, storable

SQL = "sql://"

_SLUGS = ("sqlalchemy-connector", "async-sqlalchemy-connector")
_NAME = re.compile(r"[^\W\d][\w$]*(\.[^\W\d][\w$]*)?")
_SELECTS = re.compile(r"(select|with|values|table)\b", re.IGNORECASE)
_ROWS_AT_ONCE = 1000
_WITHOUT_WRITES = {
    "sqlite": "PRAGMA query_only = ON",
    "postgresql": "SET TRANSACTION READ ONLY",
    "mysql": "SET TRANSACTION READ ONLY",
    "mariadb": "SET TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
}
"""The statement that makes a transaction read-only, by SQLAlchemy's dialect name."""

_FAILURES = (SQLAlchemyError, OSError, ImportError, ValueError)
_NUMBERS: dict[str, type[Integer] | type[Float[Any]]] = {
    "attempts": Integer,
    "width": Integer,
    "height": Integer,
    "seconds": Float,
    "queued_seconds": Float,
    "running_seconds": Float,
    "estimated_cost": Float,
}

T = TypeVar("T")


@dataclass(frozen=True)
class SqlLocation:
    """The location of a table, or a query.

    Args:
        block: name of the Block.
        table: the table's name, with its schema if it has one; empty for a query.
        query: the query; empty for a table.
    """

    block: str
    table: str = ""
    query: str = ""

    @classmethod
    def of(cls, location: str) -> SqlLocation:
        """Parses a location.

        Args:
            location: `sql://BLOCK/TABLE` or `sql://BLOCK/SELECT …`.

        Raises:
            InvalidRequest: it is neither, or a statement that may write.
        """
        block, _, rest = location.removeprefix(SQL).partition("/")
        rest = rest.strip().rstrip(";").rstrip()
        if not re.fullmatch(r"[\w-]+", block) or not rest:
            raise refusal(f"{SQL}BLOCK/TABLE or {SQL}BLOCK/SELECT … names a Block of prefect-sqlalchemy, never a URL")
        if _NAME.fullmatch(rest):
            return cls(block, table=rest)
        if not _SELECTS.match(rest) or ";" in rest:
            raise refusal(f"what follows {SQL}{block}/ must be a table's name, or one SELECT without ';'")
        return cls(block, query=rest)

    @property
    def stem(self) -> str:
        """Returns the table's name without its schema, for use as a batch's name.

        Raises:
            InvalidRequest: the location is a query, which has no name.
        """
        if not self.table:
            raise InvalidRequest.of("The batch", [FieldProblem("batch_id", "is needed: a query has no name")])
        return self.table.rpartition(".")[2]

    def __str__(self) -> str:
        """Returns a name for display, without the query, which may contain sensitive values."""
        return f"{SQL}{self.block}/{self.table or '…'}"


def is_sql(location: object) -> bool:
    """Whether a table's location is in a database.

    Args:
        location: the location, or rows.
    """
    return isinstance(location, str) and location.startswith(SQL)


class SqlDatabase:
    """A database, from a stored Block; use `load` to get one. Its calls block; run them in a thread.

    Args:
        block: the Block.
        where: the location.
    """

    def __init__(self, block: Any, where: SqlLocation) -> None:
        self._block = block
        self.where = where

    @classmethod
    async def load(cls, location: str) -> SqlDatabase:
        """Load the Block that a location names.

        Args:
            location: see `SqlLocation.of`.

        Raises:
            InvalidRequest: there is no such Block, or prefect-sqlalchemy is missing.
        """
        where = SqlLocation.of(location)
        try:
            import prefect_sqlalchemy  # noqa: F401 - defines the Blocks; an optional extra
        except ImportError:
            missing = True
        else:
            missing = False
        if missing:
            raise refusal(f"{SQL} tables need prefect-sqlalchemy: pip install 'prefect-genmedia[sql]'")
        for slug in _SLUGS:
            try:
                return cls(await Block.aload(f"{slug}/{where.block}"), where)
            except ValueError:
                continue
        raise refusal(f"there is no Block {' or '.join(f'{slug}/{where.block}' for slug in _SLUGS)}")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of the table or query, as the database returns them. Consume them once, in one thread.

        Raises:
            InvalidRequest: the database refuses the query or cannot be reached, or a column occurs twice.
        """
        try:
            yield from self._fetched() if self._is_async() else self._streamed()
        except _FAILURES as error:
            reason = f"{self.where} cannot be read: {self._said(error)}"
        else:
            return
        raise refusal(reason)

    def replace(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rows of the table in one transaction; the table is created if it does not exist.

        Args:
            columns: its columns.
            rows: values by column.

        Raises:
            InvalidRequest: a table of this name with other columns exists.
            StorageError: the database refuses the write.
        """
        try:
            self._with_connection(lambda connection: self._write(connection, columns, rows), commit=True)
        except _FAILURES as error:
            reason = f"The table of results {self.where} cannot be written: {self._said(error)}."
        else:
            return
        raise StorageError(reason)

    def _write(self, connection: Connection, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        schema, _, name = self.where.table.rpartition(".")
        made = (Column(each, _NUMBERS.get(each, Text)) for each in columns)
        table = Table(name, MetaData(), *made, schema=schema or None)
        found = inspect(connection)
        if found.has_table(name, schema=schema or None):
            missing = set(columns) - {each["name"] for each in found.get_columns(name, schema=schema or None)}
            if missing:
                words = f"has no columns {', '.join(sorted(missing))}: name another table, or drop it"
                raise InvalidRequest.of("The batch", [FieldProblem("results", f"{self.where} {words}")])
        else:
            table.create(connection)
        connection.execute(delete(table))
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[begin : begin + _ROWS_AT_ONCE]
            connection.execute(table.insert(), [{name: _stored(row.get(name)) for name in columns} for row in some])

    def _streamed(self) -> Iterator[dict[str, Any]]:
        engine = self._block.get_engine()
        try:
            with engine.connect() as connection:
                yield from self._selected(connection)
        finally:
            engine.dispose()

    def _fetched(self) -> list[dict[str, Any]]:
        return self._with_connection(lambda connection: list(self._selected(connection)))

    def _selected(self, connection: Connection) -> Iterator[dict[str, Any]]:
        dialect = connection.dialect
        if (statement := _WITHOUT_WRITES.get(dialect.name)) is not None:
            connection.exec_driver_sql(statement)
        query = self.where.query
        if not query:
            quoted = ".".join(map(dialect.identifier_preparer.quote, self.where.table.split(".")))
            query = f"SELECT * FROM {quoted}"  # noqa: S608 - a name that is quoted
        result = connection.exec_driver_sql(
            query,
            execution_options={"stream_results": True, "yield_per": _ROWS_AT_ONCE, "no_parameters": True},
        )
        names = list(result.keys())
        Header.of(names)
        for row in result:
            yield dict(zip(names, row, strict=True))
        connection.rollback()

    def _with_connection(self, work: Callable[[Connection], T], commit: bool = False) -> T:
        engine = self._block.get_engine()
        if self._is_async():

            async def run() -> T:
                try:
                    async with engine.begin() if commit else engine.connect() as connection:
                        return await connection.run_sync(work)  # type: ignore[no-any-return]
                finally:
                    await engine.dispose()

            return asyncio.run(run())
        try:
            with engine.begin() if commit else engine.connect() as connection:
                return work(connection)
        finally:
            engine.dispose()

    def _is_async(self) -> bool:
        return str(self._block.get_block_type_slug()).startswith("async")

    def _said(self, error: Exception) -> str:
        """Returns the driver's message without the statement and the password."""
        original = getattr(error, "orig", None) or error
        if isinstance(original, ModuleNotFoundError) and original.name:
            return f"the database's driver is missing: pip install {original.name}"
        said = str(original)
        url = getattr(self._block, "_rendered_url", None)
        for secret in (getattr(url, "password", None), *dict(getattr(url, "query", None) or {}).values()):
            if isinstance(secret, str) and secret:
                said = said.replace(secret, "***")
        return f"{type(original).__name__}: {clean_text(unsigned_text(said), 200)}"


class SqlResults:
    """A table of results in a database.

    Args:
        database: where it is.
        columns: its columns, in order.

    Raises:
        InvalidRequest: the location is a query.
    """

    def __init__(self, database: SqlDatabase, columns: Sequence[str]) -> None:
        if not database.where.table:
            raise InvalidRequest.of("The batch", [FieldProblem("results", "must name a table, not a query")])
        self.columns = tuple(columns)
        self._database = database

    def write(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Replace the table's rows; returns its location. Blocks; run it in a thread.

        Args:
            rows: values by column.
        """
        self._database.replace(self.columns, rows)
        return str(self._database.where)


def _stored(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value

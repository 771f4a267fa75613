"""The ledger's tables, and bringing a database to the present version of it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)

VERSION_TABLE = "genmedia_schema_version"
HEAD = "0003"

metadata = MetaData()

# Times are seconds since 1970: the same arithmetic on SQLite and PostgreSQL, and no time zones to lose.
jobs = Table(
    "genmedia_jobs",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("scope", Text, nullable=False),
    Column("variant", Integer, nullable=False),
    Column("provider", String(64), nullable=False),
    Column("account", Text, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("label", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("expectation", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("provider_job_id", String(256)),
    Column("provider_status", String(128)),
    Column("outputs", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("not_before", Float(53)),
    Column("sent_at", Float(53)),
    Column("submitted_at", Float(53)),
    Column("running_at", Float(53)),
    Column("succeeded_at", Float(53)),
    Column("notified_at", Float(53)),
    Column("delivered_at", Float(53)),
    Column("updated_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("error_kind", String(64)),
    Column("error_message", Text),
    Column("error_code", String(64)),
    Column("delivery", JSON(none_as_null=True)),
    Column("flow_run_id", String(64)),
    Column("root_run_id", String(64)),
    Column("output", Text),
    Column("estimated_cost", Float(53)),
    Column("currency", String(8)),
    Column("price", Float(53)),
    Column("points_remaining", Float(53)),
    Column("note", Text),
    Column("took_seconds", Float(53)),
    # One row an attempt: of two processes that insert the same one, the database lets one through.
    Index("genmedia_jobs_identity", "identity", "attempt", unique=True),
    Index("genmedia_jobs_state", "state", "expires_at"),
    Index("genmedia_jobs_provider_job", "provider", "provider_job_id"),
    Index("genmedia_jobs_typical", "provider", "model", "succeeded_at"),
)

# Money is counted in whole millionths of the currency: floats would let a thousand small sums pass the limit.
budgets = Table(
    "genmedia_budgets",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("limit_jobs", BigInteger),
    Column("limit_micros", BigInteger),
    Column("reserved_jobs", BigInteger, nullable=False),
    Column("reserved_micros", BigInteger, nullable=False),
    Column("currency", String(8), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
)

# Who holds what of a budget: whoever asks again for the same holder, after a crash or beside another, reserves nothing.
reservations = Table(
    "genmedia_reservations",
    metadata,
    Column("budget", String(255), primary_key=True),
    Column("holder", String(96), primary_key=True),
    Column("micros", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
)


def is_current(connection: Connection) -> bool:
    """Whether the database already has the present version; one cheap query."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return False
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == HEAD  # noqa: S608 - a constant


def migrate(connection: Connection) -> None:
    """Bring the database to the present version, inside the caller's transaction; others wait for it."""
    from alembic import command  # imported here: 0.1 s that an up-to-date ledger does not pay
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7365616770)"))
    if is_current(connection):
        return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

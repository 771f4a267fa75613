"""The ledger's tables, and the migration of a database to the current version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

from prefect_genmedia._core.column_types import StoredJson, StoredText
from prefect_genmedia.errors import LedgerError
from prefect_genmedia.text import CODE_CHARACTERS, STATUS_CHARACTERS

VERSION_TABLE = "genmedia_schema_version"
HEADS = frozenset(f"{number:04d}" for number in range(3, 16))
"""The migrations of a database of the current version; `versions/0004_long_ids.py` explains why there are several."""

metadata = MetaData()


# Times are seconds since 1970: the same arithmetic on SQLite and PostgreSQL, and no time zones.
jobs = Table(
    "genmedia_jobs",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("scope", StoredText, nullable=False),
    Column("variant", Integer, nullable=False),
    Column("provider", String(64), nullable=False),
    Column("account", StoredText, nullable=False),
    Column("kind", StoredText(64), nullable=False),
    Column("model", StoredText(128), nullable=False),
    Column("label", StoredText, nullable=False),
    Column("request", StoredJson, nullable=False),
    Column("expectation", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("provider_job_id", StoredText),
    Column("provider_status", StoredText(STATUS_CHARACTERS)),
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
    Column("error_kind", StoredText(CODE_CHARACTERS)),
    Column("error_message", StoredText),
    Column("error_code", StoredText(CODE_CHARACTERS)),
    Column("delivery", StoredJson),
    Column("flow_run_id", StoredText(64)),
    Column("root_run_id", StoredText(64)),
    Column("output", StoredText),
    Column("estimated_cost", Float(53)),
    Column("currency", String(8)),
    Column("price", Float(53)),
    Column("points_remaining", Float(53)),
    Column("note", StoredText),
    Column("took_seconds", Float(53)),
    Column("account_id", String(32)),
    Column("identity_token", StoredText),
    Column("identity_version", Integer),
    Column("names_digest", String(64)),
    Column("input_digests", StoredJson),
    Column("send_token", String(32)),
    Column("before_decision", StoredJson),
    Column("cost_micros", BigInteger),
    Column("evidence", StoredJson),
    Column("project", StoredText),
    Column("tags", StoredJson),
    Column("pruned_at", Float(53)),
    # One row per attempt: if two processes insert the same one, the database accepts one.
    Index("genmedia_jobs_identity", "identity", "attempt", unique=True),
    Index("genmedia_jobs_state", "state", "expires_at"),
    # A B-tree cannot hold values above 2.7 kB on PostgreSQL, and ids may be longer.
    Index("genmedia_jobs_provider_job_id", "provider_job_id", postgresql_using="hash"),
    Index("genmedia_jobs_typical", "provider", "model", "succeeded_at"),
    Index("genmedia_jobs_spending", "account_id", "sent_at", "state", "cost_micros", "estimated_cost"),
    Index("genmedia_jobs_root_run", "root_run_id"),
)

# Money is counted in whole millionths of the currency: with floats, many small sums could exceed the limit.
budgets = Table(
    "genmedia_budgets",
    metadata,
    Column("name", StoredText(255), primary_key=True),
    Column("limit_jobs", BigInteger),
    Column("limit_micros", BigInteger),
    Column("reserved_jobs", BigInteger, nullable=False),
    Column("reserved_micros", BigInteger, nullable=False),
    Column("currency", String(8), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
)

# Reservations by holder: a repeated request for the same holder, after a crash or concurrently, reserves nothing more.
reservations = Table(
    "genmedia_reservations",
    metadata,
    Column("budget", StoredText(255), primary_key=True),
    Column("holder", String(96), primary_key=True),
    Column("micros", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
)

# Who pays. An account that was merged into another one stays, because jobs refer to it.
accounts = Table(
    "genmedia_accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("provider", StoredText(64), nullable=False),
    Column("base_url", StoredText, nullable=False),
    Column("names", StoredJson, nullable=False),
    Column("fingerprints", StoredJson, nullable=False),
    Column("paused_at", Float(53)),
    Column("paused_by", StoredText(128)),
    Column("pause_reason", StoredText),
    Column("merged_into", String(32)),
    Column("created_at", Float(53), nullable=False),
    Index("genmedia_accounts_provider", "provider"),
)

# Every text that represents an account in identities and in the column `account` of its jobs.
account_tokens = Table(
    "genmedia_account_tokens",
    metadata,
    Column("token", StoredText, primary_key=True),
    Column("account_id", String(32), nullable=False),
    Column("position", Integer, nullable=False),
    Index("genmedia_account_tokens_account", "account_id", "position"),
)


# When an account may send next, and the end of its cool-down.
pace = Table(
    "genmedia_pace",
    metadata,
    Column("account", StoredText, primary_key=True),
    Column("next_at", Float(53), nullable=False),
    Column("spacing", Float(53), nullable=False),
    Column("cooled_until", Float(53), nullable=False),
    Column("runs_in_a_row", Integer, nullable=False),
)

# Jobs that wait for an account's next turn: one per process and kind of work.
waiters = Table(
    "genmedia_waiters",
    metadata,
    Column("account", StoredText, primary_key=True),
    Column("job_key", String(32), primary_key=True),
    Column("is_batch", Integer, nullable=False),
    Column("arrived_at", Float(53), nullable=False),
    Column("seen_at", Float(53), nullable=False),
)

# What each credentials Block allows its account to spend. What was spent is computed from the jobs.
account_caps = Table(
    "genmedia_account_caps",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("block", StoredText(255), primary_key=True),
    Column("day_micros", BigInteger),
    Column("month_micros", BigInteger),
    Column("day_jobs", BigInteger),
    Column("time_zone", String(64), nullable=False),
    Column("updated_at", Float(53), nullable=False),
)

# The events about budgets that were emitted: each once per period.
budget_events = Table(
    "genmedia_budget_events",
    metadata,
    Column("scope", StoredText(255), primary_key=True),
    Column("period", String(64), primary_key=True),
    Column("event", String(32), primary_key=True),
    Column("emitted_at", Float(53), nullable=False),
)


def insert_new(connection: Connection, table: Table) -> Any:
    """Returns an insert that does nothing if the row exists.

    Args:
        connection: to the ledger.
        table: the table.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


# One row per round of reconcile. The row of a running round is its lease, which expires if it is not renewed.
reconciles = Table(
    "genmedia_reconciles",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("scope", StoredText, nullable=False),
    Column("holder", StoredText(128), nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("succeeded_at", Float(53)),
    Column("ended_at", Float(53)),
    Column("error", StoredText),
    Index("genmedia_reconciles_succeeded", "succeeded_at"),
)

# Payments that a person was asked to confirm, and the answers; see `_core/confirmations.py`.
confirmations = Table(
    "genmedia_confirmations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("root_run_id", String(64), nullable=False),
    Column("flow_run_id", String(64)),
    Column("title", StoredText, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("due_micros", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("above_micros", BigInteger, nullable=False),
    Column("limit_micros", BigInteger, nullable=False),
    Column("limit_unpriced", BigInteger, nullable=False),
    Column("currency", String(8), nullable=False),
    Column("answer", String(16)),
    Column("asked_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("decided_at", Float(53)),
    Column("decided_by", StoredText(128)),
    Index("genmedia_confirmations_root_run", "root_run_id"),
)

# Locks that one process at a time holds; see `_core/locks.py`. They contain no secret.
locks = Table(
    "genmedia_locks",
    metadata,
    Column("name", StoredText, primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("held_until", Float(53), nullable=False),
)

# The variant of a batch row that a root flow run regenerates; see `_core/regenerate.py`.
regenerations = Table(
    "genmedia_regenerations",
    metadata,
    Column("row_digest", String(64), primary_key=True),
    Column("root_run_id", String(64), primary_key=True),
    Column("variant", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Index("genmedia_regenerations_variant", "row_digest", "variant", unique=True),
)

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


def present_versions(connection: Connection) -> frozenset[str]:
    """Returns the migrations that were applied to the database; empty for a new one."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return frozenset()
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars()  # noqa: S608 - a constant
    return frozenset(found)


def is_current(connection: Connection, existed: bool = False) -> bool:
    """Whether the database already has the current version; takes one cheap query.

    Args:
        connection: to the database.
        existed: whether a ledger existed before; then an empty database means that it was lost.

    Raises:
        LedgerError: the ledger or its version is lost, or it belongs to a newer version of this package.
    """
    found = inspect(connection)
    # In this order: another process may commit its migration, which creates both tables, between the two queries.
    has_jobs = found.has_table(jobs.name)
    if not found.has_table(VERSION_TABLE):
        if has_jobs:
            raise _version_lost()
        if existed:
            raise LedgerError("The ledger is empty, although it had jobs before.", retryable=False, next_step=RESTORE)
        return False
    present = present_versions(connection)
    if not present:
        raise _version_lost()
    if present >= HEADS:
        return True
    if present - {file.name[:4] for file in _VERSIONS.glob("[0-9]*.py")}:
        raise LedgerError(
            "The ledger was written by a newer version of this package.",
            retryable=False,
            next_step="upgrade this package (prefect-genmedia) where this runs.",
        )
    return False


RESTORE = "restore the ledger from a backup. To begin a new one, delete the file that ends in `.marker` beside it."
"""The next step for a person if the ledger file was lost."""


def _version_lost() -> LedgerError:
    return LedgerError(
        f"The ledger has jobs, but its version is lost (table {VERSION_TABLE}).",
        retryable=False,
        next_step="upgrade this package, and restore the table from a backup.",
    )


def migrate(connection: Connection) -> None:
    """Migrate the database to the current version in the caller's transaction; other processes wait for it."""
    from alembic import command  # imported here: saves 0.1 s if the ledger is up to date
    from alembic.config import Config

    from prefect_genmedia._core.accounts import learn_accounts
    from prefect_genmedia._core.ledger_file import back_up

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7365616770)"))
    present = present_versions(connection)
    if present >= HEADS:
        return
    if present and connection.dialect.name == "sqlite":
        back_up(connection, present)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    for head in sorted(HEADS):  # 0003 first: workers of that version expect it in the table's first row
        command.upgrade(config, head)
    learn_accounts(connection)

"""Accounts: one payer with all of its keys, names and spellings of its base URL.

It is a branch of its own beside 0003 and 0004, for the reason that 0004 gives: workers of both versions find their own
migrations in the version table and go on working. They write neither of the new columns of a job.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables and the columns; `accounts.learn_accounts` fills the tables from the jobs' account texts."""
    op.create_table(
        "genmedia_accounts",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("fingerprints", sa.JSON, nullable=False),
        sa.Column("paused_at", sa.Float(53)),
        sa.Column("paused_by", sa.String(128)),
        sa.Column("pause_reason", sa.Text),
        sa.Column("merged_into", sa.String(32)),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_index("genmedia_accounts_provider", "genmedia_accounts", ["provider"])
    op.create_table(
        "genmedia_account_tokens",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
    )
    op.create_index("genmedia_account_tokens_account", "genmedia_account_tokens", ["account_id", "position"])
    op.add_column("genmedia_jobs", sa.Column("account_id", sa.String(32)))
    op.add_column("genmedia_jobs", sa.Column("identity_token", sa.Text))


def downgrade() -> None:
    """Drop them, and the index that 0008 has on one of the columns: SQLite drops no column that is indexed."""
    op.drop_index("genmedia_jobs_spending", "genmedia_jobs", if_exists=True)
    op.drop_column("genmedia_jobs", "identity_token")
    op.drop_column("genmedia_jobs", "account_id")
    op.drop_table("genmedia_account_tokens")
    op.drop_table("genmedia_accounts")

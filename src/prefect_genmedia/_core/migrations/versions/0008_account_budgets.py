"""Budgets of accounts: each job's cost in whole millionths, the caps of each Block, and which events were emitted.

It is a branch of its own, for the reason that 0004 gives. Workers of earlier versions write no `cost_micros`; what they
send is counted by `estimated_cost`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, its index and the tables; an earlier version neither reads nor needs them."""
    op.add_column("genmedia_jobs", sa.Column("cost_micros", sa.BigInteger))
    # The index has all that is counted: a month of jobs is added up without reading the jobs themselves.
    columns = ["account_id", "sent_at", "state", "cost_micros", "estimated_cost"]
    op.create_index("genmedia_jobs_spending", "genmedia_jobs", columns)
    op.create_table(
        "genmedia_account_caps",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("block", sa.String(255), primary_key=True),
        sa.Column("day_micros", sa.BigInteger),
        sa.Column("month_micros", sa.BigInteger),
        sa.Column("day_jobs", sa.BigInteger),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("updated_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "genmedia_budget_events",
        sa.Column("scope", sa.String(255), primary_key=True),
        sa.Column("period", sa.String(64), primary_key=True),
        sa.Column("event", sa.String(32), primary_key=True),
        sa.Column("emitted_at", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("genmedia_budget_events")
    op.drop_table("genmedia_account_caps")
    op.drop_index("genmedia_jobs_spending", "genmedia_jobs")
    op.drop_column("genmedia_jobs", "cost_micros")

"""Budgets: what batches may spend together, and what each wanted result has reserved of it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables of budgets and reservations."""
    op.create_table(
        "genmedia_budgets",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("limit_jobs", sa.BigInteger),
        sa.Column("limit_micros", sa.BigInteger),
        sa.Column("reserved_jobs", sa.BigInteger, nullable=False),
        sa.Column("reserved_micros", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(8), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("updated_at", sa.Float(53), nullable=False),
    )
    op.create_table(
        "genmedia_reservations",
        sa.Column("budget", sa.String(255), primary_key=True),
        sa.Column("holder", sa.String(96), primary_key=True),
        sa.Column("micros", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("genmedia_reservations")
    op.drop_table("genmedia_budgets")

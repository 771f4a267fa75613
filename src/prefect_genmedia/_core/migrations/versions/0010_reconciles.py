"""The rounds of reconcile: which one is at work, and when one has succeeded last.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; an earlier version neither reads nor needs it."""
    op.create_table(
        "genmedia_reconciles",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=False),
        sa.Column("succeeded_at", sa.Float(53)),
        sa.Column("ended_at", sa.Float(53)),
        sa.Column("error", sa.Text),
    )
    op.create_index("genmedia_reconciles_succeeded", "genmedia_reconciles", ["succeeded_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("genmedia_reconciles")

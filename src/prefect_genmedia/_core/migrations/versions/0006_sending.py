"""Which process sends a job, and an account's pace: a token on the job, and tables of the pace and of who waits.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0002"


def upgrade() -> None:
    """Add the column and the tables; an earlier version neither reads nor needs them."""
    op.add_column("genmedia_jobs", sa.Column("send_token", sa.String(32)))
    op.create_table(
        "genmedia_pace",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("next_at", sa.Float(53), nullable=False),
        sa.Column("spacing", sa.Float(53), nullable=False),
        sa.Column("cooled_until", sa.Float(53), nullable=False),
        sa.Column("runs_in_a_row", sa.Integer, nullable=False),
    )
    op.create_table(
        "genmedia_waiters",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("job_key", sa.String(32), primary_key=True),
        sa.Column("is_batch", sa.Integer, nullable=False),
        sa.Column("arrived_at", sa.Float(53), nullable=False),
        sa.Column("seen_at", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("genmedia_waiters")
    op.drop_table("genmedia_pace")
    op.drop_column("genmedia_jobs", "send_token")

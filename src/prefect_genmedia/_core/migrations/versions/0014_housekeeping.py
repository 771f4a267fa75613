"""When a job's texts were pruned, what people were asked to confirm, and finding a root run's jobs.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, the table and the index; an earlier version neither reads nor needs them."""
    op.add_column("genmedia_jobs", sa.Column("pruned_at", sa.Float(53)))
    op.create_index("genmedia_jobs_root_run", "genmedia_jobs", ["root_run_id"])
    op.create_table(
        "genmedia_confirmations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("root_run_id", sa.String(64), nullable=False),
        sa.Column("flow_run_id", sa.String(64)),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("jobs", sa.BigInteger, nullable=False),
        sa.Column("due_micros", sa.BigInteger, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
        sa.Column("above_micros", sa.BigInteger, nullable=False),
        sa.Column("limit_micros", sa.BigInteger, nullable=False),
        sa.Column("limit_unpriced", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(8), nullable=False),
        sa.Column("answer", sa.String(16)),
        sa.Column("asked_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=False),
        sa.Column("decided_at", sa.Float(53)),
        sa.Column("decided_by", sa.String(128)),
    )
    op.create_index("genmedia_confirmations_root_run", "genmedia_confirmations", ["root_run_id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("genmedia_confirmations_root_run", "genmedia_confirmations")
    op.drop_table("genmedia_confirmations")
    op.drop_index("genmedia_jobs_root_run", "genmedia_jobs")
    op.drop_column("genmedia_jobs", "pruned_at")

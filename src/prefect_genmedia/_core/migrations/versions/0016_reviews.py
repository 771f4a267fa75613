"""What people decided about the results of batches, and when they were asked.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables; an earlier version neither reads nor needs them."""
    op.create_table(
        "genmedia_reviews",
        sa.Column("job_key", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("batch_digest", sa.String(64), nullable=False),
        sa.Column("row_digest", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("reviewer", sa.String(128), nullable=False),
        sa.Column("decided_at", sa.Float(53), nullable=False),
    )
    op.create_index("genmedia_reviews_batch", "genmedia_reviews", ["batch_digest"])
    op.create_table(
        "genmedia_review_questions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("batch_digest", sa.String(64), nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("root_run_id", sa.String(64), nullable=False),
        sa.Column("flow_run_id", sa.String(64), nullable=False),
        sa.Column("job_keys", sa.JSON, nullable=False),
        sa.Column("asked_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=False),
        sa.Column("answer", sa.String(16)),
        sa.Column("answered_at", sa.Float(53)),
        sa.Column("answered_by", sa.String(128)),
    )
    op.create_index("genmedia_review_questions_batch", "genmedia_review_questions", ["batch_digest"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("genmedia_review_questions")
    op.drop_table("genmedia_reviews")

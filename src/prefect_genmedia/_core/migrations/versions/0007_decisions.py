"""What a person's decision can be undone to: a column of the job's fields before it.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; an earlier version neither reads nor needs it."""
    op.add_column("genmedia_jobs", sa.Column("before_decision", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("genmedia_jobs", "before_decision")

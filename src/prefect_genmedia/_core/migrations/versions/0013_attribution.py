"""Whom a job is paid for: columns that earlier versions leave empty, and do not need.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("genmedia_jobs", sa.Column("project", sa.Text))
    op.add_column("genmedia_jobs", sa.Column("tags", sa.JSON))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("genmedia_jobs", "tags")
    op.drop_column("genmedia_jobs", "project")

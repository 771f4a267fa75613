"""What proves a job to its provider, such as request ids: a column that earlier versions neither read nor need.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("genmedia_jobs", sa.Column("evidence", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("genmedia_jobs", "evidence")

"""Named locks with an expiry, for what one process at a time may do.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; an earlier version neither reads nor needs it."""
    op.create_table(
        "genmedia_locks",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("held_until", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("genmedia_locks")

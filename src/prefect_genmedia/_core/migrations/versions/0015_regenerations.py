"""Which variant of a batch's row a run asks for anew.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; an earlier version neither reads nor needs it."""
    op.create_table(
        "genmedia_regenerations",
        sa.Column("row_digest", sa.String(64), primary_key=True),
        sa.Column("root_run_id", sa.String(64), primary_key=True),
        sa.Column("variant", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_index("genmedia_regenerations_variant", "genmedia_regenerations", ["row_digest", "variant"], unique=True)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("genmedia_regenerations")

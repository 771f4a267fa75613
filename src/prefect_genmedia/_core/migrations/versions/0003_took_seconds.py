"""How long a job took, where somebody watched it: what such jobs usually take is learned from nothing else."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of earlier jobs nobody knows whether they were watched."""
    op.add_column("genmedia_jobs", sa.Column("took_seconds", sa.Float(53)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("genmedia_jobs", "took_seconds")

"""By which rules a job's identity was made, and what tells its files apart where a URL holds a credential.

It is a branch of its own, for the reason that 0004 gives.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; an earlier version leaves them empty, which stands for its own rules."""
    op.add_column("genmedia_jobs", sa.Column("identity_version", sa.Integer))
    op.add_column("genmedia_jobs", sa.Column("names_digest", sa.String(64)))
    op.add_column("genmedia_jobs", sa.Column("input_digests", sa.JSON))


def downgrade() -> None:
    """Drop them."""
    for name in ("input_digests", "names_digest", "identity_version"):
        op.drop_column("genmedia_jobs", name)

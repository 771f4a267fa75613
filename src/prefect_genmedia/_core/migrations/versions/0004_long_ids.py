"""Providers' ids of any length: TEXT, and an index that takes long values.

It is a branch beside 0003, not its successor: a worker of the previous version looks for "0003" in the version table,
and goes on working on the same ledger. SQLite does not enforce a column's length, so only the index changes there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0002"


def upgrade() -> None:
    """Widen the column; what is stored stays as it is."""
    op.drop_index("genmedia_jobs_provider_job", "genmedia_jobs")
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("genmedia_jobs", "provider_job_id", type_=sa.Text, existing_nullable=True)
    op.create_index("genmedia_jobs_provider_job_id", "genmedia_jobs", ["provider_job_id"], postgresql_using="hash")


def downgrade() -> None:
    """Put the former index back; the column stays wide, since ids must not be cut."""
    op.drop_index("genmedia_jobs_provider_job_id", "genmedia_jobs")
    op.create_index("genmedia_jobs_provider_job", "genmedia_jobs", ["provider", "provider_job_id"])

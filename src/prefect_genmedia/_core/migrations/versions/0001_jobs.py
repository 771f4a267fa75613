"""The first ledger: one row a job."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table of jobs."""
    op.create_table(
        "genmedia_jobs",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("variant", sa.Integer, nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("expectation", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("provider_job_id", sa.String(256)),
        sa.Column("provider_status", sa.String(128)),
        sa.Column("outputs", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("not_before", sa.Float(53)),
        sa.Column("sent_at", sa.Float(53)),
        sa.Column("submitted_at", sa.Float(53)),
        sa.Column("running_at", sa.Float(53)),
        sa.Column("succeeded_at", sa.Float(53)),
        sa.Column("notified_at", sa.Float(53)),
        sa.Column("delivered_at", sa.Float(53)),
        sa.Column("updated_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53)),
        sa.Column("error_kind", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("error_code", sa.String(64)),
        sa.Column("delivery", sa.JSON),
        sa.Column("flow_run_id", sa.String(64)),
        sa.Column("root_run_id", sa.String(64)),
        sa.Column("output", sa.Text),
        sa.Column("estimated_cost", sa.Float(53)),
        sa.Column("currency", sa.String(8)),
        sa.Column("price", sa.Float(53)),
        sa.Column("points_remaining", sa.Float(53)),
        sa.Column("note", sa.Text),
    )
    op.create_index("genmedia_jobs_identity", "genmedia_jobs", ["identity", "attempt"], unique=True)
    op.create_index("genmedia_jobs_state", "genmedia_jobs", ["state", "expires_at"])
    op.create_index("genmedia_jobs_provider_job", "genmedia_jobs", ["provider", "provider_job_id"])
    op.create_index("genmedia_jobs_typical", "genmedia_jobs", ["provider", "model", "succeeded_at"])


def downgrade() -> None:
    """Drop the table of jobs."""
    op.drop_table("genmedia_jobs")

"""Alembic's entry: runs the migrations on the connection that the ledger hands over."""

from alembic import context

from prefect_genmedia._core.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()

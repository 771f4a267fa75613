"""Batches: a table of requested results, each paid once and verified, within limits on cost and in-flight jobs."""

from prefect_genmedia.batch.runner import run_batch
from prefect_genmedia.batch.spec import BatchReport, BatchSpec, Limits, Money, Sharding, ShardJob
from prefect_genmedia.prices import Price
from prefect_genmedia.providers.plugin import list_prices

__all__ = ["BatchReport", "BatchSpec", "Limits", "Money", "Price", "ShardJob", "Sharding", "list_prices", "run_batch"]

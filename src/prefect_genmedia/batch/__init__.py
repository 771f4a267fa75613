"""Batches: a table of wanted results, each paid once and verified, within limits of money and of jobs in flight."""

from prefect_genmedia.batch.conduct import BatchReport, conduct
from prefect_genmedia.providers.prices import LIST_PRICES, Price

__all__ = ["LIST_PRICES", "BatchReport", "Price", "conduct"]

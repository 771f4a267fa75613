"""Publishes what a batch has done so far: its report page, and its gallery, failures and results on the run's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_genmedia._core.model import JobState
from prefect_genmedia.batch import show
from prefect_genmedia.batch.gallery import publish_gallery
from prefect_genmedia.batch.report import report_of

if TYPE_CHECKING:
    from prefect_genmedia.batch.scheduler import BatchScheduler


async def publish_batch(run: BatchScheduler) -> str | None:
    """Write the report page, and publish the artifacts; returns the report's path or link, if it could be written.

    Args:
        run: the batch, which has ended, was interrupted, or waits for a person.
    """
    report = await report_of(run)
    delivered = [result for result in run.results.all() if result.state == JobState.DELIVERED.value]
    await publish_gallery(run.name, show.summary_of(run.results), delivered, run.results.location, report)
    await show.publish_failures(run.name, run.results)
    await show.publish_results(run.name, run.results)
    return report

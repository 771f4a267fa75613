"""Asks a person for confirmation before a batch sends expensive rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_genmedia._prefect.confirm import Plan, confirm, confirm_limit
from prefect_genmedia.batch import show
from prefect_genmedia.batch.plan import plan_of
from prefect_genmedia.batch.spec import BatchSpec
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text

if TYPE_CHECKING:
    from prefect_genmedia.batch.runner import OpenBatch


async def confirm_batch(batch: OpenBatch, spec: BatchSpec) -> None:
    """Show the plan and ask for confirmation if the rows to send exceed the cost threshold, or one has no price.

    The run that splits a batch asks for all of its shards.

    Args:
        batch: the batch, with the jobs of earlier runs.
        spec: its options.

    Raises:
        NotConfirmed: a person refused, or nobody answered in time. Nothing was sent.
    """
    above = confirm_limit(spec.money.confirm_above)
    if above is None or spec.sharding.shard is not None:
        return
    plan = await plan_of(batch.scheduler, batch.bad)
    text = f"```text\n{plan.text()}\n```"

    async def publish() -> None:
        await show.publish_plan(
            batch.name, [row.line() for row in plan.first], plan.words(), len(plan) - len(plan.first)
        )

    await confirm(Plan(f"Batch {clean_text(batch.name, WORDS_CHARACTERS)}", plan.due, text, publish), above)

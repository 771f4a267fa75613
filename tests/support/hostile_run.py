"""A run that publishes everything the package shows in the Prefect UI, with hostile text in every value.

`python hostile_run.py` does so through the package; with the argument `raw`, it publishes the texts as they are.
"""

from __future__ import annotations

import asyncio
import sys

from hostile import TEXTS
from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from prefect_genmedia import artifacts, errors
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.reconcile import Finding
from prefect_genmedia._prefect.progress import PageBar, title_of
from prefect_genmedia._prefect.terminal import terminal_bar
from prefect_genmedia.batch import show
from prefect_genmedia.batch.gallery import publish_gallery
from prefect_genmedia.batch.plan import PlannedRow
from prefect_genmedia.batch.results import Results
from prefect_genmedia.batch.shards import Shard, ShardEnd

# What JSON cannot carry never reaches the server.
STORABLE = {name: text.encode(errors="ignore").decode().replace("\0", "") for name, text in TEXTS.items()}
ALL = " ".join(STORABLE.values())

PARTS = [" ".join(list(STORABLE.values())[begin : begin + 4]) for begin in range(0, len(STORABLE), 4)]
"""The texts, a few at a time: descriptions are cut."""

JOB = Job(
    key=ALL,
    identity="",
    scope=ALL,
    provider=ALL,
    account=ALL,
    kind="omnihuman",
    model=ALL,
    label=ALL,
    state=JobState.SUBMITTED,
    provider_job_id=ALL,
    provider_status=ALL,
    request=STORABLE | {ALL: [ALL, ALL]},
    currency=ALL,
    estimated_cost=1.0,
    price=1.0,
    points_remaining=1.0,
    sent_at=0.0,
    error_kind=ALL,
    error_message=ALL,
    error_code=ALL,
)
DELIVERY = Delivery(uri=ALL, sha256=ALL, bytes=1, seconds=1, width=16, height=9, codec=ALL, has_audio=True)


def each(**fixed: object) -> list[Job]:
    """A job for each text: what a text does at the beginning of a cell is another thing than inside of one."""
    return [
        JOB.model_copy(update={"key": text, "provider_job_id": text, "label": text, **fixed})
        for text in STORABLE.values()
    ]


@task(task_run_name=ALL)
async def publish_everything() -> None:
    error = errors.ProviderError(ALL, code=ALL, body=ALL, paid=ALL, next_step=ALL).about(ALL, ALL)
    await artifacts.publish_result_card(JOB, DELIVERY)
    for part in PARTS:
        await artifacts.publish_result_card(JOB, DELIVERY.model_copy(update={"uri": f"https://files.example/{part}"}))
        await artifacts.publish_failure_card(errors.ProviderError(part), JOB)
    await artifacts.publish_detached_card(JOB)
    await artifacts.publish_failure_card(error, JOB)
    findings = [Finding(job, job.key, job.key) for job in each(delivery=None)]
    await artifacts.publish_reconcile_table(findings)

    results = Results(list(STORABLE.values()), [], None)
    for text in STORABLE.values():
        result = results.of(text)
        result.state, result.error_kind, result.error_message, result.job_key = text, text, text, text
        result.watch_url = f"https://files.example/{len(text)}"
    await show.publish_failures(ALL, results)
    await show.publish_results(ALL, results)
    plan = [PlannedRow(text, "submit", text, text, 1.0, text, text).line() for text in STORABLE.values()]
    await show.publish_plan(ALL, plan, ALL)
    await ShardEnd(errors.BudgetStop(ALL), {row.id: row for row in results.all()}).publish(
        Shard(number=1, of=1, ledger=ALL)
    )
    await publish_gallery(ALL, ALL, results.all(), ALL)
    with terminal_bar("") as bar:
        await show.Progress(ALL, results, bar).show(now=True)
    await PageBar().show(JOB, 50.0, title_of(JOB))


@flow(flow_run_name=ALL)
async def hostile() -> State:
    await publish_everything()
    return Completed(message=ALL)


@flow
async def raw() -> None:
    await acreate_markdown_artifact(key="raw-markdown", markdown="\n\n".join(STORABLE.values()), description=ALL)
    await acreate_progress_artifact(1.0, key="raw-progress", description=ALL)
    await acreate_table_artifact(key="raw-table", table=[{"text": text} for text in STORABLE.values()])


if __name__ == "__main__":
    asyncio.run(raw() if sys.argv[1:] == ["raw"] else hostile())

"""One chain in a flow run: a batch of one row, without tables, a gallery and a report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from prefect_genmedia._core.model import Delivery
from prefect_genmedia._prefect.cards import publish_result_card
from prefect_genmedia._prefect.run import explained
from prefect_genmedia.batch.chain import StepReader
from prefect_genmedia.batch.confirm import confirm_batch
from prefect_genmedia.batch.reservations import open_budgets
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.batch.runner import open_batch
from prefect_genmedia.batch.spec import BatchSpec
from prefect_genmedia.errors import BudgetStop, FieldProblem, GenMediaError, InvalidRequest
from prefect_genmedia.providers.plugin import make_request
from prefect_genmedia.providers.protocol import GenerationRequest

_ROW = "chain"
"""The id of the only row. The chain's scope and files have other names."""


def chain_row(kind: str, fields: Mapping[str, Any], then: Any) -> Row:
    """Returns the row of a chain.

    Args:
        kind: the kind of the first step.
        fields: the fields of the first step.
        then: the further steps, as in the column `then` of a table.

    Raises:
        InvalidRequest: with every problem of every step.
    """
    problems: list[FieldProblem] = []
    first: GenerationRequest | None = None
    try:
        first = make_request(kind, fields).normalized()
    except InvalidRequest as refusal:
        problems.extend(refusal.problems)
    further = StepReader().read(then, problems)
    if first is None or problems:
        raise InvalidRequest.of("The chain", problems)
    return Row(_ROW, 0, first, then=further)


async def run_chain(spec: BatchSpec) -> Delivery:
    """Run a chain inside a flow run; see the flow `chain_media`.

    Args:
        spec: its options; `single` has the chain.

    Returns:
        The file of the last step.

    Raises:
        InvalidRequest: with every problem of every step; nothing was sent.
        BudgetStop: the steps would cost more than `max_cost`; nothing was sent.
        NotConfirmed: a person said no, or nobody answered in time; nothing was sent.
        GenMediaError: a step failed; the files of the steps before are kept.
    """
    assert spec.single is not None
    async with explained(), AsyncExitStack() as stack:
        try:
            batch = await open_batch(stack, spec)
        except InvalidRequest as refusal:
            raise _of_chain(refusal) from None
        run = batch.scheduler
        await confirm_batch(batch, spec)
        run.limit(await open_budgets(run.accounts(), batch.name, spec.money))
        await run.go()
        if isinstance(run.stop, BudgetStop):
            run.stop.next_step = "raise max_cost, and run again with the same idempotency key."
            raise run.stop
        if run.failure is not None:
            raise _in_words(run.failure, run.results.of(_ROW).error_message or "")
        (job,) = (await run.jobs.look())[_ROW][-1:]
    assert job.delivery is not None  # else there would be a failure
    await publish_result_card(job, job.delivery)
    return job.delivery


def _of_chain(refusal: InvalidRequest) -> InvalidRequest:
    """Returns the error without the name of the row."""
    prefix = f"row {_ROW}"
    problems = (FieldProblem(each.field.removeprefix(prefix).lstrip("."), each.problem) for each in refusal.problems)
    return InvalidRequest.of("The chain", list(problems))


def _in_words(error: Exception, message: str) -> Exception:
    """Returns the error of a step, which names the step and what is kept."""
    if isinstance(error, GenMediaError) and message:
        error.message = message
        error.args = (message,)
    return error

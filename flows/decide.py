"""Settling an unknown submission from the Prefect UI: the same decisions as `prefect-genmedia jobs …`."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.runtime import flow_run

from prefect_genmedia._core import JobState
from prefect_genmedia._prefect.forms import run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia.tasks import settle_job


def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    return f"{parameters['decision']} {parameters['job']}"


@flow(name="decide-job", flow_run_name=RunName(_run_name))
@run_form(provider_job_id="The provider's job ID", credentials="Credentials to ask with")
async def decide_job(
    job: str,
    decision: Literal["adopt", "resubmit", "abandon", "undo"],
    provider_job_id: str = "",
    decided_by: str = "",
    credentials: list[str] = [],  # noqa: B006 - nothing writes into it
) -> JobState:
    """Carry out a person's decision about a submission that had no certain answer.

    Args:
        job: The job's key, as the error and the reconcile table name it.
        decision: What was found in the provider's console.

            - `adopt`: it did arrive, and its id is given below.

            - `resubmit`: it never arrived, the next run may send it again.

            - `abandon`: let it be, nothing sends it again.

            - `undo`: take the last decision back, if nothing has come of it.

        provider_job_id: The provider's id of the job, for adopt; its console shows it. The provider is asked for it
            first.
        decided_by: Who decides, for the record.
        credentials: Names of credentials Blocks to ask the provider with; by default all that are stored.

    Returns:
        The job's state afterwards.

    Raises:
        InvalidRequest: there is no such job, it is not one to decide about, or the provider does not have the id.
    """
    settled = await settle_job(job, decision, provider_job_id or None, decided_by or None, credentials=credentials)
    return settled.state

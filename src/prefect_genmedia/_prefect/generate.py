"""The tail that every flow has: a request becomes a verified file, with the task runs that its page shows."""

from __future__ import annotations

from typing import cast

from prefect.states import Completed

from prefect_genmedia._prefect.credentials import ProviderCredentials
from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia._prefect.attempts import attempts
from prefect_genmedia._prefect.concurrency import holding_limit
from prefect_genmedia._prefect.jobs import DEFAULT_TIMEOUT_SECONDS, download_result, submit, wait_for_job
from prefect_genmedia._prefect.suspension import suspend_until_done


async def generate(
    request: GenerationRequest,
    *,
    credentials: ProviderCredentials | str = "default",
    label: str = "",
    output: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    idempotency_key: str | None = None,
    resubmit_on_output_refusal: int = 0,
    preflight: bool = True,
    suspend_while_waiting: bool = False,
) -> Delivery:
    """Submit → wait → download, within the limits of the credentials' Block; call it as the last thing in a flow.

    Parameters:
        request: what is wanted.
        credentials: the provider's Block, or its name.
        label: a few words that name the request for people.
        output: a folder, a file name ending in .mp4, or an fsspec URL of either; None takes the setting.
        timeout_seconds: how long to wait for the result, in seconds from when the provider accepted the job.
        idempotency_key: makes "the same request" hold across flow runs.
        resubmit_on_output_refusal: how many new attempts may follow finished videos that the provider refuses.
        preflight: check what the provider documents about the inputs before anything is paid.
        suspend_while_waiting: suspend the deployed run until the job is done; see `check_can_suspend`.

    Returns:
        The delivery, on a completed state that says what became of the job: a flow returns it as it is, so that its
        page shows that, and its caller gets the delivery.

    Raises:
        GenMediaError: as the tasks `submit`, `wait_for_job` and `download_result`.
    """
    for attempt in attempts(request, resubmit_on_output_refusal):
        with attempt:
            async with holding_limit(
                attempt.request, credentials=credentials, idempotency_key=idempotency_key, variant=attempt.variant
            ):
                job = await submit(
                    attempt.request,
                    credentials=credentials,
                    idempotency_key=idempotency_key,
                    variant=attempt.variant,
                    label=label,
                    output=output,
                    ask_again=attempt.is_last,
                    preflight=preflight,
                )
                if suspend_while_waiting:
                    await suspend_until_done(job)
                job = await wait_for_job(job, credentials=credentials, timeout_seconds=timeout_seconds)
    delivery = await download_result(job, output, credentials=credentials)
    return cast(Delivery, Completed(message=_ending(job, delivery), data=delivery))


def _ending(job: Job, delivery: Delivery) -> str:
    """What the run's state says: the provider's last word, and what came of it."""
    size = f"{delivery.width}×{delivery.height}"
    return (
        f"Job {job.provider_job_id} is {job.provider_status} at {job.provider}; verified and delivered: "
        f"{delivery.seconds:.2f} s, {size}, {delivery.uri}"
    )

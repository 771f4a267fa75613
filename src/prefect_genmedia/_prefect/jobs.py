"""Tasks of the job life: submit, wait, download. Each takes and returns plain values and can be used alone."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_genmedia._prefect.cards import publish_result_card
from prefect_genmedia._prefect.credentials import ProviderCredentials
from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia._prefect.progress import show_delivered, shown_delivery, shown_progress
from prefect_genmedia._prefect.steps import deliver_step, submit_step, wait_step
from prefect_genmedia._prefect.run import (
    RETRIES,
    RETRY_DELAYS,
    emit_job_event,
    explained,
    name_run_after,
    retry_if_safe,
    run_name,
)

DEFAULT_TIMEOUT_SECONDS = 1800.0
"""How long to wait unless told otherwise: the providers' examples stop after 600 s, but long jobs take more."""


@task(
    task_run_name=run_name("submit", "request"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def submit(
    request: GenerationRequest,
    *,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
    variant: int = 0,
    label: str = "",
    output: str | None = None,
    ask_again: bool = True,
    preflight: bool = True,
) -> Job:
    """Submit a request, once: a retry, a rerun or another process with the same request gets the same job.

    Parameters:
        request: `OmniHumanVideo`, `JimengVideo`, … Its files may be http(s) URLs, paths, or fsspec URLs; what no
            provider can fetch is sent as base64 or published, see the setting `publish_url`.
        credentials: the provider's Block, or its name.
        idempotency_key: makes "the same request" hold across flow runs; by default it holds within one.
        variant: tells apart several wanted results of the same request.
        label: a few words that name the request for people.
        output: where the file will be wanted, for `reconcile_jobs`, should this run not live to fetch it.
        ask_again: whether a rerun may ask anew for what the provider had failed to make.
        preflight: check what the provider documents about the inputs before anything is paid; all problems at once.

    Returns:
        The job, accepted by the provider.

    Raises:
        SubmissionUnknown: sent without a certain answer; no retry repeats it, a person decides.
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError: nothing was paid.
    """
    async with explained():
        job = await submit_step(
            request,
            credentials,
            idempotency_key=idempotency_key,
            variant=variant,
            label=label,
            output=output,
            ask_again=ask_again,
            preflight=preflight,
        )
    emit_job_event("submitted", job)
    await name_run_after(job)
    return job


@task(
    task_run_name=run_name("wait", "job"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def wait_for_job(
    job: Job | str,
    *,
    credentials: ProviderCredentials | str = "default",
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> Job:
    """Wait until the provider has the result.

    Bad answers while looking never end the wait, and nor does a status nobody has heard of; only the provider's own
    failure, a key that is no longer accepted, or the timeout do.

    Parameters:
        job: the job, or its key, or the provider's id of it.
        credentials: the provider's Block, or its name.
        timeout_seconds: how long to wait, counted from when the provider accepted the job.

    Returns:
        The job, ready to be downloaded.

    Raises:
        JobTimeout: the time is over; the job lives on, and waiting again goes on with it.
        InputRefused, OutputRefused, GenerationFailed, JobExpired: the provider gave up.
        CredentialsError: the key is no longer accepted.
    """
    async with explained(), shown_progress() as listener:
        return await wait_step(job, credentials, timeout_seconds, listener)


@task(
    task_run_name=run_name("download", "job"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def download_result(
    job: Job | str, output: str | None = None, *, credentials: ProviderCredentials | str = "default"
) -> Delivery:
    """Download a finished job's file, verify it, and put it under its final name; show it as a card.

    Parameters:
        job: the job, or its key, or the provider's id of it.
        output: a folder, a file name ending in .mp4, or an fsspec URL of either; by default the media folder of the
            settings.
        credentials: the provider's Block, or its name.

    Returns:
        The verified file: path or URL, sha256, duration, size, resolution, sound.

    Raises:
        ResultInvalid: the file does not verify; it is in quarantine, never under the final name.
        JobExpired: the provider no longer has it.
        ProviderError: the download failed.
        StorageError: the file cannot be written where it shall be.
    """
    async with explained(), shown_delivery():
        done = await deliver_step(job, output, credentials)
    delivery = done.delivery
    assert delivery is not None  # a delivered job has one
    emit_job_event("delivered", done, uri=delivery.uri, sha256=delivery.sha256)
    await publish_result_card(done, delivery)
    await show_delivered(done)
    return delivery

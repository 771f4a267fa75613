"""Tasks of the job life: submit, wait, download. Each takes and returns plain values and can be used alone."""

from __future__ import annotations

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_genmedia import jobs
from prefect_genmedia.artifacts import publish_result_card
from prefect_genmedia.blocks import ProviderCredentials, load_credentials
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, SubmissionUnknown
from prefect_genmedia.jobs.deliver import deliver
from prefect_genmedia.jobs.ledger import Ledger, open_ledger
from prefect_genmedia.jobs.model import AT_PROVIDER, Delivery, Job, JobState
from prefect_genmedia.jobs.sources import measure_seconds
from prefect_genmedia.jobs.storage import target_at
from prefect_genmedia.jobs.submit import Claim, submit_once
from prefect_genmedia.providers.protocol import GenerationRequest, MediaExpectation, ProviderClient
from prefect_genmedia.settings import GenMediaSettings
from prefect_genmedia.tasks.remote import warn_of_mortal_ledger
from prefect_genmedia.tasks.support import (
    RETRY_DELAYS,
    RunListener,
    current_scope,
    emit_job_event,
    retried_by_person,
    retry_if_safe,
    root_run_id,
    tell_detached,
)

DEFAULT_TIMEOUT_SECONDS = 1800.0
"""How long to wait unless told otherwise: the providers' examples stop after 600 s, but long jobs take more."""


@task(
    task_run_name="submit {request.kind}",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def submit(
    request: GenerationRequest,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
    variant: int = 0,
    label: str = "",
    output: str | None = None,
) -> Job:
    """Submit a request, once: a retry, a rerun or another process with the same request gets the same job.

    Parameters:
        request: `OmniHumanVideo`, `JimengVideo`, …
        credentials: the provider's Block, or its name.
        idempotency_key: makes "the same request" hold across flow runs; by default it holds within one.
        variant: tells apart several wanted results of the same request.
        label: a few words that name the request for people.
        output: where the file will be wanted, for `reconcile_jobs`, should this run not live to fetch it.

    Returns:
        The job, accepted by the provider.

    Raises:
        SubmissionUnknown: sent without a certain answer; no retry repeats it, a person decides.
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError: nothing was paid.
    """
    logger = get_run_logger()
    block = await load_credentials(request.provider, credentials)
    settings = GenMediaSettings()
    await warn_of_mortal_ledger(settings.ledger)
    async with block.client() as client, open_ledger(settings.ledger) as ledger:
        claim = Claim(
            scope=current_scope(idempotency_key),
            root_run_id=root_run_id(),
            retried_by_person=retried_by_person,
            variant=variant,
            label=label or request.kind,
            flow_run_id=flow_run.id,
            output=output,
            expectation=await _measured(request, client),
        )
        try:
            job = await submit_once(ledger, client, request, claim)
        except SubmissionUnknown as error:
            unknown = await ledger.get(error.job_key or "")
            if unknown is not None:
                emit_job_event("unknown", unknown, message=error.message)
            raise
    emit_job_event("submitted", job)
    logger.info("Job %s is %s at %s (key %s)", job.provider_job_id, job.provider_status, job.provider, job.key)
    return job


@task(
    task_run_name="wait",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def wait_for_job(
    job: Job | str,
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
    settings = GenMediaSettings()
    policy = jobs.PollPolicy(shortest=settings.poll_shortest_seconds, longest=settings.poll_longest_seconds)
    async with open_ledger(settings.ledger) as ledger:
        present = await _taken_up(ledger, await _present(ledger, job))
        block = await load_credentials(present.provider, credentials)
        async with block.client() as client:
            try:
                done = await jobs.wait_for_job(ledger, client, present, timeout_seconds, policy, RunListener())
            except asyncio.CancelledError:
                await tell_detached(present)
                raise
            except GenMediaError as error:
                failed = await ledger.get(present.key) or present
                emit_job_event("failed", failed, error=error.kind, message=error.message)
                raise
    if done.succeeded_at and done.submitted_at:
        took = done.succeeded_at - done.submitted_at
        get_run_logger().info("Job %s is done after %.1f s", done.provider_job_id, took)
    return done


@task(
    task_run_name="download",
    retries=3,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def download_result(
    job: Job | str, output: str | None = None, credentials: ProviderCredentials | str = "default"
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
    """
    settings = GenMediaSettings()
    async with open_ledger(settings.ledger) as ledger:
        present = await _present(ledger, job)
        block = await load_credentials(present.provider, credentials)
        async with block.client() as client:
            try:
                done = await deliver(ledger, client, present, target_at(output or settings.media_folder))
            except GenMediaError as error:
                emit_job_event("undelivered", present, error=error.kind, message=error.message)
                raise
    delivery = done.delivery
    assert delivery is not None  # noqa: S101 - a delivered job has one
    emit_job_event("delivered", done, uri=delivery.uri, sha256=delivery.sha256)
    get_run_logger().info("Delivered %s", delivery.uri)
    await publish_result_card(done, delivery)
    return delivery


async def _measured(request: GenerationRequest, client: ProviderClient) -> MediaExpectation:
    """How long the result must be, measured on the recording it is made from."""
    source = request.duration_source()
    if source is None:
        return MediaExpectation()
    try:
        seconds = await measure_seconds(source.url, client.fetch_rules)
    except GenMediaError as error:
        get_run_logger().warning(
            "The recording cannot be measured from here, so its length is not checked: %s", error.message
        )
        return MediaExpectation()
    limit = source.below_seconds
    if limit is not None and seconds >= limit:
        problem = FieldProblem(source.field, f"plays {seconds:.1f} s and must be shorter than {limit:.0f} s")
        raise InvalidRequest.of(f"{type(request).__name__} request", [problem])
    return MediaExpectation(seconds=seconds)


async def _taken_up(ledger: Ledger, job: Job) -> Job:
    """The job as this run's own, so that nobody else takes it up while we wait for it."""
    if flow_run.id and job.flow_run_id != flow_run.id and job.state in AT_PROVIDER:
        return await ledger.note(job, flow_run_id=flow_run.id) or job
    return job


async def _present(ledger: Ledger, job: Job | str) -> Job:
    """The job as the ledger has it now."""
    name = job if isinstance(job, str) else job.key
    present = await ledger.find(name)
    if present is None:
        raise InvalidRequest.of("The job", [FieldProblem("job", f"the ledger has no job {name!r}")])
    if present.state in (JobState.RESERVED, JobState.SENDING, JobState.UNKNOWN):
        raise InvalidRequest.of("The job", [FieldProblem("job", f"{name!r} is {present.state.value}, not submitted")])
    return present

"""The steps of the job life inside a run: what the single tasks and a batch's one task a job both do.

Each step opens what it needs (ledger, client), tells what happens in the run's log, and what goes wrong as events, too,
and returns the job. What goes well is an event of the single tasks only: among thousands of jobs each one's task run
and asset tell it, and handling an event costs Prefect's server as much as a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_genmedia import _core as jobs
from prefect_genmedia._prefect.credentials import ProviderCredentials, load_credentials
from prefect_genmedia.callbacks.app import callback_url
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, SubmissionUnknown
from prefect_genmedia._inputs import DiscreetClient, Seen
from prefect_genmedia._core.deliver import deliver
from prefect_genmedia._core.ledger import Ledger, Spend, open_ledger
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.submit import Claim, submit_once
from prefect_genmedia._prefect.assets import tell_assets
from prefect_genmedia.providers.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import GenMediaSettings, current_settings
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia._prefect.checks import ready, rejoined
from prefect_genmedia._prefect.environment import lasting_place, warn_of_mortal_ledger
from prefect_genmedia.providers.tokenops.tasks import with_subject
from prefect_genmedia._prefect.run import (
    RunListener,
    current_scope,
    emit_job_event,
    retried_by_person,
    root_run_id,
    tell_detached,
)

CALLBACK_LOOK_SECONDS = 0.5
"""How often a wait sees in the ledger whether the provider's callback has come, in seconds."""


async def submit_step(
    request: GenerationRequest,
    credentials: ProviderCredentials | str,
    *,
    idempotency_key: str | None = None,
    variant: int = 0,
    label: str = "",
    output: str | None = None,
    ask_again: bool = True,
    preflight: bool = True,
    seen: Mapping[str, Seen] | None = None,
    prices: PriceTable | None = None,
    spend: Spend | None = None,
) -> Job:
    """Submit a request, once; see the task `submit`.

    Parameters:
        request: what is wanted.
        credentials: the provider's Block, or its name.
        idempotency_key: bounds what is the same result, in place of the flow run.
        variant: tells apart several wanted results of the same request.
        label: a few words that name it for people.
        output: where its file shall be; None takes the setting.
        ask_again: whether what failed earlier may be asked for anew.
        preflight: whether inputs are looked at before they are sent.
        seen: what was seen in them already, by URL; None where they were not looked at.
        prices: what results probably cost; None takes the settings'.
        spend: reserves its money in the step in which it begins to be sent.
    """
    logger = get_run_logger()
    block = await load_credentials(request.provider, credentials)
    settings = current_settings()
    await warn_of_mortal_ledger(settings)
    place = await lasting_place(output, settings)
    await target_of(place)  # a place that cannot be must be known before anything is paid
    async with block.client() as client, open_ledger(settings.ledger) as ledger:
        # Only here, so that base64 and signed URLs never pass through Prefect.
        joined = await rejoined(ledger, client, request, idempotency_key, variant)
        if joined is not None:
            return joined
        prepared = await ready(request, client, preflight, seen)
        claim = Claim(
            scope=current_scope(idempotency_key),
            root_run_id=root_run_id(),
            retried_by_person=retried_by_person,
            ask_again=ask_again,
            callback_url=lambda job: _callback_url(settings, job),
            variant=variant,
            label=label or request.kind,
            flow_run_id=flow_run.id,
            output=place if output or place != settings.media_folder else None,
            expectation=prepared.expectation,
            prices=settings.price_table if prices is None else prices,
            spend=spend,
            max_in_flight=block.max_in_flight,
            tell=logger.info,
            renewed=lambda stale: with_subject(stale, block),
        )
        try:
            job = await submit_once(ledger, DiscreetClient(client, prepared.sent.values()), prepared.request, claim)
        except SubmissionUnknown as error:
            unknown = await ledger.get(error.job_key or "")
            if unknown is not None:
                emit_job_event("unknown", unknown, message=error.message)
            raise
    logger.info("Job %s is %s at %s (key %s)", job.provider_job_id, job.provider_status, job.provider, job.key)
    return job


async def wait_step(
    job: Job | str,
    credentials: ProviderCredentials | str,
    timeout_seconds: float,
    listener: RunListener | None = None,
) -> Job:
    """Wait until the provider has the result; see the task `wait_for_job`.

    Parameters:
        job: the job, or its key, or the provider's id of it.
        credentials: the provider's Block, or its name.
        timeout_seconds: how long to wait, counted from when the provider accepted the job.
        listener: told of what happens; None logs it.
    """
    listener = listener or RunListener()
    settings = current_settings()
    policy = jobs.PollPolicy(
        shortest=settings.poll_shortest_seconds,
        longest=settings.poll_longest_seconds,
        watch_callback=CALLBACK_LOOK_SECONDS if settings.callback_url else None,
    )
    async with open_ledger(settings.ledger) as ledger:
        present = await _taken_up(ledger, await _present(ledger, job))
        block = await load_credentials(present.provider, credentials)
        async with block.client() as client:
            try:
                done = await jobs.wait_for_job(ledger, client, present, timeout_seconds, policy, listener)
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


async def deliver_step(job: Job | str, output: str | None, credentials: ProviderCredentials | str) -> Job:
    """Download, verify and publish the file; see the task `download_result`.

    Parameters:
        job: the job, or its key, or the provider's id of it.
        output: a folder, file or URL; None takes the setting.
        credentials: the provider's Block, or its name.
    """
    settings = current_settings()
    async with open_ledger(settings.ledger) as ledger:
        present = await _present(ledger, job)
        block = await load_credentials(present.provider, credentials)
        async with block.client() as client:
            try:
                target = await target_of(await lasting_place(output, settings))
                done = await deliver(ledger, client, present, target)
            except GenMediaError as error:
                error.about(present.key, present.provider_job_id)
                emit_job_event("undelivered", present, error=error.kind, message=error.message)
                raise
    delivery = done.delivery
    assert delivery is not None  # a delivered job has one
    tell_assets(done, made=done != present)
    get_run_logger().info("Delivered %s", delivery.uri)
    return done


def _callback_url(settings: GenMediaSettings, job: Job) -> str | None:
    if settings.callback_url is None or settings.callback_secret is None:
        return None
    return callback_url(settings.callback_url, settings.callback_secret.get_secret_value(), job)


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

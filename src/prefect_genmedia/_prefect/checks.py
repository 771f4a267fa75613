"""Looking at a request's inputs, and bringing them to where the provider can take them, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_genmedia._prefect.credentials import ProviderCredentials, load_credentials
from prefect_genmedia._inputs import Prepared, Publication, Seen, prepared
from prefect_genmedia._inputs.prepare import Request
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.rejoin import rejoin
from prefect_genmedia.providers.protocol import GenerationRequest, ProviderClient
from prefect_genmedia.settings import current_settings
from prefect_genmedia._prefect.run import RETRIES, RETRY_DELAYS, current_scope, explained, retry_if_safe


@task(
    task_run_name="check inputs",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def check_inputs(request: Request, *, credentials: ProviderCredentials | str = "default") -> Request:
    """Check what is documented about a request's inputs, and whether they can travel; nothing is sent to the provider.

    `submit` does the same by itself. A flow that asks the provider something before it submits calls this first.

    Parameters:
        request: what is asked for.
        credentials: the provider's Block, or its name.

    Returns:
        The same request; `submit` does not read its inputs again. That is known in this process only: how inputs travel
        is a secret, and is not stored with a result.

    Raises:
        InvalidRequest: with every problem of every input.
        ProviderError: a storage failed; retryable.
    """
    block = await load_credentials(request.provider, credentials)
    async with explained(), block.client() as client:
        return (await ready(request, client, preflight=True)).request


async def job_of_gone_inputs(
    request: GenerationRequest,
    *,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
) -> Job | None:
    """The paid job of a rerun whose local files are gone; None where they are there, or no job is. Call it in a flow.

    Parameters:
        request: what is asked for.
        credentials: the provider's Block, or its name.
        idempotency_key: as for `submit`.

    Raises:
        InvalidRequest: several jobs may be meant.
        SubmissionUnknown: it was sent without a certain answer.
    """
    if not request.absent_inputs():
        return None
    async with explained():
        block = await load_credentials(request.provider, credentials)
        async with block.client() as client, open_ledger(current_settings().ledger) as ledger:
            return await rejoined(ledger, client, request, idempotency_key)


async def rejoined(
    ledger: Ledger, client: ProviderClient, request: GenerationRequest, idempotency_key: str | None, variant: int = 0
) -> Job | None:
    """The paid job of a request whose files are gone, see `rejoin`; told in the run's log.

    Parameters:
        ledger: where the job stands.
        client: the account's client.
        request, idempotency_key, variant: as for the task `submit`.

    Raises:
        InvalidRequest: several jobs may be meant.
        SubmissionUnknown: it was sent without a certain answer.
    """
    gone = request.absent_inputs()
    if not gone or request.preparation() is not None:
        return None
    job = await rejoin(ledger, client.account, request, current_scope(idempotency_key), variant)
    if job is not None:
        fields = ", ".join(problem.field for problem in gone)
        get_run_logger().warning("%s is no more; job %s has it, and is joined", fields, job.provider_job_id)
    return job


async def ready(
    request: Request, client: ProviderClient, preflight: bool, seen: Mapping[str, Seen] | None = None
) -> Prepared[Request]:
    """The request with its inputs where the provider can take them; never to be passed through Prefect as it is.

    Parameters:
        request: what is wanted.
        client: the client of the account that pays.
        preflight: whether documented limits are checked.
        seen: what was seen in its inputs already, by URL; None where they were not looked at.
    """
    settings = current_settings()
    publication = Publication(settings.publish_url, settings.publish_seconds)
    tell = get_run_logger().warning
    return await prepared(request, client.fetch_rules, publication, preflight=preflight, before=seen, tell=tell)

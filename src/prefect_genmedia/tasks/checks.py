"""Looking at a request's inputs, and bringing them to where the provider can take them, before anything is sent."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_genmedia.blocks import ProviderCredentials, load_credentials
from prefect_genmedia.inputs import Prepared, Publication, prepared
from prefect_genmedia.inputs.prepare import Request
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.settings import current_settings
from prefect_genmedia.tasks.support import RETRIES, RETRY_DELAYS, explained, retry_if_safe


@task(
    task_run_name="check inputs",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def check_inputs(request: Request, credentials: ProviderCredentials | str = "default") -> Request:
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
    async with explained(RETRIES), block.client() as client:
        return (await ready(request, client, preflight=True)).request


async def ready(request: Request, client: ProviderClient, preflight: bool) -> Prepared[Request]:
    """The request with its inputs where the provider can take them; never to be passed through Prefect as it is.

    Parameters:
        request: what is wanted.
        client: the client of the account that pays.
        preflight: whether documented limits are checked.
    """
    settings = current_settings()
    publication = Publication(settings.publish_url, settings.publish_seconds)
    return await prepared(request, client.fetch_rules, publication, preflight=preflight, tell=get_run_logger().warning)

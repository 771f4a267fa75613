"""Holding the Prefect global concurrency limit that a credentials Block names, while a job is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound

from prefect_genmedia._prefect.credentials import ProviderCredentials, load_credentials
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia._inputs import identified
from prefect_genmedia._core.identity import identity_of
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import AT_PROVIDER
from prefect_genmedia._core.rejoin import rejoin
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia._prefect.run import current_scope, explained


@asynccontextmanager
async def holding_limit(
    request: GenerationRequest,
    *,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
    variant: int = 0,
) -> AsyncIterator[None]:
    """Hold a place in the Block's `concurrency_limit`, if it names one; in a flow, around submitting and waiting.

    A job that is at its provider already is waited for without a place: its result may expire while others hold them.

    Parameters:
        request, credentials, idempotency_key, variant: as for the task `submit`.

    Raises:
        InvalidRequest: there is no such limit; nothing was submitted.
    """
    async with explained():
        block = await load_credentials(request.provider, credentials)
        limit = block.concurrency_limit
        if limit and await _is_at_provider(request, block, current_scope(idempotency_key), variant):
            limit = None
        if limit:
            await check_limit(limit)
    async with place_in(limit) if limit else nullcontext():
        yield


def place_in(limit: str) -> AbstractAsyncContextManager[None]:
    """Wait for a place in a global concurrency limit, and hold it; a lease that cannot be renewed ends no paid job."""
    return concurrency(limit, strict=True, raise_on_lease_renewal_failure=False)


async def check_limit(name: str) -> None:
    """Make sure that there is such a global concurrency limit.

    Raises:
        InvalidRequest: there is none; says how to make it.
    """
    try:
        async with get_client() as client:
            await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        problem = f"there is no global concurrency limit {name!r}; make it with `prefect gcl create {name} --limit N`"
    else:
        return
    raise InvalidRequest.of("The run", [FieldProblem("concurrency_limit", problem)])


async def _is_at_provider(request: GenerationRequest, block: ProviderCredentials, scope: str, variant: int) -> bool:
    async with block.client() as client, open_ledger(current_settings().ledger) as ledger:
        if request.absent_inputs():
            newest = await rejoin(ledger, client.account, request, scope, variant)
        else:
            known = await identified(request, client.fetch_rules)
            newest = await ledger.newest(identity_of(client.account, known, scope, variant))
    return newest is not None and newest.state in AT_PROVIDER

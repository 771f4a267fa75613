"""Holding the Prefect global concurrency limit that a credentials Block names, while a job is at its provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound

from prefect_genmedia._core.model import AT_PROVIDER
from prefect_genmedia._core.pipeline import find_job
from prefect_genmedia._core.session import JobSpec
from prefect_genmedia._prefect.session import load_credentials, open_session
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.credentials import ProviderCredentials


@asynccontextmanager
async def holding_limit(spec: JobSpec, credentials: ProviderCredentials | str) -> AsyncIterator[None]:
    """Hold a slot of the Block's `concurrency_limit`, if it names one; in a flow, around submitting and waiting.

    A job that is at its provider already is awaited without a slot: its result may expire while others hold them.

    Parameters:
        spec: the job.
        credentials: the provider's Block, or its name.

    Raises:
        InvalidRequest: there is no such limit; nothing was submitted.
    """
    limit = (await load_credentials(spec.request.provider, credentials)).concurrency_limit
    if limit and await _is_at_provider(spec, credentials):
        limit = None
    if limit:
        await check_limit(limit)
    async with slot_of(limit) if limit else nullcontext():
        yield


def slot_of(limit: str) -> AbstractAsyncContextManager[None]:
    """Wait for a slot of a global concurrency limit, and hold it. A lease that cannot be renewed ends no paid job.

    Parameters:
        limit: the limit's name.
    """
    return concurrency(limit, strict=True, raise_on_lease_renewal_failure=False)


async def check_limit(name: str) -> None:
    """Make sure that there is such a global concurrency limit.

    Parameters:
        name: the limit's name.

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


async def _is_at_provider(spec: JobSpec, credentials: ProviderCredentials | str) -> bool:
    async with open_session(spec.request.provider, credentials) as session:
        job = await find_job(session, spec)
    return job is not None and job.state in AT_PROVIDER

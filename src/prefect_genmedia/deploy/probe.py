"""Trying a key without paying: a look at a job that does not exist."""

from __future__ import annotations

from prefect_genmedia.deploy.changes import Change, Outcome
from prefect_genmedia.errors import CredentialsError, GenMediaError, QuotaError, RateLimited
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.protocol import ProviderClient

NO_SUCH_JOB = "0000000000000000"
"""A job id that no provider gives; looking at it costs nothing."""


async def probe(credentials: ProviderCredentials) -> Change:
    """Ask the provider for a job that does not exist: it looks at the key first.

    Parameters:
        credentials: the Block whose key is tried.
    """
    client: ProviderClient = credentials.get_client()
    name = f"{credentials.provider} at {client.account.base_url}"
    try:
        await client.poll(NO_SUCH_JOB)
    except CredentialsError as error:
        return Change("key", name, Outcome.REFUSED, error.message)
    except QuotaError as error:
        return Change("key", name, Outcome.ACCEPTED, f"but: {error.message}")
    except RateLimited:
        return Change("key", name, Outcome.UNREACHABLE, "the provider asks to slow down; try again later")
    except GenMediaError as error:
        status = error.http_status
        if status is not None and status < 500:
            return Change("key", name, Outcome.ACCEPTED, f"HTTP {status} for a job that does not exist")
        return Change("key", name, Outcome.UNREACHABLE, error.message)
    finally:
        await client.aclose()
    return Change("key", name, Outcome.ACCEPTED)

"""The accounts that may pay for a batch's rows: opened, or named for the runs of its shards."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace

from prefect.logging import get_run_logger

from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.session import Session, pooled
from prefect_genmedia._prefect.concurrency import check_limit
from prefect_genmedia._prefect.quality import quality_policy
from prefect_genmedia._prefect.session import load_pool, session_of
from prefect_genmedia.batch.row_task import RowHooks
from prefect_genmedia.batch.shards import refused
from prefect_genmedia.batch.spec import BatchSpec, Credentials
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.settings import current_settings, verify_level


async def open_pools(
    stack: AsyncExitStack, providers: Iterable[str], spec: BatchSpec, prices: PriceTable, ledger: Ledger
) -> dict[str, list[Session]]:
    """Open one session per account for the whole batch; the account's rows share its client.

    Args:
        stack: closes the clients.
        providers: the providers of the rows.
        spec: the batch.
        prices: the price table.
        ledger: the ledger.

    Returns:
        The sessions of the accounts that may pay for a provider's rows, in the user's order, by provider.

    Raises:
        CredentialsError: there is no such Block.
        AccountConflict: a Block's name and its key belong to two accounts of the ledger.
    """
    pools = {}
    for provider in sorted(providers):
        found: dict[str, Session] = {}
        for block in await load_pool(provider, spec.credentials):
            client = await stack.enter_async_context(block.client())
            session = await session_of(block, client, ledger, current_settings(), RowHooks())
            limit = spec.limits.concurrency_limit or session.concurrency_limit
            if limit:
                await check_limit(limit)
            if session.own_tokens[0] in found:
                get_run_logger().warning("Two of the credentials are one account of %s, which is used once", provider)
                continue
            found[session.own_tokens[0]] = replace(
                session,
                prices=prices,
                concurrency_limit=limit,
                is_batch=spec.single is None,
                convert_inputs=spec.convert_inputs,
                verify=verify_level(spec.verify, "structure") if spec.single is None else verify_level(spec.verify),
                quality=quality_policy(spec.quality, spec.quality_checks),
            )
        pools[provider] = pooled(list(found.values()))
    return pools


def names_of(credentials: Credentials) -> str | list[str]:
    """Returns the names of Blocks: their content is never passed as a parameter.

    Args:
        credentials: a Block or its name, or several.

    Raises:
        InvalidRequest: a Block is not saved.
    """
    if isinstance(credentials, str | ProviderCredentials):
        return _name_of(credentials)
    return [_name_of(each) for each in credentials]


def _name_of(credentials: ProviderCredentials | str) -> str:
    name = credentials if isinstance(credentials, str) else credentials._block_document_name
    if name is None:
        raise refused("credentials", "must be a Block that is saved, or its name: shards run on other machines")
    return str(name)

"""What a batch holds for all of its rows: one client an account, and a quiet log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from prefect_genmedia._prefect.credentials import ProviderCredentials
from prefect_genmedia.providers.protocol import Account, ProviderClient

QUIET_FROM = 100
"""From so many rows on, rows log warnings and errors only: nobody reads a thousand times that all is well."""

ROW_TASK = "generate_row"


@dataclass(frozen=True)
class Opened:
    """One provider's Block and its client, held open for the whole batch."""

    block: ProviderCredentials
    client: ProviderClient

    @property
    def account(self) -> Account:
        """Who pays."""
        return self.client.account

    @property
    def credentials(self) -> ProviderCredentials:
        """The Block for the rows' steps: it hands out the held client and makes none for each step."""
        return cast(ProviderCredentials, _Held(self.block, self.client))


class _Held:
    """As much of a credentials Block as the steps use."""

    def __init__(self, block: ProviderCredentials, client: ProviderClient) -> None:
        self.provider = block.provider
        self.max_in_flight = block.max_in_flight
        self._client = client

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        yield self._client


@contextmanager
def quiet_rows(count: int) -> Iterator[None]:
    """Keep what goes well out of the rows' logs, in a batch of many; events and the table of results still tell it."""

    def is_worth_it(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or getattr(record, "task_name", None) != ROW_TASK

    logger = logging.getLogger("prefect.task_runs")
    if count < QUIET_FROM:
        yield
        return
    logger.addFilter(is_worth_it)
    try:
        yield
    finally:
        logger.removeFilter(is_worth_it)

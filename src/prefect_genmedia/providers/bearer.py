"""The credential of most providers: `Authorization: Bearer …`, and what their clients share."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import httpx

from prefect_genmedia._transport import ApiClient, FetchRules, Gates, Redactor
from prefect_genmedia.providers.protocol import Account


class BearerAuth(httpx.Auth):
    """Puts `Authorization: Bearer …` on a request; shows nothing of the key."""

    def __init__(self, token: str) -> None:
        """Keep the token to ourselves."""
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "BearerAuth(…)"


class BearerClient:
    """One account whose key is sent with each request, in one event loop; a provider's client adds its three calls.

    Args:
        api_key: the key; it stays inside.
        base_url: the API's root, where it is another one than the provider's own: a gateway's, or the simulator's.
        gates: how many requests and downloads may be under way.
        allow_private_hosts: whether results and masks may come from private addresses other than the API's own host.
        transport: replaces the network, for tests.
        submissions_per_minute: the pace of submissions; None for none.
    """

    provider: ClassVar[str]
    provider_url: ClassVar[str]
    """The root of the provider's own API."""

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        gates: Gates | None = None,
        allow_private_hosts: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        submissions_per_minute: float | None = None,
    ) -> None:
        """Open no connection yet."""
        base_url = base_url or self.provider_url
        self.account = Account.of(self.provider, base_url, api_key)
        self.submissions_per_minute = submissions_per_minute
        self.fetch_rules = FetchRules.beside(base_url, allow_private_hosts, transport)
        self._redactor = Redactor([api_key])
        self._api = ApiClient(base_url, BearerAuth(api_key), self._redactor, gates, transport)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for a place among the requests under way, and hold it."""
        return self._api.turn()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

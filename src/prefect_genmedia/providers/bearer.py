"""The credential of most providers: `Authorization: Bearer …`."""

from __future__ import annotations

from typing import Any

import httpx


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

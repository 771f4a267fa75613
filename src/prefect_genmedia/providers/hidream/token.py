"""HiDream's token: given as it is, or exchanged for an API key and renewed in time (docs/providers/hidream.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.answers import number_in
from prefect_genmedia.providers.hidream import catalog

RENEW_BEFORE_SECONDS = 600.0
"""How long before its end a token is renewed: longer than any paid POST may take."""

_CHINA = timezone(timedelta(hours=8))
_MILLISECONDS_FROM = 1e11
_SECONDS_FROM = 1e9


@dataclass(frozen=True)
class Token:
    """A token and when it ends, in seconds since 1970; None where that is not known."""

    value: str = field(repr=False)
    ends_at: float | None = None
    renew_at: float | None = None

    @classmethod
    def issued(cls, value: str, expire_time: Any, now: float) -> Token:
        """A token just issued.

        Parameters:
            value: the token.
            expire_time: the provider's word for its end. Its form is not documented: seconds or milliseconds since
                1970, seconds from now, and a date and time (of China where no zone is given) are understood; one
                day, which is documented, is taken for anything else.
            now: the present time, in seconds since 1970.
        """
        ends_at = _moment(expire_time, now)
        if ends_at is None or ends_at <= now:  # nobody issues a token that has ended: it was misread
            ends_at = now + catalog.TOKEN_LIFETIME_SECONDS
        return cls(value, ends_at, ends_at - min(RENEW_BEFORE_SECONDS, (ends_at - now) / 10))


class TokenKeeper:
    """The account's present token.

    Parameters:
        given: a token that is used as it is; None where it is exchanged.
        exchange: asks the provider for a new one; None where it is given.
        now: tells the time, in seconds since 1970.
    """

    def __init__(
        self,
        given: str | None,
        exchange: Callable[[], Awaitable[Token]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Ask for nothing yet."""
        self._token = Token(given) if given is not None else None
        self._exchange = exchange
        self._now = now
        self._lock = asyncio.Lock()

    @property
    def present(self) -> str:
        """The token to send now; `fresh()` makes sure that there is one."""
        return self._token.value if self._token else ""

    @property
    def renewable(self) -> bool:
        """Whether another token can be had."""
        return self._exchange is not None

    async def fresh(self) -> str:
        """A token that is not near its end, renewed where needed.

        Raises:
            GenMediaError: no token could be had.
        """
        async with self._lock:
            now, token = self._now(), self._token
            if token is None:
                return await self._renewed()
            if token.renew_at is not None and now >= token.renew_at:
                try:
                    return await self._renewed()
                except GenMediaError:
                    if token.ends_at is None or now >= token.ends_at:
                        raise
                    # It still holds; the next call tries again to renew it.
            return token.value

    async def replace(self, refused: str) -> None:
        """Get another token in place of one that was refused, unless somebody did already.

        Raises:
            GenMediaError: no token could be had.
        """
        async with self._lock:
            if self.present == refused:
                await self._renewed()

    def forget(self, refused: str) -> bool:
        """Never use a refused token again; whether another one can be had for the next call."""
        if self.renewable and self.present == refused:
            self._token = None
        return self.renewable

    async def _renewed(self) -> str:
        assert self._exchange is not None  # a given token has no end
        self._token = await self._exchange()
        return self._token.value

    def __repr__(self) -> str:
        """Show nothing of the token."""
        return "TokenKeeper(…)"


class TokenAuth(httpx.Auth):
    """Puts the present token, and the user's id where one is set, on a request."""

    def __init__(self, keeper: TokenKeeper, user_id: str) -> None:
        """Ask the keeper at each request."""
        self._keeper = keeper
        self._user_id = user_id

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the headers (HiDream's page, "Header")."""
        request.headers["Authorization"] = f"Bearer {self._keeper.present}"
        if self._user_id:
            request.headers["API-User-ID"] = self._user_id
        yield request


class ApiKeyAuth(httpx.Auth):
    """Puts the API key on the request that exchanges it; shows nothing of it."""

    def __init__(self, api_key: str) -> None:
        """Keep the key to ourselves."""
        self._api_key = api_key

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the header."""
        request.headers["Api-Key"] = self._api_key
        yield request


class LearningRedactor(Redactor):
    """A redactor that is told of secrets as they come."""

    def learn(self, secret: str) -> None:
        """Replace this secret too, from now on."""
        super().__init__([*self._secrets, secret])


def _moment(value: Any, now: float) -> float | None:
    number = number_in(value)
    if number is not None:
        if number >= _MILLISECONDS_FROM:
            return number / 1000
        return number if number >= _SECONDS_FROM else now + number
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip().replace("/", "-").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=_CHINA)).timestamp()

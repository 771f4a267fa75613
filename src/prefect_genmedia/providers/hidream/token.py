"""HiDream's token: given as it is, or exchanged for an API key and renewed in time (docs/providers/hidream.md)."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.answers import number_in
from prefect_genmedia.providers.hidream import catalog

RENEW_BEFORE_SECONDS = 600.0
"""How long before its end a token is renewed: longer than any paid POST may take."""

EXCHANGE_SECONDS = 300.0
"""After so long an exchange counts as lost with its event loop: longer than one takes, with its wait for the lock."""

CHECK_SECONDS = 0.05
"""Interval at which other event loops check whether an exchange has ended, in seconds."""

RETRY_SECONDS = 30.0
"""How long a token near its end is used on after it could not be renewed, before the next try."""

REPLACE_SECONDS, REPLACEMENTS = 600.0, 3
"""Refused tokens are replaced so many times within this time, in seconds; once if the next one is refused at once."""

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

        Args:
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


class CachedToken:
    """The token of one key in this process: its clients share it, whichever event loops they live in.

    It is in memory only: no file and no ledger ever has it.
    """

    def __init__(self) -> None:
        """Begin without a token."""
        self.lock = threading.Lock()
        """Held for reads and writes of what follows, never while anything is waited for."""
        self.token: Token | None = None
        self.exchanges = 0
        """How many exchanges have ended, and how the last one did."""
        self.failure: GenMediaError | None = None
        self.retry_at = -math.inf
        self.is_proven = False
        """Whether the provider has accepted the token since it was exchanged."""
        self._replaced_at: list[float] = []
        self._holder: object | None = None
        self._locked_until = 0.0

    def claim(self) -> object | None:
        """The right to exchange, for the only one that does; None if another one has it. Call it under `lock`."""
        if self._holder is not None and time.monotonic() < self._locked_until:
            return None
        self._holder = object()
        self._locked_until = time.monotonic() + EXCHANGE_SECONDS
        return self._holder

    def release(self, holder: object, token: Token | None, failure: GenMediaError | None, now: float) -> None:
        """End an exchange.

        Args:
            holder: what `claim` returned.
            token: the new token; None if there is none.
            failure: why there is none; None too where the exchange was cancelled.
            now: the present time, in seconds since 1970.
        """
        with self.lock:
            if token is not None:
                self.token, self.is_proven = token, False
            if self._holder is holder:
                self._holder = None
            if token is not None or failure is not None:
                self.exchanges += 1
                self.failure = failure
                self.retry_at = -math.inf if failure is None else now + RETRY_SECONDS

    def drop(self, refused: str, now: float) -> bool:
        """Never use a refused token again; whether there is, or will be, another one.

        A token that came in place of a refused one, and is refused before it was ever accepted, is kept for a while: it
        is not the token then, and exchanging again and again would help nobody. Nor are more than `REPLACEMENTS` made.

        Args:
            refused: the token.
            now: the present time, in seconds since 1970.
        """
        with self.lock:
            if self.token is None or self.token.value != refused:
                return True
            recent = [at for at in self._replaced_at if 0 <= now - at < REPLACE_SECONDS]
            if (recent and not self.is_proven) or len(recent) >= REPLACEMENTS:
                return False
            self.token, self._replaced_at = None, [*recent, now]
            return True

    def prove(self, accepted: str) -> None:
        """Remember that the provider has accepted a token.

        Args:
            accepted: the token.
        """
        with self.lock:
            self.is_proven = self.is_proven or (self.token is not None and self.token.value == accepted)


_CACHE: dict[str, CachedToken] = {}
_CACHE_LOCK = threading.Lock()


def cached_token(base_url: str, api_key: str) -> CachedToken:
    """The process's token of an account's key; a rotated key has another one.

    Args:
        base_url: where the key is exchanged.
        api_key: the key; only a digest of it is kept.
    """
    digest = blake2b(f"{base_url.rstrip('/')} {api_key}".encode(), person=b"genmedia-token").hexdigest()
    with _CACHE_LOCK:
        return _CACHE.setdefault(digest, CachedToken())


def forget_tokens() -> None:
    """Forget every token of this process, as a new process has none."""
    with _CACHE_LOCK:
        _CACHE.clear()


class TokenSource:
    """The account's present token, for one client.

    Args:
        given: a token that is used as it is; None where it is exchanged.
        exchange: asks the provider for a new one; None where it is given.
        cached: what the process shares; None for nothing.
        learn: called with each token that is new to this client, before it is used.
        now: tells the time, in seconds since 1970.
    """

    def __init__(
        self,
        given: str | None,
        exchange: Callable[[], Awaitable[Token]] | None = None,
        cached: CachedToken | None = None,
        learn: Callable[[str], None] = lambda token: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Ask for nothing yet."""
        self._present = given or ""
        self._exchange = exchange
        self._cached = cached or CachedToken()
        self._learn = learn
        self._now = now

    @property
    def present(self) -> str:
        """The token to send now; `fresh()` makes sure that there is one."""
        return self._present

    @property
    def renewable(self) -> bool:
        """Whether another token can be had."""
        return self._exchange is not None

    async def fresh(self) -> str:
        """A token that is not near its end, exchanged where needed; one at a time in this process does that.

        Raises:
            GenMediaError: no token could be had.
        """
        if self._exchange is None:
            return self._present
        cached, before = self._cached, self._cached.exchanges
        while True:
            with cached.lock:
                token, now = cached.token, self._now()
                holds = token is not None and (token.ends_at is None or now < token.ends_at)
                is_near_end = token is not None and token.renew_at is not None and now >= token.renew_at
                if token is not None and holds and (not is_near_end or 0 <= cached.retry_at - now <= RETRY_SECONDS):
                    return self._use(token)
                if cached.exchanges != before and cached.failure is not None:
                    raise copy(cached.failure)  # waited for an exchange that failed: the next call begins another one
                holder = cached.claim()
            if holder is not None:
                return await self._exchanged(self._exchange, holder)
            await asyncio.sleep(CHECK_SECONDS)

    async def _exchanged(self, exchange: Callable[[], Awaitable[Token]], holder: object) -> str:
        token: Token | None = None
        failure: GenMediaError | None = None
        try:
            token = await exchange()
        except GenMediaError as error:
            failure = error
        finally:
            if failure is None:
                self._cached.release(holder, token, None, self._now())
        if token is not None:
            return self._use(token)
        assert failure is not None  # there is a token otherwise
        self._cached.release(holder, None, copy(failure), self._now())
        old = self._cached.token
        if old is None or (old.ends_at is not None and self._now() >= old.ends_at):
            raise failure
        return self._use(old)  # it still holds; a later call tries again

    def forget(self, refused: str) -> bool:
        """Never use a refused token again; whether another one can be had for the next call.

        Args:
            refused: the token.
        """
        return self.renewable and self._cached.drop(refused, self._now())

    def prove(self, accepted: str) -> None:
        """Remember that the provider has accepted a token.

        Args:
            accepted: the token.
        """
        self._cached.prove(accepted)

    def _use(self, token: Token) -> str:
        if token.value != self._present:
            self._learn(token.value)
            self._present = token.value
        return token.value

    def __repr__(self) -> str:
        """Show nothing of the token."""
        return "TokenSource(…)"


class TokenAuth(httpx.Auth):
    """Puts the present token, and the user's id where one is set, on a request."""

    def __init__(self, source: TokenSource, user_id: str) -> None:
        """Ask the keeper at each request."""
        self._source = source
        self._user_id = user_id

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the headers (HiDream's page, "Header"); a call's own user stays."""
        request.headers["Authorization"] = f"Bearer {self._source.present}"
        if self._user_id:
            request.headers.setdefault(catalog.USER_HEADER, self._user_id)
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

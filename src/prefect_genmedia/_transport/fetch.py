"""Fetching URLs that somebody else chose: results, masks and inputs.

No credential ever travels here, private addresses are refused unless allowed, redirects are few and each one is
checked again, and the address that was checked is the address that is connected to (a second look-up by the HTTP
library could be answered differently). A proxy is given the name and resolves it: then only names and addresses that
stand in URLs are checked.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
from typing_extensions import Self

from prefect_genmedia._transport import bodies
from prefect_genmedia._transport.api import TIMEOUTS, USER_AGENT, network_failure, no_cookies
from prefect_genmedia._transport.bodies import BodyBounds, UnreadableBody, decoder_of, wire_pieces
from prefect_genmedia._transport.hosts import Origin, candidates, is_public, refusal_of_host
from prefect_genmedia._transport.network import DIRECT, Network, Routes
from prefect_genmedia._transport.redact import Redactor, redacted_logs
from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.errors import ProviderError

MAX_REDIRECTS = 5

FETCH_SECONDS = 60.0
"""The longest a fetch may take until the body begins, redirects and name resolution included, in seconds."""

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and port to its IP addresses."""


async def system_resolver(host: str, port: int) -> list[str]:
    """Ask the operating system for the addresses of `host`.

    Args:
        host: its name.
        port: the port that will be asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return sorted(addresses, key=lambda address: ":" in address)


@dataclass(frozen=True)
class FetchRules:
    """What a fetch may do.

    Args:
        trusted_origins: scheme, host and port of servers that may have private addresses: the API's own (a gateway, or
            the simulator).
        allow_private: allow private addresses everywhere.
        resolver: from host name to addresses.
        seconds: how long a fetch may take until the body begins.
        transport: replaces the network, for tests.
        headers: further headers of the request, such as a range.
    """

    trusted_origins: frozenset[Origin] = frozenset()
    allow_private: bool = False
    resolver: Resolver = system_resolver
    seconds: float = FETCH_SECONDS
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def beside(cls, base_url: str, allow_private: bool, transport: httpx.AsyncBaseTransport | None) -> Self:
        """The rules of an account whose API is at `base_url`: that very server may have a private address.

        Args:
            base_url: where the account's API is.
            allow_private: whether every other server may have a private address, too.
            transport: stands in for the network in tests; None is the network.
        """
        try:
            trusted = frozenset({Origin.of(base_url)})
        except httpx.InvalidURL:  # each call will say so
            trusted = frozenset()
        return cls(trusted_origins=trusted, allow_private=allow_private, transport=transport)


@asynccontextmanager
async def fetch(url: str, rules: FetchRules) -> AsyncIterator[httpx.Response]:
    """GET a public URL and hand the answer over before its body is read.

    Args:
        url: an http(s) URL.
        rules: which hosts may be asked, and how.

    Raises:
        ProviderError: the URL is not allowed (not retryable), or no answer came (retryable).
    """
    network = Network()
    client = httpx.AsyncClient(
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        timeout=TIMEOUTS,
        follow_redirects=False,
        transport=rules.transport or network,
        cookies=no_cookies(),
        trust_env=False,  # `Network` reads the environment
    )
    routes = Routes() if rules.transport else network.routes
    async with client:
        response = None
        with anyio.move_on_after(rules.seconds):
            response = await _follow(client, url, rules, routes)
        if response is None:
            raise ProviderError(f"GET {shown_url(url)} had no answer within {rules.seconds:.0f} s.")
        try:
            yield response
        finally:
            await response.aclose()


async def body_of(response: httpx.Response, what: str, bounds: BodyBounds | None = None) -> AsyncIterator[bytes]:
    """The answer's body, piece by piece, within bounds of time; the caller bounds its size.

    Args:
        response: an answer whose body is not read yet.
        what: the download, as errors name it.
        bounds: how long it may take; None for `DOWNLOAD_BOUNDS`.

    Raises:
        ProviderError: the connection broke, the body is too slow, or is encoded in a way nobody asked for; retryable.
    """
    redactor = Redactor([str(response.url), response.url.query.decode()])
    failure: ProviderError
    try:
        decoder = decoder_of(response)
        async with aclosing(_paced(wire_pieces(response), bounds or bodies.DOWNLOAD_BOUNDS, redactor)) as pieces:
            async for piece in pieces:
                for decoded in decoder.decode(piece):
                    yield decoded
        decoder.finish()
    except UnreadableBody as error:
        failure = ProviderError(redactor.clean(f"{what} failed: {error}."))
    except (httpx.HTTPError, ValueError) as error:
        failure = network_failure(error, what, redactor)
    else:
        return
    raise failure


async def _paced(pieces: AsyncIterator[bytes], bounds: BodyBounds, redactor: Redactor) -> AsyncGenerator[bytes, None]:
    """The same pieces, for as long as they come fast enough."""
    ends_at = time.monotonic() + bounds.seconds
    # Only the time that is spent waiting counts: a slow disk of ours is no slow line.
    received, waited = 0, 0.0
    while True:
        began = time.monotonic()
        piece = None
        # The whole window for one piece: httpx's own timeouts start anew with each byte that arrives.
        with anyio.move_on_after(min(bounds.window, ends_at - began)) as waiting, redacted_logs(redactor):
            piece = await anext(pieces, None)
        if waiting.cancelled_caught:
            late = bounds.seconds if ends_at - began < bounds.window else bounds.window
            raise UnreadableBody(f"it was too slow, and given up after {late:g} s")
        if piece is None:
            return
        received, waited = received + len(piece), waited + time.monotonic() - began
        if waited >= bounds.window:
            if received < bounds.min_rate * waited:
                raise UnreadableBody(f"it was too slow: fewer than {bounds.min_rate:g} bytes a second arrived")
            received, waited = 0, 0.0
        yield piece


async def _follow(client: httpx.AsyncClient, url: str, rules: FetchRules, routes: Routes) -> httpx.Response:
    for _ in range(MAX_REDIRECTS + 1):
        target = _checked_target(url, rules)
        by_proxy = routes.proxy_for(target.url) is not None
        addresses = [None] if by_proxy else await _addresses(target, rules)
        response = await _answer(client, target, addresses, rules.headers)
        if not response.has_redirect_location:
            return response
        await response.aclose()
        try:
            url = urljoin(url, response.headers["location"])
        except ValueError:
            raise ProviderError("A redirect leads to a URL that cannot be read.", retryable=False) from None
    raise ProviderError(f"GET {shown_url(url)} was redirected more than {MAX_REDIRECTS} times.", retryable=False)


@dataclass(frozen=True)
class _Target:
    """A URL whose host may be asked by what is known of its name.

    Args:
        url: the URL.
        shown: the URL without what signs it.
        host: its host, in ASCII.
        port: its port, also where it is the scheme's own.
        is_free: whether it may have private addresses.
    """

    url: httpx.URL
    shown: str
    host: str
    port: int
    is_free: bool

    def request(self, client: httpx.AsyncClient, address: str | None, further: Mapping[str, str]) -> httpx.Request:
        """The request for it, to one of its addresses, or by its name, for a proxy."""
        headers = {"Accept-Encoding": "identity", **further}  # media are compressed already
        if address is None:
            return client.build_request("GET", self.url, headers=headers)
        headers["Host"] = self.url.netloc.decode()
        extensions = {"sni_hostname": self.host, DIRECT: True}
        return client.build_request("GET", self.url.copy_with(host=address), headers=headers, extensions=extensions)


async def _answer(
    client: httpx.AsyncClient, target: _Target, addresses: Sequence[str | None], further: Mapping[str, str]
) -> httpx.Response:
    """Ask at the first address that accepts a connection."""
    url = str(target.url)
    query = urlsplit(url).query  # a signature is a secret too
    for number, address in enumerate(addresses, 1):
        try:
            with redacted_logs(Redactor([query])):
                return await client.send(target.request(client, address, further), stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = network_failure(error, f"GET {url}", Redactor([url, query]))
            if number < len(addresses):
                continue
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            failure = network_failure(error, f"GET {url}", Redactor([url, query]))
        break
    raise failure


def _checked_target(url: str, rules: FetchRules) -> _Target:
    try:
        shown = shown_url(url)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        target = httpx.URL(url)
        host = target.raw_host.decode()
    except (ValueError, httpx.InvalidURL):
        raise ProviderError("A URL to fetch cannot be read.", retryable=False) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ProviderError(f"{shown} is not an http or https URL.", retryable=False)
    is_free = rules.allow_private or Origin.of(target) in rules.trusted_origins
    if not is_free and (reason := refusal_of_host(host)) is not None:
        raise _refusal(f"{shown} {reason}.")
    return _Target(target, shown, host, port, is_free)


async def _addresses(target: _Target, rules: FetchRules) -> list[str]:
    """The addresses of a host that may be connected to."""
    try:
        found = await rules.resolver(target.host, target.port)
    except (OSError, UnicodeError) as error:
        raise ProviderError(f"The host of {target.shown} cannot be resolved: {error}.") from None
    allowed = candidates(found, target.is_free)
    if not allowed:
        inside = next((address for address in found if not is_public(address)), "")
        raise _refusal(f"{target.shown} leads to the private address {inside}, which is not allowed.")
    return allowed


def _refusal(reason: str) -> ProviderError:
    return ProviderError(
        reason,
        retryable=False,
        next_step="set PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_PRIVATE_HOSTS=true if that host is meant.",
    )

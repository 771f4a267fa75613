"""Fetching URLs that somebody else chose: results, masks and inputs.

No credential ever travels here, private addresses are refused unless allowed, redirects are few and each one is
checked again, and the address that was checked is the address that is connected to (a second look-up by the HTTP
library could be answered differently).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpx
from typing_extensions import Self

from prefect_genmedia._transport.api import TIMEOUTS, USER_AGENT, network_failure, shared_ssl_context
from prefect_genmedia._transport.redact import Redactor, unsigned_url
from prefect_genmedia.errors import ProviderError

MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and port to its IP addresses."""


async def system_resolver(host: str, port: int) -> list[str]:
    """Ask the operating system for the addresses of `host`.

    Parameters:
        host: its name.
        port: the port that will be asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return sorted(addresses, key=lambda address: ":" in address)  # IPv4 first: only one address is tried


@dataclass(frozen=True)
class FetchRules:
    """What a fetch may do.

    Parameters:
        trusted_hosts: hosts that may have private addresses: the API's own (a gateway, or the simulator).
        allow_private: allow private addresses everywhere.
        resolver: from host name to addresses.
        transport: replaces the network, for tests.
    """

    trusted_hosts: frozenset[str] = frozenset()
    allow_private: bool = False
    resolver: Resolver = system_resolver
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    @classmethod
    def beside(cls, base_url: str, allow_private: bool, transport: httpx.AsyncBaseTransport | None) -> Self:
        """The rules of an account whose API is at `base_url`: its own host may have a private address.

        Parameters:
            base_url: where the account's API is.
            allow_private: whether every other host may have a private address, too.
            transport: stands in for the network in tests; None is the network.
        """
        own_host = urlsplit(base_url).hostname or ""
        return cls(trusted_hosts=frozenset({own_host}), allow_private=allow_private, transport=transport)


@asynccontextmanager
async def fetch(url: str, rules: FetchRules) -> AsyncIterator[httpx.Response]:
    """GET a public URL and hand the answer over before its body is read.

    Parameters:
        url: an http(s) URL.
        rules: which hosts may be asked, and how.

    Raises:
        ProviderError: the URL is not allowed (not retryable), or no answer came (retryable).
    """
    client = httpx.AsyncClient(
        headers={"User-Agent": USER_AGENT},
        timeout=TIMEOUTS,
        verify=shared_ssl_context(),
        follow_redirects=False,
        transport=rules.transport,
    )
    async with client:
        response = await _follow(client, url, rules)
        try:
            yield response
        finally:
            await response.aclose()


async def body_of(response: httpx.Response, what: str) -> AsyncIterator[bytes]:
    """The answer's body, piece by piece.

    Parameters:
        response: an answer whose body is not read yet.
        what: the download, as errors name it.

    Raises:
        ProviderError: the connection broke; retryable.
    """
    failure: ProviderError
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.HTTPError as error:
        failure = network_failure(error, what, Redactor([str(response.url), response.url.query.decode()]))
    else:
        return
    raise failure


async def _follow(client: httpx.AsyncClient, url: str, rules: FetchRules) -> httpx.Response:
    for _ in range(MAX_REDIRECTS + 1):
        request = await _checked_request(client, url, rules)
        response = await _answer(client, request, url)
        if not response.has_redirect_location:
            return response
        await response.aclose()
        try:
            url = urljoin(url, response.headers["location"])
        except ValueError:
            raise ProviderError("A redirect leads to a URL that cannot be read.", retryable=False) from None
    raise ProviderError(f"GET {unsigned_url(url)} was redirected more than {MAX_REDIRECTS} times.", retryable=False)


async def _answer(client: httpx.AsyncClient, request: httpx.Request, url: str) -> httpx.Response:
    failure: ProviderError
    try:
        return await client.send(request, stream=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # A signed URL is a secret too: the error may quote it.
        failure = network_failure(error, f"GET {url}", Redactor([url, urlsplit(url).query]))
    raise failure


async def _checked_request(client: httpx.AsyncClient, url: str, rules: FetchRules) -> httpx.Request:
    try:
        shown = unsigned_url(url)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        target = httpx.URL(url)
        host = target.raw_host.decode()
    except (ValueError, httpx.InvalidURL):
        raise ProviderError("A URL to fetch cannot be read.", retryable=False) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ProviderError(f"{shown} is not an http or https URL.", retryable=False)
    try:
        addresses = await rules.resolver(host, port)
    except (OSError, UnicodeError) as error:
        raise ProviderError(f"The host of {shown} cannot be resolved: {error}.") from None
    if not (rules.allow_private or host in rules.trusted_hosts):
        inside = [address for address in addresses if not _is_public(address)]
        if inside:
            raise ProviderError(
                f"{shown} leads to the private address {inside[0]}, which is not allowed.",
                retryable=False,
                next_step="set PREFECT_INTEGRATIONS_GENMEDIA_ALLOW_PRIVATE_HOSTS=true if that host is meant.",
            )
    address = addresses[0]
    at_address = target.copy_with(host=address)
    return client.build_request(
        "GET", at_address, headers={"Host": target.netloc.decode()}, extensions={"sni_hostname": host}
    )


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and (ip in _NAT64 or ip in _COMPATIBLE):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast

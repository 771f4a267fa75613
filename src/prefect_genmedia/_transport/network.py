"""The way to the network: proxies and certificate authorities, as the environment names them.

There is one decision for API calls and fetches: `Routes.proxy_for` chooses the proxy of a URL, `ssl_context` the
certificates. A proxy is given host names and resolves them itself: an address in place of the name would go into
CONNECT, and TLS would be checked against it.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import httpx

DIRECT = "genmedia_direct"
"""Extension of a request that goes past every proxy: its URL holds the address that was checked."""

CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name certificate authorities in place of those that certifi ships; the first that is set counts."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.\d+")


class UnusableSettings(ValueError):
    """A variable of the environment names a proxy or certificates that cannot be used; nothing was sent."""


@dataclass(frozen=True)
class Routes:
    """Which proxy a URL goes through.

    `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` count, in lower case before upper case. `NO_PROXY` takes
    names (with all names below them), `*.names`, addresses, networks such as `10.0.0.0/8`, each also with a port, and
    `*` for all.

    Args:
        proxies: URLs of proxies by the scheme of what is asked for: `http`, `https` and `all`.
        bypassed: the entries of `NO_PROXY`.
    """

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    bypassed: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Routes:
        """The routes that the environment names, or on macOS and Windows the system."""
        found = urllib.request.getproxies()
        proxies = {scheme: found[scheme] for scheme in ("http", "https", "all") if found.get(scheme)}
        return cls(proxies, tuple(entry for entry in re.split(r"[\s,]+", found.get("no", "")) if entry))

    def scheme_for(self, url: httpx.URL) -> str | None:
        """Which of the proxies a URL goes through: `http`, `https` or `all`; None for a direct connection.

        Args:
            url: an http(s) URL.
        """
        scheme = next((each for each in (url.scheme, "all") if each in self.proxies), None)
        return None if scheme is None or any(_covers(entry, url) for entry in self.bypassed) else scheme

    def proxy_for(self, url: httpx.URL) -> str | None:
        """The proxy that a URL goes through, password included; None for a direct connection.

        Args:
            url: an http(s) URL.
        """
        scheme = self.scheme_for(url)
        return None if scheme is None else self.proxies[scheme]


def _covers(entry: str, url: httpx.URL) -> bool:
    """Whether an entry of `NO_PROXY` covers a URL."""
    scheme, _, rest = entry.rpartition("://")
    if scheme not in ("", "all", url.scheme):
        return False
    host, port = _host_and_port(rest)
    if port is not None and port != (url.port or _DEFAULT_PORTS.get(url.scheme)):
        return False
    asked = url.raw_host.decode()
    network, address = _network(host), _network(asked)
    if network is not None or address is not None:
        return host == "*" or (str(network) == str(address) if port else _contains(network, address))
    name = _ascii(host.lstrip("*.")).rstrip(".")
    return host == "*" or (bool(name) and f".{asked.rstrip('.')}".endswith(f".{name}"))


def _host_and_port(entry: str) -> tuple[str, int | None]:
    if _network(entry) is not None:  # `::1` has no port
        return entry.strip("[]"), None
    host, colon, port = entry.rpartition(":")
    if colon and port.isdecimal():
        return host.strip("[]"), int(port)
    return entry, None


def _ascii(name: str) -> str:
    try:
        return httpx.URL(f"http://{name}").raw_host.decode()
    except httpx.InvalidURL:
        return ""


def _contains(network: _Network | None, address: _Network | None) -> bool:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(address, ipaddress.IPv4Network):
        return address.subnet_of(network)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(address, ipaddress.IPv6Network):
        return address.subnet_of(network)
    return False


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def variable_of(scheme: str) -> str:
    """The variable that names a proxy, as it is written in the environment.

    Args:
        scheme: `http`, `https` or `all`.
    """
    name = f"{scheme}_proxy"
    return name if os.environ.get(name) else name.upper()


def proxy_in_words(url: httpx.URL) -> str:
    """A sentence that names the proxy that a URL goes through, without its password; empty for a direct connection.

    Args:
        url: an http(s) URL.
    """
    routes = Routes.from_environment()
    scheme = routes.scheme_for(url)
    if scheme is None:
        return ""
    return f"It goes through {shown_proxy(routes.proxies[scheme])}, the proxy in {variable_of(scheme)}."


def shown_proxy(value: str) -> str:
    """A proxy's URL without user name and password.

    Args:
        value: as the environment names it; a value without a scheme is an http proxy.
    """
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "a URL that cannot be read"
    at = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{at}{'' if port is None else f':{port}'}"


def usable_proxy(value: str, variable: str) -> httpx.Proxy:
    """The proxy that a variable names.

    Args:
        value: its URL; one without a scheme is an http proxy.
        variable: the variable's name, for errors.

    Raises:
        UnusableSettings: it is no proxy that can be used. The error holds neither user name nor password.
    """
    url = value if "://" in value else f"http://{value}"
    context = ssl_context() if url.startswith("https:") else None
    problem = "is not a URL such as http://proxy.example.com:3128"
    try:
        parts = urlsplit(url)
        if parts.scheme in ("socks5", "socks5h") and find_spec("socksio") is None:
            problem = f"is {shown_proxy(value)}, and SOCKS needs `pip install 'prefect-genmedia[socks]'`"
        elif parts.scheme in _PROXY_SCHEMES and parts.hostname and parts.port != 0:
            return httpx.Proxy(url, ssl_context=context)
    except (ValueError, httpx.InvalidURL):
        pass
    raise UnusableSettings(f"{variable} {problem}")


def ssl_context() -> ssl.SSLContext:
    """The process's one SSL context for the certificates that the environment names: making one takes milliseconds.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` are used together if both are set, else `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`
    (a file or a folder), else what certifi ships.

    Raises:
        UnusableSettings: a variable names what cannot be read as certificates.
    """
    return _context(tuple(os.environ.get(name) or None for name in CA_VARIABLES))


@functools.lru_cache(maxsize=8)
def _context(values: tuple[str | None, ...]) -> ssl.SSLContext:
    chosen = [(name, value) for name, value in zip(CA_VARIABLES, values, strict=True) if value]
    if not chosen:
        return httpx.create_ssl_context(trust_env=False)
    variable, value = chosen[0]
    folders = dict(chosen).get("SSL_CERT_DIR")
    try:
        if variable == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=value, capath=folders)
        if variable != "SSL_CERT_DIR" and Path(value).is_file():
            return ssl.create_default_context(cafile=value)
        if any(Path(folder).is_dir() for folder in value.split(os.pathsep)):
            return ssl.create_default_context(capath=value)
        problem = "does not exist"
    except (OSError, ValueError) as error:  # an SSLError is an OSError: the file holds no certificates
        problem = f"cannot be used: {getattr(error, 'strerror', None) or type(error).__name__}"
    raise UnusableSettings(f"{variable} names {value}, which {problem}")


def has_hashed_names(folders: str) -> bool:
    """Whether OpenSSL finds any certificate in folders: it looks them up by the hash of their subject.

    Args:
        folders: paths, separated as in `PATH`.
    """
    there = (Path(folder) for folder in folders.split(os.pathsep))
    return any(_HASHED_NAME.fullmatch(file.name) for folder in there if folder.is_dir() for file in folder.iterdir())


class Network(httpx.AsyncBaseTransport):
    """Sends each request directly or through its proxy; the environment is read when it is made.

    Args:
        limits: of the connections, for each proxy and for direct ones.
    """

    def __init__(self, limits: httpx.Limits | None = None) -> None:
        """Open no connection yet."""
        self.routes = Routes.from_environment()
        self._limits = limits or httpx.Limits()
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Args:
            request: the request.

        Raises:
            UnusableSettings: the environment names a proxy or certificates that cannot be used.
            httpx.TransportError: the exchange failed.
        """
        scheme = None if request.extensions.get(DIRECT) else self.routes.scheme_for(request.url)
        return await self._through(scheme).handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()

    def _through(self, scheme: str | None) -> httpx.AsyncHTTPTransport:
        if scheme not in self._transports:
            proxy = None if scheme is None else usable_proxy(self.routes.proxies[scheme], variable_of(scheme))
            self._transports[scheme] = httpx.AsyncHTTPTransport(
                verify=ssl_context(), trust_env=False, limits=self._limits, proxy=proxy
            )
        return self._transports[scheme]

"""Which hosts may be asked for a URL that somebody else chose."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import httpx

MAX_ADDRESSES = 6
"""How many addresses of one host are tried, at most: each may take a connect timeout."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

# IPv6 addresses that are routed on the internet. Outside of it are loopback, link-local, unique local, site-local and
# multicast addresses, IPv4-compatible ones, and the local NAT64 prefix 64:ff9b:1::/48.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# The well-known NAT64 prefix: behind a DNS64, every IPv4 host has such an address.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments, among them Teredo, which holds IPv4 addresses
        "2002::/16",  # 6to4, which holds IPv4 addresses
        "2001:db8::/32",
        "3fff::/20",
        "192.0.0.0/24",  # protocol assignments, among them a cloud's metadata (192.0.0.192)
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's host agent, reachable from its machines only
    )
)
# Addresses of the benchmark network. Local proxies (Clash, sing-box and others) answer DNS with them, and lead what
# connects to one to the host whose name was asked for.
_FAKE_IP = ipaddress.ip_network("198.18.0.0/15")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

# Names that stand for this machine or a private network, whatever resolves them: special-use names (RFC 6761, 6762,
# 8375), `internal`, and what routers and clusters use. All names without a dot are private, too.
_PRIVATE_ZONES = (
    *("localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa"),
    *("metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com", "metadata.google.com"),
)
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Origin(NamedTuple):
    """Where a URL leads to: scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str | httpx.URL) -> Origin:
        """The origin of a URL; a port that is not named is the scheme's own.

        Args:
            url: an http(s) URL.

        Raises:
            httpx.InvalidURL: it cannot be read.
        """
        parts = httpx.URL(url)
        return cls(parts.scheme, parts.raw_host.decode(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0))


def refusal_of_host(host: str) -> str | None:
    """Why a URL's host is not asked, before it is resolved; None if it may be.

    A proxy resolves names by itself, so that what is known of a name alone must be decided here.

    Args:
        host: in ASCII and lower case, without brackets.
    """
    if ":" in host or is_address(host):
        return None if is_public(host) else f"leads to the private address {host}, which is not allowed"
    name = host.removesuffix(".")
    last = name.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        return "writes an IPv4 address in another way than as four decimal numbers, which is not allowed"
    if not _HOST_NAME.fullmatch(name):
        return "has a host that is no name"
    if "." not in name or any(name == zone or name.endswith(f".{zone}") for zone in _PRIVATE_ZONES):
        return "names a host of a private network, not a public address, which is not allowed"
    return None


def is_address(host: str) -> bool:
    """Whether a host is an IP address in its usual form.

    Args:
        host: a URL's host, without brackets.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_fake_ip(address: str) -> bool:
    """Whether an address is one that fake-IP resolvers give: it stands for the name that it was the answer to.

    Args:
        address: an IP address that DNS has answered; a URL that holds such an address is not allowed.
    """
    try:
        return ipaddress.ip_address(address) in _FAKE_IP
    except ValueError:
        return False


def candidates(addresses: Sequence[str], is_free: bool = False) -> list[str]:
    """Which of a name's addresses are connected to, in the order in which they are tried: the families take turns.

    Args:
        addresses: all that DNS has answered.
        is_free: whether private addresses are allowed.

    Returns:
        At most `MAX_ADDRESSES`; none if a private one is among them. Where a fake-IP resolver has answered, its
        addresses alone count: some give a private IPv6 address beside them.
    """
    fake = [address for address in addresses if is_fake_ip(address)]
    if not is_free:
        if not fake and not all(map(is_public, addresses)):
            return []
        addresses = fake or addresses
    families = ([each for each in addresses if ":" not in each], [each for each in addresses if ":" in each])
    in_turns = (address for pair in zip_longest(*families) for address in pair if address is not None)
    return list(dict.fromkeys(in_turns))[:MAX_ADDRESSES]


def is_public(address: str) -> bool:
    """Whether an IP address leads to the internet, and not to this machine, its network, or a way into one.

    Args:
        address: an IPv4 or IPv6 address. One with a zone is of this machine's links.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
        if ip not in _GLOBAL_UNICAST or (int(ip) >> 32) & 0xFFFF_FFFF in _ISATAP:
            return False
    if any(ip.version == network.version and ip in network for network in _NOT_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved

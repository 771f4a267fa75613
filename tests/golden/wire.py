"""Host names that lead to a local server: a ledger holds base URLs with their hosts, and they must not be rewritten.

It is done where connections are opened, in the library that httpx is built on: nothing of the package is replaced, what
travels is real HTTP, and what identities are made of stays as it was spelled.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpcore

PROVIDER = "provider.golden.test"
ADDRESS = "127.77.0.1"
"""What the name is resolved to, for downloads: they connect to the address that they have checked."""


@contextmanager
def leading_to(url: str) -> Iterator[None]:
    """Let connections to the host `PROVIDER`, at any port, go to the server at `url` while the block runs."""
    server = urlsplit(url)
    backend: Any = httpcore.AnyIOBackend
    connect, look_up = backend.connect_tcp, socket.getaddrinfo

    async def connect_tcp(self: Any, host: str, port: int, **options: Any) -> Any:
        if host in (PROVIDER, ADDRESS):
            host, port = server.hostname or "", server.port or 80
        return await connect(self, host, port, **options)

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        return look_up(ADDRESS if host == PROVIDER else host, *rest, **options)

    backend.connect_tcp, socket.getaddrinfo = connect_tcp, getaddrinfo
    try:
        yield
    finally:
        backend.connect_tcp, socket.getaddrinfo = connect, look_up

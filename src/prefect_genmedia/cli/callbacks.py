"""`prefect-genmedia callbacks`: the receiver as a process."""

from __future__ import annotations

import asyncio
import socket

import h11
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_genmedia.callbacks.app import callback_receiver
from prefect_genmedia.cli.listening import listening_socket
from prefect_genmedia.errors import InvalidRequest

REQUEST_SECONDS = 10.0
"""How long a request may take from the connection, or its first byte, until it has arrived as a whole, in seconds."""

HEADER_BYTES = 16 * 1024
"""The most that a request's line and headers may hold."""

MOST_CONNECTIONS = 200
"""Connections at once; further ones are answered 503."""


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 that cuts a connection whose request does not arrive in time: uvicorn itself waits for ever."""

    request_seconds = REQUEST_SECONDS

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrower: TCP
        """Wait for the first request from now on.

        Args:
            transport: the connection.
        """
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; the next one must have arrived in time, too.

        Args:
            data: the bytes.
        """
        self._watch()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.request_seconds, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def serve_callbacks(host: str, port: int, console: Console) -> int:
    """Serve until interrupted; returns the exit status.

    Args:
        host: address to listen on.
        port: port to listen on.
        console: where to say what happens.
    """
    try:
        app = callback_receiver()
    except InvalidRequest as error:
        console.print(f"[red]{error.message}[/]")
        return 2
    serve_app(app, listening_socket(host, port))
    return 0


def serve_app(app: Starlette, bound: socket.socket) -> None:
    """Serve an application until interrupted.

    Args:
        app: the application.
        bound: what it listens on.
    """
    # Access logs would hold the tokens of the paths.
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        http=DeadlineProtocol,
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        limit_concurrency=MOST_CONNECTIONS,
    )
    uvicorn.Server(config).run([bound])

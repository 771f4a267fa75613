"""Serving the simulator on loopback: in a thread for tests, or as a process for the command line."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_genmedia.simulator.app import build_app, installed_dialects
from prefect_genmedia.simulator.dialect import Dialect
from prefect_genmedia.simulator.faults import Fault
from prefect_genmedia.simulator.media import CLIP
from prefect_genmedia.simulator.world import DEFAULT_KEY, Settings, World


@dataclass(frozen=True)
class RunningSimulator:
    """A simulator that is up in this process.

    Args:
        url: its root, such as `http://127.0.0.1:40123`.
        world: its memory, to look into and to change.
        prefixes: the path of each dialect's base URL, by the provider's name.
    """

    url: str
    world: World
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def base_url(self, provider: str) -> str:
        """The base URL for a provider's credentials Block.

        Args:
            provider: the provider's name.

        Raises:
            KeyError: the simulator does not speak its dialect.
        """
        return self.url + self.prefixes[provider]

    def __getattr__(self, name: str) -> str:
        """`NAME_url`, such as `acme_url`: the same as `base_url("acme")`."""
        provider, _, ending = name.rpartition("_")
        if ending != "url" or provider not in self.__dict__.get("prefixes", {}):
            raise AttributeError(name)
        return self.base_url(provider)

    @property
    def key(self) -> str:
        """A key that it accepts."""
        return DEFAULT_KEY

    @property
    def portrait_url(self) -> str:
        """A photograph of two people."""
        return f"{self.url}/assets/portrait.jpg"

    @property
    def inbox_url(self) -> str:
        """Where files can be put for the providers to fetch: a `publish_url`."""
        return f"{self.url}/inbox"

    @property
    def speech_url(self) -> str:
        """A recording of seven seconds."""
        return f"{self.url}/assets/speech.mp3"

    @property
    def clip_url(self) -> str:
        """A video of three seconds with sound."""
        return f"{self.url}/assets/{CLIP}"

    def order(self, fault: str, times: int = 1, provider: str | None = None, **options: float) -> Fault:
        """Let a fault strike; its `times` tells how often it still will."""
        ordered = Fault(fault, provider, times, options)
        self.world.faults.order(ordered)
        return ordered

    @property
    def accepted(self) -> int:
        """How many jobs were accepted: what would have been paid."""
        return len(self.world.jobs) + len(self.world.overwritten)


def make_server(
    world: World,
    host: str = "127.0.0.1",
    port: int = 0,
    dialects: tuple[type[Dialect], ...] | None = None,
) -> uvicorn.Server:
    """A server over a world; connections can be cut by the world."""
    connections: dict[tuple[str, int], asyncio.Transport] = {}

    class CuttableProtocol(H11Protocol):
        """Keeps each connection at hand by its peer's address, so that a fault can cut it without an answer."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrower: TCP
            super().connection_made(transport)
            connections[transport.get_extra_info("peername")[:2]] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                connections.pop(self.client, None)
            super().connection_lost(exc)

    def drop(request: Request) -> None:
        if request.client is not None:
            connections[(request.client.host, request.client.port)].abort()

    world.drop = drop
    config = uvicorn.Config(
        build_app(world, installed_dialects() if dialects is None else dialects),
        host=host,
        port=port,
        http=CuttableProtocol,
        log_level="error",
        lifespan="off",
        timeout_keep_alive=60,  # longer than clients keep theirs: only faults cut a connection that is in use
    )
    return uvicorn.Server(config)


def bound_url(server: uvicorn.Server) -> str:
    """The address a started server listens on."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(world: World, bound: socket.socket, announce: Any) -> None:
    """Serve until interrupted; `announce` is called with the address once it is up."""
    server = make_server(world)
    serving = asyncio.create_task(server.serve([bound]))
    await _until_up(server, serving)
    if server.started:
        world.base_url = bound_url(server)
        announce(world.base_url)
    await serving


async def _until_up(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells by an attribute only
        await asyncio.sleep(0.01)


@contextmanager
def run_simulator(
    settings: Settings | None = None,
    keys: frozenset[str] | None = None,
    dialects: tuple[type[Dialect], ...] | None = None,
) -> Iterator[RunningSimulator]:
    """Run a simulator in a thread of this process, on a free loopback port, until the block ends.

    Args:
        settings: how the simulated providers behave.
        keys: the API keys that are accepted.
        dialects: the providers that are simulated; None for those of all installed plug-ins.
    """
    spoken = installed_dialects() if dialects is None else dialects
    world = World(settings or Settings(), keys or frozenset({DEFAULT_KEY}))
    up = threading.Event()
    server: list[uvicorn.Server] = []

    async def work() -> None:
        server.append(make_server(world, dialects=spoken))
        serving = asyncio.create_task(server[0].serve())
        await _until_up(server[0], serving)
        up.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(work()), name="simulator", daemon=True)
    thread.start()
    up.wait(120)
    world.base_url = bound_url(server[0])
    try:
        yield RunningSimulator(world.base_url, world, {dialect.name: dialect.prefix for dialect in spoken})
    finally:
        server[0].should_exit = True
        thread.join(15)

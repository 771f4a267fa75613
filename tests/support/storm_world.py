"""The provider of the kill storm: a simulator in a process of its own that counts, and proxies that can be cut.

`python storm_world.py KEYS` prints its address. Beside the simulator's endpoints it has `/storm/accepted`, which tells
the ids of the jobs that were accepted with a prompt: what a person would see in the provider's console.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_genmedia.simulator.faults import Fault
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.server import bound_url, make_server
from prefect_genmedia.simulator.world import Settings, World

ANSWER_SECONDS = 0.1
"""From the acceptance of a submission to its answer: the window in which nobody but the provider can know."""

REQUEST_SECONDS = 4.5
"""A connection whose request is not complete by then is closed, as servers do (nginx: after 60 s). As in earnest, a
person may decide about a stuck submission only later."""

PIECES, PIECE_SECONDS = 20, 0.015
"""A proxy hands over a file in so many pieces, with this pause between them, so that there is a middle to cut."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def key_of(number: int) -> str:
    """The API key of a trial's account."""
    return f"sk-storm-{number}"


class QuickWorld(World):
    """A provider that renders no pictures."""

    async def _rendered(self, recipe: Recipe) -> bytes:
        """A video of five frames: five seconds long, and decoded in no time."""
        return await super()._rendered(Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))


def impatient(protocol: type[H11Protocol]) -> type[H11Protocol]:
    """The protocol, with `REQUEST_SECONDS`."""

    class Impatient(protocol):  # type: ignore[misc, valid-type] # a class that is only known now
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(REQUEST_SECONDS, self._close_if_incomplete)

        def _close_if_incomplete(self) -> None:
            if self.cycle is None or self.cycle.more_body:
                self.transport.abort()

    return Impatient


def with_console(world: World, app: App) -> App:
    """The simulator's application, and what the storm asks beside it."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/storm/accepted":
            prompt = Request(scope).query_params["prompt"]
            ids = [job.id for job in world.jobs.values() if job.body.get("prompt") == prompt]
            await JSONResponse(ids)(scope, receive, send)
            return
        await app(scope, receive, send)

    return serve


async def main(keys: int) -> None:
    world = QuickWorld(Settings(queue_seconds=0.05, run_seconds=0.1), frozenset(map(key_of, range(keys))))
    world.faults.order(Fault("accept_slowly", None, 10**9, {"seconds": ANSWER_SECONDS}))
    server = make_server(world)
    server.config.app = with_console(world, server.config.app)  # type: ignore[arg-type] # an ASGI application
    server.config.http = impatient(server.config.http)  # type: ignore[arg-type] # make_server gives a class
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # clients that were killed are no news
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    world.base_url = bound_url(server)
    sys.stdout.write(f"{world.base_url}\n")
    sys.stdout.flush()
    await serving


@dataclass
class Partition:
    """A proxy before the simulator that loses the network once, in the middle of the first download.

    Args:
        upstream: host and port of the simulator.
        after: which share of the file has arrived by then.
        seconds: how long the network is away.
        how: `silent`: nothing is forwarded any more. `cut`: connections break, and new ones are refused.
    """

    upstream: tuple[str, int]
    after: float
    seconds: float
    how: Literal["silent", "cut"]
    happened: bool = field(default=False, init=False)
    _healed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _server: asyncio.Server | None = field(default=None, init=False)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set, init=False)

    async def open(self) -> str:
        """Listen; returns the root URL."""
        self._healed.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def close(self) -> None:
        """End every connection."""
        assert self._server is not None
        self._server.close()
        self._break()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._healed.is_set() and self.how == "cut":
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)
        mine = {writer, upstream_writer}
        self._writers |= mine
        is_file = [False]
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(
                    self._forward(reader, upstream_writer, is_file), self._dribble(upstream_reader, writer, is_file)
                )
        finally:
            self._writers -= mine
            for each in mine:
                each.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_file: list[bool]) -> None:
        while content := await reader.read(65536):
            is_file[0] = b"/content HTTP/" in content.partition(b"\r\n")[0]
            await self._healed.wait()
            writer.write(content)
            await writer.drain()
        writer.close()

    async def _dribble(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_file: list[bool]) -> None:
        while content := await reader.read(1 << 20):
            step = max(len(content) // PIECES, 1) if is_file[0] else len(content)
            for begin in range(0, len(content), step):
                if is_file[0]:
                    await asyncio.sleep(PIECE_SECONDS)
                    self._strike(begin / len(content))
                await self._healed.wait()
                writer.write(content[begin : begin + step])
                await writer.drain()
        writer.close()

    def _strike(self, share: float) -> None:
        if self.happened or share < self.after:
            return
        self.happened = True
        self._healed.clear()
        asyncio.get_running_loop().call_later(self.seconds, self._healed.set)
        if self.how == "cut":
            self._break()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

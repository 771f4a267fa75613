"""The simulator as one ASGI application: the dialects, the files, the shipped media, and the control endpoints."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic_core import to_jsonable_python
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_genmedia.providers.plugin import loaded_parts
from prefect_genmedia.simulator.dialect import Dialect
from prefect_genmedia.simulator.faults import STAGES, Fault, broken_answer, broken_file, fault_from
from prefect_genmedia.simulator.media import ASSETS, CLIP, asset
from prefect_genmedia.simulator.world import StoredFile, World


def installed_dialects() -> tuple[type[Dialect], ...]:
    """The dialects of the provider plug-ins that have one."""
    return tuple(loaded_parts("simulator").values())


MAX_UPLOAD_BYTES = 100 * 1024**2
"""The largest file that the inbox takes."""

_MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".md": "text/markdown",
}


def build_app(world: World, dialects: tuple[type[Dialect], ...]) -> Starlette:
    """The application over one world, speaking these dialects."""
    # Threads of their own: a job that is being made holds one of the others while it fetches its inputs from here.
    readers = ThreadPoolExecutor(2, "assets")

    async def files(request: Request) -> Response:
        stored = world.files.get(request.path_params["name"])
        if stored is None or stored.expires_at < time.time():
            return Response("<Error><Code>AccessDenied</Code></Error>", 403, media_type="application/xml")
        fault = world.faults.take(stored.struck_as, stored.stage) if stored.struck_as else None
        if fault is None:
            return Response(stored.content, media_type=stored.media_type)
        return await _struck(world, fault, stored, request)

    async def assets(request: Request) -> Response:
        path = ASSETS / request.path_params["name"]
        if path.name != CLIP and (path.parent != ASSETS or not path.is_file()):
            return Response(status_code=404)
        world.input_requests[path.name] += 1
        fault = world.faults.take("", "input")
        broken = await broken_answer(fault, request, world.drop) if fault else None
        if broken is not None:
            return broken
        content = await asyncio.get_running_loop().run_in_executor(readers, asset, path.name)
        return Response(content, media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"))

    routes: list[BaseRoute] = [dialect(world).routes() for dialect in dialects]
    routes += [
        Route("/files/{name}", files),
        Route("/assets/{name}", assets),
        Route("/inbox/{name}", _inbox(world), methods=["GET", "PUT"]),
        *_control(world),
    ]
    return Starlette(routes=routes, middleware=[Middleware(EncodedPaths)])


async def _struck(world: World, fault: Fault, stored: StoredFile, request: Request) -> Response:
    """The answer for a file that a fault strikes."""
    if fault.name == "content_gone":
        return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
    if fault.name == "content_redirect":
        return world.redirect_answer(stored.content)
    if fault.name in ("content_json", "content_json_expired"):
        return JSONResponse(world.url_answer(stored.content, expired=fault.name == "content_json_expired"))
    if fault.name == "content_json_text":
        return world.plain_answer(stored.content)
    return await broken_file(fault, stored.content, stored.media_type, request, world.drop)


class EncodedPaths:
    """Gives the routes each path as it was sent: an encoded slash in an id is no separator."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        await self.app(scope, receive, send)


def _inbox(world: World) -> Callable[[Request], Awaitable[Response]]:
    """Takes files by PUT and serves them, as an upload server of the user's."""

    async def inbox(request: Request) -> Response:
        name = request.path_params["name"]
        if request.method == "PUT":
            fault = world.faults.take("", "upload")
            broken = await broken_answer(fault, request, world.drop) if fault else None
            if broken is not None:
                return broken
            content = bytearray()
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_UPLOAD_BYTES:
                    return Response(status_code=413)
            world.inbox[name] = bytes(content)
            return Response(status_code=201)
        stored = world.inbox.get(name)
        if stored is None:
            return Response(status_code=404)
        ending = name[name.rfind(".") :] if "." in name else ""
        return Response(stored, media_type=_MEDIA_TYPES.get(ending, "application/octet-stream"))

    return inbox


def _rotating(world: World) -> Callable[[Request], Awaitable[Response]]:
    async def rotate_key(request: Request) -> Response:
        wanted: dict[str, str] = await request.json()
        if wanted.get("old") not in world.keys or not wanted.get("new"):
            return JSONResponse({"error": "give an accepted key as old, and a new one"}, 400)
        world.rotate_key(wanted["old"], wanted["new"])
        return JSONResponse({"rotated": True})

    return rotate_key


def _control(world: World) -> list[BaseRoute]:
    async def report(request: Request) -> Response:
        return JSONResponse(world.report())

    async def list_faults(request: Request) -> Response:
        return JSONResponse(STAGES)

    async def order_fault(request: Request) -> Response:
        try:
            world.faults.order(fault_from(await request.json()))
        except (KeyError, ValueError, TypeError) as error:
            return JSONResponse({"error": f"not a fault: {error}"}, 400)
        return JSONResponse({"pending_faults": [fault.name for fault in world.faults.pending()]})

    async def change_settings(request: Request) -> Response:
        changes: dict[str, Any] = await request.json()
        known = {field.name for field in dataclasses.fields(world.settings)}
        unknown = set(changes) - known
        if unknown:
            return JSONResponse({"error": f"no such settings: {', '.join(sorted(unknown))}"}, 400)
        for name, value in changes.items():
            setattr(world.settings, name, value)
        return JSONResponse(to_jsonable_python(dataclasses.asdict(world.settings)))

    async def reset(request: Request) -> Response:
        world.reset()
        return JSONResponse({"reset": True})

    return [
        Route("/control/report", report, methods=["GET"]),
        Route("/control/faults", list_faults, methods=["GET"]),
        Route("/control/faults", order_fault, methods=["POST"]),
        Route("/control/settings", change_settings, methods=["POST"]),
        Route("/control/keys", _rotating(world), methods=["POST"]),
        Route("/control/reset", reset, methods=["POST"]),
    ]

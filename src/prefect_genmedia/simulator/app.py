"""The simulator as one ASGI application: the dialects, the files, the shipped media, and the control endpoints."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_genmedia.simulator.faults import STAGES, fault_from
from prefect_genmedia.simulator.media import ASSETS, asset
from prefect_genmedia.simulator.tokenops import TokenOps
from prefect_genmedia.simulator.world import World

DIALECTS = (TokenOps,)
"""The providers that are simulated; a new one is added here."""

_MEDIA_TYPES = {".jpg": "image/jpeg", ".mp3": "audio/mpeg", ".json": "application/json", ".md": "text/markdown"}


def build_app(world: World) -> Starlette:
    """The application over one world."""

    async def files(request: Request) -> Response:
        stored = world.files.get(request.path_params["name"])
        if stored is None or stored.expires_at < time.time():
            return Response("<Error><Code>AccessDenied</Code></Error>", 403, media_type="application/xml")
        return Response(stored.content, media_type=stored.media_type)

    async def assets(request: Request) -> Response:
        path = ASSETS / request.path_params["name"]
        if path.parent != ASSETS or not path.is_file():
            return Response(status_code=404)
        return Response(asset(path.name), media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"))

    routes: list[BaseRoute] = [dialect(world).routes() for dialect in DIALECTS]
    routes += [
        Route("/files/{name}", files),
        Route("/assets/{name}", assets),
        *_control(world),
    ]
    return Starlette(routes=routes)


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
        return JSONResponse(dataclasses.asdict(world.settings))

    async def reset(request: Request) -> Response:
        world.reset()
        return JSONResponse({"reset": True})

    return [
        Route("/control/report", report, methods=["GET"]),
        Route("/control/faults", list_faults, methods=["GET"]),
        Route("/control/faults", order_fault, methods=["POST"]),
        Route("/control/settings", change_settings, methods=["POST"]),
        Route("/control/reset", reset, methods=["POST"]),
    ]

"""The viewer: an address for each delivered file, for playback in a browser. `prefect-genmedia serve` runs it.

A local file is sent in the ranges that players request. For a file in a bucket, the browser is redirected to a URL that
is signed for this request; no signed URL is ever stored. Everyone who can reach the viewer can watch the ledger's
files, just as everyone who can reach the Prefect UI can see its artifacts: apply the same access control to both.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._prefect.links import POSTER
from prefect_genmedia._prefect.targets import SCHEME, target_of
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.inputs import local_path
from prefect_genmedia.settings import current_settings

SIGNED_SECONDS = 3600
"""How long the signed URL of a redirect is valid, in seconds: longer than the duration of any result."""

SIGNING_SECONDS = 20.0
"""Timeout for opening a storage and signing a URL, in seconds."""

_HEADERS = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'",
}

_TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg"}
"""Served file suffixes and their media types: only results and their poster frames."""

logger = logging.getLogger(__name__)


def viewer_app(ledger_url: str) -> Starlette:
    """Returns the viewer as an ASGI application, to serve or to mount.

    Args:
        ledger_url: the ledger that has the location of each job's files.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_ledger(ledger_url):  # keeps its connections between requests
            yield

    async def watch(request: Request) -> Response:
        async with open_ledger(ledger_url) as ledger:
            job = await ledger.get(request.path_params["key"])
        uri = _uri_of(job, request.path_params.get("part", "1"))
        return _absent("There is no such file.") if uri is None else await _sent(uri)

    async def health(request: Request) -> Response:
        return JSONResponse({"healthy": True})

    return Starlette(
        routes=[
            Route("/files/{key}", watch, methods=["GET"]),
            Route("/files/{key}/{part}", watch, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


def viewer() -> Starlette:
    """Returns the viewer of the ledger in the settings."""
    return viewer_app(current_settings().ledger)


def _uri_of(job: Job | None, part: str) -> str | None:
    """Returns the path or URL of one of a job's delivered files (by its number from 1), or of its poster frame."""
    if job is None or job.state is not JobState.DELIVERED or job.delivery is None:
        return None
    if part == POSTER:
        return job.delivery.poster_uri
    files: tuple[Delivery, ...] = (job.delivery, *job.delivery.others)
    known = {str(number): each.uri for number, each in enumerate(files, 1)}
    return known.get(part)


async def _sent(uri: str) -> Response:
    media_type = _TYPES.get(Path(uri).suffix.lower())
    if media_type is None:
        return _absent("There is no such file.")
    path = None if uri.startswith(SCHEME) else local_path(uri)
    if path is None:
        return await _redirected(uri)
    if not await to_thread.run_sync(path.is_file):
        return _absent("The file is not on this machine: run `prefect-genmedia serve` where the results are.")
    return FileResponse(path, media_type=media_type, headers=_HEADERS)


async def _redirected(uri: str) -> Response:
    """Redirect to a signed URL, which appears only in the response header."""
    folder, _, name = uri.rpartition("/")
    signed: str | None = None
    try:
        with anyio.fail_after(SIGNING_SECONDS):
            storage = (await target_of(folder)).storage
            sign = getattr(storage, "signed_url", None)
            if sign is not None:
                signed = await to_thread.run_sync(sign, name, SIGNED_SECONDS, abandon_on_cancel=True)
    except (GenMediaError, TimeoutError, OSError) as error:  # a storage's message may contain the request
        logger.warning("A file cannot be signed: %s", type(error).__name__)
        return PlainTextResponse("The storage does not answer now.", status_code=503, headers=_HEADERS)
    if signed is None:
        return _absent("The storage cannot sign URLs. Serve its files, and set public_base_url.")
    return RedirectResponse(signed, status_code=307, headers=_HEADERS)


def _absent(words: str) -> Response:
    return PlainTextResponse(words, status_code=404, headers=_HEADERS)

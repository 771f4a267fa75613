"""Hearing from a provider that a job is done, in place of asking: the receiver of its callbacks.

A callback is a hint and never a result: it is unsigned, so all that it does is to let the waiting task look at once.
Its path holds a token that only whoever knows the callback secret can make, one for each job, so nobody else can even
hint. HiDream documents: a POST at the end, 200 wanted within 5 seconds, at most 3 tries (docs/providers/hidream.md).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.ledger import Ledger, open_ledger
from prefect_genmedia.jobs.model import Job

logger = logging.getLogger(__name__)

KNOWN = {"received": True, "known": True}
MAX_BODY_BYTES = 256 * 1024
"""A callback says what happened, and carries no media."""

Heard = Callable[[Job, str], Awaitable[None]]
"""Awaited with the job as it was, and the provider's words for its parts, each time a callback for it comes; after the
provider has its answer, so that it may take its time. The first time the job has no `notified_at` yet."""


def callback_token(secret: str, job_key: str) -> str:
    """The token that a job's callback must bring: 128 bits that only the secret's owner can make.

    Parameters:
        secret: the receiver's secret, from the settings.
        job_key: the job's key in the ledger.
    """
    return hmac.new(secret.encode(), job_key.encode(), hashlib.sha256).hexdigest()[:32]


def callback_url(public_url: str, secret: str, job: Job) -> str:
    """Where a provider shall POST when the job ends.

    Parameters:
        public_url: how the provider reaches the receiver, such as `https://callbacks.example.com`.
        secret: the callback secret.
        job: the job it is about.
    """
    return f"{public_url.rstrip('/')}/callbacks/{job.provider}/{job.key}/{callback_token(secret, job.key)}"


def callback_app(ledger_url: str, secret: str, heard: Heard | None = None, clock: Clock = SYSTEM_CLOCK) -> Starlette:
    """The receiver, as an ASGI application to serve or to mount.

    Parameters:
        ledger_url: the ledger to record callbacks in; PostgreSQL where the receiver runs on another machine.
        secret: the callback secret, the same as the workers have.
        heard: told of each callback.
        clock: the time to write down.
    """
    ledgers: list[Ledger] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_ledger(ledger_url, clock) as ledger:
            ledgers.append(ledger)
            yield

    async def receive(request: Request) -> Response:
        provider, key, token = (request.path_params[name] for name in ("provider", "key", "token"))
        # In constant time: how long a wrong token takes to refuse tells nothing about the right one.
        if not hmac.compare_digest(token.encode(), callback_token(secret, key).encode()):
            return Response(status_code=404)
        body = await _capped_body(request)
        if body is None:
            return Response(status_code=413)
        job = await ledgers[0].get(key)
        if job is None or job.provider != provider:
            # The token is right, so it was one of ours once: nothing to be told again and again.
            return JSONResponse({"received": True, "known": False})
        if job.notified_at is None:
            await ledgers[0].note(job, notified_at=clock.now())
            logger.info("Callback for job %s (%s)", job.provider_job_id, job.key)
        return JSONResponse(KNOWN, background=BackgroundTask(heard, job, _words(body)) if heard is not None else None)

    async def health(request: Request) -> Response:
        return JSONResponse({"healthy": True})

    return Starlette(
        routes=[
            Route("/callbacks/{provider}/{key}/{token}", receive, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


async def _capped_body(request: Request) -> bytes | None:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                return None
    except ClientDisconnect:
        pass  # what came is enough for a hint
    return bytes(body)


def _words(body: bytes) -> str:
    """What a callback says of its parts, cut short: for the event, not for any decision."""
    try:
        payload = json.loads(body)
        parts = payload["sub_task_results"]
        return ", ".join(str(part.get("task_status")) for part in parts)[:200]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""

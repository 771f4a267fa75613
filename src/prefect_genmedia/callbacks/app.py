"""The receiver of callbacks: a provider says that a job is done, and the run that waits or sleeps for it polls at once.

A callback is a hint and never a result: it is unsigned, so it only makes the waiting task poll at once.
Its path holds a token that only whoever knows the callback secret can make, one for each job, so nobody else can even
hint. The strictest provider wants a 200 within 5 seconds, and tries at most 3 times.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_genmedia._core.callback_url import callback_token
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._prefect.run import emit_job_event
from prefect_genmedia._prefect.suspension import resume_run_of
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.plugin import find_plugin
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import STATUS_CHARACTERS, clean_text, shown_id

logger = logging.getLogger(__name__)

KNOWN = {"received": True, "known": True}
ANSWER_SECONDS = 4.0
"""A callback that cannot be written down for so long is refused, so that a provider that waits for 5 s comes again."""

MAX_BODY_BYTES = 256 * 1024
"""A callback says what happened, and carries no media."""

MOST_CALLBACKS = 6
"""How many callbacks of one job are worked on within `REPLAY_SECONDS`; further ones are answered, and do nothing.
Providers document 3 tries at most."""

REPLAY_SECONDS = 600.0

REMEMBERED_JOBS = 10_000
"""Of how many jobs the callbacks are counted: those that called last."""

OnCallback = Callable[[Job, str], Awaitable[None]]
"""Awaited with the job as it was, and the provider's words for its state, each time a callback for it comes; after the
provider has its answer, so that it may take its time. The first time the job has no `notified_at` yet."""


def callback_app(
    ledger_url: str, secret: str, heard: OnCallback | None = None, clock: Clock = SYSTEM_CLOCK
) -> Starlette:
    """The receiver, as an ASGI application to serve or to mount; `callback_receiver` also notifies Prefect.

    Args:
        ledger_url: the ledger to record callbacks in; PostgreSQL where the receiver runs on another machine.
        secret: the callback secret, the same as the workers have.
        heard: called for each callback.
        clock: the time to write down.
    """

    counted = _Counted(clock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Served by itself, it keeps the connections between callbacks. A mounted app's lifespan is run by nobody.
        async with open_ledger(ledger_url, clock):
            yield

    async def receive(request: Request) -> Response:
        provider, key, token = (request.path_params[name] for name in ("provider", "key", "token"))
        # In constant time: how long a wrong token takes to refuse tells nothing about the right one.
        if not hmac.compare_digest(token.encode(), callback_token(secret, key).encode()):
            return Response(status_code=404)
        if not counted.take(key):
            return JSONResponse(KNOWN)
        with anyio.move_on_after(ANSWER_SECONDS):
            body = await _capped_body(request)
            if body is None:
                return Response(status_code=413)
            words, named = _words(provider, body), _job_id(provider, body)
            async with open_ledger(ledger_url, clock) as ledger:
                job = await _record(ledger, provider, key, words, named, clock.now())
            if job is None:
                # The token is right, so it was one of ours once: nothing to be told again and again.
                return JSONResponse({"received": True, "known": False})
            return JSONResponse(KNOWN, background=BackgroundTask(heard, job, words) if heard is not None else None)
        logger.warning("A callback for job %s could not be written down in time", key)
        return Response(status_code=503)  # the provider tries again

    async def health(request: Request) -> Response:
        return JSONResponse({"healthy": True})

    return Starlette(
        routes=[
            Route("/callbacks/{provider}/{key}/{token}", receive, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


class _Counted:
    """Counts each job's callbacks, so that one that is replayed costs no more than its answer.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        """Count nothing yet."""
        self._clock = clock
        self._jobs: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Count a callback of a job; False where it is one too many."""
        now = self._clock.monotonic()
        begun, number = self._jobs.pop(key, (now, 0))
        if now - begun >= REPLAY_SECONDS:
            begun, number = now, 0
        self._jobs[key] = (begun, min(number + 1, MOST_CALLBACKS))
        if len(self._jobs) > REMEMBERED_JOBS:
            self._jobs.popitem(last=False)
        return number < MOST_CALLBACKS


async def _record(ledger: Ledger, provider: str, key: str, words: str, named: str | None, now: float) -> Job | None:
    """Write the first callback of a job down; the job as it was before, None where it is about no such job."""
    status = {"provider_status": words} if words else {}
    while (job := await ledger.get(key)) is not None and job.provider == provider:
        if named is not None and job.provider_job_id is not None and named != job.provider_job_id:
            logger.warning("A callback for job %s names another job of %s, %s: ignored", key, provider, shown_id(named))
            return None
        if job.notified_at is not None:
            return job
        # None where the job has left its state in between: its acceptance may be written down at this very moment.
        if await ledger.note(job, notified_at=now, **status) is not None:
            logger.info("Callback for job %s (%s)", job.shown_id, job.key)
            return job
    return None


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


def _words(provider: str, body: bytes) -> str:
    """What a callback says of the job, clean and cut short: for people to read, not for any decision."""
    try:
        plugin = find_plugin(provider)
        read = plugin.callback_words if plugin is not None else None
        return clean_text(str(read(json.loads(body))), STATUS_CHARACTERS) if read is not None else ""
    except Exception:  # no JSON, or not what the plug-in expects: the callback is recorded without words
        logger.debug("A callback of %s says nothing that is understood", provider)
        return ""


def _job_id(provider: str, body: bytes) -> str | None:
    """The provider's id of the job that a callback is about; None where it names none that is understood."""
    try:
        plugin = find_plugin(provider)
        read = plugin.callback_job_id if plugin is not None else None
        return read(json.loads(body)) if read is not None else None
    except Exception:  # no JSON, or not what the plug-in expects
        return None


def callback_receiver() -> Starlette:
    """The receiver as an ASGI application, to serve or to mount; `prefect-genmedia callbacks` serves this one.

    It writes to the ledger of the settings, and sends events to the Prefect server of `PREFECT_API_URL`. If it is
    mounted at `/genmedia`, the setting `callback_url` must end in `/genmedia`, too. Keep its paths out of access logs:
    they contain the jobs' tokens.

    Raises:
        InvalidRequest: the setting `callback_secret` is not set.
    """
    settings = current_settings()
    if settings.callback_secret is None:
        problem = "set PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET to a long random text first"
        raise InvalidRequest.of("The callback receiver", [FieldProblem("callback_secret", problem)])
    return callback_app(settings.ledger, settings.callback_secret.get_secret_value(), notify_prefect)


async def notify_prefect(job: Job, words: str) -> None:
    """Emit `genmedia.job.notified` for a job's first callback, and wake the run that sleeps for it, if one does.

    Args:
        job: the job as it was when the callback came.
        words: the provider's words for its state.
    """
    if job.notified_at is None:
        emit_job_event("notified", job, provider_status=words)
    await resume_run_of(job)

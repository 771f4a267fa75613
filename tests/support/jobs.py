"""Submitting jobs without a flow: a session around a ledger and a client, with what a test says of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prefect_genmedia import _core
from prefect_genmedia._core import Job, JobSpec, Ledger, RunContext, Session
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest


class _Kept(logging.Handler):
    """Appends each message to a list."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def session(
    ledger: Ledger,
    client: Any,
    *,
    clock: Clock = SYSTEM_CLOCK,
    max_in_flight: int | None = None,
    root_run_id: str | None = None,
    reported: list[str] | None = None,
) -> Session:
    """A session outside of any run; what it logs is appended to `reported`."""
    log = logging.Logger("session")
    log.addHandler(logging.NullHandler() if reported is None else _Kept(reported))
    run = RunContext(root_run_id=root_run_id)
    return Session(client=client, ledger=ledger, run=run, max_in_flight=max_in_flight, log=log, clock=clock)


async def submit_once(
    ledger: Ledger,
    client: Any,
    request: GenerationRequest | PreparedRequest[Any],
    scope: str,
    clock: Clock = SYSTEM_CLOCK,
    **options: Any,
) -> Job:
    """Submit a request, prepared or not; `options` are those of `session`."""
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    spec = JobSpec(prepared.request, scope=scope)
    return await _core.submit_once(session(ledger, client, clock=clock, **options), spec, prepared)


def asking(client: Any) -> Any:
    """What `decide` asks the provider with."""

    @asynccontextmanager
    async def client_for(job: Job) -> AsyncIterator[Any]:
        yield client

    return client_for

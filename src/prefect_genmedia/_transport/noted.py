"""The heads of API answers, for whoever diagnoses an account."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class NotedAnswer:
    """What an answer's head says, for diagnosis.

    Args:
        status: the HTTP status.
        media_type: its Content-Type, without parameters.
        date: its Date header; empty if there is none.
        received_at: when it came, in seconds since 1970.
    """

    status: int
    media_type: str
    date: str
    received_at: float


_NOTED: ContextVar[list[NotedAnswer] | None] = ContextVar("genmedia_noted_answers", default=None)


@contextmanager
def noted_answers() -> Iterator[list[NotedAnswer]]:
    """Note the head of each API answer that is received inside; yields the list that they are added to."""
    noted: list[NotedAnswer] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def note(response: httpx.Response) -> None:
    """Note the head of an answer, where somebody diagnoses.

    Args:
        response: the answer; its body need not be read.
    """
    noted = _NOTED.get()
    if noted is not None:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        noted.append(NotedAnswer(response.status_code, media_type, response.headers.get("date", ""), time.time()))

"""What is checked right before a paid request: after the connection and TLS are there, before its first byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Check = Callable[[], Awaitable[None]]
"""Raises an error whose `outcome` is unsent if the request must not be sent any more."""

_EVENT = "send_request_headers.started"

_CHECK: ContextVar[Check | None] = ContextVar("genmedia_before_paid_request", default=None)


@contextmanager
def checked_before_sending(check: Check) -> Iterator[None]:
    """Let each paid request that is made inside be checked.

    Args:
        check: called right before the first byte.
    """
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


async def check_now() -> None:
    """Call the check, if there is one; for transports that have no `trace` extension."""
    check = _CHECK.get()
    if check is not None:
        await check()


async def trace(event: str, info: dict[str, Any]) -> None:
    """httpcore's `trace` extension: an error that is raised here closes the connection with nothing sent.

    Args:
        event: such as `http11.send_request_headers.started`.
        info: what httpcore tells with it.
    """
    request = info.get("request")
    # A proxy's CONNECT comes first, on the same extension: TLS follows, and then the request itself.
    if event.endswith(_EVENT) and getattr(request, "method", b"") != b"CONNECT":
        await check_now()

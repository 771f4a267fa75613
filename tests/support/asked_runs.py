"""Runs that ask a person, for tests that answer in the person's place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from prefect import tags
from test_ask import asking_run


async def asked(work: Callable[[], Awaitable[Any]], tag: str = "") -> tuple[Any, asyncio.Task[Any]]:
    """Begin a run; gives it when it asks."""
    tag = tag or str(uuid4())

    async def tagged() -> Any:
        with tags(tag):
            return await work()

    return await asked_again(tag, asyncio.create_task(tagged()))


async def asked_again(tag: str, running: asyncio.Task[Any]) -> tuple[Any, asyncio.Task[Any]]:
    """The run with this tag, when it asks."""
    asking = asyncio.create_task(asking_run(tag))
    await asyncio.wait({running, asking}, return_when=asyncio.FIRST_COMPLETED)
    if running.done() and not asking.done():
        asking.cancel()
        pytest.fail(f"nobody was asked: {running.exception() or running.result()}")
    return asking.result(), running

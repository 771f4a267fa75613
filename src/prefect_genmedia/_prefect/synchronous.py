"""Runs coroutines for synchronous callers, so that a stopped run still reports what happens to its job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Any, TypeVar, cast

from prefect.context import FlowRunContext, TaskRunContext

T = TypeVar("T")

FAREWELL_SECONDS = 20.0
"""How long a cancelled coroutine may take to end. Prefect kills the process 30 s after its signal."""

SIGNAL_SECONDS = 30.0
"""How long to wait for the signal of Prefect's runner after the server reports a cancellation, in seconds."""


def is_run_async() -> bool | None:
    """Whether the innermost run is an asynchronous task or flow; None outside of runs."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task is not None:
        return task.task.isasync
    return flow.flow.isasync if flow is not None and flow.flow is not None else None


def is_loop_running() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_where_called(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the coroutine's result to synchronous callers, and the coroutine itself to callers that can await it.

    Prefect's own Blocks do the same for methods with an asynchronous twin. The annotation is the result's type.

    Args:
        coroutine: the coroutine to run.
    """
    if is_loop_running() and is_run_async() is not False:
        return cast(T, coroutine)
    return run_sync(coroutine)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a separate thread and event loop, in the caller's run context, and wait for its result.

    The caller's thread only waits. A signal, such as Prefect's SIGTERM to a cancelled run or Ctrl-C, is raised there
    and never in the middle of a step. The coroutine is then cancelled and has `FAREWELL_SECONDS` to clean up, and the
    signal's exception propagates.

    Args:
        coroutine: the coroutine to run.
    """
    work = _Work(coroutine)
    thread = threading.Thread(target=copy_context().run, args=(work.run,), name="genmedia-sync", daemon=True)
    try:
        thread.start()
        wait([work.outcome])
    except BaseException:
        work.cancel()
        wait([work.outcome], FAREWELL_SECONDS)
        raise
    if isinstance(work.outcome.exception(), asyncio.CancelledError):
        _wait_for_signal()
    result: T = work.outcome.result()
    return result


def _wait_for_signal() -> None:
    """Wait for the runner's signal: with it Prefect records the run as cancelled, without it as crashed.

    `cancelled_with_run` may detect the cancellation before the runner does. Only the main thread gets signals, and only
    runs that were started by a runner get one.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ and threading.current_thread() is threading.main_thread():
        time.sleep(SIGNAL_SECONDS)


class _Work:
    """A coroutine that another thread runs."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.outcome: Future[Any] = Future()
        self._coroutine = coroutine
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def run(self) -> None:
        try:
            result = asyncio.run(self._noted())
        except BaseException as error:  # including CancelledError and Prefect's Pause: the caller's thread raises it
            self._begun.set()
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)

    async def _noted(self) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._begun.set()
        return await self._coroutine

    def cancel(self) -> None:
        self._begun.wait(FAREWELL_SECONDS)
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the work has ended
                self._loop.call_soon_threadsafe(self._task.cancel)

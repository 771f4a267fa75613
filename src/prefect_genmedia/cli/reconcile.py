"""`prefect-genmedia reconcile`: rounds of reconcile in a process of their own, which no other run can keep waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from rich.console import Console
from rich.markup import escape

from prefect_genmedia._core.model import JobState
from prefect_genmedia._prefect.reconcile import RoundReport, run_round, scope_of, server_answers, stored_blocks
from prefect_genmedia.deploy.documents import declared_credentials
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.text import counted, needing_person

logger = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""How long a round may take to end when the process is asked to stop, in seconds."""


class ReconcileProcess:
    """Does one round after the other, until it is asked to stop.

    Args:
        credentials: names of the credentials Blocks.
        console: where each round's line goes.
    """

    def __init__(self, credentials: Sequence[str], console: Console) -> None:
        """Read the environment's credentials, for when no server has any."""
        self._own = declared_credentials(os.environ)
        self._names = credentials
        self._console = console
        self._stored: list[ProviderCredentials] = []
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End the round that is at work, and do no other one. Its jobs stay as they are; the next round takes them."""
        self._stop.set()

    async def run(self, every: float | None) -> int:
        """Do rounds until `stop` is called; returns the exit status.

        Args:
            every: seconds from the beginning of one round to that of the next; None does one round.
        """
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            succeeded = await self._until_stopped()
            if self._stop.is_set():
                return 0
            if every is None:
                return 0 if succeeded else 1
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(every - (clock() - begun), 1.0))
            if self._stop.is_set():
                return 0

    async def _until_stopped(self) -> bool:
        work, stopped = asyncio.create_task(self._round()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=STOP_SECONDS)
        finally:
            stopped.cancel()
        if not work.done() or work.cancelled():
            self._print("stopped")
            return False
        return work.result()

    async def _round(self) -> bool:
        """One round and its line; whatever goes wrong, the next one comes."""
        try:
            server = await server_answers()
            report = await run_round(await self._credentials(server), scope_of(self._names), server=server)
        except GenMediaError as error:
            self._print(f"failed: {error.kind}: {error.message}")
            return False
        except Exception as error:
            logger.exception("A round of reconcile failed")
            self._print(f"failed: {type(error).__name__}")
            return False
        self._print(_in_words(report) if server else f"{_in_words(report)}; no Prefect server answers")
        return True

    async def _credentials(self, server: bool) -> list[ProviderCredentials]:
        """The stored Blocks, or the last ones that were read; for other providers those of the environment."""
        if server:
            try:
                self._stored = await stored_blocks(self._names)
            except Exception as error:  # what was read before is still right
                logger.warning("The credentials Blocks cannot be read now: %s", type(error).__name__)
        stored = {block.provider for block in self._stored}
        return [*self._stored, *(block for block in self._own if block.provider not in stored)]

    def _print(self, text: str) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._console.print(escape(f"{now} reconcile {text}"), soft_wrap=True, highlight=False)


def _in_words(report: RoundReport) -> str:
    if report.at_work is not None:
        return f"does nothing: another round is at work ({report.at_work.holder})"
    states = Counter(finding.job.state for finding in report.findings)
    counts = (
        counted(len(report.findings), "job"),
        f"{states[JobState.DELIVERED]} delivered",
        needing_person(report.need_person),
    )
    again = f"; {counted(len(report.runs), 'run')} started again" if report.runs else ""
    return f"succeeded: {', '.join(counts)}{again}"


def run_reconcile(every: float | None, credentials: Sequence[str], console: Console) -> int:
    """Reconcile until SIGTERM or Ctrl-C; returns the exit status.

    Args:
        every: seconds from the beginning of one round to that of the next; None does one round.
        credentials: names of the credentials Blocks.
        console: where each round's line goes.
    """

    async def run() -> int:
        process = ReconcileProcess(credentials, console)
        with _stopped_by_signals(process):
            return await process.run(every)

    try:
        return asyncio.run(run())
    except GenMediaError as error:
        console.print(f"[red]{escape(error.message)}[/]", soft_wrap=True)
        return 2


@contextlib.contextmanager
def _stopped_by_signals(process: ReconcileProcess) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        for each in signals:
            loop.add_signal_handler(each, process.stop)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for each in signals:
                loop.remove_signal_handler(each)

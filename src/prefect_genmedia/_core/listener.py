"""The protocol for observing a job's progress during the wait for its result."""

from __future__ import annotations

from typing import Protocol

from prefect_genmedia._core.model import Job
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import Observation


class WaitListener(Protocol):
    """Receives a job's progress; called only on changes."""

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """Called when the wait begins: such a job usually takes `typical` seconds, of which `elapsed` have passed.

        Args:
            job: the job that is waited for.
            elapsed: seconds since it was accepted.
            typical: seconds that such a job usually takes; None if not known yet.
        """
        ...

    def changed(self, job: Job, observation: Observation) -> None:
        """Called when the provider's status word for the job has changed.

        Args:
            job: the job that is waited for.
            observation: what the provider said.
        """
        ...

    def advanced(self, job: Job, percent: float) -> None:
        """Called when the status word is the same but the percentage has changed.

        Args:
            job: the job that is waited for.
            percent: the job's progress, from 0 to 100.
        """
        ...

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """Called when a poll failed, once per kind of failure.

        Args:
            job: the job that is waited for.
            error: why the poll failed.
        """
        ...


class NullListener:
    """A listener that ignores every call."""

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None: ...

    def changed(self, job: Job, observation: Observation) -> None: ...

    def advanced(self, job: Job, percent: float) -> None: ...

    def troubled(self, job: Job, error: GenMediaError) -> None: ...

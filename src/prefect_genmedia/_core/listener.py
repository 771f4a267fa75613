"""Who is told how a job gets on while its result is waited for."""

from __future__ import annotations

from typing import Protocol

from prefect_genmedia._core.model import Job
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import Observation


class WaitListener(Protocol):
    """Whoever wants to hear of a job's progress; called only on change."""

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None:
        """The wait begins: such a job usually takes `typical` seconds, of which `elapsed` have passed.

        Parameters:
            job: the job that is waited for.
            elapsed: seconds since it was accepted.
            typical: seconds that such a job usually takes; None where nobody knows yet.
        """
        ...

    def changed(self, job: Job, observation: Observation) -> None:
        """The provider's word for the job is a new one.

        Parameters:
            job: the job that is waited for.
            observation: what the provider said.
        """
        ...

    def advanced(self, job: Job, percent: float) -> None:
        """The provider's word is the same, and its percentage, from 0 to 100, a new one.

        Parameters:
            job: the job that is waited for.
            percent: how far it is, from 0 to 100.
        """
        ...

    def troubled(self, job: Job, error: GenMediaError) -> None:
        """A look failed; called once for each kind of failure.

        Parameters:
            job: the job that is waited for.
            error: why the look failed.
        """
        ...


class Silent:
    """Reports nothing."""

    def expecting(self, job: Job, elapsed: float, typical: float | None) -> None: ...

    def changed(self, job: Job, observation: Observation) -> None: ...

    def advanced(self, job: Job, percent: float) -> None: ...

    def troubled(self, job: Job, error: GenMediaError) -> None: ...

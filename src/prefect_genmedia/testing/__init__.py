"""For tests: a running simulator, a ledger of the test's own, and what every provider must pass.

The package's pytest plugin has the fixtures `genmedia_simulator`, `genmedia_ledger` and `genmedia_credentials`.
`ConformanceSuite` needs pytest; everything else here does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_genmedia._core.model import Job, JobState
    from prefect_genmedia.simulator import RunningSimulator
    from prefect_genmedia.testing.cases import ENDINGS, FOLLOWED_LINKS, NOT_AS_ASKED, UNTROUBLED, Ending, ProviderCase
    from prefect_genmedia.testing.conformance import ConformanceSuite
    from prefect_genmedia.testing.fixtures import LedgerOfTest, simulator_credentials

_CASES = "prefect_genmedia.testing.cases"
_MODULES = {
    "ConformanceSuite": "prefect_genmedia.testing.conformance",
    "ENDINGS": _CASES,
    "Ending": _CASES,
    "FOLLOWED_LINKS": _CASES,
    "Job": "prefect_genmedia._core.model",
    "JobState": "prefect_genmedia._core.model",
    "LedgerOfTest": "prefect_genmedia.testing.fixtures",
    "NOT_AS_ASKED": _CASES,
    "ProviderCase": _CASES,
    "RunningSimulator": "prefect_genmedia.simulator",
    "UNTROUBLED": _CASES,
    "simulator_credentials": "prefect_genmedia.testing.fixtures",
}

__all__ = [
    "ENDINGS",
    "FOLLOWED_LINKS",
    "NOT_AS_ASKED",
    "UNTROUBLED",
    "ConformanceSuite",
    "Ending",
    "Job",
    "JobState",
    "LedgerOfTest",
    "ProviderCase",
    "RunningSimulator",
    "simulator_credentials",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: pytest is no dependency of the package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The names that can be imported."""
    return sorted(__all__)

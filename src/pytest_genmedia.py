"""The pytest plugin of prefect-genmedia: `genmedia_simulator`, `genmedia_ledger` and `genmedia_credentials`.

It is a module of its own because pytest loads it in every session where the package is installed: nothing of
`prefect_genmedia`, and so nothing of Prefect, is imported until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from prefect_genmedia.providers.credentials import ProviderCredentials
    from prefect_genmedia.testing import LedgerOfTest, RunningSimulator


@pytest.fixture(scope="session")
def _genmedia_running_simulator() -> Iterator[RunningSimulator]:
    from prefect_genmedia.simulator import run_simulator

    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def genmedia_simulator(
    _genmedia_running_simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> RunningSimulator:
    """A simulator of every installed provider, over HTTP on loopback, without jobs; tasks are retried at once."""
    from prefect import Task

    from prefect_genmedia import tasks
    from prefect_genmedia.testing.fixtures import made_ready

    for member in vars(tasks).values():
        if isinstance(member, Task):
            monkeypatch.setattr(member, "retry_delay_seconds", 0.02)
    return made_ready(_genmedia_running_simulator)


@pytest.fixture
def genmedia_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LedgerOfTest:
    """A job ledger and a media folder in `tmp_path`, which everything in this test uses through the settings."""
    from prefect_genmedia.testing.fixtures import LedgerOfTest

    ledger = LedgerOfTest(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "media")
    for name, value in ledger.environment().items():
        monkeypatch.setenv(name, value)
    return ledger


@pytest.fixture
def genmedia_credentials(genmedia_simulator: RunningSimulator) -> Callable[..., ProviderCredentials]:
    """Makes a credentials Block for the simulator: `genmedia_credentials("acme")`."""
    from prefect_genmedia.testing import simulator_credentials

    def make(provider: str, **fields: Any) -> ProviderCredentials:
        return simulator_credentials(genmedia_simulator, provider, **fields)

    return make

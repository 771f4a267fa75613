"""What the pytest fixtures hand out. The fixtures themselves are in the module `pytest_genmedia`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.plugin import plugin_named
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.world import Settings

FAST = Settings(queue_seconds=0.05, run_seconds=0.05)
"""Jobs of the fixture's simulator take a tenth of a second."""


@dataclass(frozen=True)
class LedgerOfTest:
    """The job ledger of one test.

    Args:
        url: its database, as the setting `LEDGER_URL` has it.
        media: the folder of delivered files, as the setting `OUTPUT` has it.
    """

    url: str
    media: Path

    def jobs(self) -> list[Job]:
        """Every job, in the order of `prefect-genmedia jobs list`. Works in async tests, too."""

        async def read() -> list[Job]:
            async with open_ledger(self.url) as ledger:
                return await ledger.jobs()

        with ThreadPoolExecutor(1) as pool:  # a running event loop cannot run another one
            return pool.submit(asyncio.run, read()).result()

    def environment(self) -> dict[str, str]:
        """The settings that make the package use this ledger, and poll often."""
        prefix = "PREFECT_INTEGRATIONS_GENMEDIA_"
        return {
            f"{prefix}LEDGER_URL": self.url,
            f"{prefix}OUTPUT": str(self.media),
            f"{prefix}POLL_SHORTEST_SECONDS": "0.05",
        }


def made_ready(simulator: RunningSimulator) -> RunningSimulator:
    """A running simulator without jobs, files, faults and counts, and with fast jobs.

    Args:
        simulator: the simulator.
    """
    simulator.world.reset()
    simulator.world.settings.__dict__.update(vars(FAST))
    return simulator


def simulator_credentials(simulator: RunningSimulator, provider: str, **fields: Any) -> ProviderCredentials:
    """A provider's credentials Block for the simulator.

    Args:
        simulator: a running simulator.
        provider: the provider's name.
        **fields: further fields of the Block, or others in place of `api_key` and `base_url`.

    Raises:
        InvalidRequest: no plug-in of that name is installed.
        KeyError: the plug-in has no dialect of the simulator.
    """
    given = {"api_key": simulator.key, "base_url": simulator.base_url(provider), **fields}
    return plugin_named(provider).credentials_type()(**given)

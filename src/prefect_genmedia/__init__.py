"""Paid, asynchronous media generation as Prefect tasks, Blocks and flows.

Prefect imports this package in its server and workers, so nothing here is heavier than the Blocks.
Tasks are in `prefect_genmedia.tasks`, request models in `prefect_genmedia.providers.…`, flows in
`prefect_genmedia.flows`.
"""

from importlib.metadata import version

from prefect_genmedia import _compat
from prefect_genmedia.providers.hidream.block import HiDreamCredentials
from prefect_genmedia.providers.jenius.block import JeniusCredentials
from prefect_genmedia.providers.tokenops.block import TokenOpsCredentials

__version__ = version("prefect-genmedia")

__all__ = ["HiDreamCredentials", "JeniusCredentials", "TokenOpsCredentials", "__version__"]

_compat.install()

"""The command line: `prefect-genmedia …`."""

from prefect_genmedia.cli.app import main

__all__ = ["main"]

"""A wire-level double of the providers: real HTTP, real media, faults on demand, and a count of what would be paid.

It is written from the providers' documents and shares no code with the clients, so that the two can disagree.
Develop your own flows against it without paying: `prefect-genmedia simulator`.
"""

from prefect_genmedia.simulator.server import RunningSimulator, run_simulator

__all__ = ["RunningSimulator", "run_simulator"]

"""A wire-level double of the providers: real HTTP, real media, faults on demand, and a count of what would be paid.

It is written from the providers' documents and shares no code with the clients, so that the two can disagree.
Develop your own flows against it without paying: `prefect-genmedia simulator`.

A plug-in's dialect derives from `Dialect`, and is made of the other names here.
"""

from prefect_genmedia.simulator.dialect import Dialect, Refusal, bearer_of, id_in_path, json_object
from prefect_genmedia.simulator.faults import HOSTILE_TEXT, Fault, broken_answer, broken_file
from prefect_genmedia.simulator.media import Recipe, UnusableInput, fetch_input
from prefect_genmedia.simulator.server import RunningSimulator, run_simulator
from prefect_genmedia.simulator.world import Settings, SimulatedJob, World

__all__ = [
    "HOSTILE_TEXT",
    "Dialect",
    "Fault",
    "Recipe",
    "Refusal",
    "RunningSimulator",
    "Settings",
    "SimulatedJob",
    "UnusableInput",
    "World",
    "bearer_of",
    "broken_answer",
    "broken_file",
    "fetch_input",
    "id_in_path",
    "json_object",
    "run_simulator",
]

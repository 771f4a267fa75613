"""Names of flow runs: descriptive where Prefect made one up, and the user's own where the user gave one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import coolname.data
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from prefect_genmedia._core.model import Job

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
).split()
_ADJECTIVES = (
    "Awesome Rustic Small Gorgeous Fantastic Sleek Intelligent Unbranded Refined Licensed Generic Practical Ergonomic "
    "Handcrafted Tasty Handmade Incredible"
).split()
_BY_THE_UI = re.compile(rf"(?:{'|'.join(_GREEK)})\d*-[a-z][a-z-]*|(?:{'|'.join(_ADJECTIVES)})-[A-Z][A-Za-z .'-]*")
"""Names that run forms are filled with: `psi-aquarii-cluster` in the first UI, `Rustic-Zebra` in the second."""


@cache
def _words() -> frozenset[str]:
    lists: Any = coolname.data.config
    return frozenset(word for each in lists.values() for word in each.get("words", ()))


def is_made_up(name: str) -> bool:
    """Whether a run's name is one that Prefect's server, client or run form makes up, such as `happy-otter`.

    Parameters:
        name: the run's name.
    """
    words = name.split("-")
    return _BY_THE_UI.fullmatch(name) is not None or (len(words) == 2 and _words().issuperset(words))


@dataclass(frozen=True)
class RunName:
    """A `flow_run_name` that replaces names that Prefect made up, and leaves the user's own.

    Parameters:
        name: makes the descriptive name.
    """

    name: Callable[[], str]

    def __call__(self) -> str:
        """The name that the run begins with."""
        name, present = self.name(), flow_run.name or ""
        is_ours = present == name or present.startswith(f"{name} · ")  # the run is started again
        return name if not present or is_ours or is_made_up(present) else present


class JobRunName(RunName):
    """A `RunName` to which `submit` appends the provider's job id.

    Runs of flows whose `flow_run_name` is anything else keep their name, and so do runs that the user named.
    """


async def name_run_after(job: Job) -> None:
    """Append the provider's job id to the flow run's name, if the flow's `flow_run_name` is a `JobRunName`."""
    context = FlowRunContext.get()
    run_name = context.flow.flow_run_name if context is not None and context.flow is not None else None
    if not isinstance(run_name, JobRunName):
        return
    name = flow_run.name or ""
    if flow_run.id and job.shown_id and job.shown_id not in name and name.startswith(run_name.name()):
        async with get_client() as client:
            await client.update_flow_run(UUID(str(flow_run.id)), name=f"{name} · {job.shown_id}")

"""Where the golden tests find what they pin. When packages move, this file changes and the tests do not.

Everything that a golden test takes from the package comes through here, under a name that stays. What a user reaches by
a stable name (an entrypoint, a Block slug, a setting's variable) is reached by that name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, Task
from prefect.utilities.importtools import import_object
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, MediaJob, TokenOpsCredentials, errors, tasks
from prefect_genmedia._core import Delivery, Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.budgets import Budget
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.identity import Version1Inputs, identity_of
from prefect_genmedia._core.model import LEGAL_MOVES
from prefect_genmedia._core.reconcile import Finding
from prefect_genmedia._core.submit import STALE_SENDING_SECONDS
from prefect_genmedia.batch import BatchReport, Price
from prefect_genmedia.batch.shards import Shard
from prefect_genmedia.callbacks import callback_receiver
from prefect_genmedia.cli.app import app as cli
from prefect_genmedia.cli.local_server import local_server
from prefect_genmedia.providers.hidream import StylizedVideo
from prefect_genmedia.providers.inputs import SentInput, SentInputs
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.plugin import plugins
from prefect_genmedia.providers.protocol import GenerationRequest, MediaExpectation, PreparedRequest
from prefect_genmedia.providers.tokenops import Detection, JimengVideo, OmniHumanVideo, Recognition
from prefect_genmedia.providers.tokenops import simulator as simulated_tokenops
from prefect_genmedia.providers.tokenops import tasks as subject_tasks
from prefect_genmedia.providers.tokenops.subjects import SubjectSelection
from prefect_genmedia.settings import GenMediaSettings, current_settings
from prefect_genmedia.simulator import RunningSimulator, run_simulator
from prefect_genmedia.simulator.app import installed_dialects
from prefect_genmedia.simulator.dialect import Dialect
from prefect_genmedia.simulator.media import ASSETS, Recipe
from prefect_genmedia.simulator.world import SimulatedJob, World

__all__ = [
    "BLOCKS",
    "ERRORS",
    "JOB_BLOCK",
    "REQUESTS",
    "STALE_SENDING_SECONDS",
    "VALUES",
    "Budget",
    "Job",
    "JobState",
    "Ledger",
    "RunningSimulator",
    "World",
    "account_of",
    "callback_receiver",
    "cli",
    "decide",
    "every_error",
    "every_task",
    "flow_at",
    "identity",
    "legal_moves",
    "local_server",
    "open_ledger",
    "prefect_file",
    "prepared",
    "registered_kinds",
    "settings_fields",
    "simulated",
]

Credentials = TokenOpsCredentials | JeniusCredentials | HiDreamCredentials

BLOCKS: dict[str, type[Credentials]] = {
    "tokenops": TokenOpsCredentials,
    "jenius": JeniusCredentials,
    "hidream": HiDreamCredentials,
}
"""By provider."""

JOB_BLOCK = MediaJob
"""A request as a stored template."""

REQUESTS: dict[str, type[GenerationRequest]] = {
    "omnihuman": OmniHumanVideo,
    "jimeng": JimengVideo,
    "poster": LivePoster,
    "stylize": StylizedVideo,
}
"""By kind."""

ERRORS = errors
"""The error tree, by the errors' names."""

VALUES: dict[str, type[Any]] = {
    "BatchReport": BatchReport,
    "Delivery": Delivery,
    "Detection": Detection,
    "Finding": Finding,
    "Job": Job,
    "JobState": JobState,
    "MediaExpectation": MediaExpectation,
    "Price": Price,
    "Recognition": Recognition,
    "Shard": Shard,
    "SubjectSelection": SubjectSelection,
    **{kind.__name__: kind for kind in REQUESTS.values()},
    **{block.__name__: block for block in BLOCKS.values()},
}
"""What Prefect may have pickled, beside errors."""


def registered_kinds() -> dict[str, list[str]]:
    """The kinds of requests that each provider takes."""
    return {plugin.name: [each.kind for each in plugin.requests] for plugin in plugins()}


def every_error() -> dict[str, type[errors.GenMediaError]]:
    """Every class of the error tree, by its name."""
    members = vars(errors).values()
    return {
        each.__name__: each for each in members if isinstance(each, type) and issubclass(each, errors.GenMediaError)
    }


async def account_of(block: Credentials) -> str:
    """The account that a Block's user pays with, as the ledger has it."""
    async with block.client() as client:
        return str(client.account)


async def identity(
    block: Credentials, request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int, version: int = 1
) -> str:
    """A request's identity digest, by the rules of a version."""
    given = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    if version == 1:
        given = PreparedRequest(given.request, Version1Inputs(given.inputs.by_url))
    async with block.client() as client:
        return identity_of(client.account, given, scope, variant)


def prepared(request: GenerationRequest, sent: Mapping[str, str]) -> PreparedRequest[Any]:
    """The request as it is after its inputs were read.

    Args:
        request: what is asked for.
        sent: the SHA-256 of each of the user's own files, by its URL.
    """
    travels = {url: SentInput(sha256, url="https://bucket.example/signed?sig=secret") for url, sha256 in sent.items()}
    return PreparedRequest(request, SentInputs(travels), MediaExpectation(seconds=7.0), prepared_at=1_790_000_000.0)


@cache
def prefect_file() -> dict[str, Any]:
    """The shipped prefect.yaml."""
    file = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
    loaded: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    return loaded


def flow_at(entrypoint: str) -> Flow[..., Any]:
    """The flow that a deployment names."""
    found = import_object(entrypoint)
    assert isinstance(found, Flow)
    return found


def every_task() -> list[Task[..., Any]]:
    """The tasks that users call."""
    return [each for module in (tasks, subject_tasks) for each in vars(module).values() if isinstance(each, Task)]


def settings_fields() -> Mapping[str, Any]:
    """The settings' fields, by name."""
    return GenMediaSettings.model_fields


def settings() -> GenMediaSettings:
    """The settings as they are now."""
    return current_settings()


def legal_moves() -> dict[str, list[str]]:
    """The states that a job may go to, by the state it is in."""
    return {state.value: sorted(each.value for each in LEGAL_MOVES[state]) for state in JobState}


class _Seeding(Dialect):
    """A control endpoint that makes the simulator know jobs that it never accepted, as a real provider would.

    It runs in the simulator's own event loop, which is where a job's video is made.
    """

    name = "golden"

    def routes(self) -> Mount:
        return Mount("/golden", routes=[Route("/seed", self._seed, methods=["POST"])])

    async def _seed(self, request: Request) -> Response:
        for each in await request.json():
            job = self.world.accept(each["provider"], each["key"], each["body"], _recipe, each["id"])
            job.created_at -= 60.0  # its time is over at once
            await self.world.video_of(job)
        return JSONResponse({"known": len(self.world.jobs)})


async def _recipe(job: SimulatedJob) -> Recipe:
    """A video with a frame a second that is what the job's ledger row expects."""
    wanted = job.body["expectation"]
    sound = (ASSETS / "speech.mp3").read_bytes() if wanted["has_audio"] else None
    seconds = wanted["seconds"] or (None if sound else 5.0)
    return Recipe(None, sound, seconds, wanted["resolution_class"] or 720, wanted["aspect_ratio"] or 16 / 9, rate=1)


def simulated(keys: Sequence[str]) -> Any:
    """A running simulator that also knows what is POSTed to `/golden/seed`; a context manager."""
    return run_simulator(keys=frozenset(keys), dialects=(*installed_dialects(), _Seeding))


@asynccontextmanager
async def ledger_at(path: Any) -> AsyncIterator[Ledger]:
    """The ledger in a SQLite file."""
    async with open_ledger(f"sqlite:///{path}") as ledger:
        yield ledger


@contextmanager
def few_frames() -> Iterator[None]:
    """Let every simulated video be a plain one with a frame a second: the right length and size, encoded in no time."""
    rendered = World._rendered

    async def plain(world: World, recipe: Recipe) -> bytes:
        frames = max(round(recipe.frames / recipe.rate), 1) if recipe.frames else None
        ratio = recipe.ratio or 16 / 9
        return await rendered(world, Recipe(None, recipe.sound, recipe.seconds, recipe.short_side, ratio, 1, frames))

    World._rendered = plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        World._rendered = rendered  # type: ignore[method-assign]


@contextmanager
def one_provider_job_id(job_id: str) -> Iterator[None]:
    """Let the simulated TokenOps give this id to every job that it accepts: a gateway that answers from a cache."""
    made = simulated_tokenops._new_id
    simulated_tokenops._new_id = lambda: job_id
    try:
        yield
    finally:
        simulated_tokenops._new_id = made

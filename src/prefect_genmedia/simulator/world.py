"""The simulator's memory: accounts, accepted jobs, files that expire, faults, and what would have been billed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from prefect_genmedia.simulator.faults import Fault, FaultQueue
from prefect_genmedia.simulator.media import Recipe, UnusableInput, render

DEFAULT_KEY = "sk-simulator"


@dataclass
class Settings:
    """How the simulated providers behave. Times in seconds.

    Args:
        queue_seconds: how long a job waits, and
        run_seconds: how long it is worked on.
        subjects: how many people detection finds; None for the true number in the shipped portrait, else one.
        file_seconds: how long result and mask URLs live.
        submissions_per_minute: how many submissions a provider that limits them takes from an account in a minute
            before it answers 429; None for any number.
        token_seconds: how long the tokens live that a provider gives for an API key.
        shipped: models, scenes and styles that providers take beside those of their documents.
        gateway: the style in which a gateway answers in place of the providers, see `gateways.GATEWAYS`; empty: none.
    """

    queue_seconds: float = 1.0
    run_seconds: float = 4.0
    subjects: int | None = None
    file_seconds: float = 3600.0
    submissions_per_minute: float | None = None
    token_seconds: float = 24 * 3600.0
    shipped: frozenset[str] = frozenset()
    gateway: str = ""


@dataclass
class SimulatedJob:
    """One accepted job."""

    id: str
    provider: str
    key: str
    body: dict[str, Any]
    created_at: float
    fault: Fault | None = None
    failure: dict[str, Any] | None = None
    video: asyncio.Task[bytes] | None = field(default=None, repr=False)
    file: str | None = None

    def has(self, fault: str) -> bool:
        """Whether this fault struck the job when it was accepted."""
        return self.fault is not None and self.fault.name == fault


@dataclass(frozen=True)
class StoredFile:
    """A file behind an expiring URL.

    Args:
        content: its bytes.
        media_type: its Content-Type.
        expires_at: when its URL ends, in seconds since 1970.
        struck_as: the dialect whose ordered faults strike when it is fetched; None for none.
        stage: the stage of these faults.
    """

    content: bytes
    media_type: str
    expires_at: float
    struck_as: str | None = None
    stage: str = "content"


Prepare = Callable[[SimulatedJob], Awaitable[Recipe]]


class World:
    """Everything the dialects share."""

    def __init__(self, settings: Settings | None = None, keys: frozenset[str] = frozenset({DEFAULT_KEY})) -> None:
        self.settings = settings or Settings()
        self.keys = self._first_keys = keys
        self._customers: dict[str, str] = {}
        self.faults = FaultQueue()
        self.jobs: dict[str, SimulatedJob] = {}
        self.overwritten: list[SimulatedJob] = []  # paid, too: a later job was given the same id
        self.requests: Counter[str] = Counter()
        self.input_requests: Counter[str] = Counter()
        self.files: dict[str, StoredFile] = {}
        self.inbox: dict[str, bytes] = {}
        self.base_url = ""
        self.disguise: Callable[[str], str] | None = None
        self.drop: Callable[[Request], None] = lambda request: None
        self._videos: dict[str, asyncio.Task[bytes]] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="render")

    def reset(self) -> None:
        """Forget jobs, files, faults, counts and rotated keys; keep settings and rendered videos."""
        self.keys = self._first_keys
        self._customers.clear()
        self.faults.clear()
        self.jobs.clear()
        self.overwritten.clear()
        self.requests.clear()
        self.input_requests.clear()
        self.files.clear()
        self.inbox.clear()

    def rotate_key(self, old: str, new: str) -> None:
        """Give the customer of a key a new one; the old key is refused from now on."""
        self._customers[new] = self.customer_of(old)
        self.keys = self.keys - {old} | {new}

    def customer_of(self, key: str) -> str:
        """Whose key it is: the customer's first key."""
        return self._customers.get(key, key)

    def accept(self, provider: str, key: str, body: dict[str, Any], prepare: Prepare, job_id: str) -> SimulatedJob:
        """Take a job on: from here on it counts as paid. An ordered fault may give it another id."""
        if self.disguise is not None:
            job_id = self.disguise(job_id)
        fault = self.faults.take(provider, "job")
        job = SimulatedJob(job_id, provider, key, body, time.time(), fault)
        if job_id in self.jobs:
            self.overwritten.append(self.jobs[job_id])
        self.jobs[job_id] = job
        job.video = asyncio.create_task(self._make(job, prepare))
        return job

    def elapsed(self, job: SimulatedJob) -> float:
        """Seconds since the job was accepted."""
        return time.time() - job.created_at

    def is_queued(self, job: SimulatedJob) -> bool:
        """Whether nobody works on the job yet."""
        return self.elapsed(job) < self.settings.queue_seconds

    def is_over(self, job: SimulatedJob) -> bool:
        """Whether its time has passed, successfully or not."""
        if job.has("stuck"):
            return False
        return self.elapsed(job) >= self.settings.queue_seconds + self.settings.run_seconds

    async def video_of(self, job: SimulatedJob) -> bytes:
        """The finished file."""
        assert job.video is not None  # set when the job was accepted
        return await asyncio.shield(job.video)

    def publish(
        self,
        content: bytes,
        media_type: str,
        ending: str,
        seconds: float | None = None,
        struck_as: str | None = None,
        stage: str = "content",
    ) -> str:
        """Put a file behind an expiring URL; returns the URL."""
        name = f"{secrets.token_hex(12)}.{ending}"
        lifetime = self.settings.file_seconds if seconds is None else seconds
        self.files[name] = StoredFile(content, media_type, time.time() + lifetime, struck_as, stage)
        return f"{self.base_url}/files/{name}"

    def result_url(self, job: SimulatedJob) -> str:
        """The URL of a finished job's file: the same at each poll, until it expires and a fresh one is made."""
        stored = self.files.get((job.file or "").rpartition("/")[2])
        if job.file is None or stored is None or stored.expires_at < time.time():
            assert job.video is not None  # set when the job was accepted
            job.file = self.publish(job.video.result(), "video/mp4", "mp4", struck_as=job.provider)
        return job.file

    def url_answer(self, video: bytes, expired: bool) -> dict[str, Any]:
        """A JSON answer that names a video's URL, which may have expired already."""
        lifetime = -1.0 if expired else self.settings.file_seconds
        url = self.publish(video, "video/mp4", "mp4", lifetime)
        return {"url": url, "expires_at": int(time.time() + lifetime)}

    def plain_answer(self, video: bytes) -> Response:
        """JSON as text/plain that names a video's URL: nested, relative, and with Go's zero for a time."""
        url = self.publish(video, "video/mp4", "mp4").removeprefix(self.base_url)
        return PlainTextResponse(json.dumps({"code": "success", "data": {"video": [{"url": url}], "expires_at": 0}}))

    def redirect_answer(self, video: bytes) -> Response:
        """A redirect to a video's URL, signed as storages sign theirs."""
        url = self.publish(video, "video/mp4", "mp4", self.settings.file_seconds)
        query = f"X-Amz-Credential=AKIASIMULATOR&X-Amz-Signature={secrets.token_hex(16)}"
        return Response(status_code=302, headers={"Location": f"{url}?{query}"})

    def report(self) -> dict[str, Any]:
        """What happened so far: the billing counter, the requests, the jobs."""
        jobs = [*self.jobs.values(), *self.overwritten]
        accepted: Counter[str] = Counter(job.provider for job in jobs)
        return {
            "accepted": dict(accepted),
            "requests": dict(self.requests),
            "jobs": [
                {"id": job.id, "provider": job.provider, "created_at": job.created_at, "body": _brief(job.body)}
                for job in jobs
            ],
            "pending_faults": [fault.name for fault in self.faults.pending()],
        }

    async def _make(self, job: SimulatedJob, prepare: Prepare) -> bytes:
        try:
            recipe = await prepare(job)
            return await self._rendered(recipe)
        except UnusableInput as error:
            job.failure = {"code": 50215, "message": f"Invalid input: {error}"}
            return b""

    async def _rendered(self, recipe: Recipe) -> bytes:
        digest = recipe.digest
        if digest not in self._videos:
            loop = asyncio.get_running_loop()

            async def work() -> bytes:
                return await loop.run_in_executor(self._pool, render, recipe)

            self._videos[digest] = asyncio.create_task(work())
        return await asyncio.shield(self._videos[digest])


def _brief(value: Any) -> Any:
    """A body without long base64 texts."""
    if isinstance(value, dict):
        return {name: _brief(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_brief(inner) for inner in value]
    return value[:200] if isinstance(value, str) else value

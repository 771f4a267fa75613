"""A fourth provider in one file: request, client, Block, and its dialect of the simulator. Nothing else knows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from prefect_genmedia.errors import GenerationFailed
from prefect_genmedia.providers import (
    AS_GIVEN,
    Accepted,
    Account,
    ApiClient,
    BearerAuth,
    ErrorAnswer,
    FetchRules,
    GenerationRequest,
    MediaExpectation,
    Observation,
    Phase,
    ProviderPlugin,
    PublicUrl,
    Redactor,
    ResultStream,
    Sendable,
    SentInputs,
    open_url,
    paid_submission,
    read_json,
    unreadable,
)
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.simulator.dialect import Dialect, Refusal, bearer_of, id_in_path, json_object
from prefect_genmedia.simulator.faults import HOSTILE_CODE, HOSTILE_TEXT, Fault
from prefect_genmedia.simulator.media import Recipe, fetch_input
from prefect_genmedia.simulator.world import SimulatedJob
from prefect_genmedia.text import path_segment


class ToyVideo(GenerationRequest):
    """A picture that plays for five seconds."""

    provider: ClassVar[str] = "toy"
    kind: ClassVar[str] = "toy"

    picture: PublicUrl

    @property
    def default_model(self) -> str:
        return "toy-1"

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        return {"picture": inputs.url(self.picture)}

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        return {"picture": inputs.identity(self.picture)}

    def expectation(self) -> MediaExpectation:
        return MediaExpectation(seconds=5.0, has_audio=False)


class ToyClient:
    def __init__(self, api_key: str, base_url: str) -> None:
        self.account = Account.of("toy", base_url, api_key)
        self._redactor = Redactor([api_key])
        self._api = ApiClient(base_url, BearerAuth(api_key), self._redactor)
        self.fetch_rules = FetchRules.beside(base_url, allow_private=False, transport=None)

    def turn(self) -> AbstractAsyncContextManager[None]:
        return self._api.turn()

    async def submit(self, request: Sendable) -> Accepted:
        with paid_submission():
            response = await self._api.post_paid("/jobs", request.payload())
            payload = self._read(response, "POST /jobs")
            if "id" not in payload:
                raise unreadable(response, "POST /jobs", self._redactor, "no id")
            return Accepted(str(payload["id"]), "taken")

    async def poll(self, provider_job_id: str) -> Observation:
        payload = self._read(await self._api.get(f"/jobs/{path_segment(provider_job_id)}"), "GET /jobs")
        words = {"queued": Phase.QUEUED, "running": Phase.RUNNING, "done": Phase.SUCCEEDED, "failed": Phase.FAILED}
        word = str(payload.get("state"))
        why = payload.get("why", "The toy is broken.")
        failure = GenerationFailed(why, code=payload.get("code")) if word == "failed" else None
        return Observation(words.get(word, Phase.RUNNING), word, word in words, failure=failure)

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        payload = self._read(await self._api.get(f"/jobs/{path_segment(provider_job_id)}/file"), "GET /file")
        async with self._api.download_turn(), open_url(payload["url"], self.fetch_rules) as stream:
            yield stream

    async def aclose(self) -> None:
        await self._api.aclose()

    def _read(self, response: Any, what: str) -> dict[str, Any]:
        if not response.is_success:
            raise ErrorAnswer.of(response, what, self._redactor).by_status()
        return read_json(response, what, self._redactor)


class ToyCredentials(ProviderCredentials):
    """Access to the toy."""

    _block_type_name = "Toy Credentials"
    _block_type_slug = "toy-credentials"

    provider: ClassVar[str] = "toy"

    api_key: SecretStr
    base_url: str
    submissions_per_minute: float | None = None
    max_in_flight: int | None = None
    concurrency_limit: str | None = None

    def get_client(self) -> ToyClient:
        return ToyClient(self.api_key.get_secret_value(), self.base_url)


class Toy(Dialect):
    name = "toy"
    title = "Toy"
    prefix = "/toy"

    def routes(self) -> Mount:
        return Mount(
            self.prefix,
            routes=[
                Route("/jobs", self.guarded("submit", self.create), methods=["POST"]),
                Route("/jobs/{id}", self.guarded("poll", self.look), methods=["GET"]),
                Route("/jobs/{id}/file", self.guarded("file", self.file), methods=["GET"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        key = bearer_of(request)
        if key not in self.world.keys:
            raise Refusal(401, {"message": f"wrong key {key}"})
        return key

    def refused_by(self, fault: Fault) -> Refusal | None:
        statuses = {
            "refuse_invalid": 400,
            "refuse_key": 401,
            "refuse_balance": 402,
            "poll_404": 404,
            "refuse_hostile": 400,
        }
        statuses |= {"poll_key_revoked": 401, "rate_limited": 429}
        status = statuses.get(fault.name)
        wait = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"} if status == 429 else None
        words = HOSTILE_TEXT if fault.name == "refuse_hostile" else "no"
        return Refusal(status, {"message": words}, wait) if status else None

    async def create(self, request: Request) -> Response:
        body = await json_object(request)
        if body is None or not body.get("picture"):
            raise Refusal(400, {"message": "picture is required"})

        def accept() -> dict[str, Any]:
            job_id = f"toy-{len(self.world.jobs) + 1}"
            job = self.world.accept(self.name, self.key_of(request), body, self._recipe, job_id)
            return {"id": job.id}

        return await self.submitted(request, accept)

    async def look(self, request: Request) -> Response:
        job = self._job(request)

        def answer(odd: Any) -> dict[str, Any]:
            hostile = {"why": HOSTILE_TEXT, "code": HOSTILE_CODE} if job.has("fail_hostile") else {}
            return {"state": self.stage(job) if odd is None else odd, **hostile}

        return await self.polled(request, answer)

    async def file(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        video = await self.world.video_of(self._job(request))
        return JSONResponse({"url": self.world.publish(video, "video/mp4", "mp4", struck_as=self.name)})

    def _job(self, request: Request) -> SimulatedJob:
        job = self.job_named(id_in_path(request), request)
        if job is None:
            raise Refusal(404, {"message": "no such job"})
        return job

    async def _recipe(self, job: SimulatedJob) -> Recipe:
        picture = fetch_input(job.body["picture"], "portrait.jpg")
        return Recipe(picture, seconds=2.5 if job.has("short_video") else 5.0, short_side=240)


PLUGIN = ProviderPlugin(
    name="toy",
    title="Toy",
    requests=(ToyVideo,),
    credentials="toy_provider:ToyCredentials",
    job_lifetime_seconds=3600,
    result_lifetime_seconds=3600,
    simulator="toy_provider:Toy",
)

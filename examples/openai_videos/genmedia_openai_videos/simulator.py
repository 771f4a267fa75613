"""The videos API as OpenAI's reference describes it, for the simulator. Imports nothing from the client.

Like some gateways (vLLM-Omni), it refuses a JSON body.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import time
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_genmedia.simulator import (
    HOSTILE_TEXT,
    Dialect,
    Fault,
    Recipe,
    Refusal,
    SimulatedJob,
    bearer_of,
    broken_file,
    fetch_input,
    id_in_path,
)

STATUSES = {"queued": "queued", "running": "in_progress", "done": "completed", "failed": "failed"}
SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
REFERENCE = "input_reference"
URL_FIELD = "input_reference[image_url]"


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Refusal:
    """An error in OpenAI's envelope."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Refusal(status, {"error": error}, headers)


class OpenAIVideos(Dialect):
    """The endpoints over one world."""

    name = "openai_videos"
    title = "OpenAI videos"
    prefix = "/openai/v1"

    def routes(self) -> Mount:
        """Everything below `/openai/v1`."""
        return Mount(
            self.prefix,
            routes=[
                Route("/videos", self.guarded("submit", self.create), methods=["POST"]),
                Route("/videos/{id}", self.guarded("poll", self.retrieve), methods=["GET"]),
                Route("/videos/{id}/content", self.guarded("content", self.content), methods=["GET"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        """The key, which is itself the account's name."""
        key = bearer_of(request)
        if key not in self.world.keys:
            raise refusal(401, "invalid_api_key", f"Incorrect API key provided: {key}.")
        return key

    def refused_by(self, fault: Fault) -> Refusal | None:
        """An exhausted quota has the status of a rate limit."""
        wait = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"}
        refusals = {
            "refuse_invalid": refusal(400, "invalid_value", "Invalid value."),
            "refuse_hostile": refusal(400, "invalid_value", HOSTILE_TEXT),
            "refuse_key": refusal(401, "invalid_api_key", "Incorrect API key provided."),
            "refuse_balance": refusal(429, "insufficient_quota", "You exceeded your current quota."),
            "rate_limited": refusal(429, "rate_limit_exceeded", "Rate limit reached.", wait),
            "poll_404": refusal(404, "not_found", "Video not found."),
            "poll_key_revoked": refusal(401, "invalid_api_key", "Incorrect API key provided."),
            "content_gone": refusal(404, "not_found", "The video has expired."),
        }
        return refusals.get(fault.name)

    async def create(self, request: Request) -> Response:
        """POST /videos."""
        fields, picture = await form(request)
        if not fields.get("prompt"):
            raise refusal(400, "missing_required_parameter", "Missing required parameter: 'prompt'.")
        if fields.get("size", SIZES[0]) not in SIZES or not fields.get("seconds", "4").isdigit():
            raise refusal(400, "invalid_value", "Invalid value for 'size' or 'seconds'.")

        async def recipe(job: SimulatedJob) -> Recipe:
            start = picture
            if URL_FIELD in fields:
                start = await asyncio.to_thread(fetch_input, fields[URL_FIELD], "portrait.jpg")
            width, height = (int(side) for side in fields.get("size", SIZES[0]).split("x"))
            seconds = int(fields.get("seconds", "4")) / (2 if job.has("short_video") else 1)
            return Recipe(start, seconds=seconds, short_side=240, ratio=width / height)

        def accept() -> dict[str, Any]:
            body = {**fields, **({REFERENCE: f"{len(picture)} bytes"} if picture else {})}
            job = self.world.accept(self.name, self.key_of(request), body, recipe, f"video_{uuid4().hex}")
            return self._video(job, "queued")

        return await self.submitted(request, accept)

    async def retrieve(self, request: Request) -> Response:
        """GET /videos/{id}."""
        job = self._job(request)
        return await self.polled(
            request, lambda odd: self._video(job, STATUSES[self.stage(job)] if odd is None else odd)
        )

    async def content(self, request: Request) -> Response:
        """GET /videos/{id}/content."""
        job = self._job(request)
        if self.stage(job) != "done":
            raise refusal(409, "not_ready", "Video is not ready yet.")
        fault = self.world.faults.take(self.name, "content")
        video = await self.world.video_of(job)
        if self.world.settings.gateway == "new-api" or (fault is not None and fault.name == "content_json_text"):
            return self.world.plain_answer(video)
        if fault is None:
            return Response(video, media_type="video/mp4")
        if (refused := self.refused_by(fault)) is not None:
            raise refused
        if fault.name == "content_redirect":
            return self.world.redirect_answer(video)
        if fault.name in ("content_json", "content_json_expired"):
            return JSONResponse(self.world.url_answer(video, expired=fault.name == "content_json_expired"))
        return await broken_file(fault, video, "video/mp4", request, self.world.drop)

    def _job(self, request: Request) -> SimulatedJob:
        job = self.job_named(id_in_path(request), request)
        if job is None:
            raise refusal(404, "not_found", "Video not found.")
        return job

    def _video(self, job: SimulatedJob, status: Any) -> dict[str, Any]:
        share = self.world.elapsed(job) / max(self.world.settings.queue_seconds + self.world.settings.run_seconds, 0.01)
        code = "moderation_blocked" if job.has("fail_input") or job.has("fail_output") else "internal_error"
        return {
            "id": job.id,
            "object": "video",
            "created_at": int(job.created_at),
            "status": status,
            "model": job.body.get("model", "sora-2"),
            "progress": 100 if status == "completed" else min(int(100 * share), 99),
            "seconds": job.body.get("seconds", "4"),
            "size": job.body.get("size", SIZES[0]),
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": {"code": code, "message": "The video could not be made."} if status == "failed" else None,
        }


async def form(request: Request) -> tuple[dict[str, str], bytes | None]:
    """The fields of a multipart body, and the picture if one was uploaded."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise refusal(400, "invalid_content_type", "The body must be multipart/form-data.")
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + await request.body(), policy=email.policy.HTTP)
    fields: dict[str, str] = {}
    picture: bytes | None = None
    for part in message.iter_parts():  # type: ignore[attr-defined] # what this policy makes
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        if part.get_filename() is not None and name == REFERENCE:
            picture = content
        else:
            fields[name] = content.decode()
    return fields, picture

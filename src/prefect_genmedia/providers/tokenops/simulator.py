"""TokenOps on the wire, as its page describes it; codes and upstream behaviour as in docs/providers/tokenops.md."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from prefect_genmedia.simulator.dialect import Dialect, Refusal, bearer_of, id_in_path, json_object
from prefect_genmedia.simulator.faults import HOSTILE_CODE, HOSTILE_TEXT, Fault, broken_answer, broken_file
from prefect_genmedia.simulator.media import Recipe, UnusableInput, draw_masks, fetch_input, sound_seconds
from prefect_genmedia.simulator.world import SimulatedJob

_OMNI_REQ_KEY = "jimeng_realman_avatar_picture_omni_v15"
_INSPECTIONS = {
    "detection": "jimeng_realman_avatar_object_detection",
    "recognition": "jimeng_realman_avatar_picture_create_role_omni_v15",
}
# model → req_key → number of pictures it takes (TokenOps' page, "支持的参数"; numbers: docs/providers/tokenops.md).
_JIMENG: dict[str, dict[str, tuple[int, ...]]] = {
    "jimeng-video-3.0-pro": {"jimeng_ti2v_v30_pro": (0, 1)},
    "jimeng-video-3.0-720P": {
        "jimeng_t2v_v30": (0,),
        "jimeng_i2v_first_v30": (1,),
        "jimeng_i2v_first_tail_v30": (2,),
        "jimeng_i2v_recamera_v30": (1,),
    },
    "jimeng-video-3.0-1080P": {
        "jimeng_t2v_v30_1080p": (0,),
        "jimeng_i2v_first_v30_1080": (1,),
        "jimeng_i2v_first_tail_v30_1080": (2,),
    },
}
_RATIOS = {"16:9": 16 / 9, "4:3": 4 / 3, "1:1": 1.0, "3:4": 3 / 4, "9:16": 9 / 16, "21:9": 21 / 9}
_STATUSES = {"queued": "in_queue", "running": "processing", "failed": "failed", "done": "completed"}
_IDS = itertools.count(int(time.time() * 1000) % 10**9)


def _refusal(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> Refusal:
    return Refusal(status, {"error": {"code": str(code), "message": message}}, headers)


class TokenOps(Dialect):
    """The dialect's endpoints over one world."""

    name = "tokenops"
    title = "TokenOps"
    prefix = "/tokenops/v1"

    def routes(self) -> Mount:
        """Everything below `/tokenops/v1`."""
        return Mount(
            self.prefix,
            routes=[
                Route("/videos", self.guarded("submit", self.create), methods=["POST"]),
                Route("/videos/{id}", self.guarded("poll", self.status), methods=["GET"]),
                Route("/videos/{id}/content", self.guarded("content", self.content), methods=["GET"]),
                Route("/omnihuman/subject/{what}", self.guarded("detect", self.look), methods=["POST"]),
            ],
        )

    def key_of(self, request: Request) -> str:
        """The key, which is itself the account's name."""
        key = bearer_of(request)
        if key not in self.world.keys:
            # Some gateways quote the key they did not like; a client must not pass it on.
            raise _refusal(401, 2101, f"Incorrect API key provided: {key}")
        return key

    def refused_by(self, fault: Fault) -> Refusal | None:
        """The documented refusals."""
        retry_after = {"Retry-After": f"{fault.options.get('retry_after', 1.0):g}"}
        refusals = {
            "refuse_invalid": _refusal(400, 2004, "the request has an invalid parameter"),
            "refuse_hostile": Refusal(400, {"error": {"code": HOSTILE_CODE, "message": HOSTILE_TEXT}}),
            "refuse_key": _refusal(401, 2101, "Incorrect API key provided"),
            "refuse_balance": _refusal(403, 2103, "the account is overdue"),
            "rate_limited": _refusal(429, 2007, "requests per minute exceeded", retry_after),
            "detect_429": _refusal(429, 2007, "requests per minute exceeded", retry_after),
            "poll_404": _refusal(404, 2001, "video not found"),
            "poll_key_revoked": _refusal(401, 2101, "Incorrect API key provided"),
        }
        return refusals.get(fault.name)

    async def create(self, request: Request) -> Response:
        """POST /videos."""
        body = await _json_body(request)
        problems = _problems(body, self.world.settings.shipped)
        if problems:
            raise _refusal(400, 2004, "; ".join(problems))

        def accept() -> dict[str, Any]:
            job = self.world.accept(self.name, self.key_of(request), body, self._recipe, _new_id())
            return {"id": job.id, "object": "video", "created_at": int(job.created_at), "status": "in_queue"}

        return await self.submitted(request, accept)

    async def status(self, request: Request) -> Response:
        """GET /videos/{id}."""
        job = self._job(request)

        def answer(status: Any) -> dict[str, Any]:
            status = _STATUSES[self.stage(job)] if status is None else status
            payload = {"id": job.id, "object": "video", "created_at": int(job.created_at), "status": status}
            if status == "failed":
                payload["error"] = _failure(job)
            if status == "completed":
                payload["completed_at"] = int(time.time())
            return payload

        return await self.polled(request, answer)

    async def content(self, request: Request) -> Response:
        """GET /videos/{id}/content."""
        job = self._job(request)
        if self.stage(job) != "done":
            raise _refusal(400, 2001, "the video is not ready")
        fault = self.world.faults.take(self.name, "content")
        if fault is not None and fault.name == "content_gone":
            raise _refusal(404, 2001, "the video has expired")
        video = await self.world.video_of(job)
        if self.world.settings.gateway == "new-api" or (fault is not None and fault.name == "content_json_text"):
            return self.world.plain_answer(video)
        if fault is None:
            return Response(video, media_type="video/mp4")
        if fault.name == "content_redirect":
            return self.world.redirect_answer(video)
        if fault.name in ("content_json", "content_json_expired"):
            answer = self.world.url_answer(video, expired=fault.name == "content_json_expired")
            return JSONResponse({"video_url": answer.pop("url"), **answer})
        return await broken_file(fault, video, "video/mp4", request, self.world.drop)

    async def look(self, request: Request) -> Response:
        """POST /omnihuman/subject/detection and …/recognition."""
        what = request.path_params["what"]
        body = await _json_body(request)
        problems = [f"{name} is required" for name in ("model", "req_key", "image_url") if not body.get(name)]
        if what not in _INSPECTIONS:
            raise _refusal(404, 2001, "not found")
        if not problems and body["req_key"] != _INSPECTIONS[what]:
            problems.append(f"req_key must be {_INSPECTIONS[what]}")
        if problems:
            raise _refusal(400, 2004, "; ".join(problems))
        fault = self.world.faults.take(self.name, "detect")
        if fault is not None:
            self._refuse(fault)
        if fault is not None and fault.name not in ("detect_none", "detect_many"):
            return await broken_answer(fault, request, self.world.drop) or Response()
        try:
            picture = await asyncio.to_thread(fetch_input, body["image_url"], "portrait.jpg")
            count = self.world.settings.subjects
            if fault is not None and fault.name == "detect_many":
                count = int(fault.options.get("count", 40))
            masks = await asyncio.to_thread(draw_masks, picture, count)
        except UnusableInput as error:
            raise _refusal(400, 2004, str(error)) from None
        if fault is not None and fault.name == "detect_none":
            masks = []
        answer: dict[str, Any] = {"status": int(bool(masks)), "request_id": str(uuid4())}
        if what == "detection":
            shown = masks if fault is not None else masks[:5]
            answer["mask_urls"] = [
                self.world.publish(mask, "image/png", "png", struck_as=self.name, stage="mask") for mask in shown
            ]
        else:
            answer["task_id"] = _new_id()
        return JSONResponse(answer)

    def _job(self, request: Request) -> SimulatedJob:
        job = self.job_named(id_in_path(request), request)
        if job is None:
            raise _refusal(404, 2001, "video not found")
        return job

    async def _recipe(self, job: SimulatedJob) -> Recipe:
        maker = _omnihuman if job.body.get("generation_type") == "omni_human" else _jimeng
        return await asyncio.to_thread(maker, job)


def _omnihuman(job: SimulatedJob) -> Recipe:
    body = job.body
    picture = fetch_input(_content_url(body, "image_url"), "portrait.jpg")
    sound = fetch_input(_content_url(body, "audio_url"), "speech.mp3")
    seconds = sound_seconds(sound)
    if seconds >= 60:
        raise UnusableInput("the audio is too long")
    return Recipe(
        picture,
        None if job.has("silent_video") else sound,
        seconds=seconds / 2 if job.has("short_video") else seconds,
        short_side=480 if job.has("small_video") else body.get("output_resolution", 1080),
    )


def _jimeng(job: SimulatedJob) -> Recipe:
    body = job.body
    pictures = _pictures(body)
    frames = 241 if str(body.get("seconds")) == "10" or body.get("frames") == 241 else 121
    return Recipe(
        fetch_input(pictures[0], "portrait.jpg") if pictures else None,
        short_side=480 if job.has("small_video") else 720 if body["model"].endswith("720P") else 1080,
        ratio=None if pictures else _ratio(body),
        rate=24,
        frames=frames // 2 if job.has("short_video") else frames,
        tint=sum(_prompt(body).encode()),
    )


def _ratio(body: dict[str, Any]) -> float:
    if body.get("size"):
        width, height = (int(side) for side in body["size"].split("x"))
        return min(_RATIOS.values(), key=lambda ratio: abs(ratio - width / height))
    return _RATIOS[body.get("aspect_ratio", "16:9")]


def _content_url(body: dict[str, Any], kind: str) -> str:
    for element in body.get("content", []):
        if element.get("type") == kind and element.get("role") != "mask_image":
            return str(element[kind]["url"])
    return ""


def _pictures(body: dict[str, Any]) -> list[str]:
    in_content = [
        element["image_url"]["url"]
        for element in body.get("content", [])
        if element.get("type") in ("image_url", "image_base64")
    ]
    return list(body.get("image_urls", [])) or in_content


def _prompt(body: dict[str, Any]) -> str:
    for element in body.get("content", []):
        if element.get("type") == "text":
            return str(element["text"])
    return str(body.get("prompt", ""))


def _problems(body: dict[str, Any], shipped: frozenset[str]) -> list[str]:
    problems = [f"{name} is required" for name in ("model", "req_key") if not isinstance(body.get(name), str)]
    empty = [name for name, value in body.items() if value == ""]
    problems += [f"{name} must not be empty" for name in empty]
    if not problems and body["model"] not in shipped:
        omni = body.get("generation_type") == "omni_human"
        problems = _omnihuman_problems(body) if omni else _jimeng_problems(body)
    seed = body.get("seed", -1)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < -1:
        problems.append("seed must be an integer of -1 or more")
    return problems


def _omnihuman_problems(body: dict[str, Any]) -> list[str]:
    problems = [
        f"content must contain an {kind}"
        for kind in ("image_url", "audio_url")
        if not _content_url(body, kind).startswith(("http://", "https://"))
    ]
    if body["req_key"] != _OMNI_REQ_KEY:
        problems.append(f"req_key must be {_OMNI_REQ_KEY}")
    if body.get("output_resolution", 1080) not in (720, 1080):
        problems.append("output_resolution must be 720 or 1080")
    if not isinstance(body.get("pe_fast_mode", False), bool):
        problems.append("pe_fast_mode must be a boolean")
    masks = body.get("mask_urls", [])
    if not isinstance(masks, list) or not all(isinstance(url, str) for url in masks):
        problems.append("mask_urls must be a list of URLs")
    return problems


def _jimeng_problems(body: dict[str, Any]) -> list[str]:
    keys = _JIMENG.get(body["model"])
    if keys is None:
        return [f"model {body['model']} is not known"]
    if body["req_key"] not in keys:
        return [f"req_key {body['req_key']} does not belong to {body['model']}"]
    problems = []
    if len(_pictures(body)) not in keys[body["req_key"]]:
        problems.append(f"{body['req_key']} takes another number of pictures than {len(_pictures(body))}")
    if not _pictures(body) and not _prompt(body):
        problems.append("prompt is required")
    if len(_prompt(body)) > 800:
        problems.append("prompt is too long")
    if body.get("frames", 121) not in (121, 241):
        problems.append("frames must be 121 or 241")
    if str(body.get("seconds", "5")) not in ("5", "10"):
        problems.append("seconds must be 5 or 10")
    if body.get("aspect_ratio", "16:9") not in _RATIOS:
        problems.append("aspect_ratio is not supported")
    return problems


def _failure(job: SimulatedJob) -> dict[str, Any]:
    if job.has("fail_input"):
        return {"code": "50411", "message": "Pre Img Risk Not Pass"}
    if job.has("fail_output"):
        return {"code": "50516", "message": "Post Video Risk Not Pass"}
    if job.has("fail_hostile"):
        return {"code": HOSTILE_CODE, "message": HOSTILE_TEXT}
    return job.failure or {"code": "50500", "message": "Internal Error"}


async def _json_body(request: Request) -> dict[str, Any]:
    body = await json_object(request)
    if body is None:
        raise _refusal(400, 2005, "the request cannot be parsed")
    return body


def _new_id() -> str:
    """Twenty digits, like the documented ones."""
    return f"107{int(time.time()):010d}{next(_IDS) % 10**7:07d}"

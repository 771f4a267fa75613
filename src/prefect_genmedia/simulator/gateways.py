"""How gateways answer in place of a provider: other envelopes, other words, other errors, and web pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

GATEWAYS = {
    "new-api": "tasks inside `data`, states in capitals, Go's zero values, `task_not_exist`, content as text/plain",
    "web-page": "every answer is a web page, as where `base_url` leads to a site and not to an API",
}
"""The answer styles of the setting `gateway`."""

_STATES = {
    "in_queue": "QUEUED",
    "queued": "QUEUED",
    "processing": "IN_PROGRESS",
    "in_progress": "IN_PROGRESS",
    "completed": "SUCCESS",
    "failed": "FAILURE",
}
_PAGE = "<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>Welcome</h1></body></html>"
_WALL = "<html><head><title>Attention required</title></head><body>Your request was blocked.</body></html>"
_NO_CHANNEL = "No available channel for model x under group default"


def page() -> Response:
    """A web page, with 200."""
    return HTMLResponse(_PAGE)


def accepted(payload: dict[str, Any]) -> dict[str, Any]:
    """A yes to a submission as new-api words it; answers of another form stay as they are."""
    if not isinstance(payload.get("id"), str):
        return payload
    zero: dict[str, Any] = {
        "model": "",
        "progress": 0,
        "completed_at": 0,
        "expires_at": 0,
        "error": {"message": "", "code": ""},
    }
    rest: dict[str, Any] = {name: payload[name] for name in ("object", "created_at") if name in payload}
    return {"task_id": payload["id"], "id": 0, **rest, **zero, "status": "", "request_id": f"req-{payload['id']}"}


def state(payload: dict[str, Any]) -> dict[str, Any]:
    """A job's state as new-api words it; answers of another form stay as they are."""
    if "status" not in payload or "id" not in payload:
        return payload
    word, error = payload["status"], payload.get("error")
    task = {
        "task_id": payload["id"],
        "status": _STATES.get(word, word) if isinstance(word, str) else word,
        "fail_reason": json.dumps(error) if error else "",
        "progress": "100%" if word in ("completed", "failed") else "30%",
        "finish_time": 0,
        "data": {"model": ""},
    }
    return {"code": "success", "message": "", "data": task}


def refused(endpoint: str, status: int, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A refusal as new-api words it: status and body."""
    error = payload.get("error")
    words = error.get("message", "") if isinstance(error, dict) else str(error or payload.get("message", ""))
    code = error.get("code") if isinstance(error, dict) else payload.get("code")
    if endpoint in ("poll", "content") and status == 404:
        status, code, words = 400, "task_not_exist", "task_not_exist"
    return status, {"error": {"message": words, "type": "new_api_error", "param": "", "code": code}}


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "new_api_error", "param": "", "code": code}}, status)


REFUSALS: dict[str, Callable[[str], Response]] = {
    "refuse_quota": lambda url: _error(429, "insufficient_quota", "You exceeded your current quota."),
    "refuse_no_channel": lambda url: _error(503, "model_not_found", f"{_NO_CHANNEL} (distributor)"),
    "refuse_moved": lambda url: RedirectResponse(f"{url}/elsewhere", 308),
    "refuse_slash": lambda url: RedirectResponse(f"{url}/", 302),
    "refuse_in_200": lambda url: _error(200, "invalid_prompt", "The prompt was not accepted."),
    "refuse_firewall": lambda url: HTMLResponse(_WALL, 403),
}
"""The answers of faults that accept nothing, by what was asked."""

BROKEN: dict[str, Callable[[str], Response]] = {
    "accept_then_no_channel": lambda url: _error(503, "get_channel_failed", f"{_NO_CHANNEL} (retry)"),
    "accept_then_see_other": lambda url: RedirectResponse("/login", 303),
    "poll_not_exist": lambda url: _error(400, "task_not_exist", "task_not_exist"),
    "poll_firewall": lambda url: HTMLResponse(_WALL, 403),
    "content_not_ready": lambda url: _error(400, "video_not_ready", "The video is not ready yet."),
}
"""The answers of faults in place of the usual one."""

CHANGED = ("accept_then_error_in_200", "accept_empty_error", "accept_integer_id")
"""Faults that change the yes to a submission."""


def changed(name: str, payload: dict[str, Any], job_id: str) -> dict[str, Any]:
    """The yes to a submission as a fault changes it: an error beside the job, an empty one, a number as its id."""
    if name == "accept_then_error_in_200":
        return {**payload, "error": {"message": "do request failed", "code": "do_request_failed"}}
    if name == "accept_empty_error":
        return {**payload, "error": {"message": "", "code": None}, "errors": [], "expires_at": 0}
    if name == "accept_integer_id":
        changed: dict[str, Any] = json.loads(json.dumps(payload).replace(json.dumps(job_id), job_id))
        return changed
    return payload

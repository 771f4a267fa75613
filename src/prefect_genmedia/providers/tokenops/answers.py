"""Reading TokenOps' answers: errors into the tree, states into phases, content into a URL.

Sources: seed 001 for the shapes; PROVIDERS.md, "TokenOps", for codes, tolerant states and the undocumented error body.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any

import httpx

from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    InputRefused,
    InvalidRequest,
    JobExpired,
    OutputRefused,
    ProviderError,
    QuotaError,
    RateLimited,
)
from prefect_genmedia.providers.protocol import Observation, Phase
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.transport import Redactor, excerpt, retry_after_seconds

# Upstream (Volcengine) codes that may stand anywhere inside an error.
_UPSTREAM_CODE = re.compile(r"(?<!\d)(50[245]\d\d)(?!\d)")
_INPUT_CODES = {"50411": "image", "50412": "text", "50413": "text", "50518": "copyright of the input"}
_OUTPUT_CODES = {"50511": "image", "50516": "video", "50517": "audio", "50519": "copyright of the output"}
_AUDIT_CODES = frozenset({"50512", "50513", "50514", "50520", "50521", "50522"})
_SLOW_DOWN_CODES = frozenset({"50429", "50430"})

# Codes of the gateway itself.
_QUOTA_CODE = "2103"


def read_json(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The answer's JSON object.

    Raises:
        ProviderError: the body is no JSON object; after a submission nobody can know what that means.
    """
    try:
        payload = json.loads(response.content)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise ProviderError(
            f"{what} answered {response.status_code} with a body that is not a JSON object.",
            http_status=response.status_code,
            body=excerpt(redactor.clean(response.text)),
            outcome="uncertain",
        )
    return payload


def raise_for_error(response: httpx.Response, what: str, redactor: Redactor) -> None:
    """Do nothing for a 2xx answer, and raise the right error of the tree for any other.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, JobExpired, ProviderError.
    """
    status = response.status_code
    if response.is_success:
        return
    text = redactor.clean(response.text)
    code, message = _error_facts(text)
    facts: dict[str, Any] = {"code": code, "http_status": status, "body": excerpt(text)}
    said = f"{what} answered {status}" + (f" (code {code})" if code else "") + f": {excerpt(message, 500).rstrip('.')}."
    upstream = _upstream_code(text)
    if status == 429 or upstream in _SLOW_DOWN_CODES:
        wait = retry_after_seconds(response.headers.get("retry-after"), datetime.now(timezone.utc))
        raise RateLimited(said, **facts).after(wait)
    if upstream in _INPUT_CODES:
        raise InputRefused(f"{said} The {_INPUT_CODES[upstream]} was refused.", **facts)
    if code == _QUOTA_CODE or status == 402:
        raise QuotaError(said, **facts)
    if status in (401, 403):
        raise CredentialsError(said, **facts)
    if status in (404, 410):
        if what.startswith("GET"):
            raise JobExpired(said, **facts)
        raise ProviderError(f"{said} Is base_url right?", **facts, outcome="refused", retryable=False)
    if status in (400, 405, 413, 415, 422):
        raise InvalidRequest(said, **facts)
    # 5xx, and 424 (a downstream that failed, timed out or answered nonsense), and redirects: ambiguous on submit.
    raise ProviderError(said, **facts, outcome="uncertain")


def observation(payload: dict[str, Any], redactor: Redactor) -> Observation:
    """Read a job's state."""
    status = str(payload.get("status", "")).strip()
    word = status.lower()
    progress = payload.get("progress")
    percent = float(progress) if isinstance(progress, int | float) and 0 <= progress <= 100 else None
    if word in catalog.SUCCEEDED_STATUSES:
        return Observation(Phase.SUCCEEDED, status, progress=percent)
    if word in catalog.FAILED_STATUSES:
        return Observation(Phase.FAILED, status, failure=_failure(status, payload, redactor))
    if word in catalog.QUEUED_STATUSES:
        return Observation(Phase.QUEUED, status, progress=percent)
    return Observation(Phase.RUNNING, status, recognized=word in catalog.RUNNING_STATUSES, progress=percent)


def result_url(payload: dict[str, Any]) -> str:
    """The file's URL in a JSON answer of the content endpoint.

    Raises:
        JobExpired: the answer says that the URL is no longer valid.
        ProviderError: there is no URL in it; retryable.
    """
    url = payload.get("video_url") or payload.get("url")
    if not isinstance(url, str) or not url:
        raise ProviderError("The content answer is JSON without a video_url.", body=excerpt(", ".join(payload)))
    expires_at = payload.get("expires_at")
    if isinstance(expires_at, int | float) and expires_at < datetime.now(timezone.utc).timestamp():
        raise JobExpired("The result's URL has expired at the provider.")
    return url


def _failure(status: str, payload: dict[str, Any], redactor: Redactor) -> GenMediaError:
    text = redactor.clean(json.dumps(payload.get("error"), ensure_ascii=False))
    code, message = _error_facts(redactor.clean(json.dumps(payload, ensure_ascii=False)))
    upstream = _upstream_code(text)
    facts: dict[str, Any] = {"code": upstream or code, "body": excerpt(text)}
    said = f"The provider reports {status!r}: {excerpt(message, 500).rstrip('.')}."
    if upstream in _INPUT_CODES:
        what = _INPUT_CODES[upstream]
        return InputRefused(f"{said} The {what} was refused.", **facts, paid="refused jobs are not billed")
    if upstream in _OUTPUT_CODES:
        return OutputRefused(f"{said} The generated {_OUTPUT_CODES[upstream]} was refused.", **facts)
    if upstream in _AUDIT_CODES:
        return InputRefused(f"{said} It was refused by the content audit.", **facts, paid="refused jobs are not billed")
    if upstream == "50215":
        return InputRefused(f"{said} The input is invalid, such as a recording that is too long.", **facts)
    if upstream == "50400":
        return CredentialsError(f"{said} The service is not enabled for this account.", **facts)
    if status.lower() in ("expired", "not_found"):
        return JobExpired(said, **facts)
    return GenerationFailed(said, **facts)


def _upstream_code(text: str) -> str | None:
    found = _UPSTREAM_CODE.search(text)
    return found.group(1) if found else None


def _error_facts(text: str) -> tuple[str | None, str]:
    """Code and message out of an error body whose shape is not documented."""
    try:
        payload = json.loads(text)
    except ValueError:
        return None, " ".join(text.split()) or "no details"
    if not isinstance(payload, dict):
        return None, str(payload)
    error = payload.get("error")
    inner = error if isinstance(error, dict) else {}
    code = inner.get("code") or payload.get("code")
    candidates = (inner.get("message"), error, payload.get("message"), payload.get("detail"))
    message = next((value for value in candidates if isinstance(value, str) and value), "")
    return (str(code) if code else None), message or "no details"

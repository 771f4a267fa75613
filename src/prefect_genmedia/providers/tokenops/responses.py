"""Reading TokenOps' answers: errors into the tree, states into phases, content into a URL.

Sources: TokenOps' page for the shapes; docs/providers/tokenops.md for codes, states and the undocumented error body.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor, excerpt
from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    InputRefused,
    JobExpired,
    OutputRefused,
    ProviderError,
    QuotaError,
    RateLimited,
)
from prefect_genmedia.providers.protocol import Observation, Phase
from prefect_genmedia.providers.responses import ErrorAnswer, error_facts, read_json
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.text import WORDS_CHARACTERS, clean_json, clean_text, clean_word

__all__ = ["observation", "raise_for_error", "read_json", "result_url"]

# Upstream (Volcengine) codes that may stand anywhere inside an error.
_UPSTREAM_CODE = re.compile(r"(?<!\d)(50[245]\d\d)(?!\d)")
_INPUT_CODES = {"50411": "image", "50412": "text", "50413": "text", "50518": "copyright of the input"}
_OUTPUT_CODES = {"50511": "image", "50516": "video", "50517": "audio", "50519": "copyright of the output"}
_AUDIT_CODES = frozenset({"50512", "50513", "50514", "50520", "50521", "50522"})
_REFUSALS: dict[str, tuple[type[GenMediaError], str]] = {
    **{code: (InputRefused, f"The {what} was refused.") for code, what in _INPUT_CODES.items()},
    **{code: (OutputRefused, f"The generated {what} was refused.") for code, what in _OUTPUT_CODES.items()},
    **dict.fromkeys(_AUDIT_CODES, (InputRefused, "It was refused by the content audit.")),
    "50215": (InputRefused, "The input is invalid, such as a recording that is too long."),
    "50400": (CredentialsError, "The service is not enabled for this account."),
}
_SLOW_DOWN_CODES = frozenset({"50429", "50430"})

# Codes of the gateway itself.
_QUOTA_CODE = "2103"


def raise_for_error(response: httpx.Response, what: str, redactor: Redactor) -> None:
    """Do nothing for a 2xx answer, and raise the right error of the tree for any other.

    Parameters:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, JobExpired, ProviderError.
    """
    if response.is_success:
        return
    said = ErrorAnswer.of(response, what, redactor)
    upstream = _upstream_code(said.text)
    if said.status == 429 or upstream in _SLOW_DOWN_CODES:
        raise said.error(RateLimited).after(said.retry_after)
    refusal = _REFUSALS.get(upstream or "")
    if refusal is not None:
        raise said.error(*refusal)
    if said.code == _QUOTA_CODE:
        raise said.error(QuotaError)
    raise said.by_status()


def observation(payload: dict[str, Any], redactor: Redactor) -> Observation:
    """Read a job's state.

    Parameters:
        payload: the body of `GET /videos/{id}`.
        redactor: takes secrets out of what errors show.
    """
    status = clean_word(payload.get("status"))
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
        raise JobExpired("The result's URL has expired at the provider.", retryable=True)
    return url


def _failure(status: str, payload: dict[str, Any], redactor: Redactor) -> GenMediaError:
    payload = clean_json(payload)
    told = {name: payload[name] for name in ("error", "code", "message", "msg", "detail") if name in payload}
    text = redactor.clean(json.dumps(told, ensure_ascii=False))
    code, message = error_facts(redactor.clean(json.dumps(payload, ensure_ascii=False)))
    upstream = _upstream_code(text)
    facts: dict[str, Any] = {"code": upstream or code, "body": excerpt(text)}
    said = f"The provider reports {status!r}: {clean_text(message, WORDS_CHARACTERS).rstrip('.')}."
    refusal = _REFUSALS.get(upstream or "")
    if refusal is not None:
        kind, note = refusal
        return kind(f"{said} {note}", **facts)
    if status.lower() in ("expired", "not_found"):
        return JobExpired(said, **facts)
    return GenerationFailed(said, **facts)


def _upstream_code(text: str) -> str | None:
    found = _UPSTREAM_CODE.search(text)
    return found.group(1) if found else None

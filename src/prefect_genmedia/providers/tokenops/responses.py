"""Reading TokenOps' answers: errors into the tree, states into phases, content into a URL.

Sources: TokenOps' page for the shapes; docs/providers/tokenops.md for codes, states and the undocumented error body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
from prefect_genmedia.providers.answers import codes_in, parsed, percent_in, reason_in, status_in
from prefect_genmedia.providers.protocol import Observation, Phase
from prefect_genmedia.providers.responses import ErrorAnswer, json_object
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.text import WORDS_CHARACTERS, clean_json, clean_word

__all__ = ["json_object", "observation", "raise_for_error", "without_status"]

# Upstream (Volcengine) codes. In free text they stand first, in brackets, or behind a word that announces a code: any
# other number may be part of a request id, a date or a size.
_UPSTREAM_CODE = re.compile(r"50[245]\d\d")
_CODE_IN_WORDS = re.compile(
    r"^\W*(50[245]\d\d)(?![\w.-])|[\[(【\uff08](50[245]\d\d)[\])】\uff09]"
    r"|(?:code|errno|error|错误码|状态码)\W{1,4}(50[245]\d\d)(?![\w.-])",
    re.IGNORECASE,
)
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
    """Do nothing for an answer that says yes, and raise the right error of the tree for any other.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, JobExpired, ProviderError.
    """
    said = ErrorAnswer.in_answer(response, what, redactor)
    if said is None:
        return
    general = said.by_status()
    if general.provider_job_id is not None or isinstance(general, QuotaError):
        raise general
    upstream = _upstream_code(said.codes, said.message)
    if said.status == 429 or upstream in _SLOW_DOWN_CODES:
        raise said.error(RateLimited).after(said.retry_after)
    refusal = _REFUSALS.get(upstream or "")
    if refusal is not None:
        raise said.error(*refusal)
    if said.code == _QUOTA_CODE:
        raise said.error(QuotaError)
    raise general


def without_status(response: httpx.Response, what: str, redactor: Redactor) -> GenMediaError:
    """The error for an answer about a job that does not tell its state.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `GET /videos/{id}`.
        redactor: takes secrets out of what errors show.
    """
    said = ErrorAnswer.of(response, what, redactor)
    if said.in_body:
        return said.by_status()
    return said.error(ProviderError, "It has no status.")


def observation(task: dict[str, Any], redactor: Redactor, evidence: Mapping[str, Any] | None = None) -> Observation:
    """Read a job's state.

    Args:
        task: the object that tells it, in the body of `GET /videos/{id}`.
        redactor: takes secrets out of what errors show.
        evidence: what proves it to the provider.
    """
    status = clean_word(status_in(task))
    phase, recognized = catalog.STATUS_WORDS.phase(status)
    return Observation(
        phase,
        status,
        recognized,
        progress=None if phase is Phase.FAILED else percent_in(task.get("progress")),
        failure=_failure(status, task, redactor) if phase is Phase.FAILED else None,
        evidence=evidence or {},
    )


def _failure(status: str, task: dict[str, Any], redactor: Redactor) -> GenMediaError:
    task = clean_json(task)
    text = redactor.clean(json.dumps(task, ensure_ascii=False))
    reason = reason_in(parsed(text))
    upstream = _upstream_code(codes_in(task), reason.words)
    facts: dict[str, Any] = {"code": upstream or reason.code or None, "body": excerpt(text)}
    said = f"The provider reports {status!r}: {(reason.words or excerpt(text, WORDS_CHARACTERS)).rstrip('.')}."
    refusal = _REFUSALS.get(upstream or "")
    if refusal is not None:
        kind, note = refusal
        return kind(f"{said} {note}", **facts)
    if status.lower() in ("expired", "not_found"):
        return JobExpired(said, **facts)
    return GenerationFailed(said, **facts)


def _upstream_code(codes: Sequence[str], words: str) -> str | None:
    """The upstream's code: from a code field, else from the words where they present it as one."""
    for code in codes:
        if _UPSTREAM_CODE.fullmatch(code):
            return code
    found = _CODE_IN_WORDS.search(words)
    return next(filter(None, found.groups()), None) if found else None

"""Reading Jenius' answers: HTTP status first, then the body's `code`, then the task's status.

Sources: Jenius' page for the states and `live_poster_url`; docs/providers/jenius.md for envelope and fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor, excerpt
from prefect_genmedia.errors import GenerationFailed, ProviderError
from prefect_genmedia.providers.answers import (
    evidence_in,
    job_id_in,
    layers,
    number_in,
    parsed,
    percent_in,
    reason_in,
    status_in,
    task_in,
    url_in,
)
from prefect_genmedia.providers.jenius import catalog
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase
from prefect_genmedia.providers.responses import ErrorAnswer, json_object, unreadable
from prefect_genmedia.text import clean_json, clean_word

JOB_IDS = ("uuid", "task_id")
"""Fields that hold a task's id; its `id` is a number that no endpoint takes."""


def envelope(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The answer's object, where it says yes.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, JobExpired: the provider said no.
        ProviderError: it failed, or answered something that no document explains; uncertain after a submission.
    """
    # No list of codes is published. Those that are HTTP statuses are taken for them, all others for uncertain.
    refusal = ErrorAnswer.in_envelope(response, what, redactor, catalog.GOOD_CODE)
    if refusal is not None:
        raise refusal.by_status()
    return json_object(response, what, redactor)


def accepted(response: httpx.Response, what: str, redactor: Redactor) -> Accepted:
    """The yes to a submission.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        GenMediaError: it was refused, or nobody can know.
    """
    payload = envelope(response, what, redactor)
    uuid = job_id_in(payload, JOB_IDS)
    if uuid is None:
        raise unreadable(response, what, redactor, "no uuid in its task")
    task = next((each for each in layers(payload) if any(name in each for name in JOB_IDS)), {})
    return Accepted(
        uuid,
        clean_word(status_in(task)) or "pending",
        price=number_in(task.get("price")),
        points_remaining=number_in(task.get("remaining_points")),
        evidence=evidence_in(response, payload, redactor),
    )


def task_of(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The task in an answer: what the envelope holds.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `GET /tasks/{uuid}`.
        redactor: takes secrets out of what errors show.

    Raises:
        GenMediaError: the provider said no, or told no state.
    """
    task = task_in(envelope(response, what, redactor))
    if task is None:
        raise unreadable(response, what, redactor, "no status in its task")
    return task


def observation(task: dict[str, Any], redactor: Redactor, evidence: Mapping[str, Any] | None = None) -> Observation:
    """Read a task's state.

    Args:
        task: the task, as `task_of` read it.
        redactor: takes secrets out of what errors show.
        evidence: what proves it to the provider.
    """
    status = clean_word(status_in(task))
    phase, recognized = catalog.STATUS_WORDS.phase(status)
    return Observation(
        phase,
        status,
        recognized,
        progress=percent_in(task.get("progress")),
        failure=_failure(status, task, redactor) if phase is Phase.FAILED else None,
        price=number_in(task.get("price")),
        evidence=evidence or {},
    )


def result_url(task: dict[str, Any]) -> str:
    """The finished file's URL.

    Raises:
        ProviderError: the task is not completed, or has no URL yet; retryable.
    """
    url = url_in(task, ("live_poster_url",))
    if url is None:
        raise ProviderError(f"The task is {clean_word(status_in(task))!r} and has no live_poster_url.")
    return url


def _failure(status: str, task: dict[str, Any], redactor: Redactor) -> GenerationFailed:
    text = redactor.clean(json.dumps(clean_json(task), ensure_ascii=False))
    reason = reason_in(parsed(text))
    words = reason.words or "no details"
    return GenerationFailed(
        f"The provider reports {status!r}: {words.rstrip('.。')}.", code=reason.code or None, body=excerpt(text)
    )

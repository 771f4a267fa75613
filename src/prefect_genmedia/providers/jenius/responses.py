"""Reading Jenius' answers: HTTP status first, then the body's `code`, then the task's status.

Sources: Jenius' page for the states and `live_poster_url`; docs/providers/jenius.md for envelope and fields.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor, excerpt
from prefect_genmedia.errors import GenerationFailed, ProviderError
from prefect_genmedia.providers.jenius import catalog
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase
from prefect_genmedia.providers.responses import ErrorAnswer, id_in, name_in, number_in, read_json, unreadable
from prefect_genmedia.text import WORDS_CHARACTERS, clean_json, clean_text, clean_word


def task_in(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The task in an answer: the envelope's `data`.

    Parameters:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, JobExpired: the provider said no.
        ProviderError: it failed, or answered something that no document explains; uncertain after a submission.
    """
    # No list of codes is published. Those that are HTTP statuses are taken for them, all others for uncertain.
    said_no = ErrorAnswer.in_envelope(response, what, redactor, catalog.GOOD_CODE)
    if said_no is not None:
        raise said_no.by_status()
    data = read_json(response, what, redactor).get("data")
    if not isinstance(data, dict):
        raise unreadable(response, what, redactor, "no task in it")
    return data


def accepted(task: dict[str, Any]) -> Accepted | None:
    """The yes to a submission; None where it names no task."""
    uuid = id_in(task.get("uuid"))
    if uuid is None:
        return None
    return Accepted(
        uuid,
        clean_word(task.get("status")) or "pending",
        price=number_in(task.get("price")),
        points_remaining=number_in(task.get("remaining_points")),
    )


def observation(task: dict[str, Any], redactor: Redactor) -> Observation:
    """Read a task's state.

    Parameters:
        task: the task, as `task_in` read it.
        redactor: takes secrets out of what errors show.
    """
    status = clean_word(task.get("status"))
    word = status.lower()
    price = number_in(task.get("price"))
    if word in catalog.SUCCEEDED_STATUSES:
        return Observation(Phase.SUCCEEDED, status, price=price)
    if word in catalog.FAILED_STATUSES:
        return Observation(Phase.FAILED, status, failure=_failure(status, task, redactor), price=price)
    if word in catalog.QUEUED_STATUSES:
        return Observation(Phase.QUEUED, status, price=price)
    return Observation(Phase.RUNNING, status, recognized=word in catalog.RUNNING_STATUSES, price=price)


def result_url(task: dict[str, Any]) -> str:
    """The finished file's URL.

    Raises:
        ProviderError: the task is not completed, or has no URL yet; retryable.
    """
    url = name_in(task.get("live_poster_url"))
    if url is None:
        raise ProviderError(f"The task is {clean_word(task.get('status'))!r} and has no live_poster_url.")
    return url


def _failure(status: str, task: dict[str, Any], redactor: Redactor) -> GenerationFailed:
    reason = redactor.clean(clean_word(task.get("error_msg"), None) or "no details")
    return GenerationFailed(
        f"The provider reports {status!r}: {clean_text(reason, WORDS_CHARACTERS).rstrip('.。')}.",
        body=excerpt(redactor.clean(json.dumps(clean_json(task), ensure_ascii=False))),
    )

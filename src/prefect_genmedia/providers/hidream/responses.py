"""Reading HiDream's answers: the envelope, tokens, and the states of a task's sub-tasks as one.

Sources: HiDream's page for the envelope and the submission; docs/providers/hidream.md for results, states and codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from prefect_genmedia._transport import Redactor
from prefect_genmedia.errors import NEW_ATTEMPT, GenerationFailed, ProviderError
from prefect_genmedia.providers.answers import (
    evidence_in,
    is_blank,
    job_id_in,
    layers,
    name_in,
    number_in,
    parsed,
    reason_in,
    status_in,
    urls_in,
)
from prefect_genmedia.providers.hidream import catalog
from prefect_genmedia.providers.hidream.token import Token
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase
from prefect_genmedia.providers.responses import ErrorAnswer, json_object, unreadable
from prefect_genmedia.providers.statuses import likely_phase
from prefect_genmedia.text import STATUS_CHARACTERS, WORDS_CHARACTERS, clean_text, clean_word


def result_in(response: httpx.Response, what: str, redactor: Redactor) -> Any:
    """The envelope's `result`.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, JobExpired: the provider said no.
        ProviderError: it failed, or answered something that no document explains; uncertain after a submission.
    """
    refusal = ErrorAnswer.in_envelope(response, what, redactor, catalog.GOOD_CODE)
    if refusal is None:
        payload = json_object(response, what, redactor)
        return next((payload[name] for name in ("result", "data") if payload.get(name) is not None), None)
    if refusal.code == catalog.MODEL_UNAVAILABLE_CODE:
        raise refusal.error(
            ProviderError,
            "The model is not available.",
            outcome="refused",
            retryable=False,
            next_step="run again later, or ask the provider whether the account has access.",
        )
    # No list of codes is published. Those that are HTTP statuses are taken for them, all others for uncertain.
    raise refusal.by_status()


def token_in(response: httpx.Response, what: str, redactor: Redactor, now: float) -> Token:
    """The token that was given for an API key.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.
        now: the time at which it was asked for, in seconds since 1970.

    Raises:
        GenMediaError: there is none.
    """
    result = result_in(response, what, redactor)
    value = name_in(result.get("token")) if isinstance(result, dict) else None
    if value is None or not (value.isascii() and value.isprintable() and " " not in value):
        reason = "without a token" if value is None else "with a token that cannot stand in a header"
        raise ProviderError(f"{what} answered {reason}.", http_status=response.status_code)
    return Token.issued(value, result.get("expire_time"), now)


def accepted(response: httpx.Response, what: str, redactor: Redactor) -> Accepted:
    """The yes to a submission.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        GenMediaError: it was refused, or nobody can know.
    """
    result_in(response, what, redactor)
    payload = parsed(response.content)
    task_id = job_id_in(payload, JOB_IDS)
    if task_id is None:
        raise unreadable(response, what, redactor, "no task_id in its result")
    evidence = evidence_in(response, payload, redactor)
    return Accepted(task_id, catalog.STATUS_WORDS[catalog.WAITING], evidence=evidence)


JOB_IDS = ("task_id", "main_task_id", "id")
"""Fields that hold a task's id."""


@dataclass(frozen=True)
class SubTask:
    """One file in the making.

    Args:
        status: its task_status; None where it is no number.
        urls: the URLs of its files; one is documented, and some answers have a list.
        completion: percent from 0 to 100, where the provider tells.
        description: the provider's words about it.
        text: its task_status, where that is a word.
    """

    status: int | None
    urls: tuple[str, ...]
    completion: float | None
    description: str
    text: str = ""

    @classmethod
    def read(cls, payload: dict[str, Any]) -> SubTask:
        """Read an element of `sub_task_results`."""
        said = status_in(payload, ("task_status", "status", "state"))
        status = number_in(said)
        return cls(
            status=int(status) if status is not None else None,
            urls=tuple(urls_in(payload, ("video", "videos", "url", "image"))[: catalog.MAX_SUB_TASKS]),
            completion=_percent(number_in(payload.get("task_completion"))),
            description=reason_in(payload, None).words,
            text=clean_word(said) if status is None else "",
        )

    @property
    def word(self) -> str:
        """Its status in words."""
        if self.status is None:
            return self.text or "without a task_status"
        if self.status == catalog.DONE and not self.urls:
            return "done, without a file yet"
        # Negative ones are pending (docs/providers/hidream.md, "On the wire").
        return catalog.STATUS_WORDS.get(max(self.status, catalog.WAITING), f"task_status {self.status}")

    @property
    def recognized(self) -> bool:
        """Whether its status is a known one."""
        return self.status is not None and (self.status <= catalog.REFUSED or self.status >= catalog.NO_RESULT_FROM)

    @property
    def phase(self) -> Phase:
        """Where it is; an unknown status counts as still running, and so does a finished one without a file."""
        if self.status is None:
            return likely_phase(self.text) or Phase.RUNNING
        if self.status == catalog.DONE and self.urls:
            return Phase.SUCCEEDED
        if self.status in (catalog.FAILED, catalog.REFUSED) or self.status >= catalog.NO_RESULT_FROM:
            return Phase.FAILED
        return Phase.QUEUED if self.status <= catalog.WAITING else Phase.RUNNING


def sub_tasks_in(result: Any) -> list[SubTask] | None:
    """The sub-tasks of one task's result; None where it is not such a result."""
    holding = (layer["sub_task_results"] for layer in layers(result) if "sub_task_results" in layer)
    listed = next(holding, None)
    if not isinstance(listed, list):
        return None
    # Each one with a file is downloaded: an answer must not name thousands.
    return [SubTask.read(payload) for payload in listed[: catalog.MAX_SUB_TASKS] if isinstance(payload, dict)]


def observation(sub_tasks: list[SubTask], redactor: Redactor, evidence: Mapping[str, Any] | None = None) -> Observation:
    """A task's state: over when every sub-task is, successful when one of them has a file.

    Args:
        sub_tasks: what the task consists of.
        redactor: takes secrets out of what errors show.
        evidence: what proves it to the provider.
    """
    known = all(sub_task.recognized for sub_task in sub_tasks)
    phases = Counter(sub_task.phase for sub_task in sub_tasks)
    status = _words(sub_tasks)
    if not sub_tasks or phases[Phase.QUEUED] == len(sub_tasks):
        return Observation(Phase.QUEUED, status)
    if phases[Phase.QUEUED] or phases[Phase.RUNNING]:
        return Observation(Phase.RUNNING, status, recognized=known, progress=_progress(sub_tasks))
    if phases[Phase.SUCCEEDED]:
        # What was made was paid: files that exist are delivered even where other sub-tasks failed.
        outputs = len(file_urls(sub_tasks)) or 1
        known = known or any(each.recognized for each in sub_tasks if each.phase is Phase.SUCCEEDED)
        return Observation(Phase.SUCCEEDED, status, known, 100.0, outputs=outputs, evidence=evidence or {})
    failure = _failure(status, sub_tasks, redactor)
    return Observation(Phase.FAILED, status, known, failure=failure, evidence=evidence or {})


def file_urls(sub_tasks: list[SubTask]) -> list[str]:
    """The URLs of the finished files, in the order of their sub-tasks."""
    found = [url for sub_task in sub_tasks if sub_task.phase is Phase.SUCCEEDED for url in sub_task.urls]
    return found[: catalog.MAX_SUB_TASKS]


def callback_words(payload: Any) -> str:
    """What a callback says of its task, in the words of a poll; empty where it says nothing that is understood.

    Args:
        payload: its body, as JSON.
    """
    sub_tasks = sub_tasks_in(payload)
    return _words(sub_tasks) if sub_tasks else ""


def callback_job_id(payload: Any) -> str | None:
    """The id of the task that a callback is about; None where it names none, empty where it cannot be read.

    Args:
        payload: its body, as JSON.
    """
    names = ("main_task_id", "task_id")
    is_named = any(not is_blank(layer.get(name)) for layer in layers(payload) for name in names)
    return job_id_in(payload, names) or ("" if is_named else None)


def _failure(status: str, sub_tasks: list[SubTask], redactor: Redactor) -> GenerationFailed:
    descriptions = "; ".join(dict.fromkeys(sub_task.description for sub_task in sub_tasks if sub_task.description))
    words = f": {clean_text(redactor.clean(descriptions), WORDS_CHARACTERS).rstrip('.。')}" if descriptions else ""
    codes = ", ".join(dict.fromkeys(str(sub_task.status) for sub_task in sub_tasks))
    said = f"The provider reports {status!r}{words}."
    if not any(sub_task.status == catalog.REFUSED for sub_task in sub_tasks):
        return GenerationFailed(said, code=codes)
    # Not told is whether the input or the output was refused. InputRefused would bar an input for ever that may be
    # fine, OutputRefused would promise that nothing was billed and a new attempt can pass: neither is known.
    return GenerationFailed(
        f"{said} It does not say whether the input or the output was refused.",
        code=codes,
        next_step=f"change the video, prompt or style, or run again for {NEW_ATTEMPT}.",
    )


def _words(sub_tasks: list[SubTask]) -> str:
    counts = Counter(sub_task.word for sub_task in sub_tasks)
    if not counts:
        return catalog.STATUS_WORDS[catalog.WAITING]
    if len(sub_tasks) == 1:
        return clean_text(sub_tasks[0].word, STATUS_CHARACTERS)
    return clean_text(", ".join(f"{count} {word}" for word, count in counts.items()), STATUS_CHARACTERS)


def _progress(sub_tasks: list[SubTask]) -> float | None:
    known = [sub_task.completion for sub_task in sub_tasks if sub_task.completion is not None]
    return sum(known) / len(known) if len(known) == len(sub_tasks) else None


def _percent(completion: float | None) -> float | None:
    """Its scale is not documented: up to 1 it is taken as a share, up to 100 as percent; it is only ever shown."""
    if completion is None or not 0 <= completion <= 100:
        return None
    return completion * 100 if completion <= 1 else completion

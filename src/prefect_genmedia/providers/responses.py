"""Reading answers, the same way for every provider: JSON objects, and errors into the tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

import httpx
from typing_extensions import Self

from prefect_genmedia._transport import Redactor, excerpt, retry_after_seconds
from prefect_genmedia.errors import (
    CredentialsError,
    GenMediaError,
    InvalidRequest,
    JobExpired,
    ProviderError,
    QuotaError,
    RateLimited,
    SubmissionUnknown,
)
from prefect_genmedia.text import CODE_CHARACTERS, WORDS_CHARACTERS, clean_json, clean_text, clean_word

ErrorType = TypeVar("ErrorType", bound=GenMediaError)

MAX_DEPTH = 100
"""The deepest nesting of JSON that is read; no documented answer has more than five levels."""


@dataclass(frozen=True)
class ErrorAnswer:
    """An answer that says no: the facts that an error of the tree is made from. Holds no secret and no httpx object.

    Parameters:
        what: the call, such as `POST /videos`.
        status: the HTTP status, or the code in the body where it stands for one.
        http_status: the HTTP status.
        code: the provider's own code, as text.
        message: the provider's own words.
        text: the body, redacted.
        retry_after: how long the provider asked to wait, in seconds.
    """

    what: str
    status: int
    http_status: int
    code: str | None
    message: str
    text: str
    retry_after: float | None

    @classmethod
    def of(cls, response: httpx.Response, what: str, redactor: Redactor) -> Self:
        """Read an answer whose HTTP status says no.

        Parameters:
            response: the answer, read as a whole.
            what: the call, as errors name it, such as `POST /videos`.
            redactor: takes secrets out of what errors show.
        """
        text = shown_body(response, redactor)
        code, message = error_facts(text)
        return cls(
            what=what,
            status=response.status_code,
            http_status=response.status_code,
            code=code,
            message=message,
            text=text,
            retry_after=retry_after_seconds(response.headers.get("retry-after"), datetime.now(timezone.utc)),
        )

    @classmethod
    def in_envelope(cls, response: httpx.Response, what: str, redactor: Redactor, good_code: int) -> Self | None:
        """Read an answer of the form `{"code": …, "message": …, …}`, where an HTTP 200 may still say no.

        Parameters:
            response: the answer, read as a whole.
            what: the call, as errors name it, such as `POST /videos`.
            redactor: takes secrets out of what errors show.
            good_code: the `code` of an answer that says yes.

        Returns:
            The error: by the HTTP status, else by the body's `code`; None where the code is the good one, or missing.

        Raises:
            ProviderError: the body is no JSON object.
        """
        said = cls.of(response, what, redactor)
        if not response.is_success:
            return said
        payload = read_json(response, what, redactor)
        code = number_in(payload.get("code", good_code))
        if code == good_code:
            return None
        return replace(said, status=said.http_status if code is None else int(code))

    def error(self, kind: type[ErrorType], note: str = "", **facts: Any) -> ErrorType:
        """The answer as an error.

        Parameters:
            kind: the error's class.
            note: a sentence that follows the provider's words.
            **facts: what else such an error holds.
        """
        code = f" (code {self.code})" if self.code else ""
        said = (
            f"{self.what} answered {self.http_status}{code}: {clean_text(self.message, WORDS_CHARACTERS).rstrip('.')}."
        )
        return kind(
            f"{said} {note}".rstrip(), code=self.code, http_status=self.http_status, body=excerpt(self.text), **facts
        )

    def by_status(self) -> GenMediaError:
        """The error that the status means everywhere."""
        if self.status == 429:
            return self.error(RateLimited).after(self.retry_after)
        if self.status == 402:
            return self.error(QuotaError)
        if self.status in (401, 403):
            return self.error(CredentialsError)
        if self.status in (404, 410):
            if self.what.startswith("GET"):
                return self.error(JobExpired)
            return self.error(ProviderError, "Is base_url right?", outcome="refused", retryable=False)
        if self.status in (400, 405, 413, 415, 422):
            return self.error(InvalidRequest)
        # 5xx, redirects, a downstream that failed, and codes that no document explains: ambiguous on submit.
        return self.error(ProviderError, outcome="uncertain")


def read_json(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The answer's JSON object.

    Parameters:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        ProviderError: the body is no JSON object; after a submission nobody can know what that means.
    """
    payload = _parsed(response.content)
    if not isinstance(payload, dict):
        raise unreadable(response, what, redactor, "a body that is not a JSON object")
    return payload


def unreadable(response: httpx.Response, what: str, redactor: Redactor, reason: str) -> ProviderError:
    """The error for a successful answer that lacks what it should hold; uncertain after a submission.

    Parameters:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.
        reason: what is missing or wrong, in words.
    """
    return ProviderError(
        f"{what} answered {response.status_code} with {reason}.",
        http_status=response.status_code,
        body=excerpt(shown_body(response, redactor)),
        outcome="uncertain",
    )


def shown_body(response: httpx.Response, redactor: Redactor) -> str:
    """The body as errors show it: clean text. JSON is written anew, since its escapes could hide a secret.

    Parameters:
        response: the answer, read as a whole.
        redactor: takes secrets out of what errors show.
    """
    payload = _parsed(response.content)
    return redactor.clean(response.text if payload is None else json.dumps(clean_json(payload), ensure_ascii=False))


@contextmanager
def paid_submission() -> Iterator[None]:
    """Around a submission: what it raises without a certain answer may have cost money, and is never worth a repeat."""
    try:
        yield
    except GenMediaError as error:
        if error.outcome == "uncertain":
            error.retryable, error.paid = False, SubmissionUnknown.paid
            error.next_step = "look into the provider's console before sending it again."
        raise


def error_facts(text: str) -> tuple[str | None, str]:
    """Code and message out of an error body, as clean text, whatever of the usual shapes it has."""
    payload = _parsed(text)
    if not isinstance(payload, dict):
        return None, clean_text(text, WORDS_CHARACTERS).strip() or "no details"
    error = payload.get("error")
    inner = error if isinstance(error, dict) else {}
    code = clean_word(inner.get("code") or payload.get("code"), CODE_CHARACTERS)
    candidates = (inner.get("message"), error, payload.get("message"), payload.get("msg"), payload.get("detail"))
    message = next((value for value in candidates if isinstance(value, str) and value), "")
    return code or None, clean_text(message, WORDS_CHARACTERS) or "no details"


def id_in(value: Any) -> str | None:
    """A provider's id of a job, unaltered: text that is not blank, or a whole number; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return name_in(value)


def name_in(value: Any) -> str | None:
    """A URL or a token, unaltered: text that is not blank; None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


def number_in(value: Any) -> float | None:
    """A finite number, given as one or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _parsed(text: str | bytes) -> Any:
    """The JSON value; None where it is none, or nested deeper than `MAX_DEPTH`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # Writing the value anew recurses as well, and from deeper in the stack than reading it.
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    return None

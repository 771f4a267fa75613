"""Reading answers, the same way for every provider: JSON objects, and errors into the tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx
from typing_extensions import Self

from prefect_genmedia._transport import Redactor, excerpt, retry_after_seconds, shown_url
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
from prefect_genmedia.providers import refusals
from prefect_genmedia.providers.answers import (
    JOB_IDS,
    Reason,
    codes_in,
    evidence_in,
    is_blank,
    is_page,
    is_same_path,
    job_id_beside_error,
    layers,
    number_in,
    parsed,
    reason_in,
    words_of_page,
)
from prefect_genmedia.text import CODE_CHARACTERS, WORDS_CHARACTERS, clean_json, clean_text, clean_word

ErrorType = TypeVar("ErrorType", bound=GenMediaError)

_GOOD_CODES = frozenset({"0", "200", "success", "succeed", "succeeded", "ok"})
"""What gateways write as the code of an answer that says yes."""

_MOVED = frozenset({301, 307, 308})
"""Redirects that ask for the same request at another URL: nothing was done with it here."""

_UNACCEPTABLE = frozenset({411, 413, 414, 415, 417, 421, 426, 428, 431})
"""Refusals of a request's form, protocol or host, from before it is read."""


@dataclass(frozen=True)
class ErrorAnswer:
    """An answer that says no: the facts that an error of the tree is made from. Holds no secret and no httpx object.

    Args:
        what: the call, such as `POST /videos`.
        status: the HTTP status, or the code in the body where it stands for one.
        http_status: the HTTP status.
        code: the provider's own code, as text.
        message: the provider's own words.
        text: the body, redacted.
        retry_after: how long the provider asked to wait, in seconds.
        codes: every code in the body's code fields.
        url: what was asked, unsigned.
        location: where a redirect leads, redacted; empty where it is none.
        is_same_path: whether that only corrects the address: https in place of http, or a slash at the end.
        in_body: whether a 200 says no in its body.
        is_page: whether it is a web page.
        job_id: the id of a job that it names all the same.
        evidence: what proves to the provider what it answered.
    """

    what: str
    status: int
    http_status: int
    code: str | None
    message: str
    text: str
    retry_after: float | None
    codes: tuple[str, ...] = ()
    url: str = ""
    location: str = ""
    is_same_path: bool = False
    in_body: bool = False
    is_page: bool = False
    job_id: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, response: httpx.Response, what: str, redactor: Redactor) -> Self:
        """Read an answer whose HTTP status says no.

        Args:
            response: the answer, read as a whole.
            what: the call, as errors name it, such as `POST /videos`.
            redactor: takes secrets out of what errors show.
        """
        text = shown_body(response, redactor)
        payload = parsed(text)
        reason = error_facts(text)
        names = (*JOB_IDS, "uuid")
        may_be_accepted = response.is_success or response.is_server_error
        location = response.headers.get("location", "") if response.is_redirect else ""
        return cls(
            what=what,
            status=response.status_code,
            http_status=response.status_code,
            code=reason.code or None,
            message=reason.words,
            text=text,
            retry_after=retry_after_seconds(response.headers.get("retry-after"), datetime.now(timezone.utc)),
            codes=codes_in(payload),
            url=_asked(response),
            location=redactor.clean(urljoin(_asked(response), location)) if location else "",
            is_same_path=is_same_path(_asked(response), location),
            in_body=response.is_success and _is_refusal(payload),
            is_page=is_page(response),
            job_id=job_id_beside_error(parsed(response.content), names) if may_be_accepted else None,
            evidence=evidence_in(response, payload, redactor),
        )

    @classmethod
    def in_answer(cls, response: httpx.Response, what: str, redactor: Redactor) -> Self | None:
        """Read an answer that may say no by its HTTP status, or, to a POST, by `{"error": …}` in a 200.

        Args:
            response: the answer, read as a whole.
            what: the call, as errors name it, such as `POST /videos`.
            redactor: takes secrets out of what errors show.

        Returns:
            The error; None where the answer says yes. An empty error beside a job says yes.
        """
        if response.is_success and not (what.startswith("POST") and _is_refusal(parsed(response.content))):
            return None
        return cls.of(response, what, redactor)

    @classmethod
    def in_envelope(cls, response: httpx.Response, what: str, redactor: Redactor, good_code: int) -> Self | None:
        """Read an answer of the form `{"code": …, "message": …, …}`, where an HTTP 200 may still say no.

        Args:
            response: the answer, read as a whole.
            what: the call, as errors name it, such as `POST /videos`.
            redactor: takes secrets out of what errors show.
            good_code: the `code` of an answer that says yes; null, 0, 200 to 299 and `success` say it, too.

        Returns:
            The error: by the HTTP status, else by the body's `code`; None where the code is a good one, or missing.

        Raises:
            ProviderError: the body is no JSON object.
        """
        said = cls.in_answer(response, what, redactor)
        if said is not None:
            return said
        payload = json_object(response, what, redactor)
        value = payload.get("code")
        code = number_in(value)
        if value in (None, "") or code == good_code or clean_word(value).lower() in _GOOD_CODES:
            return None
        if code is not None and 200 <= code < 300:  # an HTTP status, such as 201
            return None
        answer = cls.of(response, what, redactor)
        return replace(answer, status=answer.http_status if code is None else int(code))

    @property
    def is_submission(self) -> bool:
        """Whether the call may have cost money."""
        return self.what.startswith("POST")

    def error(self, kind: type[ErrorType], note: str = "", **facts: Any) -> ErrorType:
        """The answer as an error.

        Args:
            kind: the error's class.
            note: a sentence that follows the provider's words.
            **facts: what else such an error holds.
        """
        code = f" (code {self.code})" if self.code else ""
        said = (
            f"{self.what} answered {self.http_status}{code}: {clean_text(self.message, WORDS_CHARACTERS).rstrip('.')}."
        )
        error = kind(
            f"{said} {note}".rstrip(), code=self.code, http_status=self.http_status, body=excerpt(self.text), **facts
        )
        error.evidence = self.evidence or None
        return error

    def by_status(self) -> GenMediaError:
        """The error that the answer means everywhere: by its codes and words, else by its status."""
        if self.is_submission and self.job_id is not None and self._may_be_accepted:
            error = self.error(ProviderError, "It names a job all the same.", outcome="uncertain")
            error.provider_job_id = self.job_id
            return error
        return self._by_meaning() or (self._of_call() if self.is_submission else self._of_poll())

    @property
    def _may_be_accepted(self) -> bool:
        return self.http_status < 300 or self.http_status >= 500

    def _by_meaning(self) -> GenMediaError | None:
        """What codes and words mean, whatever the status is; None where they mean nothing that is known."""
        codes, words = self.codes, clean_text(self.message, 2000)
        # "Slow down, and retry" is no word about channels.
        if refusals.was_retried(codes, "" if self.status == 429 else words):
            return self.error(ProviderError, "The gateway may have forwarded it before.", outcome="uncertain")
        worst = self.status if 500 <= self.status < 600 else self.http_status
        if refusals.is_of_money(codes, words, worst):
            return self.error(QuotaError)
        if refusals.is_unrouted(codes, words):
            note = "The gateway has no channel for the model, and forwarded nothing."
            return self.error(ProviderError, note, outcome="refused", retryable=False, next_step=_ASK_FOR_MODEL)
        if self.is_page and self.http_status in (401, 403):
            note = "A firewall answered, not the API: ask whoever runs the network, or the provider, to let it pass."
            return self.error(ProviderError, note, outcome="refused", retryable=not self.is_submission)
        if self.what.startswith("GET") and refusals.is_of_missing_job(codes, words):
            return self.error(JobExpired)
        return None

    def _of_call(self) -> GenMediaError:
        """The error of a submission: what documents a refusal is certain, all else is not."""
        if self.in_body:
            return self._in_body()
        if (common := self._common()) is not None:
            return common
        if self.status in (400, 422):
            return self.error(InvalidRequest, self._address if self.is_page else "")
        if self.status in _UNACCEPTABLE:
            return self.error(InvalidRequest, self._address)
        if (
            self.status in (404, 405, 407, 410)
            or self.status in _MOVED
            or (self.status in (302, 303) and self.is_same_path)
        ):
            return self.error(ProviderError, self._address, outcome="refused", retryable=False)
        # 5xx, other redirects, a downstream that failed, and codes that no document explains.
        return self.error(ProviderError, outcome="uncertain")

    def _of_poll(self) -> GenMediaError:
        """The error of a call that costs nothing: the job, the key, the pace, or a bad answer that says nothing."""
        if (common := self._common()) is not None:
            return common
        if self.status in (404, 410):
            if self.what.startswith("GET"):
                return self.error(JobExpired)
            return self.error(ProviderError, self._address, outcome="refused", retryable=False)
        if self.status in (400, 405, 413, 415, 422) and not self.what.startswith("GET"):
            return self.error(InvalidRequest)
        return self.error(ProviderError, self._address if self.location else "", outcome="uncertain")

    def _common(self) -> GenMediaError | None:
        if self.status == 429:
            return self.error(RateLimited).after(self.retry_after)
        if self.status == 402:
            return self.error(QuotaError)
        if self.status in (401, 403):
            return self.error(CredentialsError)
        return None

    def _in_body(self) -> GenMediaError:
        """An error in a 200 that names no job: refused, unless its code or words say that nobody can know."""
        status = next((int(code) for code in self.codes if code.isdecimal() and 400 <= int(code) < 600), 0)
        if status >= 500 or status == 424 or refusals.is_late(self.codes, clean_text(self.message, 2000)):
            return self.error(ProviderError, outcome="uncertain")
        if refusals.is_of_rate(self.codes):
            return self.error(RateLimited).after(self.retry_after)
        if status:
            return replace(self, status=status, in_body=False)._of_call()
        return self.error(
            ProviderError, "It was refused.", outcome="refused", retryable=False, next_step="see the provider's words."
        )

    @property
    def _address(self) -> str:
        leads = f", which leads to {self.location}" if self.location else ""
        return f"Is base_url right? What was asked is {self.url}{leads}."


_ASK_FOR_MODEL = "check the model's name, or ask whoever runs the gateway for a channel; then run again."


def read_json(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The answer's JSON object, where a 200 does not say no in its body.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        ProviderError: the body is no JSON object; after a submission nobody can know what that means.
        GenMediaError: it is the answer to a POST, and says no.
    """
    payload = json_object(response, what, redactor)
    refusal = ErrorAnswer.in_answer(response, what, redactor) if response.is_success else None
    if refusal is not None:
        raise refusal.by_status()
    return payload


def json_object(response: httpx.Response, what: str, redactor: Redactor) -> dict[str, Any]:
    """The answer's JSON object, whatever it says.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        ProviderError: the body is no JSON object.
    """
    payload = parsed(response.content)
    if not isinstance(payload, dict):
        reason = "a web page" if is_page(response) else "a body that is not a JSON object"
        raise unreadable(response, what, redactor, reason)
    return payload


def unreadable(response: httpx.Response, what: str, redactor: Redactor, reason: str) -> ProviderError:
    """The error for a successful answer that lacks what it should hold; uncertain after a submission.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.
        reason: what is missing or wrong, in words.
    """
    text = shown_body(response, redactor)
    error = ProviderError(
        f"{what} answered {response.status_code} with {reason}: {_shown_words(text)}.",
        http_status=response.status_code,
        body=excerpt(text),
        outcome="uncertain",
    )
    error.is_page = is_page(response)
    error.evidence = evidence_in(response, parsed(text), redactor)
    return error


def shown_body(response: httpx.Response, redactor: Redactor) -> str:
    """The body as errors show it: clean text. JSON is written anew, since its escapes could hide a secret.

    Args:
        response: the answer, read as a whole.
        redactor: takes secrets out of what errors show.
    """
    payload = parsed(response.content)
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


def error_facts(text: str) -> Reason:
    """Code and message out of an error body, as clean text, whatever of the usual shapes it has.

    Args:
        text: the body, redacted. Where it has no message it is shown itself, cut.
    """
    payload = parsed(text)
    if not isinstance(payload, dict):
        return Reason("", _shown_words(text))
    code, words = reason_in(payload)
    return Reason(clean_text(code, CODE_CHARACTERS), words or _shown_words("" if is_blank(payload) else text))


def _shown_words(text: str) -> str:
    return clean_text(words_of_page(text), WORDS_CHARACTERS).strip() or "no details"


def _is_refusal(payload: Any) -> bool:
    """Whether a 200 holds an error; one that is empty says nothing."""
    if not isinstance(payload, dict):
        return False
    has_error = any(not is_blank(layer.get(name)) for layer in layers(payload) for name in ("error", "errors"))
    return has_error or payload.get("success") is False


def _asked(response: httpx.Response) -> str:
    try:
        return shown_url(str(response.request.url))
    except RuntimeError:  # an answer that was made without a request, in tests
        return ""

"""What the job life needs of a provider, and nothing more. A provider is a dialect of this one story."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator
from typing_extensions import Self

from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest
from prefect_genmedia.providers.inputs import (
    Absent,
    RequestInput,
    SentInput,
    absence,
    gone_is_forgiven,
    identity_of_url,
    inputs_may_be_gone,
    is_public,
)
from prefect_genmedia._transport import FetchRules


@dataclass(frozen=True)
class Account:
    """Who pays: a provider, its base URL, and a fingerprint of the credential (never the credential)."""

    provider: str
    base_url: str
    fingerprint: str

    @classmethod
    def of(cls, provider: str, base_url: str, secret: str) -> Account:
        """Name the account of `secret` at `base_url`; 32 bits of a keyed digest tell accounts apart, not secrets.

        Parameters:
            provider: the provider's name.
            base_url: where its API is.
            secret: the credential; only a digest of it is kept.
        """
        digest = blake2b(secret.encode(), digest_size=4, person=b"genmedia-account").hexdigest()
        return cls(provider, base_url.rstrip("/"), digest)

    def __str__(self) -> str:
        """The account as the ledger and the tables show it."""
        return f"{self.provider}:{self.fingerprint}@{self.base_url}"


class MediaExpectation(BaseModel):
    """What the delivered file must be like to be what was asked for; None means that anything is right.

    Parameters:
        seconds: the duration.
        resolution_class: 720 or 1080: the asked class of resolution. Providers round sizes (1248×704 for 720), so the
            nearest class is compared, by the short side or by the number of pixels.
        aspect_ratio: width divided by height.
        has_audio: whether there must be (or must not be) a sound track.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float | None = None
    resolution_class: int | None = None
    aspect_ratio: float | None = None
    has_audio: bool | None = None


@dataclass(frozen=True)
class DurationSource:
    """The input that decides how long the result is.

    Parameters:
        field: the request's field it stands in.
        url: where it is.
        below_seconds: it must be shorter than this, where a limit is documented.
        needs_sound: whether there must be sound in it.
    """

    field: str
    url: str
    below_seconds: float | None = None
    needs_sound: bool = False


class GenerationRequest(BaseModel):
    """Base of everything a user can ask for: frozen, strict about unknown fields, and checked as a whole.

    Raises:
        InvalidRequest: with every problem at once, when it is made from bad input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: ClassVar[str]
    kind: ClassVar[str]

    # Private: a dump, a repr, a ledger or a sidecar shows the user's own path, never base64 or a signature.
    _sent: Mapping[str, SentInput] = PrivateAttr(default_factory=dict)
    _found: MediaExpectation | None = PrivateAttr(default=None)
    _prepared_at: float | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Not a ValueError, so it leaves pydantic as it is: users see our sentence and not pydantic's report.
        try:
            return handler(data)
        except ValidationError as error:
            refusal = InvalidRequest.from_validation(f"{cls.__name__} request", error)
            only_gone = all(isinstance(each.get("ctx", {}).get("error"), Absent) for each in error.errors())
        if only_gone and gone_is_forgiven():
            try:
                with inputs_may_be_gone(even_now=True):
                    return handler(data)
            except ValidationError as error:
                refusal = InvalidRequest.from_validation(f"{cls.__name__} request", error)
        raise refusal

    def __eq__(self, other: object) -> bool:
        """Whether the user asks for the same; how inputs travel, and when they were looked at, is no part of it."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: a stored request is an unprepared one, without signed URLs and base64."""
        state = super().__getstate__()
        unprepared: dict[str, Any] = {"_sent": {}, "_found": None, "_prepared_at": None}
        return {**state, "__pydantic_private__": {**(state.get("__pydantic_private__") or {}), **unprepared}}

    @property
    def model_name(self) -> str:
        """The provider's model, as tables and prices name it.

        Raises:
            NotImplementedError: the provider's request does not say.
        """
        raise NotImplementedError

    def body(self) -> dict[str, Any]:
        """The exact JSON that the provider is sent; unset options are left out.

        Raises:
            NotImplementedError: the provider's request does not say.
        """
        raise NotImplementedError

    def identity_inputs(self) -> dict[str, Any]:
        """The user's own inputs, without anything volatile: what makes two requests the same one.

        Raises:
            NotImplementedError: the provider's request does not say.
        """
        raise NotImplementedError

    def expectation(self) -> MediaExpectation:
        """What the request alone says about the file."""
        return MediaExpectation()

    def notifying(self, callback_url: str | None) -> Self:
        """The same request, with word of the job's end sent to `callback_url`, where the provider can do that."""
        return self

    def stale_at(self) -> float | None:
        """When it is too old to be sent, in seconds since 1970; None where nothing in it is known to grow old."""
        return None

    def duration_source(self) -> DurationSource | None:
        """The recording or video that the result is as long as, if there is one."""
        return None

    def inputs(self) -> tuple[RequestInput, ...]:
        """The files that the request names."""
        return ()

    def absent_inputs(self) -> list[FieldProblem]:
        """The paths of this machine among its inputs where nothing is, or is no more."""
        said = ((each.field, absence(each.url)) for each in self.inputs() if not each.url.startswith("data:"))
        return [FieldProblem(field, problem) for field, problem in said if problem is not None]

    def sending(self, sent: Mapping[str, SentInput]) -> Self:
        """The same request, sending these in place of inputs that no provider can fetch; each by its own URL."""
        prepared = self.model_copy()
        prepared._sent = dict(sent)
        return prepared

    def prepared(self, sent: Mapping[str, SentInput], found: MediaExpectation, at: float) -> Self:
        """The same request, sending these, and knowing what its inputs told about the result at that time.

        Parameters:
            sent: what is sent for an input, by its URL.
            found: what the inputs tell about the result.
            at: when they were looked at, in seconds since 1970.
        """
        prepared = self.sending(sent)
        prepared._found, prepared._prepared_at = found, at
        return prepared

    def preparation(self) -> tuple[Mapping[str, SentInput], MediaExpectation, float] | None:
        """What it is sent with, what its inputs told, and when, in seconds since 1970; None if it is not prepared."""
        if self._found is None or self._prepared_at is None:
            return None
        return self._sent, self._found, self._prepared_at

    def _reachable(self, url: str) -> str:
        """The URL that the provider is sent for an input.

        Raises:
            InvalidRequest: there is none, since the request was not prepared.
        """
        sent = self._sent.get(url)
        if sent is not None and sent.url is not None:
            return sent.url
        if is_public(url):
            return url
        problem = "is not a URL that the provider can fetch; prefect_genmedia._inputs.prepared makes one"
        field = next((each.field for each in self.inputs() if each.url == url), "")
        raise InvalidRequest.of(f"{type(self).__name__} request", [FieldProblem(field, problem)])

    def _in_identity(self, url: str) -> str:
        """An input as the identity has it: a user's own file by its bytes, wherever it is and however it travels."""
        sent = self._sent.get(url)
        return f"sha256:{sent.sha256}" if sent is not None else identity_of_url(url)


class Phase(str, Enum):
    """Where a job is at the provider, whatever words the provider has for it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Accepted:
    """A provider's yes to a submission.

    Parameters:
        provider_job_id: the provider's id for the job.
        status: its own first word for the state.
        price: what the job costs, in the provider's own unit (money or points), where it tells.
        points_remaining: what the account has left after it, in points, where the provider tells.
    """

    provider_job_id: str
    status: str
    price: float | None = None
    points_remaining: float | None = None


@dataclass(frozen=True)
class Observation:
    """One look at a job.

    Parameters:
        phase: where the job is.
        status: the provider's own word.
        recognized: whether that word is a documented one; an unknown one counts as still running.
        progress: percent from 0 to 100, where the provider tells.
        failure: what went wrong, where the phase is FAILED.
        outputs: how many files there are to download, where the phase is SUCCEEDED.
        price: what the job costs, in the provider's own unit (money or points), where it tells.
        points_remaining: what the account has left, in points, where the provider tells.
    """

    phase: Phase
    status: str
    recognized: bool = True
    progress: float | None = None
    failure: GenMediaError | None = None
    outputs: int = 1
    price: float | None = None
    points_remaining: float | None = None


@dataclass(frozen=True)
class ResultStream:
    """A file on its way: its bytes, and how many the server promised."""

    chunks: Callable[[], AsyncIterator[bytes]]
    content_length: int | None
    content_type: str


class ProviderClient(Protocol):
    """One account's dialect of *submit → poll → open the result*; lives in one event loop."""

    account: Account
    fetch_rules: FetchRules
    """Which hosts inputs and results of this account may be fetched from."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the right to submit now (gate and pace), and hold it."""
        ...

    async def submit(self, request: Any) -> Accepted:
        """Send the request, once, inside `turn()`.

        Raises:
            GenMediaError: with an `outcome` that tells whether it was unsent, refused, or nobody can know.
        """
        ...

    async def poll(self, provider_job_id: str) -> Observation:
        """Look at a job.

        Raises:
            CredentialsError: the key is no longer accepted.
            JobExpired: the provider does not know the job.
            GenMediaError: a bad poll, which says nothing about the job.
        """
        ...

    def open_result(self, provider_job_id: str, index: int = 0) -> AbstractAsyncContextManager[ResultStream]:
        """Open the job's file number `index` for download.

        Parameters:
            provider_job_id: the provider's id of the job.
            index: which of its files, from 0.

        Raises:
            JobExpired: the file is gone.
            ProviderError: no file came; retryable.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True)
class Provider:
    """All that is registered about a provider.

    Parameters:
        name: as in the vocabulary: `tokenops`, `jenius`, `hidream`.
        requests: the request models it takes.
        job_lifetime_seconds: how long the provider knows a job, and
        result_lifetime_seconds: how long a finished file can be fetched; None where nothing is documented.
        failures_are_free: whether the provider's documents say that failed jobs are not billed; errors say so then, and
            budgets give back what was held for them.
        callback_words: reads what the JSON of a callback says of the job, in the words of its polls; never raises.
            None where the provider sends none.
    """

    name: str
    requests: tuple[type[GenerationRequest], ...] = field(default=())
    job_lifetime_seconds: float | None = None
    result_lifetime_seconds: float | None = None
    failures_are_free: bool = False
    callback_words: Callable[[Any], str] | None = None

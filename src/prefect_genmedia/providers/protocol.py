"""What the job lifecycle needs of a provider, and nothing more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from typing_extensions import Self

from prefect_genmedia._transport import FetchRules
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, ProviderError
from prefect_genmedia.providers.extra_body import ExtensibleRequest, identity_of_extra
from prefect_genmedia.providers.inputs import AS_GIVEN, RequestInput, SentInputs, absence, absent_files
from prefect_genmedia.providers.restoring import with_defaults, without_empty
from prefect_genmedia.text import STATUS_CHARACTERS, WORDS_CHARACTERS, clean_text, escaped, id_problem


@dataclass(frozen=True)
class Account:
    """Who pays: a provider, its base URL, and a fingerprint of the credential (never the credential)."""

    provider: str
    base_url: str
    fingerprint: str

    @classmethod
    def of(cls, provider: str, base_url: str, secret: str) -> Account:
        """Name the account of `secret` at `base_url`; 32 bits of a keyed digest tell accounts apart, not secrets.

        Args:
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

    Args:
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

    Args:
        field: the request's field it stands in.
        url: where it is.
        below_seconds: it must be shorter than this, where a limit is documented.
        needs_sound: whether there must be sound in it.
    """

    field: str
    url: str
    below_seconds: float | None = None
    needs_sound: bool = False


class GenerationRequest(ExtensibleRequest):
    """Base of everything a user can ask for: frozen, strict about unknown fields, and checked as a whole.

    Raises:
        InvalidRequest: with every problem at once, when it is made from bad input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: ClassVar[str]
    kind: ClassVar[str]
    technical_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that say nothing to a person; cards leave them out."""

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Not a ValueError, so it leaves pydantic as it is: users see our sentence and not pydantic's report.
        try:
            return handler(without_empty(cls, data))
        except ValidationError as error:
            refusal = InvalidRequest.from_validation(f"{cls.__name__} request", error, also=absent_files(cls, data))
        raise refusal

    def __eq__(self, other: object) -> bool:
        """Whether the user asks for the same; when a speaker was selected is no part of it."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        """Equal requests have the same."""
        fields = {**self.__dict__, "extra_body": json.dumps(self.extra_body, sort_keys=True)}
        return hash((type(self), *(fields[name] for name in type(self).model_fields)))

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled request, also one of an earlier version."""
        super().__setstate__(with_defaults(type(self), state))

    def payload(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The exact JSON that a client POSTs: `body()`, in which each key of `extra_body` replaces the value.

        The merge is shallow, as in the OpenAI client: a nested object or list is replaced as a whole.

        Args:
            inputs: what is sent in place of the user's own files.
        """
        return {**self.body(inputs), **self.extra_body}

    def identity(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """What makes two requests the same one; without an `extra_body`, `identity_inputs()` alone.

        Args:
            inputs: what is sent in place of the user's own files; their digests count in place of their names.
        """
        own = {name: value for name, value in self.identity_inputs(inputs).items() if name != "extra_body"}
        return {**own, "extra_body": identity_of_extra(self.extra_body, inputs)} if self.extra_body else own

    def body(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The JSON of the request's own fields; unset options are left out. What is sent is `payload()`.

        Args:
            inputs: what is sent in place of the user's own files.

        Raises:
            NotImplementedError: the provider's request does not say.
        """
        raise NotImplementedError

    def identity_inputs(self, inputs: SentInputs = AS_GIVEN) -> dict[str, Any]:
        """The user's own inputs, without anything volatile: what makes two requests the same one.

        Args:
            inputs: what is sent in place of the user's own files; their digests count in place of their names.

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

    def normalized(self) -> Self:
        """The same request in the words that the plug-in's `resolve` gives it: a rerun has the same identity."""
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
        """The local inputs whose file does not exist, or no longer. Reads the disk."""
        said = ((each.field, absence(each.url)) for each in self.inputs() if not each.url.startswith("data:"))
        return [FieldProblem(field, problem) for field, problem in said if problem is not None]


Request = TypeVar("Request", bound=GenerationRequest)


@dataclass(frozen=True)
class PreparedRequest(Generic[Request]):
    """A request, what inspection found in its inputs, and what is sent in place of local files.

    It lives in one process: signed URLs and base64 text are secrets, and are not pickled with it.

    Args:
        request: what the user asked for.
        inputs: what is sent in place of the user's own files.
        found: what the inputs say about the result, such as its duration.
        prepared_at: when the inputs were read, in seconds since 1970; None if they were not.
        job_key: the paid job that was made from local inputs which no longer exist; the request joins it. None if the
            inputs exist, or no such job does.
    """

    request: Request
    inputs: SentInputs = field(default=AS_GIVEN, repr=False)
    found: MediaExpectation = field(default_factory=MediaExpectation)
    prepared_at: float | None = None
    job_key: str | None = None

    @property
    def provider(self) -> str:
        """The request's provider."""
        return self.request.provider

    @property
    def kind(self) -> str:
        """The request's kind."""
        return self.request.kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the request alone: whoever loads it prepares it again."""
        return PreparedRequest, (self.request,)

    def payload(self) -> dict[str, Any]:
        """The JSON that the provider is sent."""
        return self.request.payload(self.inputs)

    def expectation(self) -> MediaExpectation:
        """What the file must be like, by the request and by its inputs."""
        return self.request.expectation().model_copy(update=self.found.model_dump(exclude_none=True))

    def with_request(self, request: Request) -> PreparedRequest[Request]:
        """The same inputs with another request: one that names a speaker, or a callback.

        Args:
            request: a request with the same inputs.
        """
        return replace(self, request=request)


class Phase(str, Enum):
    """Where a job is at the provider, whatever words the provider has for it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Accepted:
    """A provider's yes to a submission.

    Args:
        provider_job_id: the provider's id for the job, unaltered; up to 4 KiB, without NUL and lone surrogates.
        status: its own first word for the state; cleaned and cut here.
        price: what the job costs, in the provider's own unit (money or points), where it tells.
        points_remaining: what the account has left after it, in points, where the provider tells.
        evidence: what proves it to the provider, such as its request id; see `evidence_in`.

    Raises:
        ProviderError: the id cannot be stored; uncertain, since the job may be accepted and paid.
    """

    provider_job_id: str
    status: str
    price: float | None = None
    points_remaining: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse an id that cannot be stored, and clean the status."""
        problem = id_problem(self.provider_job_id)
        if problem is not None:
            shown = escaped(self.provider_job_id, WORDS_CHARACTERS)
            raise ProviderError(
                f"The provider accepted it under an id that cannot be stored, since {problem}: {shown}",
                outcome="uncertain",
                retryable=False,
            )
        object.__setattr__(self, "status", clean_text(self.status, STATUS_CHARACTERS))


@dataclass(frozen=True)
class Observation:
    """The result of one poll.

    Args:
        phase: where the job is.
        status: the provider's own word; cleaned and cut here.
        recognized: whether that word is a documented one. A success in another one counts once the file can be fetched,
            a failure ends the run only; what a client takes for running is judged by `statuses.with_likely_phase`.
        progress: percent from 0 to 100, where the provider tells.
        failure: what went wrong, where the phase is FAILED.
        outputs: how many files there are to download, where the phase is SUCCEEDED.
        price: what the job costs, in the provider's own unit (money or points), where it tells.
        points_remaining: what the account has left, in points, where the provider tells.
        evidence: what proves it to the provider, such as its request id; kept where the phase is an end.
    """

    phase: Phase
    status: str
    recognized: bool = True
    progress: float | None = None
    failure: GenMediaError | None = None
    outputs: int = 1
    price: float | None = None
    points_remaining: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Clean the status: it goes into the ledger, logs and events."""
        object.__setattr__(self, "status", clean_text(self.status, STATUS_CHARACTERS))


@dataclass(frozen=True)
class ResultStream:
    """A file on its way: its bytes, and how many the server promised."""

    chunks: Callable[[], AsyncIterator[bytes]]
    content_length: int | None
    content_type: str


class Sendable(Protocol):
    """What a client is given to submit: a request, prepared or not."""

    def payload(self) -> dict[str, Any]:
        """The JSON that the provider is sent."""


SharedLock = Callable[[str], AbstractAsyncContextManager[None]]
"""A lock by name, for all processes that share the job ledger. It lapses, and who cannot have it enters without it."""


class ProviderClient(Protocol):
    """One account's dialect of *submit → poll → open the result*; lives in one event loop.

    A client may have a method `share_lock(lock: SharedLock)`: it is called with the ledger's locks before the client is
    used, for what the processes of an account must not do at the same instant, such as exchanging a key for a token.

    It may have `of_request(request: Mapping) -> ProviderClient`: the client that polls and downloads a job whose
    request, as the ledger has it, names a user of its own. Both share the connections.

    It may have `poll_many(provider_job_ids) -> dict[str, Observation]`: polls of several jobs that come together are
    one request then. Jobs that are not in the answer are polled one by one; so are all jobs if it fails.
    """

    account: Account
    fetch_rules: FetchRules
    """Which hosts inputs and results of this account may be fetched from."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the right to submit now (gate and pace), and hold it."""
        ...

    async def submit(self, request: Sendable) -> Accepted:
        """Send the request, once, inside `turn()`.

        Args:
            request: its `payload()` is the JSON to send.

        Raises:
            GenMediaError: with an `outcome` that tells whether it was unsent, refused, or nobody can know.
        """
        ...

    async def poll(self, provider_job_id: str) -> Observation:
        """Poll a job.

        Raises:
            CredentialsError: the key is no longer accepted.
            JobExpired: the provider does not know the job.
            GenMediaError: a bad poll, which says nothing about the job.
        """
        ...

    def open_result(self, provider_job_id: str, index: int = 0) -> AbstractAsyncContextManager[ResultStream]:
        """Open the job's file number `index` for download.

        Args:
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

"""A job: one requested result, its states, and the allowed transitions between them."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia import errors
from prefect_genmedia._media.decoding import Level
from prefect_genmedia._transport.api import SUBMIT_SECONDS
from prefect_genmedia.errors import GenerationFailed, GenMediaError, InputRefused, JobExpired, OutputRefused
from prefect_genmedia.prices import in_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.providers.protocol import MediaExpectation
from prefect_genmedia.providers.restoring import with_defaults
from prefect_genmedia.text import escaped, shown_id

ErrorType = TypeVar("ErrorType", bound=GenMediaError)

STALE_SENDING_SECONDS = SUBMIT_SECONDS + 60.0
"""The process of a job that is `sending` for longer is dead: the submission's timeout plus allowance for clock skew."""

FORGOTTEN_SECONDS = 12 * 3600.0
"""No provider documents a longer job lifetime, in seconds. Jobs of providers that document none end after this time."""


class JobState(str, Enum):
    """The state of a job in its lifecycle."""

    RESERVED = "reserved"
    """Recorded; nothing was sent yet, or certainly nothing arrived."""
    SENDING = "sending"
    """The submission may be in transit: committed before the first byte is sent."""
    SUBMITTED = "submitted"
    """The provider accepted the job, and its id is known."""
    SUCCEEDED = "succeeded"
    """The provider has the result file."""
    DELIVERED = "delivered"
    """The verified file is on storage under its final name."""
    UNDELIVERABLE = "undeliverable"
    """Paid, but the file is invalid (in quarantine), has expired, or was given up by a gateway and may still appear."""
    FAILED = "failed"
    """The provider accepted the job and then failed; its reason is kept."""
    REJECTED = "rejected"
    """The provider refused the submission, or a person found that it never arrived; nothing was paid."""
    UNKNOWN = "unknown"
    """Sent without a certain answer: a person must adopt, resubmit or abandon it."""
    ABANDONED = "abandoned"
    """A person gave it up; it is never sent again in its scope."""


LEGAL_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.RESERVED: frozenset({JobState.SENDING, JobState.ABANDONED}),
    JobState.SENDING: frozenset({JobState.SUBMITTED, JobState.REJECTED, JobState.RESERVED, JobState.UNKNOWN}),
    JobState.SUBMITTED: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.UNDELIVERABLE}),
    JobState.SUCCEEDED: frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE}),
    # A file that was lost or quarantined may be downloaded again while the provider has it.
    JobState.DELIVERED: frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE}),
    # A job that ended with an undocumented status word may still be made, or fail with a documented one.
    JobState.UNDELIVERABLE: frozenset(
        {JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.FAILED}
    ),
    JobState.FAILED: frozenset(),
    JobState.REJECTED: frozenset(),
    # A late but certain answer, or a person's decision, resolves an unknown job.
    JobState.UNKNOWN: frozenset({JobState.SUBMITTED, JobState.REJECTED, JobState.ABANDONED}),
    JobState.ABANDONED: frozenset({JobState.SUBMITTED}),
}

AT_PROVIDER = frozenset({JobState.SUBMITTED, JobState.SUCCEEDED})
"""States in which a paid result is ready, or being made, at the provider."""

NEVER_PAID = frozenset({JobState.RESERVED, JobState.REJECTED})
"""States of a job that cost nothing. Failed jobs also cost nothing if `Provider.failures_are_free`."""

ACCEPTED = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.FAILED}
)
"""States that only a job accepted by the provider can reach."""

TAKEN = ACCEPTED - {JobState.FAILED}
"""States of a job that the provider has accepted and not given up."""


class Rerun(Enum):
    """What happens to a new request for a job's result. Cards, commands and logs use these values in their texts.

    Each value describes what such a run does, as the end of a sentence.
    """

    JOINED = "joins this job"
    FOLLOWED = "goes on with the attempt that follows this job"
    NEW_ATTEMPT = f"makes {errors.NEW_ATTEMPT}, which is paid as any other"
    SENT = "sends this job, which was not sent yet"
    REFUSED = "ends with the same error: the same input is never sent again"
    PERSON = "ends with the same error until a person decides; nothing is sent"


_GIVEN_UP_KINDS = frozenset(kind.__name__ for kind in (GenerationFailed, InputRefused, OutputRefused))

_GIVEN_UP_STEP = (
    "nothing is sent again: `reconcile_jobs` polls the job until its lifetime is over, and delivers it if it is "
    "finished after all. If the provider's console says that it failed, `prefect-genmedia jobs resubmit {job}` allows "
    "another submission."
)


def adopt_step(provider_job_id: str) -> str:
    """Returns the next step for a job whose submission was answered with both an error and an id.

    Args:
        provider_job_id: the id.
    """
    typed = shlex.quote(escaped(provider_job_id))
    return (
        f"the provider named the id {typed}: if its console has the job, "
        f"`prefect-genmedia jobs adopt {{job}} {typed}`; "
        "if not, `prefect-genmedia jobs resubmit {job}` or `prefect-genmedia jobs abandon {job}`."
    )


class Delivery(BaseModel):
    """The verified file of a job."""

    model_config = ConfigDict(frozen=True)

    uri: str = Field(description="Absolute path, or URL on the storage, of the file.")
    sha256: str = Field(description="Digest of the file's bytes, in hex.")
    bytes: int = Field(description="Size of the file.")
    seconds: float = Field(description="Duration.")
    width: int = Field(description="Width of the picture in pixels.")
    height: int = Field(description="Height of the picture in pixels.")
    codec: str = Field(description="Video codec, such as h264.")
    has_audio: bool = Field(description="Whether there is a sound track.")
    verified: Level = Field(
        default="full",
        description="How the file was verified: `full` (decoded as a whole), `structure` (walked through) or `none`.",
    )
    poster_uri: str | None = Field(default=None, description="Path or URL of the poster frame, a JPEG.")
    sidecar_uri: str | None = Field(
        default=None, description="Path or URL of the JSON that tells where the file is from."
    )
    job_key: str = Field(default="", description="The job's key in the ledger.")
    provider_job_id: str = Field(default="", description="The provider's id of the job.")
    stamp: str = Field(
        default="",
        description="Size and time of the published file, or what its storage has for them; empty if unknown.",
    )
    others: tuple[Delivery, ...] = Field(default=(), description="Further files, where the provider made several.")

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled delivery, including those pickled by earlier versions."""
        super().__setstate__(with_defaults(type(self), state))

    def is_same(self, other: Delivery | None) -> bool:
        """Whether another delivery has the same files under the same names, regardless of when they were published.

        Args:
            other: the other delivery.
        """
        return other is not None and self._unstamped() == other._unstamped()

    def _unstamped(self) -> Delivery:
        others = tuple(each._unstamped() for each in self.others)
        return self.model_copy(update={"stamp": "", "others": others})


class Job(BaseModel):
    """One row of the ledger: one requested result. Times are seconds since 1970, UTC."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="The row's key; stands in logs, errors and commands.")
    identity: str = Field(description="Digest of account, the user's inputs, scope and variant.")
    identity_version: int | None = Field(default=None, description="The identity's rules; None for version 1.")
    names_digest: str | None = Field(
        default=None, description="Digest of the request by its URLs as shown, where one of them holds a credential."
    )
    input_digests: list[dict[str, str | None]] | None = Field(
        default=None, description="SHA-256 of these URLs, and of their content where it was read."
    )
    attempt: int = Field(default=1, description="1, or more where an earlier attempt ended without a result.")
    scope: str = Field(
        default="", description="What `the same request` is bounded by: a root flow run or an idempotency key."
    )
    variant: int = Field(default=0, description="Tells apart several wanted results of the same request.")
    provider: str = Field(description="The provider's name.")
    account: str = Field(default="", description="Who pays the attempt: provider, fingerprint of the key, base URL.")
    account_id: str | None = Field(default=None, description="Id of the payer's account in the ledger.")
    identity_token: str | None = Field(
        default=None, description="The account's text in the identity; None if it is that of `account`."
    )
    kind: str = Field(default="", description="The kind of request, as a batch's table names it.")
    model: str = Field(default="", description="The provider's model.")
    label: str = Field(default="", description="A few words that name the request for people.")
    request: dict[str, Any] = Field(default_factory=dict, description="The request, without secrets and signatures.")
    expectation: MediaExpectation = Field(default_factory=MediaExpectation, description="What the file must be like.")
    state: JobState = JobState.RESERVED
    provider_job_id: str | None = None
    provider_status: str | None = Field(default=None, description="The provider's own last word.")
    outputs: int = Field(default=1, description="How many files the provider has.")
    created_at: float = 0.0
    not_before: float | None = Field(default=None, description="The provider asked not to submit before this time.")
    sent_at: float | None = None
    submitted_at: float | None = None
    running_at: float | None = Field(default=None, description="When the provider was first seen working on it.")
    notified_at: float | None = Field(
        default=None, description="When the provider's callback came, where it sends one."
    )
    succeeded_at: float | None = None
    took_seconds: float | None = Field(
        default=None,
        description="From acceptance to result, where somebody watched; what was found done late teaches nothing.",
    )
    delivered_at: float | None = None
    updated_at: float = 0.0
    expires_at: float | None = Field(default=None, description="When the provider forgets the job or its file.")
    error_kind: str | None = None
    error_message: str | None = None
    error_code: str | None = None
    delivery: Delivery | None = None
    flow_run_id: str | None = Field(default=None, description="The flow run that last took the job up.")
    root_run_id: str | None = Field(
        default=None, description="The root flow run (or lone task run) that asked for this attempt."
    )
    output: str | None = Field(
        default=None, description="Where the run wants its file: a path or URL; None for the default."
    )
    estimated_cost: float | None = Field(default=None, description="For display; `cost_micros` is what is counted.")
    cost_micros: int | None = Field(default=None, description="Estimated cost in millionths of the currency.")
    currency: str | None = None
    price: float | None = Field(default=None, description="What the provider says that it cost, in its own unit.")
    points_remaining: float | None = Field(
        default=None, description="What the provider says that the account has left."
    )
    send_token: str | None = Field(default=None, description="Tells the process that sends the job from every other.")
    note: str | None = Field(default=None, description="What a person decided, and when.")
    before_decision: dict[str, Any] | None = Field(
        default=None, description="The last decision that can be undone, and the fields that it changed, as they were."
    )
    evidence: dict[str, Any] | None = Field(
        default=None,
        description="What proves the job to its provider, such as request ids, sub-task ids and its own times.",
    )
    project: str | None = Field(default=None, description="Whom it is paid for, as its user says.")
    tags: list[str] | None = Field(default=None, description="Further words of its user, to group jobs by.")
    pruned_at: float | None = Field(default=None, description="When the request and all texts were pruned.")

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled job, including those pickled by earlier versions."""
        super().__setstate__(with_defaults(type(self), state))

    @property
    def micros(self) -> int | None:
        """Estimated cost in millionths, also for jobs recorded by earlier versions; None if not known."""
        if self.cost_micros is not None or self.estimated_cost is None:
            return self.cost_micros
        return in_micros(self.estimated_cost)

    @property
    def shown_id(self) -> str:
        """The provider's id for logs, names and tables: escaped and cut; empty if not known."""
        return shown_id(self.provider_job_id)

    def failure(self) -> GenMediaError:
        """Returns the recorded error that the job ended with."""
        kind = getattr(errors, self.error_kind or "", errors.GenerationFailed)
        absent = "The provider gave no reason." if self.pruned_at is None else "The reason was pruned from the ledger."
        error: GenMediaError = kind(self.error_message or absent, code=self.error_code)
        if self.state is JobState.UNKNOWN and self.provider_job_id is not None:
            error.next_step = adopt_step(self.provider_job_id)
        return self.describe_in(error)

    def describe_in(self, error: ErrorType) -> ErrorType:
        """Add this job, and its cost if the provider gave it up, to an error, and return the same error.

        Args:
            error: an error about the job.
        """
        refused_later = isinstance(error, InputRefused) and self.provider_job_id is not None
        if refused_later or isinstance(error, GenerationFailed | OutputRefused):
            error.paid = self.paid_for_failure()
            if self.is_given_up:
                error.next_step = _GIVEN_UP_STEP
        return error.about(self.key, self.provider_job_id)

    def paid_for_failure(self) -> str:
        """Describes what the job cost if its provider accepted it and then refused it or gave up."""
        if self.is_given_up:
            return "unknown: the job was accepted, and may still be finished and billed"
        if self.provider in providers_with_free_failures():
            return "nothing, by the provider's word that failed jobs are not billed"
        if self.price is None:
            return errors.UNDOCUMENTED_BILLING
        return f"{errors.UNDOCUMENTED_BILLING}; it names a price of {self.price:g}"

    def is_over(self, now: float) -> bool:
        """Whether the time has passed for which the provider keeps the job, or its file.

        Args:
            now: seconds since 1970.
        """
        ends_at = self.age_origin + FORGOTTEN_SECONDS if self.expires_at is None else self.expires_at
        return now > ends_at

    def may_follow(self, now: float) -> bool:
        """Whether another attempt, which costs again if this one did, may follow this one.

        False if the input was refused, while the provider may still have the job or its file (even if it does not find
        it), and after a delivery: a file that was moved is not paid for twice without an explicit request.

        Args:
            now: seconds since 1970.
        """
        if self.state in (JobState.FAILED, JobState.REJECTED):
            return self.error_kind != InputRefused.__name__
        if self.is_given_up:
            return False
        return self.state is JobState.UNDELIVERABLE and self.delivery is None and self.is_over(now)

    def rerun(self, now: float) -> Rerun:
        """Returns what happens to a new request for the same result, if this is its newest attempt.

        Args:
            now: seconds since 1970.
        """
        if self.may_follow(now):
            return Rerun.NEW_ATTEMPT
        if self.state in (JobState.FAILED, JobState.REJECTED):
            return Rerun.REFUSED
        if self.state in (JobState.UNKNOWN, JobState.ABANDONED):
            return Rerun.PERSON
        return Rerun.SENT if self.state is JobState.RESERVED else Rerun.JOINED

    @property
    def is_given_up(self) -> bool:
        """Whether the job ended with an undocumented status word, so that it may still be finished.

        It is polled until its lifetime is over. Only a person can allow another attempt.
        """
        return self.state is JobState.UNDELIVERABLE and self.error_kind in _GIVEN_UP_KINDS

    @property
    def is_missing(self) -> bool:
        """Whether the provider did not find the submitted job at the last poll."""
        return self.state is JobState.SUBMITTED and self.error_kind == JobExpired.__name__

    @property
    def age_origin(self) -> float:
        """When the provider accepted the job; if it did not, when the job was recorded."""
        return self.submitted_at or self.created_at


def new_key() -> str:
    """Returns a new job key: 12 hexadecimal digits, short enough to type."""
    return uuid4().hex[:12]

"""A job: one requested result, its states, and the only ways from one state to another."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia import errors
from prefect_genmedia._transport.api import SUBMIT_SECONDS
from prefect_genmedia.errors import GenerationFailed, GenMediaError, InputRefused, JobExpired, OutputRefused
from prefect_genmedia.prices import in_micros
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.providers.protocol import MediaExpectation
from prefect_genmedia.providers.restoring import with_defaults
from prefect_genmedia.text import escaped, shown_id

ErrorType = TypeVar("ErrorType", bound=GenMediaError)

STALE_SENDING_SECONDS = SUBMIT_SECONDS + 60.0
"""A job that is `sending` for longer has lost its process: the submission's own timeout, and some seconds of skew."""

FORGOTTEN_SECONDS = 12 * 3600.0
"""No provider is documented to know a job for longer; where none says when its jobs end, they are gone by then."""


class JobState(str, Enum):
    """Where a job is in its life."""

    RESERVED = "reserved"
    """Written down; nothing was sent yet, or surely nothing arrived."""
    SENDING = "sending"
    """The submission may be on its way: committed before the first byte."""
    SUBMITTED = "submitted"
    """The provider accepted it and its id is known."""
    SUCCEEDED = "succeeded"
    """The provider has a file for us."""
    DELIVERED = "delivered"
    """The verified file is on storage under its final name."""
    UNDELIVERABLE = "undeliverable"
    """Paid, but the file is bad (in quarantine), has expired, or was given up by a gateway and may still come."""
    FAILED = "failed"
    """The provider gave up after accepting; its reason is kept."""
    REJECTED = "rejected"
    """The provider said no to the submission, or a person found that it never arrived; nothing was paid."""
    UNKNOWN = "unknown"
    """Sent without a certain answer: a person adopts, resubmits or abandons it."""
    ABANDONED = "abandoned"
    """A person gave it up; it is never sent again in its scope."""


LEGAL_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.RESERVED: frozenset({JobState.SENDING, JobState.ABANDONED}),
    JobState.SENDING: frozenset({JobState.SUBMITTED, JobState.REJECTED, JobState.RESERVED, JobState.UNKNOWN}),
    JobState.SUBMITTED: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.UNDELIVERABLE}),
    JobState.SUCCEEDED: frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE}),
    # A file that was lost or in quarantine may be fetched again while the provider has it.
    JobState.DELIVERED: frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE}),
    # What was given up in a word of no document may still be made, or fail by the provider's own word.
    JobState.UNDELIVERABLE: frozenset(
        {JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.FAILED}
    ),
    JobState.FAILED: frozenset(),
    JobState.REJECTED: frozenset(),
    # A late but certain answer, or a person's word, settles an unknown one.
    JobState.UNKNOWN: frozenset({JobState.SUBMITTED, JobState.REJECTED, JobState.ABANDONED}),
    JobState.ABANDONED: frozenset({JobState.SUBMITTED}),
}

AT_PROVIDER = frozenset({JobState.SUBMITTED, JobState.SUCCEEDED})
"""States in which a paid result is waiting, or being made, at the provider."""

NEVER_PAID = frozenset({JobState.RESERVED, JobState.REJECTED})
"""States of a job that cost nothing. Failed ones cost nothing where `Provider.failures_are_free`."""

ACCEPTED = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.FAILED}
)
"""States that only a submission the provider accepted can reach."""

TAKEN = ACCEPTED - {JobState.FAILED}
"""States of a job that the provider has accepted, and not given up."""


class Rerun(Enum):
    """What becomes of a new request for a job's result: the value that cards, commands and logs take their words from.

    Each value is what such a run does, as the rest of a sentence.
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
    """What a person does about a job whose submission was answered with an error beside an id.

    Parameters:
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
        """Restore a delivery that an earlier version pickled: it may not have every field of today."""
        super().__setstate__(with_defaults(type(self), state))

    def is_same(self, other: Delivery | None) -> bool:
        """Whether another delivery is of the same files under the same names, whenever they were published.

        Parameters:
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

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled job, also one of an earlier version."""
        super().__setstate__(with_defaults(type(self), state))

    @property
    def micros(self) -> int | None:
        """Estimated cost in millionths, also of a job of an earlier version; None if it is not known."""
        if self.cost_micros is not None or self.estimated_cost is None:
            return self.cost_micros
        return in_micros(self.estimated_cost)

    @property
    def shown_id(self) -> str:
        """The provider's id for logs, names and tables: escaped and cut; empty where it is not known."""
        return shown_id(self.provider_job_id)

    def failure(self) -> GenMediaError:
        """The error that the job ended with, as it was written down."""
        kind = getattr(errors, self.error_kind or "", errors.GenerationFailed)
        error: GenMediaError = kind(self.error_message or "The provider gave no reason.", code=self.error_code)
        if self.state is JobState.UNKNOWN and self.provider_job_id is not None:
            error.next_step = adopt_step(self.provider_job_id)
        return self.told_in(error)

    def told_in(self, error: ErrorType) -> ErrorType:
        """Name this job in an error, and what it cost if the provider gave it up; returns the same error.

        Parameters:
            error: what went wrong with the job, whoever found it.
        """
        refused_later = isinstance(error, InputRefused) and self.provider_job_id is not None
        if refused_later or isinstance(error, GenerationFailed | OutputRefused):
            error.paid = self.paid_for_failure()
            if self.is_given_up:
                error.next_step = _GIVEN_UP_STEP
        return error.about(self.key, self.provider_job_id)

    def paid_for_failure(self) -> str:
        """What the job cost if its provider accepted it and then refused it or gave up, in words."""
        if self.is_given_up:
            return "unknown: the job was accepted, and may still be finished and billed"
        if self.provider in providers_with_free_failures():
            return "nothing, by the provider's word that failed jobs are not billed"
        if self.price is None:
            return errors.UNDOCUMENTED_BILLING
        return f"{errors.UNDOCUMENTED_BILLING}; it names a price of {self.price:g}"

    def is_over(self, now: float) -> bool:
        """Whether the time is over for which the provider knows the job, or has its file.

        Parameters:
            now: seconds since 1970.
        """
        ends_at = self.age_origin + FORGOTTEN_SECONDS if self.expires_at is None else self.expires_at
        return now > ends_at

    def may_follow(self, now: float) -> bool:
        """Whether another attempt may follow this one, which costs again where this one did.

        Not where the input was refused, nor while the provider may still have the job or its file, whether it finds
        it or not, nor for what was delivered once: nobody pays twice for a file that was moved, without saying so.

        Parameters:
            now: seconds since 1970.
        """
        if self.state in (JobState.FAILED, JobState.REJECTED):
            return self.error_kind != InputRefused.__name__
        if self.is_given_up:
            return False
        return self.state is JobState.UNDELIVERABLE and self.delivery is None and self.is_over(now)

    def rerun(self, now: float) -> Rerun:
        """What becomes of a new request for the same result, if this is its newest attempt.

        Parameters:
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
        """Whether the job ended in a word that its provider's documents do not have: it may still be finished.

        It is polled until its lifetime is over. Only a person allows another attempt.
        """
        return self.state is JobState.UNDELIVERABLE and self.error_kind in _GIVEN_UP_KINDS

    @property
    def is_missing(self) -> bool:
        """Whether the provider did not find the submitted job when it was last polled."""
        return self.state is JobState.SUBMITTED and self.error_kind == JobExpired.__name__

    @property
    def age_origin(self) -> float:
        """When the provider accepted the job, or else when it was written down."""
        return self.submitted_at or self.created_at

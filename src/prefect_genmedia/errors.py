"""Everything that can go wrong, as one tree.

GenMediaError
├── InvalidRequest      refused here, before anything was sent; lists every problem
├── NoSubject           nobody in the picture can speak; nothing was sent to be paid
├── CredentialsError    the key is missing, wrong, or has no access to the model
├── AccountConflict     a name and a key of two accounts, or the same request under a second one; nothing was sent
├── AccountPaused       a person has paused the account; nothing is sent for it
├── QuotaError          balance, plan or points are used up
├── RateLimited         the provider asks to slow down; `retry_after` seconds
├── InputRefused        the provider refused what was sent in; the same input never passes
├── OutputRefused       the provider refused what it had made; a new attempt may pass
├── GenerationFailed    the provider gave up for a reason of its own
├── SubmissionUnknown   sent, but no certain answer: only a person can tell whether it was paid
├── JobTimeout          we stopped waiting; the job lives on and can be collected
├── JobExpired          the provider no longer has the job or its file
├── ResultInvalid       the file came, but it does not verify; it is in quarantine
├── QualityError        the file is delivered, a quality check found something, and the run is to fail for it
├── StorageError        the file is paid for and can be fetched, but not written to where it shall be
├── LedgerError         the ledger's database is away, read-only or damaged; nothing is sent without it
├── NotConfirmed        a person said no to what it would cost, or nobody said yes in time; nothing was sent
├── ReviewStop          nobody reviewed a batch in time, or a reviewer stopped it; nothing more was sent
├── BudgetStop          a budget or a cap does not hold another job; nothing was sent for it
├── BatchIncomplete     a batch ended, and some of its rows have no file; the others are delivered
└── ProviderError       anything else the provider or the network did

Errors hold plain strings and numbers only: an httpx object would carry the Authorization header into
logs and result storage, and would not unpickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pydantic import ValidationError
from typing_extensions import Self, Unpack

from prefect_genmedia.text import BULLET, CODE_CHARACTERS, clean_text, named_value, shown_id, validation_words

if TYPE_CHECKING:
    pass

SendOutcome = Literal["unsent", "refused", "uncertain"]
"""What a failed request did at the provider: nothing, a documented no, or nobody can know."""
UNDOCUMENTED_BILLING = "the provider does not document whether failed jobs are billed"
"""What a job cost that was accepted and then given up, unless the provider says more; see `Job.describe_in`."""

NEW_ATTEMPT = "a new attempt"
"""How a next step promises that the same request is sent again; shown only where that holds, see `agreed_step`."""


class ErrorFacts(TypedDict, total=False):
    """What an error may know beside its message; `GenMediaError` says what each is."""

    job_key: str | None
    provider_job_id: str | None
    code: str | None
    http_status: int | None
    body: str | None
    paid: str | None
    next_step: str | None
    retryable: bool | None
    outcome: SendOutcome | None


class GenMediaError(Exception):
    """Base of the tree: what happened, to which job, what it cost, and what to do next.

    Args:
        message: what happened, in one sentence.
        facts: what else is known. None stands for what is not known, or for the class's default.

    Attributes:
        job_key: the job's key in the ledger.
        provider_job_id: the provider's own id of the job.
        code: the provider's error code, as text.
        http_status: the HTTP status of the answer, if there was one.
        body: the answer's body, redacted and cut to a few kilobytes.
        paid: what this cost, in words; each class has a default.
        next_step: what a person can do; each class has a default.
        retryable: whether the same call may be made again without a person.
        outcome: what a failed request did at the provider.
    """

    job_key: str | None = None
    provider_job_id: str | None = None
    code: str | None = None
    http_status: int | None = None
    body: str | None = None
    retryable: bool = False
    outcome: SendOutcome = "uncertain"
    paid: str = "nothing"
    next_step: str = ""
    evidence: dict[str, Any] | None = None
    """What proves to the provider what it answered, such as its request id; kept in the ledger."""
    is_page: bool = False
    """Whether a web page answered in place of the API."""

    def __init__(self, message: str = "", **facts: Unpack[ErrorFacts]) -> None:
        # Only the message is positional: that is what lets pickle rebuild the error (the rest is its __dict__).
        # Cleaned here, since messages quote providers, storages and networks.
        self.message = clean_text(message)
        super().__init__(self.message)
        unknown = facts.keys() - ErrorFacts.__annotations__.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no {', '.join(sorted(unknown))}")
        known: dict[str, Any] = {name: value for name, value in facts.items() if value is not None}
        if "code" in known:
            known["code"] = clean_text(known["code"], CODE_CHARACTERS)
        if "body" in known:
            known["body"] = clean_text(known["body"])
        self.__dict__.update(known)

    @property
    def kind(self) -> str:
        """The error's name in the tree, as the ledger and the tables show it."""
        return type(self).__name__

    def about(self, job_key: str | None, provider_job_id: str | None) -> Self:
        """Name the job this error is about, where that is not known yet; returns the same error.

        Args:
            job_key: the job's key in the ledger; None where there is none.
            provider_job_id: the provider's id of it; None where nobody knows.
        """
        self.job_key = self.job_key or job_key
        self.provider_job_id = self.provider_job_id or provider_job_id
        if self.provider_job_id and self.paid == "nothing":
            self.paid = "the job was accepted before; nothing is paid again"
        return self

    def noting(self, sentence: str) -> Self:
        """Add a sentence to the message; returns the same error.

        Args:
            sentence: what else there is to say.
        """
        self.message = f"{self.message} {clean_text(sentence)}"
        self.args = (self.message,)
        return self

    def next_step_for(self, job_key: str | None = None) -> str:
        """What a person can do next, with the job's key in its commands.

        Args:
            job_key: the job it is about, where the error itself does not name one.
        """
        return self.next_step.replace("{job}", self.job_key or job_key or "JOB")

    def __str__(self) -> str:
        """Everything a person needs, in one paragraph."""
        parts = [self.message]
        if self.job_key or self.provider_job_id:
            at_provider = f"provider id {shown_id(self.provider_job_id)}" if self.provider_job_id else "no provider id"
            parts.append(f"Job {self.job_key} ({at_provider})." if self.job_key else f"Job: {at_provider}.")
        parts.append(f"Paid: {self.paid}.")
        if self.next_step:
            parts.append(f"Next: {self.next_step_for()}")
        return " ".join(parts)


@dataclass(frozen=True)
class FieldProblem:
    """One thing that is wrong with a request: the field's path and a sentence about it."""

    field: str
    problem: str

    def __str__(self) -> str:
        """The problem as one line."""
        return f"{self.field}: {self.problem}" if self.field else self.problem


class InvalidRequest(GenMediaError):
    """The request cannot be right; nothing was sent. `problems` has all of them."""

    outcome: SendOutcome = "refused"
    next_step = "correct the input and run again."
    problems: tuple[FieldProblem, ...] = ()

    @classmethod
    def of(cls, subject: str, problems: Sequence[FieldProblem]) -> Self:
        """Make one error of every problem that was found.

        Args:
            subject: a few words that name the request.
            problems: what is wrong with it.
        """
        if len(problems) != 1:
            said = f"{subject} has {len(problems)} problems:{BULLET}{BULLET.join(map(str, problems))}"
        elif problems[0].field in ("", *subject.lower().split()):
            said = f"{subject}: {problems[0].problem}"
        else:
            said = f"{subject}, {problems[0]}"
        error = cls(f"{said}.")
        error.problems = tuple(problems)
        return error

    @classmethod
    def from_validation(cls, subject: str, error: ValidationError, *, also: Iterable[FieldProblem] = ()) -> Self:
        """Put pydantic's findings into a user's words. Numbers, sizes and ratios are named, other values never.

        Args:
            subject: a few words that name the request.
            error: what pydantic found.
            also: what else is wrong, told unless its field is already named.
        """
        found = []
        for detail in error.errors(include_url=False, include_context=False):
            path = ".".join(str(part) for part in detail["loc"])
            sentence = validation_words(detail["type"], detail["msg"]) + named_value(detail["type"], detail["input"])
            if detail["type"] == "union_tag_invalid":
                sentence = "`type` is not one of the known ones"  # pydantic's own sentence quotes the input
            found.append(FieldProblem(path, sentence.rstrip(".")))
        named = {problem.field for problem in found}
        return cls.of(subject, [*found, *(problem for problem in also if problem.field not in named)])


class NoSubject(GenMediaError):
    """No person, or nobody at the chosen place, was found in the picture."""

    outcome: SendOutcome = "refused"
    next_step = "use a picture with a clearly visible person, or choose another subject."


class CredentialsError(GenMediaError):
    """The provider does not accept the credential, or not for this model."""

    outcome: SendOutcome = "refused"
    next_step = "check the key in the credentials Block and its access to the model."


class AccountConflict(GenMediaError):
    """It is not certain which account pays, or the same request is at another account; nothing was sent."""

    outcome: SendOutcome = "refused"
    next_step = "look at `prefect-genmedia accounts list`."


class AccountPaused(GenMediaError):
    """A person has paused the account: nothing is sent for it; waiting and delivery go on."""

    outcome: SendOutcome = "refused"
    next_step = "`prefect-genmedia accounts resume ACCOUNT`, then run again."


class QuotaError(GenMediaError):
    """The account's balance, plan or points do not allow the call."""

    outcome: SendOutcome = "refused"
    next_step = "top up or raise the plan at the provider, then run again."


class RateLimited(GenMediaError):
    """The provider asks to slow down; nothing was accepted."""

    retryable = True
    outcome: SendOutcome = "unsent"
    next_step = "nothing: the call is repeated after the time the provider asked for."
    retry_after: float | None = None

    def after(self, seconds: float | None) -> Self:
        """Set how long the provider asked to wait, in seconds; returns the same error."""
        self.retry_after = seconds
        return self


class InputRefused(GenMediaError):
    """The provider refused the image, text, audio or video it was given."""

    outcome: SendOutcome = "refused"
    next_step = "change the refused input: the same input is never sent again."


class OutputRefused(GenMediaError):
    """The provider refused what it had generated."""

    outcome: SendOutcome = "refused"
    paid = UNDOCUMENTED_BILLING
    next_step = f"run again for {NEW_ATTEMPT}, best with another seed or prompt."


class GenerationFailed(GenMediaError):
    """The provider's generation failed for a reason of its own."""

    outcome: SendOutcome = "refused"
    paid = UNDOCUMENTED_BILLING
    next_step = f"run again for {NEW_ATTEMPT}."


class SubmissionUnknown(GenMediaError):
    """The submission was sent and no certain answer came: it may have been accepted and paid."""

    paid = "unknown: the provider may have accepted the submission"
    next_step = (
        "look into the provider's console, then `prefect-genmedia jobs adopt {job} PROVIDER_ID`, "
        "`prefect-genmedia jobs resubmit {job}` or `prefect-genmedia jobs abandon {job}`."
    )


class JobTimeout(GenMediaError):
    """The time to wait is over; the job lives on at the provider."""

    paid = "the job was accepted and may still finish"
    next_step = "let `reconcile_jobs` collect it, or retry this run once it is done: the same job is waited for."


class JobExpired(GenMediaError):
    """The provider no longer has the job or its file."""

    paid = "the job was accepted"
    next_step = f"run again for {NEW_ATTEMPT}."


class ResultInvalid(GenMediaError):
    """The downloaded file does not verify; it never got its final name."""

    retryable = True
    paid = "the job was accepted and billed"
    next_step = "look at the file in quarantine: it is paid for. A retry of this run downloads it anew."


class QualityError(GenMediaError):
    """The verified file is delivered, a quality check found something, and the run asked to fail for that."""

    paid = "the job was accepted and billed; its file is delivered, and a retry never pays again"
    next_step = "watch the file. If it is good enough, run again with quality `report`; if not, ask for a new result."
    findings: tuple[str, ...] = ()  # the names of the checks


class StorageError(GenMediaError):
    """The file cannot be written to where it shall be; the provider still has it."""

    retryable = True
    paid = "the job was accepted and billed"
    next_step = "make the storage take files, then retry this run: the same job's file is fetched, before it expires."


class LedgerError(GenMediaError):
    """The ledger cannot be read or written; nothing is sent without it."""

    retryable = True
    outcome: SendOutcome = "unsent"
    paid = "nothing by this step; what was accepted before stays in the ledger"
    next_step = "run again when the ledger's database is back."


class NotConfirmed(GenMediaError):
    """It would cost more than is sent without asking, and nobody confirmed it: nothing was sent."""

    outcome: SendOutcome = "refused"
    next_step = (
        "start the run again to be asked again, or raise `confirm_above`. A flow of your own asks with "
        "`await confirm_cost(request)` before `submit_job`; the command `make` takes --yes for an answer."
    )


class ReviewStop(GenMediaError):
    """A batch was not reviewed in time, or a reviewer stopped it, so nothing more was submitted."""

    outcome: SendOutcome = "refused"
    paid = "nothing for the rows that were not submitted"
    next_step = (
        "run the batch again: it asks about the results that nobody has decided, and what is delivered is not paid "
        "again. `prefect-genmedia review apply FILE` decides before."
    )


class BudgetStop(GenMediaError):
    """A budget, or a cap of the account, does not hold what the next job would cost, so it was not submitted."""

    outcome: SendOutcome = "refused"
    paid = "nothing for the rows that were not submitted"
    remedy = "raise max_jobs or max_cost"  # what a person can change
    facts: Mapping[str, str | float] = {}
    """What the event says about a cap of an account; empty for other budgets."""
    next_step = "raise max_jobs or max_cost and run again: the rows that are delivered are not paid again."


class BatchIncomplete(GenMediaError):
    """A batch has ended and some of its rows have no file."""

    paid = "each delivered row once; the table of results says what became of the others"
    next_step = "look at the table of failures, then run the same batch again: it does the rest."


class ProviderError(GenMediaError):
    """The provider or the network failed in a way that says nothing about the request."""

    retryable = True
    next_step = "try again; if it lasts, ask the provider."

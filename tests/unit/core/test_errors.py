"""The tree of errors: what each says, that it survives pickling, and that it never repeats what it was given."""

import copy
import pickle
import re

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_genmedia import errors
from prefect_genmedia.errors import (
    AccountConflict,
    AccountPaused,
    BatchIncomplete,
    BudgetStop,
    CredentialsError,
    FieldProblem,
    GenerationFailed,
    GenMediaError,
    InputRefused,
    InvalidRequest,
    JobExpired,
    JobTimeout,
    LedgerError,
    NoSubject,
    NotConfirmed,
    OutputRefused,
    ProviderError,
    QualityError,
    QuotaError,
    RateLimited,
    ResultInvalid,
    ReviewStop,
    StorageError,
    SubmissionUnknown,
)

TREE = [
    InvalidRequest,
    NoSubject,
    CredentialsError,
    AccountConflict,
    AccountPaused,
    QuotaError,
    RateLimited,
    InputRefused,
    OutputRefused,
    GenerationFailed,
    SubmissionUnknown,
    JobTimeout,
    JobExpired,
    ResultInvalid,
    LedgerError,
    StorageError,
    QualityError,
    NotConfirmed,
    ReviewStop,
    BudgetStop,
    BatchIncomplete,
    ProviderError,
]
EVERY = [GenMediaError, *TREE]

FACTS = {
    "job_key": "k-7f3a",
    "provider_job_id": "10762451179911711518",
    "code": "2004",
    "http_status": 400,
    "body": '{"error": "千军万马"}',
    "paid": "half of it",
    "next_step": "do this with {job}.",
    "retryable": True,
    "outcome": "refused",
}

each_class = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)


def full(kind: type[GenMediaError]) -> GenMediaError:
    """An error of that class with everything set that it can hold."""
    error = kind("It went wrong.", **FACTS)
    if isinstance(error, RateLimited):
        error.after(2.5)
    if isinstance(error, InvalidRequest):
        error.problems = (FieldProblem("prompt", "is too long"), FieldProblem("", "does not fit"))
    return error


# --- The tree ---


def test_the_tree_at_the_top_of_the_file_names_every_class() -> None:
    drawn = re.findall(r"^[├└]── (\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    defined = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, GenMediaError) and kind is not GenMediaError
    }
    assert set(drawn) == defined == {kind.__name__ for kind in TREE}


@each_class
def test_every_error_is_caught_by_the_base_of_the_tree(kind: type[GenMediaError]) -> None:
    with pytest.raises(GenMediaError):
        raise kind("It went wrong.")
    assert kind("It went wrong.").kind == kind.__name__


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [(kind, kind in (RateLimited, ResultInvalid, StorageError, LedgerError, ProviderError)) for kind in TREE],
)
def test_only_what_may_pass_without_a_person_is_retryable(kind: type[GenMediaError], retryable: bool) -> None:
    assert kind("It went wrong.").retryable is retryable


@pytest.mark.parametrize(
    "kind",
    [
        InvalidRequest,
        NoSubject,
        CredentialsError,
        AccountConflict,
        AccountPaused,
        QuotaError,
        InputRefused,
        OutputRefused,
    ],
)
def test_a_refusal_is_a_certain_answer(kind: type[GenMediaError]) -> None:
    assert kind("No.").outcome == "refused"


def test_a_rate_limit_means_that_nothing_was_accepted() -> None:
    assert RateLimited("Slow down.").outcome == "unsent"
    assert RateLimited("Slow down.").retry_after is None
    assert RateLimited("Slow down.").after(3.0).retry_after == 3.0


@pytest.mark.parametrize("kind", [GenMediaError, SubmissionUnknown, ProviderError])
def test_an_error_that_knows_nothing_of_the_outcome_is_uncertain(kind: type[GenMediaError]) -> None:
    assert kind("Who knows.").outcome == "uncertain"


# --- Pickling ---


@each_class
def test_pickling_keeps_every_attribute(kind: type[GenMediaError]) -> None:
    error = full(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert again.args == error.args
    assert str(again) == str(error)
    for name in (*FACTS, "message", "kind"):
        assert getattr(again, name) == getattr(error, name)


@each_class
def test_pickling_keeps_the_defaults(kind: type[GenMediaError]) -> None:
    error = kind()
    again = pickle.loads(pickle.dumps(error))
    assert (again.paid, again.next_step, again.retryable, again.outcome) == (
        kind.paid,
        kind.next_step,
        kind.retryable,
        kind.outcome,
    )


@each_class
def test_a_copy_is_the_same_error(kind: type[GenMediaError]) -> None:
    assert vars(copy.copy(full(kind))) == vars(full(kind))


@each_class
def test_what_was_learned_of_the_job_later_is_pickled_too(kind: type[GenMediaError]) -> None:
    error = kind("It went wrong.").about("k-7f3a", "1076")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_particular_facts_of_a_class_are_pickled_too() -> None:
    assert pickle.loads(pickle.dumps(full(RateLimited))).retry_after == 2.5
    assert pickle.loads(pickle.dumps(full(InvalidRequest))).problems[0] == FieldProblem("prompt", "is too long")


# --- What a person reads ---


@each_class
def test_the_text_says_what_happened_to_which_job_what_it_cost_and_what_to_do(kind: type[GenMediaError]) -> None:
    text = str(full(kind))
    assert text.startswith("It went wrong.")
    assert "k-7f3a" in text
    assert "10762451179911711518" in text
    assert "Paid: half of it." in text
    assert "Next: do this with k-7f3a." in text


@each_class
def test_every_class_says_by_itself_what_it_cost(kind: type[GenMediaError]) -> None:
    assert re.search(r"Paid: .+\.", str(kind("It went wrong.")))


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_class_says_by_itself_what_to_do(kind: type[GenMediaError]) -> None:
    assert re.search(r"Next: .+\.$", str(kind("It went wrong.")))


@pytest.mark.parametrize("command", ["adopt k-7f3a PROVIDER_ID", "resubmit k-7f3a", "abandon k-7f3a"])
def test_an_unknown_submission_gives_the_commands_for_its_job(command: str) -> None:
    error = SubmissionUnknown("No certain answer.").about("k-7f3a", None)
    assert f"`prefect-genmedia jobs {command}`" in str(error)
    assert "may have accepted" in str(error)
    assert "no provider id" in str(error)


def test_an_error_without_a_job_names_none() -> None:
    assert "Job" not in str(QuotaError("No balance."))


def test_an_error_with_only_the_providers_id_names_that() -> None:
    assert "provider id 1076" in str(GenerationFailed("Gave up.", provider_job_id="1076"))


@pytest.mark.parametrize("job_key", ["k{0}", "{job}", "k%s"])
def test_a_strange_job_key_does_no_harm(job_key: str) -> None:
    assert job_key in str(SubmissionUnknown("No certain answer.").about(job_key, None))


def test_a_brace_in_the_next_step_does_no_harm() -> None:
    assert '{"a": 1}' in str(GenMediaError("It went wrong.", next_step='send {"a": 1} for {job}.', job_key="k-1"))


# --- Which job ---


def test_naming_the_job_returns_the_same_error() -> None:
    error = GenerationFailed("Gave up.")
    assert error.about("k-7f3a", "1076") is error


def test_a_job_that_is_known_is_not_renamed() -> None:
    error = GenerationFailed("Gave up.", job_key="first", provider_job_id="1").about("second", "2")
    assert (error.job_key, error.provider_job_id) == ("first", "1")


def test_an_error_about_an_accepted_job_does_not_claim_that_nothing_was_paid() -> None:
    assert "Paid: nothing." not in str(CredentialsError("The key was revoked.").about("k-7f3a", "1076"))


def test_what_a_class_says_about_the_cost_stays_when_the_job_is_named() -> None:
    assert JobTimeout("Too long.").about("k-7f3a", "1076").paid == JobTimeout.paid


def test_naming_the_job_of_one_error_leaves_its_class_alone() -> None:
    CredentialsError("The key was revoked.").about("k-7f3a", "1076")
    assert CredentialsError("No key.").paid == "nothing"


# --- InvalidRequest ---


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=5)
    seed: int
    parts: list[int] = []


def refusal(**order: object) -> InvalidRequest:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(order)
    return InvalidRequest.from_validation("Order", caught.value)


def test_every_problem_is_listed() -> None:
    error = refusal(prompt="too long", parts=[1, "two"], colour="red")
    assert [problem.field for problem in error.problems] == ["prompt", "seed", "parts.1", "colour"]
    assert "4 problems" in str(error)
    for problem in error.problems:
        assert str(problem) in str(error)


def test_one_problem_is_not_counted() -> None:
    assert str(refusal(prompt="short")).startswith("Order, seed: ")


@pytest.mark.parametrize("field", ["", "order"])
def test_a_problem_of_no_field_or_of_the_subject_itself_is_only_its_sentence(field: str) -> None:
    error = InvalidRequest.of("The order", [FieldProblem(field, "it does not fit")])
    assert str(error).startswith("The order: it does not fit. Paid: ")


def test_nothing_of_the_input_is_repeated() -> None:
    error = refusal(prompt="s3cret " * 1000, seed="s3cret", parts=["s3cret"])
    assert len(error.problems) == 3
    assert "s3cret" not in f"{error} {error!r} {vars(error)}"
    assert len(str(error)) < 500


def test_a_refusal_here_is_certain_and_free() -> None:
    error = refusal(prompt="short")
    assert (error.outcome, error.paid, error.retryable) == ("refused", "nothing", False)

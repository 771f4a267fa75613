"""OpenTelemetry metrics and spans about jobs. Uses only the API: without an SDK in the process nothing is recorded.

`changed` is called after the ledger has committed a job's new state, so that no transition is missed. Attributes are
names from small sets, job keys and account ids. They never contain a prompt, URL, error text or API key.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import StatusCode
from sqlalchemy import Connection

from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.prices import from_micros

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

_NAME, _VERSION = "prefect_genmedia", version("prefect-genmedia")
_tracer = trace.get_tracer(_NAME, _VERSION)
_meter = metrics.get_meter(_NAME, _VERSION)
_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 43200.0)
_LAG_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)

_transitions = _meter.create_counter("genmedia.job.transitions", "{transition}", "Changes of a job's state.")
_submissions = _meter.create_counter("genmedia.submissions", "{submission}", "Submissions that ended, by outcome.")
_outcomes = _meter.create_counter("genmedia.job.outcomes", "{job}", "Jobs that ended, by outcome.")
_joins = _meter.create_counter("genmedia.job.joins", "{join}", "Requests that joined a job which was paid already.")
_spend = _meter.create_counter("genmedia.spend", "{currency}", "Estimated cost of accepted jobs, in their currency.")
_stages = _meter.create_histogram(
    "genmedia.job.stage.duration", "s", "Time of a job in a stage.", explicit_bucket_boundaries_advisory=_SECONDS
)
_to_deliver = _meter.create_histogram(
    "genmedia.job.time_to_deliver",
    "s",
    "From the provider's acceptance to the verified file.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_poll_lag = _meter.create_histogram(
    "genmedia.poll.lag",
    "s",
    "By how much a poll was late.",
    explicit_bucket_boundaries_advisory=_LAG_SECONDS,
)

_SUBMISSION_OUTCOMES = {
    JobState.SUBMITTED: "accepted",
    JobState.REJECTED: "refused",
    JobState.UNKNOWN: "unknown",
    JobState.RESERVED: "unsent",
}
_ENDS = frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.FAILED, JobState.REJECTED, JobState.ABANDONED})
_PLAIN = re.compile(r"[\w.:/+-]{1,64}", re.ASCII)


def plain_name(text: str | None) -> str:
    """Returns a text as an attribute: unchanged if it is a name, else `other` (a sentence, a URL with a query).

    Args:
        text: such as a model's name.
    """
    return text if text and "//" not in text and _PLAIN.fullmatch(text) else "other"


def _harmless(record: Callable[P, None]) -> Callable[P, None]:
    """Returns the function, whose errors are only logged: an exporter that fails must not fail a paid job's step."""

    @functools.wraps(record)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            record(*args, **kwargs)
        except Exception as error:
            logger.warning("A metric was not recorded: %s", type(error).__name__)

    return recorded


# --- transitions ---


def changed(before: JobState | None, job: T) -> T:
    """Count a committed change of a job's state, and add it to the current span as an event.

    Args:
        before: the state before; None for a new job.
        job: the job as it is now. Any other value is no change, and is returned unchanged.
    """
    if isinstance(job, Job):
        _record_change(before, job)
    return job


@_harmless
def _record_change(before: JobState | None, job: Job) -> None:
    about = _about(job)
    move = {**about, "genmedia.from": before.value if before else "none", "genmedia.to": job.state.value}
    if job.error_kind and job.state not in (JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED):
        move["error.type"] = plain_name(job.error_kind)
    _transitions.add(1, move)
    trace.get_current_span().add_event("genmedia.job.transition", {**move, **_identity(job)})
    if before is JobState.SENDING and job.state in _SUBMISSION_OUTCOMES:
        _submissions.add(1, {**about, "genmedia.outcome": _SUBMISSION_OUTCOMES[job.state]})
    if job.state in _ENDS and job.state is not before:
        _outcomes.add(1, {**about, "genmedia.outcome": job.state.value})
    if job.state is JobState.SUBMITTED and job.micros:
        _spend.add(float(from_micros(job.micros)), {**about, "genmedia.currency": plain_name(job.currency)})
    _measure(before, job, about)


def _measure(before: JobState | None, job: Job, about: dict[str, str]) -> None:
    if before is JobState.RESERVED and job.sent_at:
        _stages.record(max(job.sent_at - job.created_at, 0.0), {**about, "genmedia.stage": "queue"})
    elif job.state is JobState.SUCCEEDED and job.took_seconds is not None:
        _stages.record(job.took_seconds, {**about, "genmedia.stage": "generation"})
    elif before is JobState.SUCCEEDED and job.state is JobState.DELIVERED and job.delivered_at:
        delivery = job.delivered_at - (job.succeeded_at or job.delivered_at)
        _stages.record(max(delivery, 0.0), {**about, "genmedia.stage": "delivery"})
        _to_deliver.record(max(job.delivered_at - job.age_origin, 0.0), about)


def joined(job: Job) -> Job:
    """Count a request that joins a job which was accepted earlier.

    Args:
        job: the job.
    """
    _record_join(job)
    return job


@_harmless
def _record_join(job: Job) -> None:
    _joins.add(1, _about(job))
    trace.get_current_span().add_event("genmedia.job.join", _identity(job))


@_harmless
def polled(job: Job, late_seconds: float) -> None:
    """Record the delay of a poll.

    Args:
        job: the job.
        late_seconds: seconds between the planned and the actual time of the poll.
    """
    _poll_lag.record(max(late_seconds, 0.0), _about(job))


class Changes:
    """The state changes of one transaction, reported after its commit.

    A transaction is repeated after an outage although it may have been committed: each change counts once.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, JobState], tuple[JobState, Job]] = {}

    def noted(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """Wraps the work of a transaction to collect its calls of `note`.

        Args:
            work: executes the statements.
        """

        def noting(connection: Connection) -> T:
            info = connection.info  # of a connection that is lost meanwhile, the property only raises
            info[_NAME] = self._found
            try:
                return work(connection)
            finally:
                info.pop(_NAME, None)

        return noting

    def report(self) -> None:
        """Count the collected changes."""
        for before, job in self._found.values():
            changed(before, job)


def note(connection: Connection, before: JobState, job: Job) -> None:
    """Collect a change of state until its transaction is committed.

    Args:
        connection: inside the transaction.
        before: the state before.
        job: the job as it is now.
    """
    found = connection.info.get(_NAME)
    if found is not None and job.state is not before:
        found[job.key, job.state] = (before, job)


# --- spans ---


def step(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Returns a decorator that runs a pipeline step in a span named `genmedia.` plus the step.

    Its attributes come from the job or request in the step's second argument, and from the job that the step returns.
    Only the kind of an error is recorded: its message may quote text of a user or provider.

    Args:
        name: the step's name.
    """

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(function)
        async def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            with _tracer.start_as_current_span(
                f"genmedia.{name}", record_exception=False, set_status_on_exception=False
            ) as span:
                span.set_attributes(_of_step(args[1]) if span.is_recording() and len(args) > 1 else {})
                try:
                    done = await function(*args, **kwargs)
                except BaseException as error:
                    kind = error.kind if isinstance(error, GenMediaError) else type(error).__name__
                    span.set_attribute("error.type", plain_name(kind))
                    if isinstance(error, Exception):  # a cancelled or suspended run is not an error
                        span.set_status(StatusCode.ERROR)
                    raise
                if span.is_recording() and isinstance(done, Job):
                    span.set_attributes(_of_step(done))
                return done

        return traced

    return decorate


def _of_step(given: Any) -> dict[str, str]:
    if isinstance(given, Job):
        return {**_about(given), **_identity(given), "genmedia.state": given.state.value}
    request = given.request  # of a JobSpec
    return {"genmedia.kind": plain_name(request.kind), "genmedia.model": plain_name(request.model_name)}


def _about(job: Job) -> dict[str, str]:
    return {
        "genmedia.provider": plain_name(job.provider),
        "genmedia.kind": plain_name(job.kind),
        "genmedia.model": plain_name(job.model),
    }


def _identity(job: Job) -> dict[str, str]:
    """Returns the attributes that identify this job: too many values for a metric."""
    return {"genmedia.job.key": plain_name(job.key), "genmedia.job.attempt": str(job.attempt)}


# --- what the ledger holds ---


@dataclass(frozen=True)
class Figures:
    """A snapshot of the ledger's figures. Times are seconds since 1970.

    Args:
        at: when they were read.
        jobs: open jobs, by provider and state.
        oldest: when the oldest accepted and undelivered job was accepted, by provider.
        expires: the next expiry of such a job, by provider.
        budget_left: the remaining amounts of caps, by account id, provider, cap and unit.
        paused: paused accounts, by provider.
    """

    at: float
    jobs: dict[tuple[str, str], int]
    oldest: dict[str, float]
    expires: dict[str, float]
    budget_left: dict[tuple[str, str, str, str], float]
    paused: dict[str, int]


_latest: list[Figures] = []


def publish(figures: Figures) -> None:
    """Publish figures, which gauges show until the next ones.

    Args:
        figures: what was read from the ledger.
    """
    _latest[:] = [figures]


def _gauge(name: str, unit: str, text: str, read: Callable[[Figures], dict[Any, float]], *keys: str) -> None:
    names = [f"genmedia.{key}" for key in keys]

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for figures in _latest:
            for found, value in read(figures).items():
                values = found if isinstance(found, tuple) else (found,)
                yield Observation(value, dict(zip(names, map(plain_name, values), strict=False)))

    _meter.create_observable_gauge(name, [observe], unit, text)


def _ages(figures: Figures) -> dict[Any, float]:
    return {provider: max(time.time() - at, 0.0) for provider, at in figures.oldest.items()}


def _until_expiry(figures: Figures) -> dict[Any, float]:
    return {provider: at - time.time() for provider, at in figures.expires.items()}


_gauge("genmedia.jobs", "{job}", "Jobs that have not ended.", lambda found: dict(found.jobs), "provider", "state")
_gauge("genmedia.jobs.oldest_undelivered.age", "s", "Age of the oldest paid, undelivered job.", _ages, "provider")
_gauge("genmedia.jobs.next_expiry", "s", "Until a provider forgets a paid job.", _until_expiry, "provider")
_gauge(
    "genmedia.budget.left",
    "{unit}",
    "What an account's cap still allows.",
    lambda found: dict(found.budget_left),
    *("account", "provider", "cap", "unit"),
)
_gauge("genmedia.accounts.paused", "{account}", "Paused accounts.", lambda found: dict(found.paused), "provider")
_gauge("genmedia.figures.age", "s", "Since the ledger was read.", lambda found: {(): max(time.time() - found.at, 0.0)})

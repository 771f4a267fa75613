"""Submits once: one requested result is sent and paid once, however often and from wherever it is requested."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

import anyio

from prefect_genmedia import errors
from prefect_genmedia._core import telemetry
from prefect_genmedia._core.accepted import accepted_otherwise, record_accepted
from prefect_genmedia._core.admission import Admission, SentUnderOtherToken, costs_of, report_budget
from prefect_genmedia._core.attempts import Asker, next_attempt
from prefect_genmedia._core.budgets import cost_of
from prefect_genmedia._core.callback_url import check_callback
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.identity import IDENTITY_VERSION
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.limits import LONGEST_WAIT_SECONDS, InFlightSlots
from prefect_genmedia._core.model import ACCEPTED, STALE_SENDING_SECONDS, Job, JobState, adopt_step
from prefect_genmedia._core.pace import BEGIN_SECONDS, LONGEST_COOL_DOWN_SECONDS
from prefect_genmedia._core.same_request import input_digests, names_digest
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.start import SendCheck, SendingLapsed, Started, Waiting, finish, start_in_line
from prefect_genmedia._inputs.prepare import without_inputs
from prefect_genmedia._transport.api import checked_before_sending
from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.errors import GenMediaError, LedgerError, RateLimited, SubmissionUnknown
from prefect_genmedia.prices import in_micros
from prefect_genmedia.providers.extra_body import shown_extra
from prefect_genmedia.providers.protocol import Accepted, GenerationRequest, PreparedRequest
from prefect_genmedia.text import escaped, id_problem, shown_id

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_PAUSES = (0.2, 1.0, 3.0, 10.0, 20.0, 30.0, 60.0)
"""Pauses between attempts to record a submission's outcome, in seconds: only this process has it."""

PROBE_SECONDS = 20.0
"""Timeout of the free poll that checks whether the base URL serves a web page, in seconds."""

JOIN_SECONDS = (0.02, 0.5)
"""Interval at which a process checks another process's submission for its answer, in seconds: initial and maximum."""


async def submit_once(session: Session, spec: JobSpec, prepared: PreparedRequest[Any] | None = None) -> Job:
    """Make sure that the request is submitted, and return its job, even if another process submitted it.

    A job that ended without a result may get a new attempt here; see `next_attempt`.

    Args:
        session: the account that pays, and the ledger.
        spec: the job's options.
        prepared: the spec's request with its inputs prepared; None if its inputs are sent unchanged.

    Raises:
        SubmissionUnknown: it was sent without a certain answer, now or earlier; nothing sends it again.
        RateLimited: no in-flight slot became free in time; nothing was sent.
        AccountPaused, AccountConflict: the account is paused, or another one has the same request; nothing was sent.
        BudgetStop: a cap of the account, `max_cost` or `spend` does not allow it; nothing was sent.
        GenMediaError: the provider refused it, or it was certainly not sent (`retryable` says whether to try again).
    """
    ledger, clock = session.ledger, session.clock
    prepared = prepared or PreparedRequest(spec.request)
    pause, begin_within = JOIN_SECONDS[0], BEGIN_SECONDS[0]
    slots = InFlightSlots(session.max_in_flight, clock.monotonic() + LONGEST_WAIT_SECONDS, session.log.info)
    admit = Admission(session, spec, prepared)
    while True:
        job = await _newest_or_new(session, spec, prepared)
        if job.state in ACCEPTED:
            return telemetry.joined(job)
        if job.state in (JobState.UNKNOWN, JobState.ABANDONED):
            raise unresolved(job)
        if job.state is JobState.SENDING:
            if await expire_stale_sending(ledger, job, clock) is None:
                await clock.sleep(pause)
                pause = min(pause * 1.5, JOIN_SECONDS[1])
            continue
        if job.not_before is not None:
            await clock.sleep(job.not_before - clock.now())
        async with AsyncExitStack() as gate:
            waiting = Waiting(session.paying(job), prepared, admit, begin_within, slots.until)
            try:
                started = await start_in_line(session, slots, waiting, gate)
            except SentUnderOtherToken as elsewhere:
                session = replace(session, record=elsewhere.record)
                continue
            if started is not None:
                try:
                    return await _sent(session, started, admit)
                except SendingLapsed:
                    prepared, begin_within = started.prepared, min(begin_within * 2, BEGIN_SECONDS[1])


async def expire_stale_sending(ledger: Ledger, job: Job, clock: Clock = SYSTEM_CLOCK) -> Job | None:
    """Move a `sending` job whose process must be dead to `unknown`; returns None if it is not stale or has moved on.

    Args:
        ledger: where the job is recorded.
        job: the job, as it was read.
        clock: the time source, also used to sleep.
    """
    if job.state is not JobState.SENDING or clock.now() - (job.sent_at or 0.0) < STALE_SENDING_SECONDS:
        return None
    return await ledger.move(
        job,
        JobState.UNKNOWN,
        error_kind=SubmissionUnknown.__name__,
        error_message="The process that was sending this submission ended before its answer was written down.",
    )


async def _newest_or_new(session: Session, spec: JobSpec, prepared: PreparedRequest[Any]) -> Job:
    identities = session.identities(prepared, spec.scope, spec.variant)
    newest = await session.ledger.newest_of(identities)
    attempt = await attempt_to_send(session, spec, newest)
    if attempt is not None:
        check_callback(session, prepared)
        prepared.payload()  # a request that cannot be serialized must fail before anything is recorded
    if newest is not None and attempt in (None, newest.attempt):
        if newest.state in (JobState.FAILED, JobState.REJECTED):
            raise newest.failure()
        return newest
    request, expectation = prepared.request, prepared.expectation()
    cost = cost_of(prepared, session.prices)
    attribution = await session.attributed(spec)
    return await session.ledger.reserve(
        Job(
            key="",
            identity=newest.identity if newest is not None else identities.new,
            identity_version=IDENTITY_VERSION,
            names_digest=names_digest(request),
            input_digests=input_digests(prepared),
            attempt=attempt or 1,
            scope=spec.scope,
            variant=spec.variant,
            provider=session.account.provider,
            account=str(session.account),
            account_id=session.record.id if session.record is not None else None,
            identity_token=session.tokens[0] if newest is None else newest.identity_token or newest.account,
            kind=request.kind,
            model=request.model_name,
            label=spec.label,
            request=shown_request(request),
            expectation=request.verifiable(expectation),
            flow_run_id=session.run.flow_run_id,
            root_run_id=session.run.root_run_id,
            **costs_of(None if cost is None else in_micros(cost)),
            output=spec.output,
            project=attribution.project or None,
            tags=list(attribution.tags) or None,
        )
    )


async def attempt_to_send(session: Session, spec: JobSpec, newest: Job | None) -> int | None:
    """Returns the attempt that would be sent if the spec were submitted now; see `next_attempt`.

    Prefect is queried for the run's retries only if they matter.

    Args:
        session: the account, and the run that requests the job.
        spec: the job.
        newest: the newest attempt in the ledger; None if there is none.
    """
    asker, now = Asker(session.run.root_run_id, spec.ask_again), session.clock.now()
    attempt = next_attempt(newest, asker, now)
    if attempt is None:
        attempt_by_person = next_attempt(newest, replace(asker, retried_by_person=True), now)
        if attempt_by_person is not None and await session.run.retried_by_person():
            return attempt_by_person
    return attempt


async def _sent(session: Session, started: Started, admit: Admission) -> Job:
    """Send a job, and then report the caps that it nearly reaches: the POST must not wait for that."""
    try:
        return await finish(_send(session, started))
    finally:
        for facts in admit.near:
            await finish(report_budget(session, "warning", facts))


async def _send(session: Session, started: Started) -> Job:
    prepared, job, start = started.prepared, started.job, started.start
    ledger, clock, tell = session.ledger, session.clock, session.log.info
    failure: GenMediaError
    try:
        outgoing = prepared.with_request(prepared.request.notifying(session.callback_url(job)))
        check = SendCheck(session, job, start)
        with checked_before_sending(check, check.in_time):
            accepted = await session.client.submit(outgoing)
    except SendingLapsed:
        await ledger.unsend(job)
        raise
    except GenMediaError as error:
        failure = job.describe_in(await _of_web_page(session, without_inputs(error, prepared.inputs)))
    except Exception as error:
        # An internal error after the first byte: the provider's outcome is unknown, too.
        logger.exception("Submitting job %s broke", job.key)
        failure = errors.ProviderError(f"Submitting broke: {type(error).__name__}.", outcome="uncertain")
    else:
        recorded = await _written(lambda: record_accepted(ledger, job, accepted, clock), job, accepted, tell, clock)
        if recorded.event is not None:
            tell(f"Job {job.key}: {recorded.message}")
            session.hooks.event(recorded.event, recorded.job)
        if not recorded.stands:
            raise accepted_otherwise(recorded.job, accepted.provider_job_id)
        return recorded.job
    if failure.outcome == "unsent":
        await _record_failure(ledger, job, failure, clock)
        if isinstance(failure, RateLimited) and failure.retry_after:
            await ledger.cool_down(job, failure.retry_after)
            seconds = min(failure.retry_after, LONGEST_COOL_DOWN_SECONDS)
            session.hooks.event("cooling_down", job, seconds=seconds)
        raise failure
    await _written(lambda: _record_failure(ledger, job, failure, clock), job, failure, tell, clock)
    if failure.outcome == "uncertain":
        raise _uncertain(failure).about(job.key, failure.provider_job_id)
    raise failure


def _uncertain(failure: GenMediaError) -> SubmissionUnknown:
    """Returns the error for a submission without a certain answer. An id in the answer can be adopted."""
    unknown = SubmissionUnknown(
        f"The submission has no certain answer: {failure.message}", http_status=failure.http_status
    )
    if failure.provider_job_id is not None:
        unknown.next_step = adopt_step(failure.provider_job_id)
    return unknown


async def _of_web_page(session: Session, failure: GenMediaError) -> GenMediaError:
    """Interpret a web page in answer to a submission: it is conclusive only if a free poll also gets a web page.

    Args:
        session: the account.
        failure: what the submission raised.

    Returns:
        A refusal, if there is no API at the base URL; otherwise the unchanged failure.
    """
    if failure.outcome != "uncertain" or not failure.is_page:
        return failure
    with anyio.move_on_after(PROBE_SECONDS):
        try:
            await session.client.poll(f"none-{uuid4().hex}")
        except GenMediaError as polled:
            if polled.is_page:
                note = "A web page answered, not an API, and so it does a poll: is base_url right?"
                return errors.ProviderError(
                    f"{failure.message} {note}",
                    http_status=failure.http_status,
                    body=failure.body,
                    outcome="refused",
                    retryable=False,
                    next_step="correct base_url in the credentials Block, then run again.",
                )
    return failure


async def _written(
    write: Callable[[], Awaitable[T]],
    job: Job,
    became: Accepted | GenMediaError,
    tell: Callable[[str], None],
    clock: Clock,
) -> T:
    """Record the outcome of a submission, and retry while the ledger cannot record it."""
    provider_job_id = became.provider_job_id
    said = (
        f"the provider accepted it as {shown_id(provider_job_id)}" if isinstance(became, Accepted) else became.message
    )
    for pause in (*WRITE_PAUSES, None):
        try:
            return await write()
        except Exception as error:
            if isinstance(error, GenMediaError) and not isinstance(error, LedgerError):
                raise
            tell(f"Job {job.key}: {said}; the ledger cannot be written to now: {type(error).__name__}")
            logger.warning("The ledger does not take what became of job %s", job.key, exc_info=error)
            if pause is None:
                break
            await clock.sleep(pause)
    lost = SubmissionUnknown(f"The ledger did not take what became of the submission: {said}.")
    if provider_job_id:
        typed = shlex.quote(escaped(provider_job_id))
        lost.next_step = f"`prefect-genmedia jobs adopt {{job}} {typed}`, once the ledger can be written to."
    raise lost.about(job.key, provider_job_id)


async def _record_failure(ledger: Ledger, job: Job, failure: GenMediaError, clock: Clock) -> None:
    facts: dict[str, Any] = {
        "error_kind": failure.kind,
        "error_message": failure.message,
        "error_code": failure.code,
    }
    if failure.evidence:
        facts["evidence"] = failure.evidence
    if failure.outcome == "unsent":
        wait = failure.retry_after if isinstance(failure, RateLimited) else None
        facts["not_before"] = clock.now() + min(wait, LONGEST_COOL_DOWN_SECONDS) if wait else None
        await ledger.unsend(job, **facts)
    elif failure.outcome == "refused":
        await ledger.move(job, JobState.REJECTED, **facts)
    else:
        if failure.provider_job_id is not None and id_problem(failure.provider_job_id) is None:
            facts["provider_job_id"] = failure.provider_job_id  # for `adopt`
        await ledger.move(job, JobState.UNKNOWN, **facts | {"error_kind": SubmissionUnknown.__name__})


def unresolved(job: Job) -> SubmissionUnknown:
    """Returns the error for a request whose job was sent without a certain answer."""
    if job.state is JobState.ABANDONED:
        return SubmissionUnknown(
            "A person abandoned this submission; it is not sent again.",
            next_step="use another idempotency key or variant for a new one, "
            "`prefect-genmedia jobs adopt {job} PROVIDER_ID` if it did arrive, or `prefect-genmedia jobs undo {job}`.",
        ).about(job.key, job.provider_job_id)
    unknown = SubmissionUnknown(f"An earlier submission of this request has no certain answer: {job.error_message}")
    if job.provider_job_id is not None:
        unknown.next_step = adopt_step(job.provider_job_id)
    return unknown.about(job.key, job.provider_job_id)


def shown_request(request: GenerationRequest) -> dict[str, Any]:
    """Returns the request in a form that is safe to store and show: no URL signatures, no content of `data:` URIs."""
    shown: dict[str, Any] = _shown(request.model_dump(mode="json", exclude_none=True, exclude={"extra_body"}))
    return {**shown, "extra_body": shown_extra(request.extra_body)} if request.extra_body else shown


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("http://", "https://", "data:")):
        return shown_url(value)
    return value

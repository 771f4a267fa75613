"""Submit once: whatever calls again, and from wherever, one requested result is sent and paid once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from prefect_genmedia import errors
from prefect_genmedia.errors import (
    FieldProblem,
    GenMediaError,
    InputRefused,
    InvalidRequest,
    JobExpired,
    RateLimited,
    SubmissionUnknown,
)
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.identity import identity_of
from prefect_genmedia.jobs.ledger import Ledger, Spend
from prefect_genmedia.jobs.model import ACCEPTED, STALE_SENDING_SECONDS, Job, JobState
from prefect_genmedia.jobs.places import LONGEST_WAIT_SECONDS, Places
from prefect_genmedia.jobs.prices import CURRENCY, LIST_PRICES, PriceTable, priced_as
from prefect_genmedia.providers.inputs import inputs_may_be_gone
from prefect_genmedia.providers.protocol import Accepted, Account, GenerationRequest, MediaExpectation, ProviderClient
from prefect_genmedia.providers.registry import provider_named
from prefect_genmedia.transport.redact import unsigned_url

logger = logging.getLogger(__name__)

JOIN_SECONDS = (0.02, 0.5)
"""How often a process looks whether another one's submission has its answer: at first, and at the longest."""


async def _never() -> bool:
    return False


def _no_callback(job: Job) -> str | None:
    return None


async def _as_it_is(request: GenerationRequest) -> GenerationRequest:
    return request


@dataclass(frozen=True)
class Claim:
    """What makes a request one particular wanted result, and who asks for it.

    Parameters:
        scope: what bounds "the same request": a root flow run's id, or an idempotency key.
        variant: tells apart several wanted results of the same request.
        label: a few words that name the request for people.
        flow_run_id: the flow run that asks.
        root_run_id: its root flow run, or the task run where there is no flow.
        retried_by_person: whether that run was started again by a person, and not by its own automatic retries.
        ask_again: whether what failed earlier may be asked for anew at all.
        callback_url: where the provider shall say that a job has ended; None for nowhere.
        output: where it wants its file, for whoever delivers it in its place.
        expectation: what the file must be like, beyond what the request alone says.
        prices: what a result probably costs, by `provider/model`; every figure made from them is an estimate.
        max_in_flight: how many jobs of the account may be in flight when it is sent; None for any number.
        spend: reserves its money in the step in which it begins to be sent; None where nothing limits that.
        tell: told, in a sentence, that it waits for a place in flight.
        renewed: makes the request anew where something in it has grown too old while it waited; the same identity.
    """

    scope: str
    variant: int = 0
    label: str = ""
    flow_run_id: str | None = None
    root_run_id: str | None = None
    retried_by_person: Callable[[], Awaitable[bool]] = _never
    ask_again: bool = True
    callback_url: Callable[[Job], str | None] = _no_callback
    output: str | None = None
    expectation: MediaExpectation = field(default_factory=MediaExpectation)
    prices: PriceTable = field(default_factory=lambda: LIST_PRICES)
    max_in_flight: int | None = None
    spend: Spend | None = None
    tell: Callable[[str], None] = logger.info
    renewed: Callable[[GenerationRequest], Awaitable[GenerationRequest]] = _as_it_is


async def submit_once(
    ledger: Ledger, client: ProviderClient, request: GenerationRequest, claim: Claim, clock: Clock = SYSTEM_CLOCK
) -> Job:
    """Make sure that the request is submitted, and return its job, whoever submitted it.

    A job that ended without a result may get a new attempt here, see `_wants_new_attempt`.

    Parameters:
        ledger: where the job is written down.
        client: the client of the account that pays.
        request: what is wanted.
        claim: which result exactly, and who asks.
        clock: what tells the time and waits.

    Raises:
        SubmissionUnknown: it was sent without a certain answer, now or earlier; nothing sends it again.
        RateLimited: no place in flight became free in time; nothing was sent.
        BudgetStop: the claim's `spend` found no money for it; nothing was sent.
        GenMediaError: the provider refused it, or it surely was not sent (then `retryable` tells whether to try again).
    """
    pause = JOIN_SECONDS[0]
    places = Places(claim.max_in_flight, clock.monotonic() + LONGEST_WAIT_SECONDS, claim.tell)
    request.body()  # a request that cannot be written must fail before anything is written down
    while True:
        job = await _newest_or_new(ledger, client, request, claim, clock)
        if job.state in ACCEPTED:
            return job
        if job.state in (JobState.UNKNOWN, JobState.ABANDONED):
            raise _unresolved(job)
        if job.state is JobState.SENDING:
            if await expire_stale_sending(ledger, job, clock) is None:
                await clock.sleep(pause)
                pause = min(pause * 1.5, JOIN_SECONDS[1])
            continue
        if job.not_before is not None:
            await clock.sleep(job.not_before - clock.now())
        async with AsyncExitStack() as turn:
            async with places.line(ledger, job, clock):
                if (request.stale_at() or clock.now()) < clock.now():
                    request = await claim.renewed(request)
                await turn.enter_async_context(client.turn())
                mine = await ledger.start_sending(job, claim.flow_run_id, claim.max_in_flight, claim.spend)
            if mine is not None:
                told = request.notifying(claim.callback_url(mine))
                return await _finish(_send(ledger, client, told, mine, clock))


async def rejoin(
    ledger: Ledger, account: Account, request: GenerationRequest, scope: str, variant: int = 0
) -> Job | None:
    """The accepted job of a request whose own files are gone: the one in its scope that was asked for by their names.

    Files are told apart by their bytes, so such a request has lost its identity, and must never be submitted.

    Parameters:
        ledger: where the job stands.
        account: who has paid.
        request: what is asked for; made inside of `inputs_may_be_gone`.
        scope: what bounds "the same request", as in `Claim`.
        variant: tells apart several wanted results of the same request.

    Returns:
        The job, which needs its files no more; None where there is none, or it has failed.

    Raises:
        InvalidRequest: several jobs may be meant.
        SubmissionUnknown: it was sent without a certain answer.
    """
    wanted = identity_of(account, request, scope, variant)
    found = []
    for job in (await ledger.newest_in(scope)).values():
        same_bounds = (job.scope, job.account, job.kind, job.variant) == (scope, str(account), request.kind, variant)
        if same_bounds and wanted == _identity_by_names(account, job, type(request)):
            found.append(job)
    if len(found) > 1:
        meant = f"and jobs {', '.join(sorted(job.key for job in found))} may be meant"
        problems = [FieldProblem(each.field, f"{each.problem}; {meant}") for each in request.absent_inputs()]
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    if not found:
        return None
    (job,) = found
    if job.state in (JobState.UNKNOWN, JobState.ABANDONED):
        raise _unresolved(job)
    return job if job.state in ACCEPTED and job.state is not JobState.FAILED else None


def _identity_by_names(account: Account, job: Job, kind: type[GenerationRequest]) -> str | None:
    """A job's identity as it would be now, when files that are gone have nothing but their names."""
    try:
        with inputs_may_be_gone():
            return identity_of(account, kind.model_validate(job.request), job.scope, job.variant)
    except InvalidRequest:  # what is stored is not always all of it: base64 is cut
        return None


async def expire_stale_sending(ledger: Ledger, job: Job, clock: Clock = SYSTEM_CLOCK) -> Job | None:
    """Turn a `sending` job whose process must be dead into `unknown`; None if it is not stale, or moved on.

    Parameters:
        ledger: where the job is written down.
        job: the job, as it was read.
        clock: what tells the time and waits.
    """
    if job.state is not JobState.SENDING or clock.now() - (job.sent_at or 0.0) < STALE_SENDING_SECONDS:
        return None
    return await ledger.move(
        job,
        JobState.UNKNOWN,
        error_kind=SubmissionUnknown.__name__,
        error_message="The process that was sending this submission ended before its answer was written down.",
    )


async def _newest_or_new(
    ledger: Ledger, client: ProviderClient, request: GenerationRequest, claim: Claim, clock: Clock
) -> Job:
    identity = identity_of(client.account, request, claim.scope, claim.variant)
    newest = await ledger.newest(identity)
    if newest is not None and not await _wants_new_attempt(newest, claim, clock):
        return newest
    expectation = request.expectation().model_copy(update=claim.expectation.model_dump(exclude_none=True))
    price = claim.prices.get(priced_as(request))
    cost = price.of(expectation.seconds) if price is not None else None
    return await ledger.reserve(
        Job(
            key="",
            identity=identity,
            attempt=newest.attempt + 1 if newest else 1,
            scope=claim.scope,
            variant=claim.variant,
            provider=client.account.provider,
            account=str(client.account),
            kind=request.kind,
            model=request.model_name,
            label=claim.label,
            request=shown_request(request),
            expectation=expectation,
            flow_run_id=claim.flow_run_id,
            root_run_id=claim.root_run_id,
            estimated_cost=cost,
            currency=None if cost is None else CURRENCY,
            output=claim.output,
        )
    )


async def _wants_new_attempt(job: Job, claim: Claim, clock: Clock) -> bool:
    """Whether an attempt that ended without a result is followed by another.

    A refused submission cost nothing and may be repeated. What the provider had accepted is only asked for again by
    another run or by a person: an automatic retry gets the same failure once more.
    """
    if job.error_kind == InputRefused.__name__ and job.state in (JobState.FAILED, JobState.REJECTED):
        raise job.failure()
    if job.state is JobState.REJECTED:
        return True
    if job.state is not JobState.FAILED and not _is_expired(job, clock):
        return False
    if claim.ask_again and (job.root_run_id != claim.root_run_id or await claim.retried_by_person()):
        return True
    if job.state is JobState.FAILED:
        raise job.failure()
    return False


def _is_expired(job: Job, clock: Clock) -> bool:
    if job.state is not JobState.UNDELIVERABLE:
        return False
    return job.error_kind == JobExpired.__name__ or (job.expires_at is not None and job.expires_at < clock.now())


async def _finish(sending: Any) -> Job:
    """Let a submission that is on its way end, and be written down, even if its task is cancelled."""
    task: asyncio.Future[Job] = asyncio.ensure_future(sending)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancellation:  # noqa: PERF203 - a loop of at most a few cancellations
            cancelled = cancellation
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: the ledger has it
        raise cancelled
    return task.result()


async def _send(ledger: Ledger, client: ProviderClient, request: GenerationRequest, job: Job, clock: Clock) -> Job:
    failure: GenMediaError
    try:
        accepted = await client.submit(request)
    except GenMediaError as error:
        failure = error.about(job.key, None)
    except Exception as error:
        # A fault of our own after the first byte: what the provider did is just as unknown.
        logger.exception("Submitting job %s broke", job.key)
        failure = errors.ProviderError(f"Submitting broke: {type(error).__name__}.", outcome="uncertain")
    else:
        return await _accepted(ledger, job, accepted, clock)
    await _record_failure(ledger, job, failure, clock)
    if failure.outcome == "uncertain":
        raise SubmissionUnknown(
            f"The submission has no certain answer: {failure.message}", http_status=failure.http_status
        ).about(job.key, None)
    raise failure


async def _accepted(ledger: Ledger, job: Job, accepted: Accepted, clock: Clock) -> Job:
    lifetime = provider_named(job.provider).job_lifetime_seconds
    provider_job_id = accepted.provider_job_id
    facts: dict[str, Any] = {
        "provider_job_id": provider_job_id,
        "provider_status": accepted.status,
        "price": accepted.price,
        "points_remaining": accepted.points_remaining,
    }
    if lifetime is not None:
        facts["expires_at"] = clock.now() + lifetime
    submitted = await ledger.move(job, JobState.SUBMITTED, **facts)
    while submitted is None:
        # Somebody took us for dead and said `unknown`; this answer is certain and settles it.
        present = await ledger.get(job.key)
        if present is None or present.state is not JobState.UNKNOWN:
            raise SubmissionUnknown(
                f"The provider accepted it as {provider_job_id}, but the job was decided otherwise meanwhile."
            ).about(job.key, provider_job_id)
        submitted = await ledger.move(
            present, JobState.SUBMITTED, **facts, error_kind=None, error_message=None, error_code=None
        )
    return submitted


async def _record_failure(ledger: Ledger, job: Job, failure: GenMediaError, clock: Clock) -> None:
    facts: dict[str, Any] = {
        "error_kind": failure.kind,
        "error_message": failure.message,
        "error_code": failure.code,
    }
    if failure.outcome == "unsent":
        wait = failure.retry_after if isinstance(failure, RateLimited) else None
        facts["not_before"] = clock.now() + wait if wait else None
        await ledger.move(job, JobState.RESERVED, **facts)
    elif failure.outcome == "refused":
        await ledger.move(job, JobState.REJECTED, **facts)
    else:
        await ledger.move(job, JobState.UNKNOWN, **facts | {"error_kind": SubmissionUnknown.__name__})


def _unresolved(job: Job) -> SubmissionUnknown:
    if job.state is JobState.ABANDONED:
        return SubmissionUnknown(
            "A person abandoned this submission; it is not sent again.",
            next_step="use another idempotency key or variant for a new one, or "
            "`prefect-genmedia jobs adopt {job} PROVIDER_ID` if it did arrive.",
        ).about(job.key, job.provider_job_id)
    return SubmissionUnknown(f"An earlier submission of this request has no certain answer: {job.error_message}").about(
        job.key, job.provider_job_id
    )


def shown_request(request: GenerationRequest) -> dict[str, Any]:
    """The request as it may be stored and shown: URLs without signatures, `data:` URIs cut to their media type."""
    shown: dict[str, Any] = _shown(request.model_dump(mode="json", exclude_none=True))
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("http://", "https://", "data:")):
        return unsigned_url(value)
    return value

"""The job lifecycle in four steps: resolve, submit, wait, deliver; `run_job` runs all of them.

Tasks, batch rows and reconcile call these functions; there is no second copy of any step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any

from prefect_genmedia._core import telemetry
from prefect_genmedia._core.admission import refuse_early, report_budget
from prefect_genmedia._core.budgets import cost_of
from prefect_genmedia._core.confirmations import Costs
from prefect_genmedia._core.deliver import deliver_once as publish_verified
from prefect_genmedia._core.destination import check_destination
from prefect_genmedia._core.identity import same_names
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import AT_PROVIDER, TAKEN, Job, JobState
from prefect_genmedia._core.polling import wait_for_job
from prefect_genmedia._core.same_request import job_by_url
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.start import completed
from prefect_genmedia._core.submit import attempt_to_send, submit_once, unresolved
from prefect_genmedia._inputs.prepare import Submission, identified, is_fresh, no_problems, prepare_inputs
from prefect_genmedia.errors import BudgetStop, FieldProblem, GenMediaError, InvalidRequest, SubmissionUnknown
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

JUST_ACCEPTED_SECONDS = 1.0
"""A job below this age, in seconds, was accepted by the run that waits for it, after that run began."""


class JobSteps:
    """How `run_job` runs the steps. This base class runs each once; a batch retries steps and limits concurrency."""

    def in_flight(self) -> AbstractAsyncContextManager[None]:
        """A context around submitting and waiting, in which the job may hold an in-flight slot."""
        return nullcontext()

    def delivering(self) -> AbstractAsyncContextManager[None]:
        """A context around the delivery."""
        return nullcontext()

    async def submitting(self, step: Callable[[], Awaitable[Job]]) -> Job:
        """Run the submission.

        Args:
            step: submits once.
        """
        return await step()

    async def fetching(self, step: Callable[[], Awaitable[Job]]) -> Job:
        """Run the delivery.

        Args:
            step: delivers once.
        """
        return await step()


async def prepare_request(session: Session, spec: JobSpec, *, is_final: bool = False) -> PreparedRequest[Any]:
    """Inspect the request's inputs and output, and publish local files where the provider can fetch them.

    If the request joins an existing job, nothing is checked. If local inputs no longer exist, but a paid job that was
    made from them does, the request joins that job.

    Args:
        session: the account that pays.
        spec: the job. If it names no output and is not final, the output is checked when it is submitted.
        is_final: whether the request is submitted unchanged. If False, its identity may still change, and a request
            that may belong to another job of its scope is not refused.

    Raises:
        InvalidRequest: lists every problem of every input; nothing was sent.
        ProviderError: a storage failed; retryable, nothing was sent.
    """
    if spec.request.absent_inputs() and (job := await find_job(session, spec)) is not None:
        return PreparedRequest(spec.request, job_key=job.key)
    prepared = await prepare_inputs(
        spec.request,
        session.client.fetch_rules,
        session.publication,
        preflight=spec.preflight,
        convert=session.convert_inputs,
        before=spec.inspected,
        warn=session.log.warning,
        submission=Submission(
            is_due=lambda named: _is_due(session, spec, named, is_final),
            problems=lambda: _output_problems(session, spec) if is_final or spec.output else no_problems(),
            sleep=session.clock.sleep,
        ),
    )
    job = await job_by_url(session, prepared, spec.scope, spec.variant)
    return prepared if job is None else PreparedRequest(spec.request, job_key=_joinable(job).key)


async def _is_due(session: Session, spec: JobSpec, named: PreparedRequest[Any], is_final: bool) -> bool:
    """Whether submitting the request now would send it."""
    newest = await session.ledger.newest_of(session.identities(named, spec.scope, spec.variant))
    if newest is None and not is_final and named.request.stale_at() is not None:
        jobs = (await session.ledger.newest_in(spec.scope)).values()
        return not any((job.scope, job.kind) == (spec.scope, spec.request.kind) for job in jobs)
    if newest is None and await job_by_url(session, named, spec.scope, spec.variant) is not None:
        return False
    return await attempt_to_send(session, spec, newest) is not None


async def _output_problems(session: Session, spec: JobSpec) -> list[FieldProblem]:
    try:
        await check_destination(session, spec.output)
    except InvalidRequest as refusal:
        return list(refusal.problems)
    return []


async def find_job(session: Session, spec: JobSpec) -> Job | None:
    """Returns the job in the ledger that the spec would join, if any. Nothing is sent.

    If local inputs no longer exist, the job is found by their names: a paid job no longer needs its inputs.

    Args:
        session: the account that pays.
        spec: the job.

    Raises:
        InvalidRequest: inputs no longer exist, and several jobs match.
        SubmissionUnknown: inputs no longer exist, and the job was sent without a certain answer.
    """
    if gone := spec.request.absent_inputs():
        job = await rejoin(session.ledger, session.tokens, spec.request, spec.scope, spec.variant)
        if job is not None:
            fields = ", ".join(problem.field for problem in gone)
            session.log.warning("%s: the file no longer exists; joining job %s", fields, job.shown_id)
        return job
    known = await identified(spec.request, session.client.fetch_rules)
    newest = await session.ledger.newest_of(session.identities(known, spec.scope, spec.variant))
    return newest or await job_by_url(session, known, spec.scope, spec.variant)


async def resolve(session: Session, spec: JobSpec, prepared: PreparedRequest[Any] | None) -> PreparedRequest[Any]:
    """Make the request ready to be sent: prepare its inputs, and let the provider's plug-in complete it.

    Args:
        session: the account that pays.
        spec: the job.
        prepared: the prepared request, if it exists already.

    Raises:
        InvalidRequest: lists every problem of every input; nothing was sent.
        StorageError: the request would be sent, but its output is not writable now.
        AccountPaused: the request would be sent, but the account is paused.
        BudgetStop: the request would be sent, but would exceed a budget.
        GenMediaError: the plug-in could not complete the request; nothing was sent.
    """
    if prepared is None or not (prepared.job_key or is_fresh(prepared)):
        prepared = await prepare_request(session, spec, is_final=True)
    if prepared.job_key is not None:
        return prepared
    newest = await session.ledger.newest_of(session.identities(prepared, spec.scope, spec.variant))
    if await attempt_to_send(session, spec, newest) is None:
        return prepared  # nothing is sent, so no speaker detection is needed
    if not is_fresh(prepared):  # the job that it would have joined has ended in the meantime
        prepared = await prepare_request(session, spec, is_final=True)
        if prepared.job_key is not None:
            return prepared
    await check_destination(session, spec.output)
    await refuse_early(session, spec, prepared, newest)
    return await completed(session, prepared)


async def due_costs(session: Session, spec: JobSpec, prepared: PreparedRequest[Any]) -> Costs:
    """Returns the estimated costs of submitting the spec now; zero if it joins a job.

    Args:
        session: the account that pays.
        spec: the job.
        prepared: the spec's request with its inputs prepared.
    """
    if prepared.job_key is not None:
        return Costs()
    newest = await session.ledger.newest_of(session.identities(prepared, spec.scope, spec.variant))
    if await attempt_to_send(session, spec, newest) is None:
        return Costs()
    return Costs.of([cost_of(prepared, session.prices)])


@telemetry.step("submit")
async def submit(session: Session, spec: JobSpec, prepared: PreparedRequest[Any] | None = None) -> Job:
    """Submit the request once: every further call with the same identity returns the same job.

    Args:
        session: the account that pays.
        spec: the job.
        prepared: the prepared request, if it exists already.

    Returns:
        The job, which the provider has accepted.

    Raises:
        SubmissionUnknown: it was sent without a certain answer; nothing sends it again.
        GenMediaError: nothing was paid.
    """
    await session.target_of(spec.output or session.default_output)  # an invalid output must be detected before paying
    try:
        ready = await resolve(session, spec, prepared)
        if ready.job_key is not None:
            return telemetry.joined(await submitted_job(session.ledger, ready.job_key))
        job = await submit_once(session, spec, ready)
    except BudgetStop as error:
        await report_budget(session, "reached", error.facts)
        raise
    except SubmissionUnknown as error:
        unknown = await session.ledger.get(error.job_key or "")
        if unknown is not None:
            session.hooks.event("unknown", unknown, message=error.message)
        raise
    session.log.info("Job %s is %s at %s (key %s)", job.shown_id, job.provider_status, job.provider, job.key)
    return job


@telemetry.step("wait")
async def wait(session: Session, job: Job, timeout_seconds: float) -> Job:
    """Wait until the provider has the result.

    Args:
        session: the account.
        job: a job that the provider accepted.
        timeout_seconds: how long to wait, counted from when the provider accepted the job, or from a later restart of
            the run by a person.

    Raises:
        JobTimeout, CredentialsError: the job continues at the provider.
        GenMediaError: the provider gave the job up.
    """
    ledger = session.ledger
    if session.run.flow_run_id and job.flow_run_id != session.run.flow_run_id and job.state in AT_PROVIDER:
        # Take the job over, so that reconcile does not process it while this run waits.
        job = await ledger.note(job, flow_run_id=session.run.flow_run_id) or job
    timeout_seconds += await _time_before_restart(session, job)
    try:
        done = await wait_for_job(
            ledger, session.client, job, timeout_seconds, session.policy, session.hooks.listener(), session.clock
        )
    except asyncio.CancelledError:
        await session.hooks.detached(job)
        raise
    except GenMediaError as error:
        session.hooks.event("failed", await ledger.get(job.key) or job, error=error.kind, message=error.message)
        raise
    if done.succeeded_at and done.submitted_at:
        session.log.info("Job %s is done after %.1f s", done.shown_id, done.succeeded_at - done.submitted_at)
    return done


async def _time_before_restart(session: Session, job: Job) -> float:
    """Returns the seconds from the job's acceptance to a restart of the run by a person, which restarts the wait.

    Automatic retries keep the first deadline. Prefect is queried only for jobs that an earlier start may have left.
    """
    if job.state not in AT_PROVIDER or session.clock.now() - job.age_origin < JUST_ACCEPTED_SECONDS:
        return 0.0
    return max((await session.run.restarted_at() or 0.0) - job.age_origin, 0.0)


@telemetry.step("deliver")
async def deliver(session: Session, job: Job, output: str | None, overwrite: bool = False) -> Job:
    """Download, verify and publish the file.

    Args:
        session: the account.
        job: a job whose result the provider has.
        output: a folder, a file name ending in .mp4, or a storage URL of either; None for the session's default.
        overwrite: whether a delivered file that the user has edited is replaced by the provider's file.

    Raises:
        GenMediaError: the file could not be delivered.
    """
    try:
        target = await session.target_of(output or session.default_output)
        target = replace(target, overwrite=overwrite, verify=session.verify or target.verify)
        done, made = await publish_verified(session.ledger, session.client, job, target, session.clock, session.log)
    except GenMediaError as error:
        error.about(job.key, job.provider_job_id)
        session.hooks.event("undelivered", job, error=error.kind, message=error.message)
        raise
    assert done.delivery is not None  # a delivered job has a delivery
    session.hooks.delivered(done, made=made)
    session.log.info("Delivered %s", done.delivery.uri)
    return done


async def run_job(session: Session, spec: JobSpec, steps: JobSteps | None = None) -> Job:
    """Run a job's whole lifecycle: resolve, submit, wait, deliver.

    Args:
        session: the account that pays.
        spec: the job.
        steps: how the steps are run; None runs each once.

    Returns:
        The delivered job.

    Raises:
        GenMediaError: see the single steps.
    """
    steps = steps or JobSteps()
    async with steps.in_flight():
        job = await steps.submitting(lambda: submit(session, spec))
        job = await wait(session, job, spec.timeout_seconds)
    return await deliver_job(session, spec, job, steps)


async def deliver_job(session: Session, spec: JobSpec, job: Job, steps: JobSteps) -> Job:
    """Run the last step of `run_job`, for a job whose result the provider has.

    Args:
        session: the account.
        spec: the job's options.
        job: the job.
        steps: how the step is run.
    """
    async with steps.delivering():
        return await steps.fetching(lambda: deliver(session, job, spec.output, spec.overwrite))


async def submitted_job(ledger: Ledger, job: Job | str) -> Job:
    """Returns the current state of a job from the ledger.

    Args:
        ledger: where jobs are recorded.
        job: the job, its key, or its provider id.

    Raises:
        InvalidRequest: the ledger has no such job, or it was not submitted.
    """
    name = job if isinstance(job, str) else job.key
    found = await ledger.find(name)
    if found is None:
        raise InvalidRequest.of("The job", [FieldProblem("job", f"the ledger has no job {name!r}")])
    if found.state in (JobState.RESERVED, JobState.SENDING, JobState.UNKNOWN):
        raise InvalidRequest.of("The job", [FieldProblem("job", f"{name!r} is {found.state.value}, not submitted")])
    return found


async def rejoin(
    ledger: Ledger, tokens: Sequence[str], request: GenerationRequest, scope: str, variant: int = 0
) -> Job | None:
    """Returns the accepted job of a request whose local files are gone: the one in its scope with the same names.

    Files are identified by content, so such a request has lost its identity and must never be submitted.

    Args:
        ledger: where the job is recorded.
        tokens: the identity tokens of the paying account.
        request: the request.
        scope: the scope in which equal requests are the same, as in `JobSpec`.
        variant: distinguishes several requested results of the same request.

    Returns:
        The job, which no longer needs its files; None if there is none, or it has failed.

    Raises:
        InvalidRequest: several jobs match.
        SubmissionUnknown: it was sent without a certain answer.
    """
    found = []
    for job in (await ledger.newest_in(scope)).values():
        same_bounds = (job.scope, job.kind, job.variant) == (scope, request.kind, variant)
        if same_bounds and job.account in tokens and _has_same_names(request, job):
            found.append(job)
    if len(found) > 1:
        meant = f"and jobs {', '.join(sorted(job.key for job in found))} may be meant"
        problems = [FieldProblem(each.field, f"{each.problem}; {meant}") for each in request.absent_inputs()]
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    if not found:
        return None
    (job,) = found
    return job if _joinable(job).state in TAKEN else None


def _joinable(job: Job) -> Job:
    if job.state in (JobState.UNKNOWN, JobState.ABANDONED):
        raise unresolved(job)
    return job


def _has_same_names(request: GenerationRequest, job: Job) -> bool:
    """Whether a job's request has the same file names: files that no longer exist can only be compared by name."""
    try:
        return same_names(request, type(request).model_validate(job.request), dropped=None)
    except InvalidRequest:  # the stored request may be incomplete: base64 is cut
        return False

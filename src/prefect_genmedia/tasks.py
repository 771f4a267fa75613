"""The Prefect tasks: one for each step of a job, each usable alone in anyone's flow. They take and return plain values.

A provider's own tasks are in its package.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_genmedia._core import pipeline
from prefect_genmedia._core.decide import Decision, decide, warning_about
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._core.prune import PruneFilter, PruneReport, prune
from prefect_genmedia._core.quality import require_quality
from prefect_genmedia._core.reconcile import Finding
from prefect_genmedia._core.session import DEFAULT_TIMEOUT_SECONDS, JobSpec
from prefect_genmedia._prefect.cards import publish_result_card
from prefect_genmedia._prefect.confirm import confirm_limit
from prefect_genmedia._prefect.environment import lasting_output
from prefect_genmedia._prefect.history import cancelled_with_run
from prefect_genmedia._prefect.progress import show_delivered, shown_delivery, shown_progress
from prefect_genmedia._prefect.quality import quality_policy
from prefect_genmedia._prefect.reconcile import reconcile_all
from prefect_genmedia._prefect.run import (
    RETRIES,
    RETRY_DELAYS,
    RunHooks,
    emit_job_event,
    explained,
    own_runs,
    retry_if_safe,
    run_name,
)
from prefect_genmedia._prefect.run_names import name_run_after
from prefect_genmedia._prefect.session import open_session, open_session_of, stored_clients
from prefect_genmedia.prices import amount_of
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest, Request
from prefect_genmedia.settings import Quality, QualityCheck, Verify, current_settings, verify_level
from prefect_genmedia.text import clean_text

__all__ = [
    "check_inputs",
    "download_result",
    "prune_ledger",
    "reconcile_ledger",
    "settle_job",
    "submit",
    "submit_job",
    "wait_for_job",
]

P = ParamSpec("P")
R = TypeVar("R")


@task(
    task_run_name="check inputs",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def check_inputs(
    request: Request,
    *,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
    preflight: bool = True,
    output: str | None = None,
    convert_inputs: bool = False,
) -> PreparedRequest[Request]:
    """Check what is documented about a request's inputs, and whether they can travel. Nothing is sent to the provider.

    `submit_job` does the same by itself. A flow that asks the provider something before it submits calls this first.

    Args:
        request: what is wanted.
        credentials: the provider's Block, or its name.
        idempotency_key: as for `submit_job`. If local inputs no longer exist, the paid job that was made from them is
            looked up by it.
        preflight: whether documented limits are checked, and whether http(s) inputs are there.
        output: where the file will be wanted: it must take files. None leaves that to `submit_job`.
        convert_inputs: whether local pictures are converted to what the provider takes, such as HEIC to JPEG.

    Returns:
        The prepared request, for `submit_job`, which does not read its inputs again. How inputs are sent is a secret
        and stays in this process: a stored result holds the request alone. Its `job_key` names the paid job that it
        joins if its local inputs no longer exist; nothing has to be asked of the provider for it.

    Raises:
        InvalidRequest: with every problem of every input, and of the output.
        ProviderError: a storage failed; retryable.
        StorageError: the output takes no files now; nothing was sent.
    """
    async with explained(), open_session(request.provider, credentials) as session:
        spec = JobSpec(request, scope=session.run.scope(idempotency_key), preflight=preflight, output=output)
        return await pipeline.prepare_request(replace(session, convert_inputs=convert_inputs), spec)


@task(
    task_run_name=run_name("submit", "request"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def submit_job(
    request: GenerationRequest | PreparedRequest[Any],
    *,
    credentials: ProviderCredentials | str = "default",
    idempotency_key: str | None = None,
    variant: int = 0,
    label: str = "",
    output: str | None = None,
    ask_again: bool = True,
    preflight: bool = True,
    allow_second_account: bool = False,
    max_cost: Decimal | float | None = None,
    convert_inputs: bool = False,
    project: str = "",
    tags: Sequence[str] = (),
    confirm_above: Decimal | float | None = None,
) -> Job:
    """Submit a request, once: a retry, a rerun or another process with the same request gets the same job.

    Args:
        request: what is wanted. Its files may be http(s) URLs, paths, or fsspec URLs; what no provider can fetch is
            sent as base64 or published, see the setting `publish_url`.
        credentials: the provider's Block, or its name.
        idempotency_key: makes "the same request" hold across flow runs; by default it holds within one.
        variant: tells apart several wanted results of the same request.
        label: a few words that name the request for people.
        output: where the file will be wanted, for `reconcile_jobs`, should this run not live to fetch it.
        ask_again: whether a rerun may ask anew for what the provider had failed to make.
        preflight: check what the provider documents about the inputs before anything is paid; all problems at once.
        allow_second_account: send the request although another account of the same provider and base URL has it in
            flight, or was charged for its result.
        max_cost: most CNY that the result may cost, estimated, over all attempts at it; None for no limit. The caps of
            the credentials' Block hold besides.
        convert_inputs: whether local pictures are converted to what the provider takes, such as HEIC to JPEG.
        project: the project that the job is booked to; by default that of the Block, or else the deployment's or
            flow's name. It is not part of the request's identity, and is not sent.
        tags: labels to group jobs by, in addition to those of the Block.
        confirm_above: CNY, estimated, above which a person must have confirmed what this run pays; None takes the
            setting. A task cannot ask: `confirm_cost` does, in the flow.

    Returns:
        The job, accepted by the provider.

    Raises:
        NotConfirmed: nobody has confirmed it; nothing was sent.
        SubmissionUnknown: sent without a certain answer; no retry repeats it, a person decides.
        BudgetStop: a cap of the account, or `max_cost`, does not hold the job; nothing was sent.
        AccountConflict, AccountPaused: nothing was sent; see `prefect-genmedia accounts`.
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError: nothing was paid.
    """
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    wanted = prepared.request
    async with explained(), open_session(wanted.provider, credentials) as session:
        spec = JobSpec(
            wanted,
            scope=session.run.scope(idempotency_key),
            variant=variant,
            label=clean_text(label or wanted.kind),
            output=await lasting_output(output, current_settings()),
            ask_again=ask_again,
            preflight=preflight,
            allow_second_account=allow_second_account,
            max_cost=None if max_cost is None else amount_of("max_cost", max_cost),
            project=project,
            tags=tags,
            confirm_above=confirm_limit(confirm_above),
        )
        job = await pipeline.submit(replace(session, convert_inputs=convert_inputs), spec, prepared)
    emit_job_event("submitted", job)
    await name_run_after(job)
    return job


@task(
    task_run_name=run_name("wait", "job"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def wait_for_job(
    job: Job | str,
    *,
    credentials: ProviderCredentials | str = "default",
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> Job:
    """Wait until the provider has the result.

    Bad answers while polling never end the wait, and nor does an unknown status; only the provider's own failure, a
    key that is no longer accepted, or the timeout do.

    Args:
        job: the job, or its key, or the provider's id of it.
        credentials: the provider's Block, or its name.
        timeout_seconds: how long to wait, counted from when the provider accepted the job.

    Returns:
        The job, ready to be downloaded.

    Raises:
        JobTimeout: the time is over; the job continues, and waiting again goes on with it.
        InputRefused, OutputRefused, GenerationFailed, JobExpired: the provider gave up.
        CredentialsError: the key is no longer accepted.
    """
    async with (
        explained(),
        shown_progress() as listener,
        open_session_of(job, credentials, RunHooks(listener)) as (session, found),
        cancelled_with_run(own_runs()),
    ):
        return await pipeline.wait(session, found, timeout_seconds)


@task(
    task_run_name=run_name("download", "job"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def download_result(
    job: Job | str,
    output: str | None = None,
    *,
    credentials: ProviderCredentials | str = "default",
    overwrite: bool = False,
    verify: Verify = "auto",
    quality: Quality = "auto",
    quality_checks: Sequence[QualityCheck] = (),
) -> Delivery:
    """Download a finished job's file, verify it, and put it under its final name; show it as a card.

    Args:
        job: the job, or its key, or the provider's id of it.
        output: a folder, a file name ending in .mp4, or an fsspec URL of either; by default the media folder of the
            settings.
        credentials: the provider's Block, or its name.
        overwrite: whether a delivered file that was edited since is replaced by the provider's. By default it is kept.
        verify: how the file is verified before it gets its name: "full", "structure" or "none"; "auto" takes the
            setting, and else "full".
        quality: whether the verified file is checked for what may be wrong with it: "off", "report" or "fail"; "auto"
            takes the setting.
        quality_checks: what is checked; empty for the setting's, or else all that need no extra.

    Returns:
        The verified file: path or URL, sha256, duration, size, resolution, sound.

    Raises:
        ResultInvalid: the file does not verify; it is in quarantine, never under the final name.
        JobExpired: the provider no longer has it.
        ProviderError: the download failed.
        StorageError: the file cannot be written to its output.
        QualityError: the file is delivered, and does not pass; only with `quality="fail"`.
    """
    async with explained():
        policy = quality_policy(quality, quality_checks)
        async with shown_delivery(), open_session_of(job, credentials) as (session, found):
            session = replace(session, verify=verify_level(verify), quality=policy)
            done = await pipeline.deliver(session, found, await lasting_output(output, current_settings()), overwrite)
        delivery = done.delivery
        assert delivery is not None  # a delivered job has one
        emit_job_event("delivered", done, uri=delivery.uri, sha256=delivery.sha256)
        await publish_result_card(done, delivery, own_runs())
        await show_delivered(done)
        require_quality(session, done)
    return delivery


@task(task_run_name="reconcile", cache_policy=NO_CACHE)
async def reconcile_ledger(*, credentials: Sequence[str] = ("default",)) -> list[Finding]:
    """Deliver the jobs whose runs are gone, closest expiry first, and list those that need a person.

    Args:
        credentials: names of credentials Blocks, of any provider; a job is taken over with the one of its account.

    Returns:
        What was found and done, one entry a job.
    """
    return await reconcile_all(credentials)


@task(task_run_name="prune", cache_policy=NO_CACHE)
async def prune_ledger(
    older_than: str = "", label: str = "", idempotency_key: str = "", *, dry_run: bool = False, vacuum: bool = True
) -> PruneReport:
    """Drop the request and all texts of final jobs. What keeps them from being paid again stays, and so does the cost.

    Args:
        older_than: how long nothing has changed about a job: `90d`, `12w` or `1y`; empty for any age.
        label: only jobs whose label contains this, in capitals or not.
        idempotency_key: only jobs of this key.
        dry_run: whether to count only.
        vacuum: whether the database's file is rewritten afterwards.

    Raises:
        InvalidRequest: no condition is given, or the age is not understood.
    """
    wanted = PruneFilter.read(older_than, label, idempotency_key)
    async with open_ledger(current_settings().ledger) as ledger:
        report = await prune(ledger, wanted, dry_run=dry_run, vacuum=vacuum)
    for line in report.words(dry_run):
        get_run_logger().info(line)
    return report


@task(task_run_name="{decision}", cache_policy=NO_CACHE)
async def settle_job(
    job: str,
    decision: Decision,
    provider_job_id: str | None = None,
    decided_by: str | None = None,
    *,
    credentials: Sequence[str] = (),
) -> Job:
    """Carry out a person's decision about a submission without a certain answer.

    Args:
        job: the job's key, or the beginning of it.
        decision: `adopt`, `resubmit`, `abandon` or `undo`.
        provider_job_id: the provider's id of the job, for `adopt`: the provider is asked for it first.
        decided_by: who decides, for the record.
        credentials: names of credentials Blocks to ask with; by default all that are stored.

    Raises:
        InvalidRequest: there is no such job, it is not one to decide about, or the provider does not have the id.
    """
    async with open_ledger(current_settings().ledger) as ledger:
        clients = stored_clients(ledger, credentials)
        settled = await decide(ledger, job, decision, provider_job_id, decided_by, client_for=clients)
        warning = await warning_about(ledger, settled)
    get_run_logger().info("Job %s is %s now", settled.key, settled.state.value)
    if warning:
        get_run_logger().warning(warning)
    emit_job_event("decided", settled, decision=decision)
    return settled


def _deprecated_alias(new: Task[P, R], name: str) -> Task[P, R]:
    """The task under its old name. Each call warns."""

    @functools.wraps(new.fn)
    async def alias(*args: P.args, **kwargs: P.kwargs) -> Any:
        warnings.warn(f"The task {name} is now {new.name}; the old name ends with 0.3", DeprecationWarning, 2)
        return await cast(Awaitable[Any], new.fn(*args, **kwargs))

    alias.__name__ = alias.__qualname__ = name
    alias.__doc__ = f"Deprecated: the old name of `{new.name}`. It ends with 0.3."
    options = task(
        task_run_name=new.task_run_name,
        retries=new.retries,
        retry_delay_seconds=new.retry_delay_seconds,
        retry_condition_fn=new.retry_condition_fn,
        cache_policy=new.cache_policy,
    )
    return cast(Task[P, R], options(alias))


submit = _deprecated_alias(submit_job, "submit")


def __getattr__(name: str) -> Any:
    from prefect_genmedia import _compat

    return _compat.moved_name(__name__, name)


__path__: list[str] = []  # old paths such as `prefect_genmedia.tasks.generate` are found by `_compat`

"""The tail that every flow has: a request becomes a verified file, with the task runs that its page shows."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Any, ParamSpec, TypedDict, TypeVar, cast

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from typing_extensions import Self, Unpack

from prefect_genmedia._core.admission import paid_for_result
from prefect_genmedia._core.budgets import priced_as
from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._core.pipeline import due_costs
from prefect_genmedia._core.session import DEFAULT_TIMEOUT_SECONDS, JobSpec
from prefect_genmedia._inputs.prepare import is_fresh
from prefect_genmedia._prefect.concurrency import holding_limit
from prefect_genmedia._prefect.confirm import Plan, confirm, confirm_limit
from prefect_genmedia._prefect.parameters import refuse_base64
from prefect_genmedia._prefect.quality import required_policy
from prefect_genmedia._prefect.run import explained, recorded_job, run_context, suspension_check
from prefect_genmedia._prefect.session import open_session
from prefect_genmedia._prefect.suspension import check_can_suspend, suspend_until_done
from prefect_genmedia.errors import NotConfirmed, OutputRefused
from prefect_genmedia.prices import amount_of, from_micros
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest
from prefect_genmedia.settings import Quality, QualityCheck, Verify, current_settings
from prefect_genmedia.tasks import check_inputs, download_result, submit_job, wait_for_job
from prefect_genmedia.text import clean_text, shown_id

P = ParamSpec("P")
T = TypeVar("T")
AnyRequest = PreparedRequest[Any]


async def check_run(**suspends: bool) -> None:
    """Check what must hold before a flow does anything: no file as base64 in its parameters, and it can suspend.

    Args:
        **suspends: the flow's parameters that suspend it, by name, and whether they are set.

    Raises:
        InvalidRequest: with every problem; nothing was sent.
    """
    await refuse_base64()
    await check_can_suspend(**suspends)


class GenerateOptions(TypedDict, total=False):
    """The options of `generate`. The flows' parameters of the same names mean the same."""

    credentials: ProviderCredentials | str
    """The provider's Block, or its name; "default" by default."""
    label: str
    """A few words that name the request for people."""
    output: str | None
    """A folder, a file name ending in .mp4, or an fsspec URL of either; None takes the setting."""
    timeout_seconds: float
    """How long to wait for the result, in seconds from when the provider accepted the job, and before that for a slot
    of the Block's `concurrency_limit`."""
    idempotency_key: str | None
    """Makes "the same request" hold across flow runs."""
    resubmit_on_output_refusal: int
    """How many new attempts may follow finished videos that the provider refuses."""
    preflight: bool
    """Check what the provider documents about the inputs before anything is paid."""
    convert_inputs: bool
    """Convert local pictures to what the provider takes, such as HEIC to JPEG."""
    allow_second_account: bool
    """Send the request although another account of the same provider and base URL has it in flight, or was charged."""
    max_cost: Decimal | float | None
    """Most CNY that the result may cost, estimated, over all attempts, those after refused videos too; None for any."""
    confirm_above: Decimal | float | None
    """CNY, estimated, above which the run asks a person before it sends anything; None takes the setting."""
    overwrite: bool
    """Replace a delivered file that was edited since by the provider's; by default it is kept."""
    verify: Verify
    """How the file is verified: "full", "structure" or "none"; "auto" takes the setting, and else "full"."""
    quality: Quality
    """Whether the verified file is checked for what may be wrong with it: "off", "report" or "fail"; "auto" takes the
    setting."""
    quality_checks: Sequence[QualityCheck]
    """What is checked; empty for the setting's, or else all that need no extra."""
    project: str
    """The project that the job is booked to; by default that of the Block, or else the deployment's or flow's name."""
    tags: Sequence[str]
    """Labels to group jobs by, in addition to those of the Block."""
    suspend_while_waiting: bool
    """Suspend the deployed run until the job is done; see `check_can_suspend`."""


async def generate(request: GenerationRequest | PreparedRequest[Any], **options: Unpack[GenerateOptions]) -> Delivery:
    """Submit → wait → download, within the limits of the credentials' Block; call it in a flow.

    Args:
        request: what is wanted.
        **options: see `GenerateOptions`.

    Returns:
        The verified file. A flow that ends with it may return `await completed(delivery)`.

    Raises:
        GenMediaError: as the tasks `submit_job`, `wait_for_job` and `download_result`.
    """
    credentials, output = options.get("credentials", "default"), options.get("output") or None
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    key, limit = options.get("idempotency_key") or None, options.get("max_cost")
    left = None if limit is None else amount_of("max_cost", limit)
    quality, checks = options.get("quality", "auto"), options.get("quality_checks", ())
    async with explained():
        required_policy(quality, checks)  # what is not installed must be known before anything is paid
    timeout = options.get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS)
    for attempt in attempts(prepared, options.get("resubmit_on_output_refusal", 0)):
        with attempt:
            spec = JobSpec(
                attempt.prepared.request,
                scope=run_context().scope(key),
                variant=attempt.variant,
                timeout_seconds=timeout,
            )
            confirmed = await _confirmed(attempt.prepared, attempt.variant, attempt.is_last, options)
            async with holding_limit(spec, credentials):
                await suspension_check()()
                try:
                    job = await _submit(confirmed, attempt, output, left, options)
                except NotConfirmed:  # meanwhile, another part of this run sent what was left below the limit
                    confirmed = await _confirmed(confirmed, attempt.variant, attempt.is_last, options)
                    job = await _submit(confirmed, attempt, output, left, options)
                if options.get("suspend_while_waiting"):
                    await suspend_until_done(job)
                job = await wait_for_job(job, credentials=credentials, timeout_seconds=timeout)
        if left is not None and attempt.refused_job:
            left = max(left - await _paid_for(attempt.refused_job), Decimal(0))
    overwrite, verify = options.get("overwrite", False), options.get("verify", "auto")
    return await download_result(
        job,
        output,
        credentials=credentials,
        overwrite=overwrite,
        verify=verify,
        quality=quality,
        quality_checks=checks,
    )


async def _submit(
    prepared: AnyRequest, attempt: Attempt, output: str | None, left: Decimal | None, options: GenerateOptions
) -> Job:
    return await submit_job(
        prepared,
        credentials=options.get("credentials", "default"),
        idempotency_key=options.get("idempotency_key") or None,
        variant=attempt.variant,
        label=options.get("label", ""),
        output=output,
        ask_again=attempt.is_last,
        preflight=options.get("preflight", True),
        convert_inputs=options.get("convert_inputs", False),
        allow_second_account=options.get("allow_second_account", False),
        max_cost=left,
        project=options.get("project", ""),
        tags=options.get("tags", ()),
        confirm_above=options.get("confirm_above"),
    )


async def confirm_cost(
    request: GenerationRequest | PreparedRequest[Any], *, variant: int = 0, **options: Unpack[GenerateOptions]
) -> PreparedRequest[Any]:
    """Ask a person before a request is submitted that brings the run above `confirm_above`; call it in a flow.

    `generate` and the package's flows do so by themselves. A flow that calls `submit_job` calls this first, with the
    same options. Nobody is asked about what is paid already.

    Args:
        request: what is wanted.
        variant: tells apart several wanted results of the same request.
        **options: see `GenerateOptions`.

    Returns:
        The prepared request, for `submit_job`.

    Raises:
        NotConfirmed: a person said no, or nobody answered in time. Nothing was sent.
        GenMediaError: as the task `check_inputs`.
    """
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    return await _confirmed(prepared, variant, True, options)


async def _confirmed(prepared: AnyRequest, variant: int, ask_again: bool, options: GenerateOptions) -> AnyRequest:
    """The request, prepared where its cost had to be known; see `confirm_cost`."""
    above = confirm_limit(options.get("confirm_above"))
    if above is None or prepared.job_key is not None:
        return prepared
    credentials, key = options.get("credentials", "default"), options.get("idempotency_key") or None
    if not is_fresh(prepared):
        prepared = await check_inputs(
            prepared.request,
            credentials=credentials,
            idempotency_key=key,
            preflight=options.get("preflight", True),
            output=options.get("output") or None,
            convert_inputs=options.get("convert_inputs", False),
        )
    request, label = prepared.request, options.get("label") or prepared.request.kind
    async with explained():
        async with open_session(request.provider, credentials) as session:
            scope = session.run.scope(key)
            due = await due_costs(session, JobSpec(request, scope, variant, ask_again=ask_again), prepared)
        await confirm(Plan(f"{request.kind} · {clean_text(label)}", due, f"Model: {priced_as(request)}"), above)
    return prepared


async def _paid_for(key: str) -> Decimal:
    """What the attempts at a result cost or may cost, estimated."""
    async with open_ledger(current_settings().ledger) as ledger:
        job = await ledger.get(key)
        if job is None:
            return Decimal(0)
        return from_micros(await ledger.transact(lambda connection: paid_for_result(connection, job)))


async def completed(delivery: Delivery) -> State[Delivery]:
    """A completed state that holds the delivery; its message names the job and the file. A flow returns it.

    Args:
        delivery: what the flow's caller gets.
    """
    job = await recorded_job(delivery.job_key)
    provider = f" is {job.provider_status} at {job.provider}" if job is not None else ""
    return Completed(
        message=(
            f"Job {shown_id(delivery.provider_job_id)}{provider}; verified and delivered: "
            f"{delivery.seconds:.2f} s, {delivery.width}×{delivery.height}, {delivery.uri}"
        ),
        data=delivery,
    )


def returns_state(function: Callable[P, Awaitable[State[T]]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Declare what the callers of a flow get whose function returns a state: Prefect gives them the state's data.

    Changes the type only; goes below `@flow`.

    Args:
        function: the flow's function.
    """
    return cast(Callable[P, Coroutine[Any, Any, T]], function)


@dataclass
class Attempt:
    """One attempt: a block around submitting and waiting. A refused output leaves it quietly while more are allowed.

    Args:
        prepared: what to submit: the user's request, with another seed after the first attempt.
        variant: tells the attempts apart in the ledger; 0 for the first.
        is_last: whether no other follows: only then may a rerun ask for it anew.
    """

    prepared: AnyRequest
    variant: int
    is_last: bool
    is_refused: bool = field(default=False, init=False)
    refused_job: str | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Begin the attempt."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallow a refused output if another attempt is allowed."""
        self.is_refused = isinstance(error, OutputRefused) and not self.is_last
        if isinstance(error, OutputRefused) and self.is_refused:
            self.refused_job = error.job_key
            get_run_logger().warning("The output was refused, so a new attempt is made: %s", error)
        return self.is_refused


def attempts(prepared: AnyRequest, resubmit_on_output_refusal: int) -> Iterator[Attempt]:
    """The first attempt at a request, and as many more after refused outputs as are allowed.

    Each one may be paid (providers say that they bill no refused output; that is their word). A retried run goes
    through the same attempts again and finds each in the ledger.

    Args:
        prepared: what is wanted.
        resubmit_on_output_refusal: how many new attempts are allowed.
    """
    for number in range(resubmit_on_output_refusal + 1):
        attempt = Attempt(_reseeded(prepared, number), number, is_last=number == resubmit_on_output_refusal)
        yield attempt
        if not attempt.is_refused:
            return


def _reseeded(prepared: AnyRequest, number: int) -> AnyRequest:
    """The request with a seed of its own for each attempt; the same one when a run is retried."""
    request = prepared.request
    if number == 0 or "seed" not in type(request).model_fields:
        return prepared
    seed = zlib.crc32(f"{request.model_dump(include={'seed'})['seed']}:{number}".encode()) % 2**31
    return prepared.with_request(request.model_copy(update={"seed": seed}))

"""The tail that every flow has: a request becomes a verified file, with the task runs that its page shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from prefect.client.schemas.objects import State
from prefect.states import Completed

from prefect_genmedia._prefect.credentials import ProviderCredentials
from prefect_genmedia._core.model import Delivery
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia._prefect.attempts import attempts
from prefect_genmedia._prefect.concurrency import holding_limit
from prefect_genmedia._prefect.jobs import DEFAULT_TIMEOUT_SECONDS, download_result, submit, wait_for_job
from prefect_genmedia._prefect.run import recorded_job
from prefect_genmedia._prefect.suspension import suspend_until_done

P = ParamSpec("P")
T = TypeVar("T")


async def generate(
    request: GenerationRequest,
    *,
    credentials: ProviderCredentials | str = "default",
    label: str = "",
    output: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    idempotency_key: str | None = None,
    resubmit_on_output_refusal: int = 0,
    preflight: bool = True,
    suspend_while_waiting: bool = False,
) -> Delivery:
    """Submit → wait → download, within the limits of the credentials' Block; call it in a flow.

    Parameters:
        request: what is wanted.
        credentials: the provider's Block, or its name.
        label: a few words that name the request for people.
        output: a folder, a file name ending in .mp4, or an fsspec URL of either; None takes the setting.
        timeout_seconds: how long to wait for the result, in seconds from when the provider accepted the job.
        idempotency_key: makes "the same request" hold across flow runs.
        resubmit_on_output_refusal: how many new attempts may follow finished videos that the provider refuses.
        preflight: check what the provider documents about the inputs before anything is paid.
        suspend_while_waiting: suspend the deployed run until the job is done; see `check_can_suspend`.

    Returns:
        The verified file. A flow that ends with it may return `await completed(delivery)`.

    Raises:
        GenMediaError: as the tasks `submit`, `wait_for_job` and `download_result`.
    """
    for attempt in attempts(request, resubmit_on_output_refusal):
        with attempt:
            async with holding_limit(
                attempt.request, credentials=credentials, idempotency_key=idempotency_key, variant=attempt.variant
            ):
                job = await submit(
                    attempt.request,
                    credentials=credentials,
                    idempotency_key=idempotency_key,
                    variant=attempt.variant,
                    label=label,
                    output=output,
                    ask_again=attempt.is_last,
                    preflight=preflight,
                )
                if suspend_while_waiting:
                    await suspend_until_done(job)
                job = await wait_for_job(job, credentials=credentials, timeout_seconds=timeout_seconds)
    return await download_result(job, output, credentials=credentials)


async def completed(delivery: Delivery) -> State[Delivery]:
    """A completed state that holds the delivery; its message names the job and the file. A flow returns it.

    Parameters:
        delivery: what the flow's caller gets.
    """
    job = await recorded_job(delivery.job_key)
    provider = f" is {job.provider_status} at {job.provider}" if job is not None else ""
    return Completed(
        message=(
            f"Job {delivery.provider_job_id}{provider}; verified and delivered: "
            f"{delivery.seconds:.2f} s, {delivery.width}×{delivery.height}, {delivery.uri}"
        ),
        data=delivery,
    )


def returns_state(function: Callable[P, Awaitable[State[T]]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Declare what the callers of a flow get whose function returns a state: Prefect gives them the state's data.

    Changes the type only; goes below `@flow`.

    Parameters:
        function: the flow's function.
    """
    return cast(Callable[P, Coroutine[Any, Any, T]], function)

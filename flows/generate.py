"""Any kind of request of any installed provider: submit → wait → download."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia._core import Delivery
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia._prefect.run_names import JobRunName
from prefect_genmedia._prefect.session import AnyCredentials
from prefect_genmedia.generate import check_run, completed, generate, returns_state
from prefect_genmedia.providers.plugin import make_request
from prefect_genmedia.settings import Quality, QualityCheck, Verify


@JobRunName
def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    return " · ".join(filter(None, ("generate", str(parameters["kind"]), parameters["label"])))


@flow(name="generate-media", flow_run_name=_run_name)
@returns_state
@run_form()
async def generate_media(
    kind: str,
    fields: dict[str, Any],
    credentials: AnyCredentials | str = "default",
    label: str = "",
    output: str = "",
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800,
    idempotency_key: str = "",
    resubmit_on_output_refusal: Annotated[int, Field(ge=0, le=10)] = 0,
    preflight: bool = True,
    suspend_while_waiting: bool = False,
    overwrite: bool = False,
    convert_inputs: bool = False,
    verify: Verify = "auto",
    quality: Quality = "auto",
    quality_checks: list[QualityCheck] = [],  # noqa: B006 - nothing writes into it
    max_cost: MaxCost = NO_LIMIT,
    project: str = "",
    tags: list[str] = [],  # noqa: B006 - nothing writes into it
    confirm_above: MaxCost = NO_LIMIT,
) -> State[Delivery]:
    """Make one result of any kind, from any installed provider, and deliver the verified file.

    Args:
        kind: Kind of the request, as in a batch's table; each provider's page names its kinds.
        fields: The request's fields, as a JSON object.
        credentials: The provider's credentials: a Block, or the name of one.
        label: A few words that name the request; by default the name of its first input.
        output: Folder, file name ending in .mp4, or fsspec URL for the file; the settings' folder if left empty.
        timeout_seconds: How long to wait for the result, in seconds.
        idempotency_key: The same key and inputs give the same paid result, in any run.
        resubmit_on_output_refusal: New attempts that are allowed when moderation refuses a finished file.
        preflight: Check the inputs against the provider's documented limits before anything is paid.
        suspend_while_waiting: Free the worker's process until the job is done; for deployments, with reconcile_jobs on
            a schedule or the callback receiver.
        overwrite: Replace a delivered file that was edited afterwards; by default the edited file is kept.
        convert_inputs: Convert local pictures that the provider does not accept: HEIC, AVIF, WebP, CMYK, too large.
        verify: How the file is verified: full decodes every frame, structure checks the container and one frame,
            none does not verify. auto uses the setting, or else full.
        quality: Whether the verified file is checked for what may be wrong with an intact one: off, report, or fail,
            which fails the run and delivers the file all the same. auto is the setting, or off.
        quality_checks: What is checked: black, frozen, silent, clipped, orientation, flat_first_frame, duration, and
            face, which needs the extra faces. The setting's if left empty, or all but face.
        max_cost: Highest estimated cost of the result in CNY, over all attempts. The caps of the credentials Block
            apply as well; -1 sets no limit.
        project: The project that the cost is booked to; by default the project of the credentials, or else the
            deployment's name.
        tags: More labels to group jobs by.
        confirm_above: Ask a person before anything is sent if the run's estimated cost in CNY is above this; -1 uses
            the setting.

    Raises:
        InvalidRequest: before anything is paid; no installed provider has the kind, or the fields are wrong.
        GenMediaError: see the errors' table in the documentation.
    """
    await check_run(suspend_while_waiting=suspend_while_waiting)
    request = make_request(kind, fields).normalized()
    inputs = request.inputs()
    delivery = await generate(
        request,
        credentials=credentials,
        label=label or (label_of(inputs[0].url) if inputs else kind),
        output=output,
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
        resubmit_on_output_refusal=resubmit_on_output_refusal,
        preflight=preflight,
        suspend_while_waiting=suspend_while_waiting,
        overwrite=overwrite,
        convert_inputs=convert_inputs,
        verify=verify,
        quality=quality,
        quality_checks=quality_checks,
        max_cost=limit(max_cost),
        project=project,
        tags=tags,
        confirm_above=limit(confirm_above),
    )
    return await completed(delivery)

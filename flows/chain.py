"""A chain of requests: the verified file of each step is the input of the next."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia._core import Delivery
from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run import label_of, run_context
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia._prefect.session import AnyCredentials
from prefect_genmedia.batch.chain import kinds_of
from prefect_genmedia.batch.single_chain import chain_row, run_chain
from prefect_genmedia.batch.spec import BatchSpec, Limits, Money, SingleChain
from prefect_genmedia.generate import check_run, completed, returns_state
from prefect_genmedia.settings import Verify, current_settings


def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    return " · ".join(filter(None, ("chain", str(parameters["kind"]), parameters["label"])))


@flow(name="chain-media", flow_run_name=RunName(_run_name))
@returns_state
@run_form(then="Further steps")
async def chain_media(
    kind: str,
    fields: dict[str, Any],
    then: list[dict[str, Any]],
    credentials: AnyCredentials | str = "default",
    label: str = "",
    output: str = "",
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800,
    idempotency_key: str = "",
    preflight: bool = True,
    overwrite: bool = False,
    convert_inputs: bool = False,
    verify: Verify = "auto",
    max_cost: MaxCost = NO_LIMIT,
    project: str = "",
    tags: list[str] = [],  # noqa: B006 - nothing writes into it
    confirm_above: MaxCost = NO_LIMIT,
) -> State[Delivery]:
    """Make a result in several steps, each from the verified file of the step before. Each step is paid once.

    Args:
        kind: Kind of the first step, as in a batch's table.
        fields: The fields of the first step, as a JSON object.
        then: The further steps in order, each a JSON object with its kind and the fields of that kind, such as
            {"kind": "stylize", "style": "ink_wash"}. The file of the step before is filled in.
        credentials: Credentials: a Block, or the name that the Blocks of all providers in the chain have.
        label: A few words that name the chain; by default the name of its first input.
        output: Folder, file name ending in .mp4, or fsspec URL for the files; the settings' folder if left empty. Files
            of steps before the last get .step-1 and so on in a given name.
        timeout_seconds: How long to wait for the result of each step, in seconds.
        idempotency_key: The same key and inputs mean the same paid results, in any run.
        preflight: Check what the providers document about the inputs before anything is paid; all problems at once.
        overwrite: Replace delivered files that were edited since; by default your edits are kept.
        convert_inputs: Convert local pictures that the provider does not take: HEIC, AVIF, WebP, CMYK, too large.
        verify: How the files are verified: full decodes every frame, structure reads the container and one frame, none
            believes the file. auto is the setting, or full.
        max_cost: Most CNY that all steps together may cost, estimated; -1 sets no limit.
        project: Whom the steps are paid for; by default the credentials' project, or else the deployment's name.
        tags: Further words to group jobs by.
        confirm_above: Ask a person before anything is sent if the steps would cost this run more CNY than this,
            estimated; -1 takes the setting.

    Raises:
        InvalidRequest: before anything is paid, with every problem of every step.
        GenMediaError: a step failed; the error names it, and the files of the steps before are kept.
    """
    await check_run()
    row, scope = chain_row(kind, fields, then), run_context().scope(idempotency_key or None)
    inputs = row.request.inputs()
    label = label or (label_of(inputs[0].url) if inputs else kinds_of(row.requests))
    delivery = await run_chain(
        BatchSpec(
            table=[],
            kind=kind,
            credentials=credentials,
            batch_id=label,
            output=output or current_settings().media_folder,
            limits=Limits(breaker=0, timeout_seconds=timeout_seconds),
            money=Money(max_cost=limit(max_cost), confirm_above=limit(confirm_above), budget=f"chain {scope}"),
            preflight=preflight,
            overwrite=overwrite,
            convert_inputs=convert_inputs,
            verify=verify,
            attribution=Attribution.of(project, tags),
            row_task_runs="on",
            single=SingleChain(row=row, scope=scope, label=label),
        )
    )
    return await completed(delivery)

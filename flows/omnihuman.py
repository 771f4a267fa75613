"""A portrait speaks a recording: check → detect → select → submit → wait → download (TokenOps, "完整流程示例")."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia._prefect.run_names import JobRunName
from prefect_genmedia.generate import check_run, completed, confirm_cost, generate, returns_state
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.providers.tokenops.ask import ask_subject
from prefect_genmedia.providers.tokenops.catalog import OMNIHUMAN_MODEL, OMNIHUMAN_REQ_KEY
from prefect_genmedia.providers.tokenops.subjects import OnFailure, subject_beside
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, recognize_subject, select_subject
from prefect_genmedia.settings import Quality, QualityCheck, Verify, current_settings
from prefect_genmedia.tasks import check_inputs


@JobRunName
def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    return f"omnihuman · {label_of(parameters['image_url'])}"


@flow(name="omnihuman-video", flow_run_name=_run_name)
@returns_state
@run_form(
    image_url="Picture",
    req_key="Service (req_key)",
    audio_url="Recording",
    recognize="Recognize a person first",
    pe_fast_mode="Fast mode",
    subject="Who speaks",
    on_detection_failure="If the detection fails",
    masks_as="Send masks as",
    ask_timeout_seconds="Wait for a person (seconds)",
    ask_fallback="If nobody answers",
)
async def omnihuman_video(
    image_url: str,
    audio_url: str,
    prompt: str = "",
    subject: str = "auto",
    output_resolution: Literal[720, 1080] = 1080,
    credentials: TokenOpsCredentials | str = "default",
    output: str = "",
    pe_fast_mode: bool = False,
    seed: Annotated[int, Field(ge=-1)] = -1,
    recognize: bool = False,
    on_detection_failure: OnFailure = "fail",
    mask_urls: list[str] = [],  # noqa: B006 - nothing writes into it
    masks_as: Literal["mask_urls", "content"] = "mask_urls",
    model: str = OMNIHUMAN_MODEL,
    req_key: str = OMNIHUMAN_REQ_KEY,
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800,
    idempotency_key: str = "",
    resubmit_on_output_refusal: Annotated[int, Field(ge=0, le=10)] = 0,
    preflight: bool = True,
    ask_timeout_seconds: Annotated[float, Field(gt=0)] = 3600,
    ask_fallback: Literal["largest", "fail"] = "fail",
    suspend_while_asking: bool = False,
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
    extra_body: dict[str, Any] = {},  # noqa: B006 - nothing writes into it
) -> State[Delivery]:
    """Make a portrait speak a recording, and deliver the verified video.

    Args:
        image_url: URL, path or storage URL (s3://…) of the portrait; a clear picture from the front is best.
        audio_url: URL, path or storage URL of the recording to speak; shorter than 60 seconds.
        prompt: How to speak and move; 300 characters or fewer are recommended.
        subject: Who speaks: auto (of several people the largest), largest, leftmost, rightmost, all, an index from
            0, a point such as 640,360 or 0.5,0.4, none to leave the detection out, or ask: the run pauses with a form
            in the UI.
        output_resolution: Resolution class of the video.
        credentials: TokenOps credentials: a Block, or the name of one.
        output: Folder, file name ending in .mp4, or fsspec URL for the video; the settings' folder if left empty.
        pe_fast_mode: Faster generation at lower quality.
        seed: Random seed; -1 lets the provider choose.
        recognize: First make sure that the picture holds a person.
        on_detection_failure: What happens if the call that detects who is in the picture fails: fail, or continue
            without masks. A picture without a person fails in any case.
        mask_urls: Masks of your own, up to 5, as URLs, paths or storage URLs. The persons in their white areas speak,
            and no detection is made.
        masks_as: Send masks in mask_urls, or as content elements with the role mask_image.
        model: The model's name at TokenOps.
        req_key: The service's name at TokenOps.
        timeout_seconds: How long to wait for the result, in seconds.
        idempotency_key: The same key and inputs give the same paid result, in any run.
        resubmit_on_output_refusal: New attempts that are allowed when moderation refuses a finished video.
        preflight: Check what the provider documents about the inputs before anything is sent; all problems at once.
        ask_timeout_seconds: How long to wait for a person, with subject ask.
        ask_fallback: Who speaks when nobody answers: the largest subject, or nobody, and the run fails.
        suspend_while_asking: Free the worker's process while waiting for a person; for deployments, with reconcile_jobs
            on a schedule where ask_fallback is largest.
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
        extra_body: JSON that is merged into what is sent, key by key, for what has no parameter here yet, such as
            {"output_format": "mov"}; it overrides the other parameters, and is part of the request's
            identity. Prefect stores it with the run, so it must hold no secret.

    Raises:
        NoSubject, InvalidRequest: before anything is paid.
        GenMediaError: see the errors' table in the documentation.
    """
    await check_run(
        suspend_while_asking=suspend_while_asking and subject == "ask", suspend_while_waiting=suspend_while_waiting
    )
    request = OmniHumanVideo(
        image_url=image_url,
        audio_url=audio_url,
        prompt=prompt,
        mask_urls=tuple(mask_urls),
        masks_as=masks_as,
        subject=subject_beside(mask_urls, subject),
        on_detection_failure=on_detection_failure,
        output_resolution=output_resolution,
        pe_fast_mode=pe_fast_mode,
        seed=seed,
        model=model,
        req_key=req_key,
        extra_body=extra_body,
    )
    prepared = await check_inputs(
        request,
        credentials=credentials,
        idempotency_key=idempotency_key,
        preflight=preflight,
        output=output or current_settings().media_folder,
        convert_inputs=convert_inputs,
    )
    if subject != "ask":  # what is chosen in a form belongs to what is asked about afterwards
        prepared = await confirm_cost(
            prepared,
            credentials=credentials,
            label=label_of(image_url),
            idempotency_key=idempotency_key,
            confirm_above=limit(confirm_above),
        )
    if prepared.job_key is None and recognize:
        await recognize_subject(image_url, credentials=credentials, model=model, convert_inputs=convert_inputs)
    if prepared.job_key is None and request.names_subject:
        detection = await detect_subjects(
            image_url,
            credentials=credentials,
            model=model,
            on_failure=on_detection_failure,
            convert_inputs=convert_inputs,
        )
        if subject == "ask":
            selection = await ask_subject(
                image_url,
                detection,
                credentials=credentials,
                timeout_seconds=ask_timeout_seconds,
                fallback=ask_fallback,
                suspend=suspend_while_asking,
                convert_inputs=convert_inputs,
            )
        else:
            selection = await select_subject(detection, subject, credentials=credentials)
        prepared = prepared.with_request(request.with_subject(selection))
    delivery = await generate(
        prepared,
        credentials=credentials,
        label=label_of(image_url),
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

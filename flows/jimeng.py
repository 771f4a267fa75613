"""A video from text or pictures: submit → wait → download (TokenOps, "完整流程示例" of Jimeng)."""

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
from prefect_genmedia.generate import check_run, completed, generate, returns_state
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.catalog import (
    AspectRatio,
    CameraStrength,
    CameraTemplate,
    Frames,
    JimengModel,
)
from prefect_genmedia.providers.tokenops.jimeng import ContentElement
from prefect_genmedia.settings import Quality, QualityCheck, Verify
from prefect_genmedia.text import cut_at_word


@JobRunName
def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    pictures = parameters.get("image_urls") or []
    return f"jimeng · {label_of(pictures[0]) if pictures else cut_at_word(parameters.get('prompt') or 'content', 40)}"


@flow(name="jimeng-video", flow_run_name=_run_name)
@returns_state
@run_form(
    image_urls="Pictures",
    req_key="Service (req_key)",
    template_id="Camera movement",
    camera_strength="Strength of the movement",
    seconds="Length (seconds)",
    content="Content elements",
    size="Size (such as 1280x720)",
)
async def jimeng_video(
    prompt: str = "",
    model: JimengModel = "jimeng-video-3.0-pro",
    image_urls: list[str] = [],  # noqa: B006 - nothing writes into it
    seconds: Literal[5, 10] = 5,
    aspect_ratio: Literal["auto", AspectRatio] = "auto",
    credentials: TokenOpsCredentials | str = "default",
    output: str = "",
    seed: Annotated[int, Field(ge=-1)] = -1,
    frames: Literal["auto", Frames] = "auto",
    size: str = "",
    template_id: Literal["none", CameraTemplate] = "none",
    camera_strength: Literal["none", CameraStrength] = "none",
    req_key: str = "",
    content: list[ContentElement] = [],  # noqa: B006 - nothing writes into it
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
    extra_body: dict[str, Any] = {},  # noqa: B006 - nothing writes into it
) -> State[Delivery]:
    """Make a video from text or pictures, and deliver it verified.

    Args:
        prompt: What the video shows; 400 characters or fewer are recommended, 800 are the limit.
        model: The model; pro makes 1080p.
        image_urls: No picture, a first frame, or a first and a last frame: URLs, paths or storage URLs (s3://…).
        seconds: 5 or 10 seconds.
        aspect_ratio: Ratio of a video from text; auto is 16:9, or the one of size. Pictures keep theirs.
        credentials: TokenOps credentials: a Block, or the name of one.
        output: Folder, file name ending in .mp4, or fsspec URL for the video; the settings' folder if left empty.
        seed: Random seed; -1 lets the provider choose.
        frames: 121 frames (5 seconds) or 241 frames (10 seconds); they win over 5 seconds.
        size: Such as 1280x720, in place of the ratio, or beside a matching one.
        template_id: A camera movement through one picture (720P only); needs its strength.
        camera_strength: How strong the movement is.
        req_key: The service's name; found from the model and the inputs if left empty.
        content: Text and pictures in the platform's content form; its text wins over the prompt. Pictures by their
            path or URL: base64 would be stored with the run, and is refused.
        timeout_seconds: How long to wait for the result, in seconds.
        idempotency_key: The same key and inputs give the same paid result, in any run.
        resubmit_on_output_refusal: New attempts that are allowed when moderation refuses a finished video.
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
        extra_body: JSON that is merged into what is sent, key by key, for what has no parameter here yet, such as
            {"watermark": false}; it overrides the other parameters, and is part of the request's
            identity. Prefect stores it with the run, so it must hold no secret.

    Raises:
        InvalidRequest: before anything is paid, with every problem.
        GenMediaError: see the errors' table in the documentation.
    """
    await check_run(suspend_while_waiting=suspend_while_waiting)
    request = JimengVideo(
        model=model,
        prompt=prompt,
        req_key=req_key,
        image_urls=tuple(image_urls),
        content=tuple(content),
        frames=None if frames == "auto" else frames,
        seconds=seconds,
        aspect_ratio=None if aspect_ratio == "auto" else aspect_ratio,
        size=size,
        seed=seed,
        template_id=None if template_id == "none" else template_id,
        camera_strength=None if camera_strength == "none" else camera_strength,
        extra_body=extra_body,
    )
    label = label_of(image_urls[0]) if image_urls else cut_at_word(prompt, 40)
    delivery = await generate(
        request,
        credentials=credentials,
        label=label,
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

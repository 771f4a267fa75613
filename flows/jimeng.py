"""A video from text or pictures: submit → wait → download (seed 001, "完整流程示例" of Jimeng)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia.jobs import Delivery
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.providers.tokenops.catalog import (
    AspectRatio,
    CameraStrength,
    CameraTemplate,
    Frames,
    JimengModel,
)
from prefect_genmedia.providers.tokenops.jimeng import ContentElement
from prefect_genmedia.tasks import download_result, submit, wait_for_job
from prefect_genmedia.tasks.attempts import attempts
from prefect_genmedia.tasks.support import label_of


def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    pictures = parameters.get("image_urls") or []
    return f"jimeng · {label_of(pictures[0]) if pictures else (parameters.get('prompt') or 'content')[:40]}"


@flow(name="jimeng-video", flow_run_name=_run_name)
async def jimeng_video(
    prompt: Annotated[
        str, Field(description="What the video shows; 400 characters or fewer are recommended, 800 are the limit.")
    ] = "",
    model: Annotated[JimengModel, Field(description="The model; pro makes 1080p.")] = "jimeng-video-3.0-pro",
    image_urls: Annotated[
        list[str] | None, Field(description="No picture, a first frame, or a first and a last frame.")
    ] = None,
    seconds: Annotated[Literal[5, 10] | None, Field(description="5 (default) or 10 seconds.")] = None,
    frames: Annotated[Frames | None, Field(description="121 or 241 frames, in place of seconds.")] = None,
    aspect_ratio: Annotated[
        AspectRatio | None, Field(description="Ratio of a video from text; 16:9 by default. Pictures keep theirs.")
    ] = None,
    size: Annotated[str | None, Field(description="Such as 1280x720, in place of aspect_ratio.")] = None,
    seed: Annotated[int, Field(description="Random seed; -1 lets the provider choose.", ge=-1)] = -1,
    template_id: Annotated[
        CameraTemplate | None, Field(description="A camera movement through one picture (720P only).")
    ] = None,
    camera_strength: Annotated[CameraStrength | None, Field(description="How strong the movement is.")] = None,
    req_key: Annotated[
        str | None, Field(description="The service's name; found from the model and the inputs if left empty.")
    ] = None,
    content: Annotated[
        list[ContentElement] | None,
        Field(description="Text and pictures in the platform's content form; its text wins over the prompt."),
    ] = None,
    credentials: Annotated[
        TokenOpsCredentials | str, Field(description="TokenOps credentials: a Block, or the name of one.")
    ] = "default",
    output: Annotated[
        str | None, Field(description="Folder, file name ending in .mp4, or fsspec URL for the video.")
    ] = None,
    timeout_seconds: Annotated[float, Field(description="How long to wait for the result, in seconds.", gt=0)] = 1800,
    idempotency_key: Annotated[
        str | None, Field(description="The same key and inputs mean the same paid result, in any run.")
    ] = None,
    resubmit_on_output_refusal: Annotated[
        int, Field(description="New attempts that are allowed when moderation refuses a finished video.", ge=0, le=10)
    ] = 0,
) -> Delivery:
    """Make a video from text or pictures, and deliver it verified.

    Raises:
        InvalidRequest: before anything is paid, with every problem.
        GenMediaError: see the errors' table in the documentation.
    """
    request = JimengVideo(
        model=model,
        prompt=prompt,
        req_key=req_key,
        image_urls=tuple(image_urls or ()),
        content=tuple(content or ()),
        frames=frames,
        seconds=seconds,
        aspect_ratio=aspect_ratio,
        size=size,
        seed=seed,
        template_id=template_id,
        camera_strength=camera_strength,
    )
    label = label_of(image_urls[0]) if image_urls else prompt[:40]
    for attempt in attempts(request, resubmit_on_output_refusal):
        with attempt:
            job = await submit(
                attempt.request,
                credentials,
                idempotency_key,
                attempt.variant,
                label=label,
                output=output,
                ask_again=attempt.is_last,
            )
            job = await wait_for_job(job, credentials, timeout_seconds)
    return await download_result(job, output, credentials)

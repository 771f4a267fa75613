"""A video is redrawn in another style: submit → wait → download (HiDream, "请求参数")."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia._prefect.run_names import JobRunName
from prefect_genmedia.generate import check_run, completed, generate, returns_state
from prefect_genmedia.providers.hidream import StylizedVideo
from prefect_genmedia.providers.hidream.catalog import StyleName
from prefect_genmedia.settings import Quality, QualityCheck, Verify


@JobRunName
def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    style = parameters["extra_body"].get("style", parameters["style"])
    return f"stylize · {'prompt' if style in ('none', '', None) else style} · {label_of(parameters['video_url'])}"


@flow(name="stylize-video", flow_run_name=_run_name)
@returns_state
@run_form(video_url="Video", notify_url="Call back to (notify_url)", api_user_id="API user ID")
async def stylize_video(
    video_url: str,
    style: Literal["none", StyleName] = "none",
    prompt: str = "",
    credentials: HiDreamCredentials | str = "default",
    output: str = "",
    api_user_id: str = "",
    notify_url: str = "",
    request_id: str = "",
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800,
    idempotency_key: str = "",
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
    """Redraw a video in a style or as a prompt describes, and deliver the verified video.

    Args:
        video_url: URL, path or storage URL (s3://…) of the video.
        style: The style, or none with a prompt alone: barbie_doll 芭比, ink_wash 水墨, van_goph 梵高, hayao_miyazaki
            宫崎骏, cyber_punk 赛博朋克, cartoon 卡通, anime 动漫, vector_art 矢量艺术, abstract 抽象, watercolor 水彩.
        prompt: Describes how the video is to look; instead of a style, or in addition to it.
        credentials: HiDream credentials: a Block, or the name of one.
        output: Folder, file name ending in .mp4, or fsspec URL for the video; the settings' folder if left empty.
        api_user_id: Your user that this call is for, sent as API-User-ID with it and with the polls of its job; the
            Block's user id if left empty. It makes no other request: the same inputs are paid once.
        notify_url: Public URL that HiDream POSTs to at the end; the flow itself does not need it.
        request_id: An id of your own for this call, which HiDream gives back.
        timeout_seconds: How long to wait for the result, in seconds.
        idempotency_key: The same key and inputs give the same paid result, in any run.
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
            {"style": "a_new_style"}; it overrides the other parameters, and is part of the request's
            identity. Prefect stores it with the run, so it must hold no secret.

    Raises:
        InvalidRequest: before anything is paid.
        GenMediaError: see the errors' table in the documentation.
    """
    await check_run(suspend_while_waiting=suspend_while_waiting)
    request = StylizedVideo(
        video_url=video_url,
        style=None if style == "none" else style,
        prompt=prompt,
        api_user_id=api_user_id,
        notify_url=notify_url,
        request_id=request_id,
        extra_body=extra_body,
    )
    delivery = await generate(
        request,
        credentials=credentials,
        label=label_of(video_url),
        output=output,
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
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

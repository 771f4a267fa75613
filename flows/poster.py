"""A picture becomes a live poster: submit → wait → download (Jenius, "使用流程")."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from prefect_genmedia import JeniusCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia._prefect.forms import NO_LIMIT, MaxCost, limit, run_form
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia._prefect.run_names import JobRunName
from prefect_genmedia.generate import check_run, completed, generate, returns_state
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.jenius.catalog import SceneName
from prefect_genmedia.settings import Quality, QualityCheck, Verify


@JobRunName
def _run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    scene = parameters["extra_body"].get("prompt", parameters["scene"])
    return f"poster · {scene} · {label_of(parameters['image_url'])}"


@flow(name="live-poster", flow_run_name=_run_name)
@returns_state
@run_form(image_url="Picture")
async def live_poster(
    image_url: str,
    scene: SceneName,
    credentials: JeniusCredentials | str = "default",
    output: str = "",
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
    """Put the person of a picture into a scene, and deliver the verified video.

    Args:
        image_url: URL, path or storage URL (s3://…) of a picture of a person.
        scene: The scene that the person is put into.

            - `youqian` 春节复古喜庆风格 · Retro Spring Festival:
              上传人物图片,即可生成人物立于贴春联的大门下、双手持红色福字的春节喜庆画面。
              Under a gate with couplets, a red 福 in both hands.

            - `zhongming` 红金骏马新年风格 · Red and gold New Year steed:
              上传人物图片,即可生成人物立于饰有金色纹样的红色骏马前、红金主调质感厚重的新年华贵画面。
              Before a red horse with golden ornaments.

            - `anime_cake` 卡通蛋糕可爱风格 · Cartoon cake:
              上传人物图片,即可生成工笔彩绘风格的人物手捧蛋糕、身穿居家睡衣的可爱画面。
              Painted, in pyjamas, with a cake in the hands.

            - `real_cake` 真人蛋糕生活风格 · Lifelike cake:
              上传人物图片,即可对人物进行高清真人化处理,生成手捧蛋糕、身穿居家睡衣的可爱生活风画面。
              Lifelike, in pyjamas, with a cake in the hands.

            - `firework` 新年烟花庆祝风格 · New Year fireworks:
              上传人物图片,即可生成人物戴兔耳帽、系棕白条纹围巾、穿星星图案白毛衣、背景为新年烟花的庆祝画面。
              Hat with rabbit ears, scarf, jumper with stars.

        credentials: Jenius credentials: a Block, or the name of one.
        output: Folder, file name ending in .mp4, or fsspec URL for the video; the settings' folder if left empty.
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
            {"prompt": "a_new_scene"}; it overrides the other parameters, and is part of the request's
            identity. Prefect stores it with the run, so it must hold no secret.

    Raises:
        InvalidRequest: before anything is paid.
        GenMediaError: see the errors' table in the documentation.
    """
    await check_run(suspend_while_waiting=suspend_while_waiting)
    request = LivePoster(image_url=image_url, scene=scene, extra_body=extra_body)
    delivery = await generate(
        request,
        credentials=credentials,
        label=label_of(image_url),
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

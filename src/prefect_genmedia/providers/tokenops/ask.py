"""Asking a person who shall speak: a form in the Prefect UI with the subjects outlined and numbered."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from uuid import UUID

from PIL import Image, ImageDraw, ImageFilter, ImageFont
from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run, aresume_flow_run, asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import acreate_flow_run_input, aread_flow_run_input
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import BeforeValidator, Field, create_model

from prefect_genmedia._prefect.run import RETRIES, RETRY_DELAYS, retry_if_safe
from prefect_genmedia._prefect.session import open_session
from prefect_genmedia._prefect.suspension import check_can_suspend, must_suspend, resumed, sleeping_runs
from prefect_genmedia.errors import NoSubject
from prefect_genmedia.providers.tokenops import Detection
from prefect_genmedia.providers.tokenops.block import TokenOpsCredentials
from prefect_genmedia.providers.tokenops.catalog import MASK_LIFETIME_SECONDS, MAX_MASK_BYTES
from prefect_genmedia.providers.tokenops.subjects import SubjectSelection, opened_picture
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, select_subject
from prefect_genmedia.text import counted

Fallback = Literal["largest", "fail"]

PAUSE_KEY = "genmedia-subject"
OR_LARGEST_KEY = "genmedia-subject-or-largest"
"""In place of `PAUSE_KEY`, the name of a suspension that `answer_overdue` ends."""
POINTS_KEY = "genmedia-subject-points"
ANSWER_KEY = "genmedia-subject-answer"
OPTIONS_KEY = "genmedia-subject-options"
"""What a run's form offers, in the order of its subjects."""

GRACE_SECONDS = 24 * 3600.0
"""How long the server keeps a suspended question alive past its time, for `answer_overdue` to come."""

ANSWER_AGAIN_SECONDS = 2.0
"""Between attempts to answer for the person where the server did not take the answer."""


async def ask_subject(
    image_url: str,
    detection: Detection,
    *,
    credentials: TokenOpsCredentials | str = "default",
    timeout_seconds: float = 3600.0,
    fallback: Fallback = "fail",
    suspend: bool = False,
    convert_inputs: bool = False,
) -> SubjectSelection:
    """Pause the flow run until a person has picked the speaker in the UI; call it in a flow, not in a task.

    The choice is kept as a point in the picture: masks live for an hour, and when they are detected anew the point
    still finds the same person. A retried run does not ask again.

    Args:
        image_url: the picture.
        detection: who was detected in it.
        credentials: a TokenOps Block, or its name.
        timeout_seconds: how long to wait for the person.
        fallback: what happens then: the largest subject speaks, or the run fails.
        suspend: free the worker's process while waiting (deployments only); the run starts anew when it is answered.
            It is `reconcile_jobs` then that lets the largest subject speak when nobody answered in time. A run whose
            deployment has a concurrency limit always suspends, see `must_suspend`.
        convert_inputs: whether a local picture is converted as for the submission.

    Raises:
        NoSubject: nobody was detected, or nobody answered in time and the fallback is to fail. Nothing was paid.
        InvalidRequest: the run shall suspend, and has no deployment.
    """
    await check_can_suspend(suspend=suspend)
    suspend = suspend or await must_suspend()
    if not detection.found or not detection.mask_urls:
        raise NoSubject("No person was detected in the picture that could be chosen.")
    asked_at = time.monotonic()
    point = await aread_flow_run_input(ANSWER_KEY)
    if point is None:
        points = await aread_flow_run_input(POINTS_KEY)
        picture = ""
        if points is None:  # else the run started anew, and the numbers mean what they meant when it asked
            gallery = await show_subjects(image_url, detection, credentials=credentials, convert_inputs=convert_inputs)
            points, picture = [list(each) for each in gallery.points], _picture(gallery)
            await acreate_flow_run_input(POINTS_KEY, points)
            await acreate_flow_run_input(OPTIONS_KEY, options_of(points))
        get_run_logger().info("%s found: resume this run with the one who speaks", counted(len(points), "subject"))
        number = await _answer(_form(options_of(points), picture), timeout_seconds, fallback, suspend)
        point = points[number]
        await acreate_flow_run_input(ANSWER_KEY, point)
    if time.monotonic() - asked_at > MASK_LIFETIME_SECONDS * 0.8:
        detection = await detect_subjects(image_url, credentials=credentials, convert_inputs=convert_inputs)
    return await select_subject(detection, (point[0], point[1]), credentials=credentials)


@task(
    task_run_name="draw the subjects",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
    persist_result=False,  # a picture
)
async def show_subjects(
    image_url: str,
    detection: Detection,
    *,
    credentials: TokenOpsCredentials | str = "default",
    convert_inputs: bool = False,
) -> Gallery:
    """Show the picture with its subjects outlined and numbered, as an artifact of the run.

    Args:
        image_url: the picture.
        detection: who was detected in it.
        credentials: a TokenOps Block, or its name.
        convert_inputs: whether a local picture is converted as for the submission.

    Returns:
        The picture that is shown, and one point inside each subject.

    Raises:
        ProviderError: the picture, or a mask, cannot be fetched or read.
    """
    async with open_session("tokenops", credentials) as session:
        session = replace(session, convert_inputs=convert_inputs)
        portrait, *masks = await asyncio.gather(
            session.fetch_picture(await session.public_url(image_url, "image_url")),
            *(session.fetch_picture(url, MAX_MASK_BYTES) for url in detection.mask_urls),
        )
    gallery = await asyncio.to_thread(draw_gallery, portrait, masks)
    await acreate_markdown_artifact(
        key="genmedia-subjects",
        markdown=f"# Who speaks?\n\n{_picture(gallery)}\n\n{_how_to_answer(gallery)}\n",
        description="Who speaks? Resume the run to answer",
    )
    return gallery


def _how_to_answer(gallery: Gallery) -> str:
    """What a person does, in the words of both UIs, and what there is to choose."""
    run = url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None
    page = f"[the run's page]({run})" if run else "the run's page"
    return "\n".join(
        [
            f"1. Open {page}.",
            "2. Press **Resume** at the top right; in the second UI it is in the menu **⋮** there.",
            "3. Choose who speaks, and press **Submit**; in the second UI, **Resume**.",
            "",
            "There is to choose:",
            "",
            *(f"- {option}" for option in options_of(gallery.points)),
            "",
            "Nothing is paid until then.",
        ]
    )


def options_of(points: Sequence[Sequence[float]]) -> list[str]:
    """What the form offers, such as `1 · left, largest`: the number in the picture, and where the subject is.

    Args:
        points: a point of each subject, the largest subject first; from 0 to 1.
    """
    order = sorted(range(len(points)), key=lambda index: points[index][0])
    places = {index: _place(rank, len(points)) for rank, index in enumerate(order)}
    words = [", ".join(filter(None, (places[index], "largest" if index == 0 else ""))) for index in range(len(points))]
    return [f"{number} · {each}" for number, each in enumerate(words, 1)]


def _place(rank: int, count: int) -> str:
    """Where one of so many subjects is, counted from the left."""
    if count == 1:
        return "the only one"
    if count == 3 and rank == 1:
        return "middle"
    if rank in (0, count - 1):
        return "left" if rank == 0 else "right"
    return f"number {rank + 1} from the left"


async def answer_subject(flow_run_id: UUID, number: int) -> None:
    """Answer for a person: resume a run that asks who speaks.

    Args:
        flow_run_id: the paused run.
        number: the subject, from 0 as the parameter `subject` counts; 0 is the largest.
    """
    await aresume_flow_run(flow_run_id, run_input=await _form_answer(flow_run_id, number))


async def _form_answer(flow_run_id: UUID, number: int) -> dict[str, str]:
    options: Any = await aread_flow_run_input(OPTIONS_KEY, flow_run_id)
    return {"subject": options[number] if options else str(number)}  # runs of earlier versions have numbers only


def _picture(gallery: Gallery) -> str:
    return f"![subjects](data:image/jpeg;base64,{base64.b64encode(gallery.picture).decode()})"


async def _answer(form: _Form, timeout_seconds: float, fallback: Fallback, suspend: bool) -> int:
    # Prefect fails a run whose pause times out, so where there is a fallback somebody answers before that.
    if suspend:
        key, grace = (OR_LARGEST_KEY, GRACE_SECONDS) if fallback == "largest" else (PAUSE_KEY, 0.0)
        answered: Any = await asuspend_flow_run(
            wait_for_input=form.model, timeout=int(timeout_seconds + grace), key=key
        )
        return form.options.index(answered.subject)
    patience = timeout_seconds + (300.0 if fallback == "largest" else 0.0)
    try:
        async with _answering_itself(timeout_seconds if fallback == "largest" else None):
            answered = await apause_flow_run(
                wait_for_input=form.model, timeout=int(patience), poll_interval=2, key=PAUSE_KEY
            )
    except FlowPauseTimeout:
        raise NoSubject(f"Nobody chose a subject within {timeout_seconds:.0f} s.") from None
    return form.options.index(answered.subject)


async def answer_overdue() -> list[str]:
    """Let the largest subject speak in every run that sleeps over its question for longer than it was to wait.

    Returns:
        A log line for each run that was resumed.
    """
    answered = []
    for run in await sleeping_runs(OR_LARGEST_KEY):
        ends_at = run.state.state_details.pause_timeout if run.state is not None else None
        overdue = ends_at is not None and time.time() >= ends_at.timestamp() - GRACE_SECONDS
        if overdue and await resumed(run.id, await _form_answer(run.id, 0)):
            answered.append(f"Nobody chose a subject for run {run.name} in time: the largest one speaks")
    return answered


@asynccontextmanager
async def _answering_itself(seconds: float | None) -> AsyncIterator[None]:
    """Choose the largest subject if the block still waits after `seconds`."""
    if seconds is None:
        yield
        return
    own_run = UUID(str(flow_run.id))
    logger = get_run_logger()

    async def answer() -> None:
        await asyncio.sleep(seconds)
        # The server may be away, or not have the pause yet; a person who answers after all ends the block.
        while True:
            try:
                await answer_subject(own_run, 0)
            except Exception as trouble:
                logger.debug("The run could not be resumed yet: %r", trouble)
                await asyncio.sleep(ANSWER_AGAIN_SECONDS)
            else:
                logger.warning("Nobody chose a subject within %.0f s: the largest one speaks", seconds)
                return

    timer = asyncio.create_task(answer())
    try:
        yield
    finally:
        timer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await timer


@dataclass(frozen=True)
class _Form:
    """The form as Prefect wants it, and what it offers."""

    model: Any
    options: Sequence[str]


def _form(options: Sequence[str], picture: str) -> _Form:
    """The form: the picture with the numbers, and one choice; nothing is chosen until a person does."""

    def with_words(value: Any) -> Any:
        """Forms of earlier versions offered numbers alone, from 0."""
        is_number = isinstance(value, str) and value.isdecimal() and int(value) < len(options)
        return options[int(value)] if is_number else value

    words: Any = Annotated[Literal[tuple(options)], BeforeValidator(with_words)]
    choice: Any = create_model(
        "SubjectChoice",
        __base__=RunInput,
        subject=(words, Field(title="Who speaks", description="The subject's number in the picture, and where it is.")),
    )
    return _Form(choice.with_initial_data(description=f"Who speaks?\n\n{picture}"), options)


WIDTH = 720
"""Pixels; the gallery is part of a form's text, so it is kept to some 60 kB."""

_COLOURS = ("#ffd400", "#00c2ff", "#ff5a5f", "#7bd389", "#c77dff")
_WHITE = 128


@dataclass(frozen=True)
class Gallery:
    """The picture for people, and the points for us.

    Args:
        picture: JPEG.
        points: one for each mask, inside its white area, as shares of width and height from 0 to 1: the same subject
            is found there again when masks are detected anew in another order.
    """

    picture: bytes
    points: tuple[tuple[float, float], ...]


def draw_gallery(portrait: bytes, masks: Sequence[bytes]) -> Gallery:
    """Outline and number each subject, from 1 as people count, in the order of its mask.

    Args:
        portrait: the picture's bytes.
        masks: one picture a subject, white on black.

    Raises:
        ProviderError: one of them is not a picture that can be read.
    """
    with opened_picture(portrait, "The portrait") as opened:
        opened.draft("RGB", (WIDTH, WIDTH * 2))  # a JPEG is decoded no larger than that
        canvas = opened.convert("RGB")
    canvas.thumbnail((WIDTH, WIDTH * 2))
    points = []
    for number, content in enumerate(masks):
        with opened_picture(content, "A mask") as opened:
            mask = opened.convert("L").resize(canvas.size).point(lambda value: 255 if value >= _WHITE else 0)
        colour = _COLOURS[number % len(_COLOURS)]
        edge = mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(5))
        canvas.paste(colour, mask=edge)
        point = _inside(mask)
        points.append((point[0] / canvas.width, point[1] / canvas.height))
        _badge(canvas, point, str(number + 1), colour)
    output = io.BytesIO()
    canvas.save(output, "JPEG", quality=80)
    return Gallery(output.getvalue(), tuple((round(x, 4), round(y, 4)) for x, y in points))


def _inside(mask: Image.Image) -> tuple[float, float]:
    """A point well inside the white area: where it is whitest after blurring, a hollow shape's centre being black."""
    small = mask.resize((64, 64), Image.Resampling.BOX)
    blurred = list(small.filter(ImageFilter.BoxBlur(5)).tobytes())
    weights = [value if inside >= 255 else 0 for value, inside in zip(blurred, small.tobytes(), strict=True)]
    if not any(weights):
        weights = list(small.tobytes())
    best = max(range(len(weights)), key=weights.__getitem__)
    return (best % 64 + 0.5) * mask.width / 64, (best // 64 + 0.5) * mask.height / 64


def _badge(canvas: Image.Image, center: tuple[float, float], text: str, colour: str) -> None:
    draw = ImageDraw.Draw(canvas)
    radius = max(canvas.width // 28, 12)
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#000000", outline=colour, width=3)
    draw.text((x, y), text, fill=colour, anchor="mm", font=ImageFont.load_default(size=radius * 1.3))

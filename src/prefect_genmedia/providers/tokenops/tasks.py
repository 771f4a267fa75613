"""Tasks about the people in a picture: detect, recognize, select. None of them costs what a generation costs."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_genmedia._prefect.run import (
    RETRIES,
    RETRY_DELAYS,
    explained,
    is_retried,
    patience,
    retry_if_safe,
    run_name,
)
from prefect_genmedia._prefect.session import open_session
from prefect_genmedia.errors import GenMediaError, NoSubject
from prefect_genmedia.providers.tokenops.block import TokenOpsCredentials
from prefect_genmedia.providers.tokenops.catalog import MAX_MASK_BYTES, OMNIHUMAN_MODEL
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.providers.tokenops.resolve import detect
from prefect_genmedia.providers.tokenops.subjects import (
    Detection,
    OnFailure,
    Recognition,
    Subject,
    SubjectSelection,
    is_failed_call,
    select_masks,
)
from prefect_genmedia.text import counted


@task(
    task_run_name="detect subjects",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def detect_subjects(
    image_url: str,
    *,
    credentials: TokenOpsCredentials | str = "default",
    model: str = OMNIHUMAN_MODEL,
    on_failure: OnFailure = "fail",
    convert_inputs: bool = False,
) -> Detection:
    """Find the people in a picture (TokenOps' page, "步骤1:主体检测").

    Args:
        image_url: URL, path or fsspec URL of the picture; what the provider cannot fetch is published, see the setting
            `publish_url`.
        credentials: a TokenOps Block, or its name.
        model: the model's name at TokenOps.
        on_failure: what happens if the last attempt fails: `continue` returns a detection that has no masks, and for
            which `select_subject` sends none.
        convert_inputs: whether a local picture is converted as for the submission.

    Returns:
        One mask URL a subject, at most 5, largest first; the URLs live for 1 hour.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    async with explained(), open_session("tokenops", credentials) as session, patience():
        try:
            detection = await detect(replace(session, convert_inputs=convert_inputs), image_url, model)
        except GenMediaError as error:
            if on_failure == "fail" or not is_failed_call(error) or await is_retried(error):
                raise
            get_run_logger().warning("The detection failed; going on without masks: %s", error)
            return Detection(found=True, failure=error.message)
    get_run_logger().info("%s detected", counted(len(detection.mask_urls) or int(detection.found), "subject"))
    return detection


@task(
    task_run_name="recognize subject",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def recognize_subject(
    image_url: str,
    *,
    credentials: TokenOpsCredentials | str = "default",
    model: str = OMNIHUMAN_MODEL,
    convert_inputs: bool = False,
) -> Recognition:
    """Make sure that a picture holds a person, or something like one (TokenOps' page, "步骤2:主体识别").

    Args:
        image_url: URL, path or fsspec URL of the picture; what the provider cannot fetch is published, see the setting
            `publish_url`.
        credentials: a TokenOps Block, or its name.
        model: the model's name at TokenOps.
        convert_inputs: whether a local picture is converted as for the submission.

    Raises:
        NoSubject: it holds none.
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    async with explained(), open_session("tokenops", credentials) as session, patience():
        client = cast(TokenOpsClient, session.client)
        session = replace(session, convert_inputs=convert_inputs)
        recognition = await client.recognize_subject(await session.public_url(image_url, "image_url"), model)
    if not recognition.found:
        raise NoSubject("No person, and nothing like one, was recognized in the picture.")
    get_run_logger().info("A subject was recognized")
    return recognition


@task(
    task_run_name=run_name("select subject", "subject"),
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def select_subject(
    detection: Detection, subject: Subject = "auto", *, credentials: TokenOpsCredentials | str = "default"
) -> SubjectSelection:
    """Choose who speaks.

    Args:
        detection: what `detect_subjects` found.
        subject: `auto` (one subject: no mask; several: the largest), `largest`, `leftmost`, `rightmost`, `all`, `none`,
            an index from 0 (the largest), or a point in the picture: pixels (`640,360`) or shares (`0.5,0.4`).
        credentials: a TokenOps Block, or its name; says which hosts masks may come from.

    Returns:
        The masks to send, and the choice in words.

    Raises:
        NoSubject: nobody is there, or not where the choice points to. Nothing was paid.
        InvalidRequest: `subject` is not understood.
        ProviderError: a mask cannot be fetched or read.
    """
    async with explained(), open_session("tokenops", credentials) as session:
        selection = await select_masks(detection, subject, lambda url: session.fetch_picture(url, MAX_MASK_BYTES))
    get_run_logger().info("Subject %s; masks sent: %d", selection.subject, len(selection.mask_urls))
    return selection

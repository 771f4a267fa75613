"""Tasks about the people in a picture: detect, recognize, select. None of them costs what a generation costs."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_genmedia._prefect.credentials import ProviderCredentials, TokenOpsCredentials, load_credentials
from prefect_genmedia.errors import NoSubject
from prefect_genmedia._inputs import Publication, prepared_url
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.providers.tokenops import Detection, OmniHumanVideo, Recognition
from prefect_genmedia.providers.tokenops.catalog import OMNIHUMAN_MODEL
from prefect_genmedia.providers.tokenops.subjects import Subject, SubjectSelection, select_masks
from prefect_genmedia.settings import current_settings
from prefect_genmedia._inputs.pictures import fetch_picture
from prefect_genmedia._prefect.run import RETRIES, RETRY_DELAYS, explained, patience, retry_if_safe, run_name
from prefect_genmedia._transport import FetchRules


@task(
    task_run_name="detect subjects",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def detect_subjects(
    image_url: str, *, credentials: TokenOpsCredentials | str = "default", model: str = OMNIHUMAN_MODEL
) -> Detection:
    """Find the people in a picture (TokenOps' page, "步骤1:主体检测").

    Parameters:
        image_url: URL, path or fsspec URL of the picture; what the provider cannot fetch is published, see the setting
            `publish_url`.
        credentials: a TokenOps Block, or its name.
        model: the model's name at TokenOps.

    Returns:
        One mask URL a subject, at most 5, largest first; the URLs live for 1 hour.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    async with explained():
        return await detect(image_url, await load_credentials("tokenops", credentials), model)


@task(
    task_run_name="recognize subject",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=retry_if_safe,
    cache_policy=NO_CACHE,
)
async def recognize_subject(
    image_url: str, *, credentials: TokenOpsCredentials | str = "default", model: str = OMNIHUMAN_MODEL
) -> Recognition:
    """Make sure that a picture holds a person, or something like one (TokenOps' page, "步骤2:主体识别").

    Parameters:
        image_url: URL, path or fsspec URL of the picture; what the provider cannot fetch is published, see the setting
            `publish_url`.
        credentials: a TokenOps Block, or its name.
        model: the model's name at TokenOps.

    Raises:
        NoSubject: it holds none.
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    block = await load_credentials("tokenops", credentials)
    async with explained(), block.client() as client, patience():
        recognition: Recognition = await client.recognize_subject(await reachable(image_url, client.fetch_rules), model)
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

    Parameters:
        detection: what `detect_subjects` found.
        subject: `auto` (one subject: no mask; several: the largest), `largest`, `leftmost`, `rightmost`, `all`,
            an index from 0 (the largest), or a point in the picture: pixels (`640,360`) or shares (`0.5,0.4`).
        credentials: a TokenOps Block, or its name; says which hosts masks may come from.

    Returns:
        The masks to send, and the choice in words.

    Raises:
        NoSubject: nobody is there, or not where the choice points to. Nothing was paid.
        InvalidRequest: `subject` is not understood.
        ProviderError: a mask cannot be fetched.
    """
    async with explained():
        return await select(detection, subject, await load_credentials("tokenops", credentials))


async def detect(image_url: str, block: ProviderCredentials, model: str) -> Detection:
    """Detect the people in a picture; the task `detect_subjects` without its failure card.

    Parameters:
        image_url: the picture.
        block: a TokenOps Block.
        model: the model's name at TokenOps.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, InputRefused, ProviderError.
        RateLimited: after the time that the provider asked for.
    """
    async with block.client() as client, patience():
        detection: Detection = await client.detect_subjects(await reachable(image_url, client.fetch_rules), model)
    get_run_logger().info("%d subjects detected", len(detection.mask_urls) or int(detection.found))
    return detection


async def select(detection: Detection, subject: Subject, block: ProviderCredentials) -> SubjectSelection:
    """Choose who speaks; the task `select_subject` without its failure card.

    Parameters:
        detection: who was detected.
        subject: the choice, as for the task.
        block: a TokenOps Block; says which hosts masks may come from.

    Raises:
        NoSubject, InvalidRequest, ProviderError.
    """
    async with block.client() as client:

        async def read(url: str) -> bytes:
            return await fetch_picture(url, client.fetch_rules)

        selection = await select_masks(detection, subject, read)
    get_run_logger().info("Subject %s; masks sent: %d", selection.subject, len(selection.mask_urls))
    return selection


async def with_subject(request: GenerationRequest, credentials: ProviderCredentials) -> GenerationRequest:
    """The request with fresh masks of whom it names as its speaker; as it is where it names nobody.

    Parameters:
        request: what is wanted.
        credentials: the provider's Block.

    Raises:
        NoSubject, InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    if not isinstance(request, OmniHumanVideo) or not request.subject:
        return request
    detection = await detect(request.image_url, credentials, request.model)
    return request.with_subject(await select(detection, request.subject, credentials))


async def reachable(image_url: str, rules: FetchRules) -> str:
    """A URL of the picture that the provider can fetch: its own, or that of a published copy.

    Parameters:
        image_url: the picture, where the user has it.
        rules: which hosts may be asked, and how.

    Raises:
        InvalidRequest: it is not there, or nothing is set to publish it with.
    """
    settings = current_settings()
    return await prepared_url(
        image_url, "image_url", rules, Publication(settings.publish_url, settings.publish_seconds)
    )

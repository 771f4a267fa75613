"""Completing an OmniHuman request before it is sent: its speaker is detected and selected anew."""

from __future__ import annotations

from typing import cast

from prefect_genmedia.errors import GenMediaError, RateLimited
from prefect_genmedia.providers.plugin import ResolveSession
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.providers.tokenops.omnihuman import OmniHumanVideo
from prefect_genmedia.providers.tokenops.subjects import Detection, is_failed_call, select_masks


async def resolve(request: GenerationRequest, session: ResolveSession) -> GenerationRequest:
    """The request with fresh masks of the subject that it names; as it is if it names none.

    Args:
        request: what is wanted.
        session: the account.

    Raises:
        NoSubject, InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    if not isinstance(request, OmniHumanVideo) or not request.subject:
        return request
    detection = await _detection(session, request)
    selection = await select_masks(
        detection, request.subject, lambda url: session.fetch_picture(url, catalog.MAX_MASK_BYTES)
    )
    return request.with_subject(selection)


async def _detection(session: ResolveSession, request: OmniHumanVideo) -> Detection:
    """Detect, or go on without where the request says so. Not if its masks expired: their speaker was chosen."""
    try:
        return await detect(session, request.image_url, request.model)
    except RateLimited:
        raise  # the provider asks to come again, which is no failure
    except GenMediaError as error:
        if request.on_detection_failure == "fail" or request.mask_urls or not is_failed_call(error):
            raise
        return Detection(found=True, failure=error.message)


async def detect(session: ResolveSession, image_url: str, model: str = catalog.OMNIHUMAN_MODEL) -> Detection:
    """Find the people in a picture.

    Args:
        session: the account.
        image_url: the picture, where the user has it.
        model: the model's name at TokenOps.

    Raises:
        InvalidRequest, CredentialsError, QuotaError, RateLimited, InputRefused, ProviderError.
    """
    client = cast(TokenOpsClient, session.client)
    return await client.detect_subjects(await session.public_url(image_url, "image_url"), model)

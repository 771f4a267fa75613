"""Fetching the pictures that a choice of subject looks at."""

from __future__ import annotations

from prefect_genmedia._transport import FetchRules, body_of, fetch, unsigned_url
from prefect_genmedia.errors import ProviderError

MAX_PICTURE_BYTES = 50 * 1024**2


async def fetch_picture(url: str, rules: FetchRules) -> bytes:
    """The bytes of a portrait or mask.

    Parameters:
        url: where it is; masks live for 1 hour.
        rules: what a fetch may do.

    Raises:
        ProviderError: it cannot be fetched, or is larger than `MAX_PICTURE_BYTES`.
    """
    content = bytearray()
    async with fetch(url, rules) as response:
        if not response.is_success:
            raise ProviderError(
                f"The picture {unsigned_url(url)} answered {response.status_code}; masks live for 1 hour.",
                http_status=response.status_code,
            )
        async for piece in body_of(response, "Fetching a picture"):
            content += piece
            if len(content) > MAX_PICTURE_BYTES:
                raise ProviderError(f"A picture is larger than {MAX_PICTURE_BYTES} bytes.", retryable=False)
    return bytes(content)

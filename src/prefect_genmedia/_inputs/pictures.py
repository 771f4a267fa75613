"""Fetching pictures that a provider's plug-in looks into, such as masks."""

from __future__ import annotations

from prefect_genmedia._transport import BodyBounds, FetchRules, body_of, fetch, unsigned_url
from prefect_genmedia.errors import ProviderError
from prefect_genmedia.providers.inputs import MAX_PICTURE_BYTES

PICTURE_BOUNDS = BodyBounds(seconds=60.0, window=20.0, min_rate=1024.0)
"""How long the body of a portrait or mask may take."""


async def fetch_picture(url: str, rules: FetchRules, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """The bytes of a portrait or mask.

    Parameters:
        url: where it is.
        rules: what a fetch may do.
        max_bytes: a larger picture is refused.

    Raises:
        ProviderError: it cannot be fetched, is too slow, or is larger than `max_bytes`.
    """
    content = bytearray()
    async with fetch(url, rules) as response:
        if not response.is_success:
            raise ProviderError(
                f"The picture {unsigned_url(url)} answered {response.status_code}.",
                http_status=response.status_code,
            )
        async for piece in body_of(response, "Fetching a picture", PICTURE_BOUNDS):
            content += piece
            if len(content) > max_bytes:
                raise ProviderError(f"A picture is larger than {max_bytes} bytes.", retryable=False)
    return bytes(content)

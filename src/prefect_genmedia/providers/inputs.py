"""Field types that several providers' requests share."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def fetchable(url: str) -> str:
    """Let a URL through that a provider can fetch.

    Raises:
        ValueError: it is none; the sentence says why.
    """
    # The offending text is not repeated: it may be long, or hold a signature.
    if url != url.strip() or any(character.isspace() for character in url):
        raise ValueError("must not contain spaces or line breaks; escape them as %20")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may repeat the URL
        raise ValueError("must be a URL that can be read") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must be a URL that begins with http:// or https://, which the provider can fetch")
    if not parts.hostname:
        raise ValueError("must be a URL that names a host")
    return url


PublicUrl = Annotated[
    str,
    Field(min_length=1, max_length=8192),
    AfterValidator(fetchable),
]
"""An http or https URL that the provider fetches by itself."""

Seed = Annotated[int, Field(ge=-1, le=2**31 - 1)]
"""A random seed: -1 lets the provider choose, any other fixes it."""

"""Opening a finished file, the same way for every provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import httpx

from prefect_genmedia._transport import FetchRules, body_of, excerpt, fetch
from prefect_genmedia.errors import JobExpired, ProviderError
from prefect_genmedia.providers.protocol import ResultStream
from prefect_genmedia.text import clean_text


def result_stream(response: httpx.Response) -> ResultStream:
    """The answer's body as a file on its way.

    Parameters:
        response: an answer whose body is not read yet.

    Raises:
        ProviderError: it is compressed, which no video gains by and which was not asked for: a megabyte may become a
            gigabyte of memory; retryable.
    """
    length = response.headers.get("content-length")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise ProviderError(f"The download is compressed ({excerpt(encoding, 40)}), which is refused for media.")
    return ResultStream(
        chunks=lambda: body_of(response, "The download"),
        content_length=int(length) if length and length.isdecimal() else None,
        content_type=response.headers.get("content-type", ""),
    )


def redirect_target(response: httpx.Response) -> str | None:
    """Where an answer of the API redirects to; None if it does not. Open it with `open_url`, without the key.

    Parameters:
        response: an answer; its body need not be read.

    Raises:
        ProviderError: its `Location` cannot be read; retryable.
    """
    if not response.has_redirect_location:
        return None
    try:
        return urljoin(str(response.request.url), response.headers["location"])
    except ValueError:
        raise ProviderError("A redirect leads to a URL that cannot be read.") from None


@asynccontextmanager
async def open_url(url: str, rules: FetchRules) -> AsyncIterator[ResultStream]:
    """Open a result's public URL, without any credential.

    Parameters:
        url: the file's address.
        rules: which hosts may be asked, and how.

    Raises:
        JobExpired: the URL is no longer valid; retryable, since asking the provider again may give a fresh one.
        ProviderError: no file came.
    """
    if clean_text(url) != url:
        raise ProviderError("The result's URL contains characters that no URL has.")
    async with fetch(url, rules) as response:
        if response.status_code in (403, 404, 410):
            raise JobExpired(
                f"The result's URL answered {response.status_code}: it is no longer valid.",
                http_status=response.status_code,
                retryable=True,
            )
        if not response.is_success:
            raise ProviderError(f"The result's URL answered {response.status_code}.", http_status=response.status_code)
        yield result_stream(response)

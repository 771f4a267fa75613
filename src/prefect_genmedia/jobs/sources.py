"""Measuring what a user hands in: how long the recording is that the result must be as long as."""

from __future__ import annotations

import tempfile
from pathlib import Path

from anyio import to_thread

from prefect_genmedia.errors import GenMediaError, ProviderError
from prefect_genmedia.jobs.media import media_seconds
from prefect_genmedia.transport import FetchRules, body_of, fetch

MAX_SOURCE_BYTES = 100 * 1024**2
"""The largest input that is fetched to be measured, in bytes."""


async def measure_seconds(url: str, rules: FetchRules) -> float:
    """Fetch a recording or video and measure it.

    Parameters:
        url: an http(s) URL.
        rules: what a fetch may do.

    Returns:
        Its duration in seconds.

    Raises:
        GenMediaError: it cannot be fetched from here, or nothing in it plays.
    """
    with tempfile.TemporaryDirectory(prefix="genmedia-") as folder:
        path = Path(folder) / "source"
        await fetch_to(url, path, rules)
        seconds = await to_thread.run_sync(media_seconds, path)
    if seconds is None:
        raise GenMediaError("The file holds no sound or picture that plays.")
    return seconds


async def fetch_to(url: str, path: Path, rules: FetchRules, limit: int = MAX_SOURCE_BYTES) -> None:
    """Save a URL's body as `path`.

    Parameters:
        url: an http(s) URL.
        path: the file to write.
        rules: which hosts may be asked, and how.
        limit: bytes, at most.

    Raises:
        ProviderError: it cannot be fetched, or is larger than `limit` bytes.
    """
    async with fetch(url, rules) as response:
        if not response.is_success:
            raise ProviderError(f"The URL answered {response.status_code}.", http_status=response.status_code)
        size = 0
        with path.open("wb") as file:
            async for chunk in body_of(response, "The download"):
                size += len(chunk)
                if size > limit:
                    raise ProviderError(f"The file is larger than {limit} bytes.", retryable=False)
                file.write(chunk)

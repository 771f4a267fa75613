"""Opening portraits and masks within bounds: known formats, a bounded number of pixels, one decoded at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from prefect_genmedia.errors import ProviderError

_FORMATS = ("PNG", "JPEG", "WEBP")

MAX_PIXELS = 5000 * 5000
"""The largest picture that is decoded, in pixels; sides up to 4096 pixels are documented."""

_MAX_SCANS = 100
"""The most scans of a JPEG. Ten are usual; each one may take as long as the whole picture."""


@contextmanager
def opened_picture(content: bytes, what: str) -> Iterator[Image.Image]:
    """Open a picture, whose header is checked before anything is decoded. Decoding blocks; run it in a thread.

    Parameters:
        content: the picture's bytes.
        what: the picture, as errors name it.

    Raises:
        ProviderError: it is no PNG, JPEG or WebP, or too large; also for what goes wrong inside of the block.
    """
    failure: ProviderError
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                failure = ProviderError(f"{what} has {pixels} pixels, more than {MAX_PIXELS}.", retryable=False)
            elif picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > _MAX_SCANS:
                failure = ProviderError(f"{what} has more than {_MAX_SCANS} scans.", retryable=False)
            else:
                yield picture
                return
    except Exception as error:  # each format has errors of its own
        failure = ProviderError(f"{what} is not a picture that can be read: {str(error) or type(error).__name__}.")
    raise failure

"""Small pictures of a delivered video for cards and galleries, as `data:` URIs."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence

from anyio import to_thread
from PIL import Image

from prefect_genmedia._core.model import Delivery
from prefect_genmedia._media.verify import frames_of
from prefect_genmedia._prefect.targets import target_of

FRAMES = 4
"""Number of pictures in a card's strip."""

FRAME_WIDTH = 236
"""Width of each picture in pixels, so that the strip fits into a page of the UI in a 1440-pixel window."""

FRAME_HEIGHT = 320
"""Maximum height of each picture, in pixels."""

GAP = 4
"""Pixels between two pictures."""

STRIP_BYTES = 128 * 1024**2
"""A larger file in a storage, in bytes, is not downloaded again for its card."""

_logger = logging.getLogger(__name__)


async def strip_of(delivery: Delivery) -> str | None:
    """Returns pictures from the beginning to the end of a delivered video, side by side; None if that fails.

    Args:
        delivery: the verified file.
    """
    if delivery.bytes > STRIP_BYTES:
        return None
    try:
        storage = (await target_of(_folder_of(delivery.uri))).storage

        def pictures() -> str | None:
            with storage.local_copy(delivery.uri) as path:
                return strip(frames_of(path, FRAMES, FRAME_WIDTH))

        return await to_thread.run_sync(pictures)
    except Exception as error:  # a missing picture must not make a paid, delivered file fail
        _logger.debug("No pictures of %s: %s", delivery.job_key, type(error).__name__)
        return None


def strip(frames: Sequence[bytes]) -> str | None:
    """Returns pictures side by side as one `data:` URI; None for no pictures.

    Args:
        frames: JPEG files.
    """
    if not frames:
        return None
    pictures = []
    for frame in frames:
        with Image.open(io.BytesIO(frame)) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((FRAME_WIDTH, FRAME_HEIGHT))
        pictures.append(picture)
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(each.height for each in pictures)), "black")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + GAP
    return _data_uri(canvas)


def thumbnail(content: bytes, width: int, height: int = 0) -> str | None:
    """Returns a picture as a small `data:` URI; None if it cannot be read.

    Args:
        content: the picture's file.
        width: maximum width in pixels.
        height: maximum height in pixels; 0 for twice the width.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("RGB", (width, width))  # decode a JPEG at a reduced size
            picture.thumbnail((width, height or 2 * width))
            return _data_uri(picture.convert("RGB"))
    except OSError:
        return None


def _data_uri(picture: Image.Image) -> str:
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()


def _folder_of(uri: str) -> str:
    return uri.replace("\\", "/").rpartition("/")[0] or "/"

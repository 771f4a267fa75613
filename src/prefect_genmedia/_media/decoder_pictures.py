"""What a decoder reads in pictures.

Imported by `decoder.py` in its process: nothing of this package may be imported here.
"""

from __future__ import annotations

import importlib
from typing import Any

from PIL import Image

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that Pillow may try, MPO as JPEG; it reads their headers itself, without another program."""

PICTURE_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff")

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter
_ORIENTATION = 0x0112


def read_header(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Read a picture's header; the rest of the file may be missing, and is not decoded.

    Parameters:
        path: the file.
        limits: what decoding it may take.
    """
    for plugin in PICTURE_PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    Image.MAX_IMAGE_PIXELS = None  # no pixel is decoded; what is too large is judged by its size
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        # Telephones write JPEG files with a preview behind the picture, which Pillow names MPO.
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        # Pillow looks for the EXIF of a PNG behind its pixels, and decodes them for that.
        has_exif = kind not in ("PNG", "GIF", "BMP") or "exif" in image.info
        turned = has_exif and image.getexif().get(_ORIENTATION) in _SIDEWAYS
        return {"format": kind, "width": image.width, "height": image.height, "turned": turned}

"""What a decoder reads in pictures, and how it converts them.

Imported by `decoder.py` in its process: nothing of this package may be imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

from PIL import Image, ImageCms, ImageOps

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""Formats that Pillow may try, MPO as JPEG; it reads their headers itself, without another program."""

PICTURE_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif")

PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Modes of Pillow that every program reads; CMYK and more than eight bits are not among them."""

QUALITIES = (95, 90, 85, 80)
"""Qualities of JPEG that are tried before a picture is made smaller."""

SHRINK = 0.8
"""How much smaller a picture is made that is too large as a file."""

MAX_TRIES = 12
"""How often a picture is made smaller; a tenth of its sides is left then."""

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter
_ORIENTATION = 0x0112


class Inconvertible(Exception):
    """The picture cannot be made to fit the limits; the text says why."""


def read_header(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Read a picture's header; the rest of the file may be missing, and is not decoded.

    Args:
        path: the file.
        limits: what decoding it may take.
    """
    with _opened(path) as image:
        kind = _kind_of(image)
        orientation = _orientation(image)
        return {
            "format": kind,
            "width": image.width,
            "height": image.height,
            "turned": orientation in _SIDEWAYS,
            "is_plain": image.mode in PLAIN_MODES and orientation == 1,
        }


def convert(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Write a picture upright, in sRGB, as JPEG; as PNG if it is transparent somewhere, and PNG is allowed.

    Args:
        path: the file.
        limits: what decoding it may take; and `target`, the file to write, `size`, the width and height to have,
            `max_bytes`, `min_side`, and `formats`, of which one is written.
    """
    wanted = tuple(limits["size"])
    with _opened(path) as opened:
        if opened.width * opened.height > limits["pixels"]:
            raise Inconvertible(f"it has more than {limits['pixels']} pixels")
        if opened.format in ("JPEG", "MPO"):
            opened.draft(None, wanted if _orientation(opened) not in _SIDEWAYS else wanted[::-1])
        profile = opened.info.get("icc_profile")
        image: Image.Image = ImageOps.exif_transpose(opened)
    image = _eight_bits(image)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.LANCZOS)
    image = _in_srgb(image, profile)
    is_png = "PNG" in limits["formats"] and ("JPEG" not in limits["formats"] or _is_transparent(image))
    image = image if is_png else _opaque(image)
    content, size = _encoded(image, is_png, limits["max_bytes"], limits["min_side"])
    with open(limits["target"], "wb") as file:  # noqa: PTH123 - pathlib is not imported here
        file.write(content)
    return {"width": size[0], "height": size[1]}


def _opened(path: str) -> Image.Image:
    for plugin in PICTURE_PLUGINS:
        with contextlib.suppress(ImportError):  # Avif came with Pillow 11.3
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    with contextlib.suppress(ImportError):  # an extra of this package
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    Image.MAX_IMAGE_PIXELS = None  # what is too large is judged by its size
    return Image.open(path, formats=[each for each in PICTURE_FORMATS if each in Image.OPEN])


def _kind_of(image: Image.Image) -> str:
    # Telephones write JPEG files with a preview behind the picture, which Pillow names MPO.
    return {"MPO": "JPEG", "HEIF": "HEIC"}.get(image.format or "", image.format or "")


def _orientation(image: Image.Image) -> int:
    # Pillow looks for the EXIF of a PNG behind its pixels, and decodes them for that.
    has_exif = _kind_of(image) not in ("PNG", "GIF", "BMP") or "exif" in image.info
    found = image.getexif().get(_ORIENTATION) if has_exif else None
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # sixteen bits, of which the upper eight are kept
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    return (
        image if image.mode in ("L", "RGB", "RGBA", "CMYK") else image.convert("RGBA" if "A" in image.mode else "RGB")
    )


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB: by its own profile where that fits it, else as Pillow converts its mode."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode=mode)
            if converted is not None:
                converted.info.pop("icc_profile", None)
                return converted
    return image if image.mode == mode else image.convert(mode)


def _is_transparent(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _encoded(image: Image.Image, is_png: bool, max_bytes: int, min_side: int) -> tuple[bytes, tuple[int, int]]:
    for _ in range(MAX_TRIES):
        for quality in QUALITIES[: 1 if is_png else None]:
            output = io.BytesIO()
            if is_png:
                image.save(output, "PNG")
            else:
                image.save(output, "JPEG", quality=quality)
            if output.tell() <= max_bytes:
                return output.getvalue(), image.size
        smaller = round(image.width * SHRINK), round(image.height * SHRINK)
        if min(smaller) < max(min_side, 1):
            break
        image = image.resize(smaller, Image.Resampling.LANCZOS)
    raise Inconvertible(f"it cannot be written in {max_bytes} bytes")

"""A picture with each detected subject outlined and numbered, and a point inside each one to know it by."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from prefect_genmedia.providers.tokenops.pictures import opened_picture

WIDTH = 720
"""Pixels; the gallery is part of a form's text, so it is kept to some 60 kB."""

_COLOURS = ("#ffd400", "#00c2ff", "#ff5a5f", "#7bd389", "#c77dff")
_WHITE = 128


@dataclass(frozen=True)
class Gallery:
    """The picture for people, and the points for us.

    Parameters:
        picture: JPEG.
        points: one for each mask, inside its white area, as shares of width and height from 0 to 1: the same subject
            is found there again when masks are detected anew in another order.
    """

    picture: bytes
    points: tuple[tuple[float, float], ...]


def draw_gallery(portrait: bytes, masks: Sequence[bytes]) -> Gallery:
    """Outline and number each subject, from 0 as the parameter `subject` counts, in the order of its mask.

    Parameters:
        portrait: the picture's bytes.
        masks: one picture a subject, white on black.

    Raises:
        ProviderError: one of them is not a picture that can be read.
    """
    with opened_picture(portrait, "The portrait") as opened:
        opened.draft("RGB", (WIDTH, WIDTH * 2))  # a JPEG is decoded no larger than that
        canvas = opened.convert("RGB")
    canvas.thumbnail((WIDTH, WIDTH * 2))
    points = []
    for number, content in enumerate(masks):
        with opened_picture(content, "A mask") as opened:
            mask = opened.convert("L").resize(canvas.size).point(lambda value: 255 if value >= _WHITE else 0)
        colour = _COLOURS[number % len(_COLOURS)]
        edge = mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(5))
        canvas.paste(colour, mask=edge)
        point = _inside(mask)
        points.append((point[0] / canvas.width, point[1] / canvas.height))
        _badge(canvas, point, str(number), colour)
    output = io.BytesIO()
    canvas.save(output, "JPEG", quality=80)
    return Gallery(output.getvalue(), tuple((round(x, 4), round(y, 4)) for x, y in points))


def _inside(mask: Image.Image) -> tuple[float, float]:
    """A point well inside the white area: where it is whitest after blurring, a hollow shape's centre being black."""
    small = mask.resize((64, 64), Image.Resampling.BOX)
    blurred = list(small.filter(ImageFilter.BoxBlur(5)).tobytes())
    weights = [value if inside >= 255 else 0 for value, inside in zip(blurred, small.tobytes(), strict=True)]
    if not any(weights):
        weights = list(small.tobytes())
    best = max(range(len(weights)), key=weights.__getitem__)
    return (best % 64 + 0.5) * mask.width / 64, (best // 64 + 0.5) * mask.height / 64


def _badge(canvas: Image.Image, center: tuple[float, float], text: str, colour: str) -> None:
    draw = ImageDraw.Draw(canvas)
    radius = max(canvas.width // 28, 12)
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#000000", outline=colour, width=3)
    draw.text((x, y), text, fill=colour, anchor="mm", font=ImageFont.load_default(size=radius * 1.3))

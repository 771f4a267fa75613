"""Converting a user's own pictures to what a provider takes: HEIC, AVIF, WebP, CMYK, pictures that are too large.

The original stays what the job is identified by: a picture and its conversion are the same request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from prefect_genmedia._inputs.inspect import Inspection, InspectionResult, Picture
from prefect_genmedia._inputs.reading import LocalCopy, Unusable, is_own
from prefect_genmedia._media.decoding import DecodeLimits, DecodingFailed, converters
from prefect_genmedia._media.local import sha256_of
from prefect_genmedia.providers.inputs import PictureLimits, RequestInput

FORMATS = ("JPEG", "PNG")
"""What is written, and needs no conversion where a provider documents nothing."""

MAX_PIXELS = 80_000_000
"""The largest picture that is converted: a telephone's largest has 50 million pixels."""

MAX_BYTES = 20 * 1024**2
"""The largest file that a conversion writes where a provider documents nothing."""

_EXTRA = "needs `pip install 'prefect-genmedia[heic]'`"

_UNLIMITED = PictureLimits(FORMATS, MAX_BYTES, 2**20, 1, float("inf"))


class Inconvertible(Exception):
    """A picture cannot be converted; the text says why."""


def after_conversion(
    inputs: Iterable[RequestInput], results: Mapping[str, InspectionResult]
) -> dict[str, InspectionResult]:
    """What will be seen of a request's inputs when its own pictures are converted. Nothing is decoded.

    Args:
        inputs: the request's files.
        results: what was seen of them, by URL.
    """
    found = dict(results)
    for each in inputs:
        inspection = found.get(each.url)
        if isinstance(inspection, Inspection) and _is_convertible(each, inspection):
            found[each.url] = _planned(inspection, each.picture)
    return found


def converted(each: RequestInput, inspection: InspectionResult | None, held: LocalCopy) -> LocalCopy:
    """The file that is sent in place of a picture: itself if it is as the provider takes it. Blocks.

    Args:
        each: the input.
        inspection: its inspection result.
        held: its bytes.

    Raises:
        Inconvertible: it does not decode, or cannot be made to fit.
        OSError: no process could be started.
    """
    if not isinstance(inspection, Inspection) or not _is_convertible(each, inspection):
        return held
    planned = _planned(inspection, each.picture)
    if isinstance(planned, Unusable):
        raise Inconvertible(planned.problem)
    if planned is inspection or planned.picture is None:
        return held
    limits = each.picture or _UNLIMITED
    target = Path(f"{held.path}.converted")
    options = {
        "target": str(target.absolute()),
        "size": [planned.picture.width, planned.picture.height],
        "max_bytes": limits.max_bytes,
        "min_side": limits.min_side,
        "formats": limits.formats,
    }
    failure = ""
    try:
        converters().ask("convert", held.path, DecodeLimits(pixels=MAX_PIXELS), options=options)
    except DecodingFailed as error:
        failure = str(error)
    if failure:
        raise Inconvertible(f"cannot be converted: {failure}")
    with target.open("rb") as file:
        return LocalCopy(target, target.stat().st_size, sha256_of(file))


def how_to_convert(each: RequestInput, inspection: Inspection) -> str:
    """What a refusal of a user's own picture says about its conversion; empty where that changes nothing.

    Args:
        each: the input.
        inspection: its inspection result.
    """
    if not _is_convertible(each, inspection) or (
        _planned(inspection, each.picture) is inspection and not _is_heic(inspection)
    ):
        return ""
    hint = "; convert_inputs=True converts it"
    return f"{hint}, which {_EXTRA}" if _lacks_heic(inspection) else hint


def _is_convertible(each: RequestInput, inspection: Inspection) -> bool:
    is_picture = inspection.picture is not None or _is_heic(inspection)
    return is_picture and is_own(each.url) and (each.picture is not None or each.media == "picture")


def _is_heic(inspection: Inspection) -> bool:
    return inspection.content is not None and inspection.content.name == "HEIC"


def _lacks_heic(inspection: Inspection) -> bool:
    return inspection.picture is None and _is_heic(inspection) and find_spec("pillow_heif") is None


def _planned(inspection: Inspection, documented: PictureLimits | None) -> Inspection | Unusable:
    """What the picture will be; the same inspection if it stays as it is."""
    if _lacks_heic(inspection):
        return Unusable(f"is HEIC, and converting it {_EXTRA}")
    picture, limits = inspection.picture, documented or _UNLIMITED
    if picture is None:
        return inspection
    width, height = (picture.height, picture.width) if picture.turned else (picture.width, picture.height)
    scale = _scale(width, height, limits)
    is_as_taken = (
        picture.format in limits.formats and picture.is_plain and scale == 1 and inspection.size <= limits.max_bytes
    )
    if is_as_taken:
        return inspection
    width, height = (max(round(side * scale), 1) for side in (width, height))
    written = next(each for each in (*limits.formats, *FORMATS) if each in FORMATS)
    return replace(inspection, size=min(inspection.size, limits.max_bytes), picture=Picture(written, width, height))


def _scale(width: int, height: int, limits: PictureLimits) -> float:
    """How much smaller, or larger, a picture must be; 1 where no scale fits it."""
    long, short = max(width, height), min(width, height)
    if long > limits.max_side:
        return limits.max_side / long if short * limits.max_side >= limits.min_side * long else 1.0
    if short < limits.min_side:
        return limits.min_side / short if long * limits.min_side <= limits.max_side * short else 1.0
    return 1.0

"""Preflight: what is documented about inputs is checked before anything is paid (docs/providers/, and the catalogs).

Only what a provider documents is a problem; everything else is left to the provider. Where it cannot be looked from
here, that is told, and the submission goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path

import av
import av.error
from PIL import Image

from prefect_genmedia.errors import FieldProblem, GenMediaError
from prefect_genmedia.inputs.reading import MAX_INPUT_BYTES, Held, Reading, is_own
from prefect_genmedia.jobs.media import media_seconds
from prefect_genmedia.providers.inputs import PictureLimits, RequestInput, is_public
from prefect_genmedia.providers.protocol import DurationSource

SAME_RATIO = 0.01
"""How far two aspect ratios may be apart and still count as the same: sizes are whole pixels."""

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter
_ORIENTATION = 0x0112

_NOT_MEASURED = "The recording cannot be measured from here, so its length is not checked"

Tell = Callable[[str], None]
"""Told what could not be checked, in one sentence."""


@dataclass(frozen=True)
class Picture:
    """What a picture's header says. Sizes in pixels.

    Parameters:
        format: its format, as Pillow names it.
        turned: whether it is shown turned by a quarter.
    """

    format: str
    width: int
    height: int
    turned: bool = False

    @property
    def ratios(self) -> tuple[float, ...]:
        """Its aspect ratios: as it is stored and as it is shown, since which of them a provider takes is not known."""
        ratio = self.width / self.height
        return (ratio, 1 / ratio) if self.turned else (ratio,)


@dataclass
class Findings:
    """What the look at all inputs of a request found.

    Parameters:
        problems: what is wrong with them.
        seconds: how long the recording plays that the result must be as long as; None where that is not known.
    """

    problems: list[FieldProblem] = field(default_factory=list)
    seconds: float | None = None


def picture_at(path: Path) -> Picture | None:
    """Read a picture's header; the rest of the file may be missing. None where it is no picture."""
    try:
        with Image.open(path) as picture:
            # Telephones write JPEG files with a preview behind the picture, which Pillow names MPO.
            kind = "JPEG" if picture.format == "MPO" else picture.format or ""
            turned = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
            return Picture(kind, picture.width, picture.height, turned)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def has_sound(path: Path) -> bool | None:
    """Whether there is sound in a file; None where it is no recording or video at all."""
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.audio)
    except (av.error.FFmpegError, ValueError):
        return None


def picture_problems(held: Held, limits: PictureLimits) -> list[str]:
    """In what a picture is not as documented, in words. Blocks; run it in a thread.

    Parameters:
        held: the picture's bytes, at hand.
        limits: what the provider documents.
    """
    problems = []
    if held.size > limits.max_bytes:
        problems.append(f"is larger than {limits.max_bytes / 1024**2:.1f} MB")
    picture = picture_at(held.path)
    if picture is None:
        return [*problems, f"is not a {' or '.join(limits.formats)} picture"]
    if picture.format not in limits.formats:
        problems.append(f"is {picture.format}, not {' or '.join(limits.formats)}")
    size = f"is {picture.width}×{picture.height} pixels"
    long, short = max(picture.width, picture.height), min(picture.width, picture.height)
    if long > limits.max_side:
        problems.append(f"{size}, more than {limits.max_side}×{limits.max_side}")
    if short < limits.min_side:
        problems.append(f"{size}: its short side must be {limits.min_side} or more")
    if long > short * limits.max_ratio:
        problems.append(f"{size}: its long side must not be more than {limits.max_ratio:g} times the short one")
    return problems


def check_pictures(inputs: Sequence[RequestInput], readings: Mapping[str, Reading], tell: Tell) -> list[FieldProblem]:
    """Check every picture whose limits are documented. Blocks; run it in a thread.

    Parameters:
        inputs: the request's files.
        readings: what was read of them, by URL.
        tell: told what could not be checked.
    """
    problems = []
    for each in inputs:
        held = readings.get(each.url)
        if each.picture is None or held is None:
            continue
        if isinstance(held, GenMediaError):
            if not is_own(each.url):
                tell(f"{each.field} cannot be looked at from here, so it is not checked: {held.message}")
        elif isinstance(held, Held):
            if is_public(each.url) and picture_at(held.path) is None:
                # It may be a page that only we are shown.
                tell(f"{each.field} cannot be looked at from here, so it is not checked: the URL gave no picture.")
                continue
            problems += [FieldProblem(each.field, problem) for problem in picture_problems(held, each.picture)]
            problems += _ratio_problems(each, held, inputs, readings)
    return problems


def check_recording(source: DurationSource, held: Reading | None, preflight: bool, tell: Tell) -> Findings:
    """Measure the recording that the result is as long as, and check what is documented about it.

    Parameters:
        source: the input, and what is documented about it.
        held: what came of reading it.
        preflight: whether anything is checked; it is measured in any case, since the result is compared with it.
        tell: told if it cannot be measured.
    """
    if isinstance(held, GenMediaError):
        if not is_own(source.url):
            tell(f"{_NOT_MEASURED}: {held.message}")
        return Findings()
    if not isinstance(held, Held):
        return Findings()
    if held.size > MAX_INPUT_BYTES:
        tell(f"{_NOT_MEASURED}: The file is larger than {MAX_INPUT_BYTES} bytes.")
        return Findings()
    sound = has_sound(held.path)
    seconds = media_seconds(held.path)
    if preflight and source.needs_sound and (sound is False or (sound is None and not is_public(source.url))):
        return Findings([FieldProblem(source.field, "has no sound in it")])
    if seconds is None:
        tell(f"{_NOT_MEASURED}: The file holds no sound or picture that plays.")
        return Findings()
    limit = source.below_seconds
    if preflight and limit is not None and seconds >= limit:
        problem = f"plays {seconds:.1f} s and must be shorter than {limit:.0f} s"
        return Findings([FieldProblem(source.field, problem)], seconds)
    return Findings(seconds=seconds)


def _ratio_problems(
    each: RequestInput, held: Held, inputs: Sequence[RequestInput], readings: Mapping[str, Reading]
) -> list[FieldProblem]:
    first = next((other for other in inputs if other.field == each.ratio_of), None)
    other = readings.get(first.url) if first is not None else None
    if first is None or not isinstance(other, Held):
        return []
    own, wanted = picture_at(held.path), picture_at(other.path)
    if own is None or wanted is None:
        return []
    if any(abs(log(one / two)) <= SAME_RATIO for one in own.ratios for two in wanted.ratios):
        return []
    sizes = f"{own.width}×{own.height} and {wanted.width}×{wanted.height}"
    return [FieldProblem(each.field, f"must have the same aspect ratio as {first.field}: they are {sizes}")]

"""Who is in a picture, and who of them speaks (TokenOps' page, "完整流程示例", for the default rule)."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia.errors import (
    CredentialsError,
    FieldProblem,
    GenMediaError,
    InvalidRequest,
    NoSubject,
    ProviderError,
    QuotaError,
)
from prefect_genmedia.providers.restoring import with_defaults

if TYPE_CHECKING:
    from PIL import Image

Subject = str | int | tuple[float, float]
"""`auto`, `largest`, `leftmost`, `rightmost`, `all`, `none`, an index from 0 (the largest), or a point."""

OnFailure = Literal["fail", "continue"]
"""What happens if the call that detects subjects fails."""
NOBODY = "none"
"""No mask is sent, and nobody is detected: the provider finds who speaks."""

_WORDS = ("auto", "largest", "leftmost", "rightmost", "all", NOBODY)
ASK = "ask"
"""Leaves the choice to a person in the UI; a flow resolves it to a point before anything is selected."""
_WHITE = 128

ReadMask = Callable[[str], Awaitable[bytes]]
"""Fetches a mask picture by its URL."""


class Detection(BaseModel):
    """Who is in a picture: one mask for each subject, the largest area first; the URLs live for 1 hour."""

    model_config = ConfigDict(frozen=True)

    found: bool = Field(description="Whether the picture contains a subject.")
    mask_urls: tuple[str, ...] = Field(default=(), description="One mask picture a subject, at most 5, largest first.")
    request_id: str = Field(default="", description="The provider's id of this call.")
    failure: str = Field(default="", description="Why nothing is known: the call failed, and masks are left out.")

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled detection, also one of an earlier version."""
        super().__setstate__(with_defaults(type(self), state))


class Recognition(BaseModel):
    """Whether a picture contains a person, or something like one."""

    model_config = ConfigDict(frozen=True)

    found: bool = Field(description="Whether the picture contains a person or a humanlike subject.")
    task_id: str = Field(default="", description="The provider's id of the recognition task.")
    request_id: str = Field(default="", description="The provider's id of this call.")


class SubjectSelection(BaseModel):
    """The masks to send, and the user's own words for whom they show."""

    model_config = ConfigDict(frozen=True)

    subject: str = Field(description="What the user asked for, such as `largest`, `1` or `640,360`.")
    mask_urls: tuple[str, ...] = Field(description="The masks to send; none where everybody in the picture speaks.")


@dataclass(frozen=True)
class _Mask:
    """What a choice needs to know of a mask; its picture is not kept.

    Args:
        url: where it is.
        center: middle of the white area, from 0 at the left edge to 1 at the right.
        is_white: whether the point that was asked for is white.
    """

    url: str
    center: float = 0.5
    is_white: bool = False


def parse_subject(subject: Subject) -> Subject:
    """Read what a person wrote: a word, an index, or a point as `x,y`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(subject, bool):
        raise _not_understood(subject)
    if isinstance(subject, int):
        return subject
    if not isinstance(subject, str):
        if not isinstance(subject, Sequence):
            raise _not_understood(subject)
        return _point(subject)
    text = subject.strip().lower()
    if text in _WORDS:
        return text
    if text.isdecimal():
        return int(text)
    if "," in text:
        return _point(text.split(","))
    raise _not_understood(subject)


def subject_beside(mask_urls: Sequence[str], subject: str) -> str:
    """The subject of a request that may have masks of the user's own: none beside masks.

    Args:
        mask_urls: the user's own masks.
        subject: whom the user names.

    Raises:
        InvalidRequest: masks are given, and somebody is named besides.
    """
    if not mask_urls:
        return subject
    if subject not in ("auto", NOBODY, ""):
        problem = FieldProblem("subject", "give mask_urls or a subject, not both")
        raise InvalidRequest.of("OmniHumanVideo request", [problem])
    return ""


def is_failed_call(error: GenMediaError) -> bool:
    """Whether an error of the detection says nothing about the picture, the request or the account.

    Args:
        error: the error.
    """
    return not isinstance(error, InvalidRequest | NoSubject | CredentialsError | QuotaError)


async def select_masks(detection: Detection, subject: Subject, read: ReadMask) -> SubjectSelection:
    """Pick the masks that stand for `subject`.

    Args:
        detection: what was detected; masks stand with the largest area first.
        subject: whom to let speak.
        read: fetches a mask; called only where a choice needs the pictures.

    Raises:
        NoSubject: nobody was detected, or nobody is where the choice points to. Not if the detection failed and the
            user goes on without it: no mask is sent then.
        InvalidRequest: `subject` is not understood.
    """
    try:
        wanted = parse_subject(subject)
    except ValueError as error:
        raise InvalidRequest.of("The choice of subject", [FieldProblem("subject", str(error))]) from None
    urls = detection.mask_urls
    if detection.failure or wanted == NOBODY:
        return SubjectSelection(subject=_words(wanted), mask_urls=())
    if not detection.found:
        raise NoSubject("No person was detected in the picture.")
    if wanted == "auto":
        # The provider's own example: a single subject needs no mask, of several the first (largest) one speaks.
        chosen: Sequence[str] = urls[:1] if len(urls) > 1 else ()
    elif not urls:
        raise NoSubject("A person was detected in the picture, but no mask was given to choose by.")
    elif wanted == "largest":
        chosen = urls[:1]
    elif wanted == "all":
        chosen = urls
    elif isinstance(wanted, int):
        chosen = _at_index(urls, wanted)
    else:
        chosen = [await _by_mask(urls, wanted, read)]
    return SubjectSelection(subject=_words(wanted), mask_urls=tuple(chosen))


def _at_index(urls: Sequence[str], index: int) -> Sequence[str]:
    if not 0 <= index < len(urls):
        raise NoSubject(
            f"There is no subject number {index}: {len(urls)} detected, counted from 0 with the largest first."
        )
    return urls[index : index + 1]


async def _by_mask(urls: Sequence[str], wanted: Subject, read: ReadMask) -> str:
    masks = []
    for url in urls:  # one after the other: only one of them is in memory
        content = await read(url)
        masks.append(await to_thread.run_sync(_measured, url, content, wanted))
    if wanted == "leftmost":
        return min(masks, key=lambda mask: mask.center).url
    if wanted == "rightmost":
        return max(masks, key=lambda mask: mask.center).url
    # Of overlapping subjects the smaller one is meant: it stands in front.
    found = [mask for mask in masks if mask.is_white]
    if not found:
        raise NoSubject(f"None of the {len(masks)} detected subjects is at {_words(wanted)}.")
    return found[-1].url


def _measured(url: str, content: bytes, wanted: Subject) -> _Mask:
    with opened_picture(content, "A mask") as picture:
        gray = picture.convert("L")
    if isinstance(wanted, tuple):
        return _Mask(url, is_white=_is_white(gray, *wanted))
    return _Mask(url, center=_center(gray))


def _is_white(mask: Image.Image, x: float, y: float) -> bool:
    """Whether the point is white; coordinates of 1 or less are shares of the width and height."""
    width, height = mask.size
    column, row = (
        (min(int(x * width), width - 1), min(int(y * height), height - 1)) if max(x, y) <= 1 else (int(x), int(y))
    )
    if not (0 <= column < width and 0 <= row < height):
        return False
    value = mask.getpixel((column, row))
    return isinstance(value, int | float) and value >= _WHITE


def _center(mask: Image.Image) -> float:
    """Middle of the white area, from 0 at the left edge to 1 at the right."""
    from PIL import Image

    columns = mask.point(lambda value: 255 if value >= _WHITE else 0)
    weights = list(columns.resize((columns.width, 1), Image.Resampling.BOX).tobytes())
    total = sum(weights)
    if total == 0:
        return 0.5
    return sum(index * weight for index, weight in enumerate(weights)) / total / len(weights)


def _point(values: Sequence[object]) -> tuple[float, float]:
    try:
        x, y = (float(str(value)) for value in values)
    except ValueError:
        raise _not_understood(",".join(str(value) for value in values)) from None
    if not (0 <= x < float("inf") and 0 <= y < float("inf")):
        raise _not_understood(f"{x},{y}")
    return x, y


def _words(subject: Subject) -> str:
    return f"{subject[0]:g},{subject[1]:g}" if isinstance(subject, tuple) else str(subject)


def _not_understood(subject: object) -> ValueError:
    return ValueError(f"{subject!r} is not {', '.join(_WORDS)}, an index from 0, or a point such as 640,360 or 0.5,0.4")


_FORMATS = ("PNG", "JPEG", "WEBP")

MAX_PIXELS = 5000 * 5000
"""The largest picture that is decoded, in pixels; sides up to 4096 pixels are documented."""

_MAX_SCANS = 100
"""The most scans of a JPEG. Ten are usual; each one may take as long as the whole picture."""


def _header_of(content: bytes) -> Image.Image:
    """A picture of which only the header was read. `Image.open` warns of large ones on stderr, or refuses them unsaid.

    Raises:
        UnidentifiedImageError: it is in none of the formats.
    """
    from PIL import Image, UnidentifiedImageError  # here, since every import of the package loads this module

    Image.init()
    for kind in _FORMATS:
        factory, accepts = Image.OPEN[kind]
        if accepts is not None and accepts(content[:16]) is True:
            return factory(io.BytesIO(content), "")
    raise UnidentifiedImageError("it is no PNG, JPEG or WebP")


@contextmanager
def opened_picture(content: bytes, what: str) -> Iterator[Image.Image]:
    """Open a picture, whose header is checked before anything is decoded. Decoding blocks; run it in a thread.

    Args:
        content: the picture's bytes.
        what: the picture, as errors name it.

    Raises:
        ProviderError: it is no PNG, JPEG or WebP, or too large; also for what goes wrong inside of the block.
    """
    failure: ProviderError
    try:
        with _header_of(content) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}×{picture.height} pixels, more than {MAX_PIXELS} in all"
                failure = ProviderError(f"{what} has {size}.", retryable=False)
            elif picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > _MAX_SCANS:
                failure = ProviderError(f"{what} has more than {_MAX_SCANS} scans.", retryable=False)
            else:
                yield picture
                return
    except Exception as error:  # each format has errors of its own
        failure = ProviderError(f"{what} is not a picture that can be read: {str(error) or type(error).__name__}.")
    raise failure

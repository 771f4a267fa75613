"""What may be wrong with an intact result: black, still, silent or clipped, turned, flat at first, too long, no face.

Verification decides whether a file is what was paid for. These checks only report: they measure a sample of the frames
and the sound, in the same decoder process and under the same limits.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia._media.decoding import Decoding, DecodingFailed, pool
from prefect_genmedia._media.verify import decode_limits, seconds_tolerance
from prefect_genmedia.errors import FieldProblem, InvalidRequest, ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import MediaExpectation
from prefect_genmedia.providers.restoring import StoredModel

QualityCheck = Literal["black", "frozen", "silent", "clipped", "orientation", "flat_first_frame", "duration", "face"]
"""The name of a check."""

QualityMode = Literal["off", "report", "fail"]
"""What becomes of a finding."""

QUALITY_CHECKS: tuple[QualityCheck, ...] = get_args(QualityCheck)
"""Every check."""

DEFAULT_CHECKS: tuple[QualityCheck, ...] = tuple(check for check in QUALITY_CHECKS if check != "face")
"""The checks that need nothing to be installed."""

FACE_PICTURES = 6
"""How many pictures are searched for a face: an avatar that looks away or blinks does so in some of them."""

FACE_WIDTH = 640
"""Their width in pixels. The model finds faces from 24 pixels on."""


@dataclass(frozen=True)
class QualityThresholds:
    """From when on a measured value is reported. `docs/quality.md` has the reasons.

    Args:
        black_level: brightness (0 to 255, the strongest of red, green and blue) that 99 % of a black picture is below.
        black_contrast: difference of brightness up to which a dark picture, below twice that level, shows nothing.
        black_seconds: time in seconds that a part of a clip is black; or
        black_share: share of the clip, where that is shorter.
        still_seconds: time in seconds in which nothing moves; or
        still_share: share of the clip, where that is shorter.
        flat_contrast: difference of colour (0 to 255) up to which a frame shows nothing.
        heard_level: loudness (root mean square of 20 ms) from which sound is heard, as a share of full scale: -56 dB.
        clipped_share: share of the samples that are at the top of the wave, above 85 % of full scale.
        clipped_ratio: how many times more samples are there than below it. A pure tone has three times as many, music
            and speech have fewer.
        square: ratio of the sides up to which a picture is neither portrait nor landscape.
    """

    black_level: int = 12
    black_contrast: int = 6
    black_seconds: float = 2.0
    black_share: float = 1 / 3
    still_seconds: float = 4.0
    still_share: float = 0.4
    flat_contrast: int = 8
    heard_level: float = 0.0016
    clipped_share: float = 0.002
    clipped_ratio: float = 3.4
    square: float = 1.08


THRESHOLDS = QualityThresholds()


class QualityFinding(StoredModel):
    """One thing that is wrong with a result.

    Args:
        check: the check that found it.
        value: what was measured.
        limit: what it was compared with, in the same unit.
        message: both in words.
    """

    model_config = ConfigDict(frozen=True)

    check: QualityCheck
    value: float
    limit: float
    message: str

    def __str__(self) -> str:
        """The finding as one line."""
        return f"{self.check}: {self.message}"


class QualityReport(StoredModel):
    """What was checked about a result, and what was found.

    Args:
        checks: the checks that were made.
        findings: what is wrong; empty if nothing is.
    """

    model_config = ConfigDict(frozen=True)

    checks: tuple[QualityCheck, ...] = ()
    findings: tuple[QualityFinding, ...] = ()

    def covers(self, checks: Iterable[QualityCheck]) -> bool:
        """Whether each of these checks was made.

        Args:
            checks: their names.
        """
        return set(checks) <= set(self.checks)

    def of(self, checks: Collection[QualityCheck]) -> tuple[QualityFinding, ...]:
        """Returns the findings of these checks.

        Args:
            checks: their names.
        """
        return tuple(finding for finding in self.findings if finding.check in checks)


@dataclass(frozen=True)
class QualityPolicy:
    """What is checked about results, and whether a finding fails the run.

    Args:
        mode: `off` checks nothing, `report` stores and shows the findings, `fail` fails the run as well.
        checks: what is checked.
    """

    mode: QualityMode = "off"
    checks: tuple[QualityCheck, ...] = DEFAULT_CHECKS

    def checks_of(self, expected: MediaExpectation) -> tuple[QualityCheck, ...]:
        """Returns the checks of one result: faces are searched for only where the request makes one be seen.

        Args:
            expected: what is known of the result.
        """
        if self.mode == "off":
            return ()
        return tuple(check for check in self.checks if check != "face" or expected.shows_face)


NOT_CHECKED = QualityPolicy()


class QualitySample(BaseModel):
    """What a decoder process measured in a result. Times in seconds, sizes in pixels as shown, levels from 0 to 1."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    width: int
    height: int
    has_audio: bool
    audio_seconds: float
    black_seconds: float
    black_limit: float
    still_seconds: float
    still_limit: float
    flat_first_frame: bool
    first_contrast: int
    is_heard: bool
    loudness: float
    clipped_share: float
    clipped_ratio: float
    decoded_frames: int = Field(description="How many frames were decoded, of")
    frames: int
    faces: tuple[str, ...] = ()


def check_quality(
    path: Path,
    expected: MediaExpectation | None = None,
    checks: Sequence[QualityCheck] = DEFAULT_CHECKS,
    *,
    decoding: Decoding | None = None,
    thresholds: QualityThresholds = THRESHOLDS,
) -> QualityReport:
    """Check a verified mp4 or mov file, in a decoder process. Blocks; run it in a thread.

    Args:
        path: the file. It is opened as mp4 or mov and as nothing else, and opens no other file.
        expected: what is known of it.
        checks: what to check.
        decoding: lets another thread end it.
        thresholds: from when on a value is reported.

    Returns:
        The checks and their findings.

    Raises:
        InvalidRequest: the face check is asked for and its extra is not installed.
        ResultInvalid: it cannot be measured: it does not decode, or the decoder crashed or was ended.
        StorageError: no decoder process could be started; retryable.
    """
    expected, wanted = expected or MediaExpectation(), tuple(dict.fromkeys(checks))
    if not wanted:
        return QualityReport()
    require_checks(wanted)
    sample = measure(path, expected, with_faces="face" in wanted, decoding=decoding, thresholds=thresholds)
    return QualityReport(checks=wanted, findings=findings_of(sample, expected, wanted, thresholds))


def measure(
    path: Path,
    expected: MediaExpectation,
    *,
    with_faces: bool = False,
    decoding: Decoding | None = None,
    thresholds: QualityThresholds = THRESHOLDS,
) -> QualitySample:
    """Measure a file in a decoder process; see `check_quality`.

    Args:
        path: the file.
        expected: what is known of it; decides what decoding may take.
        with_faces: whether pictures are taken for the search for faces; the whole clip is decoded then.
        decoding: lets another thread end it.
        thresholds: what counts as black, still, flat and heard.
    """
    options = asdict(thresholds) | {"faces": FACE_PICTURES if with_faces else 0, "face_width": FACE_WIDTH}
    try:
        return QualitySample(**pool().ask("quality", path, decode_limits(expected), decoding, options))
    except DecodingFailed as error:
        reason = f"The quality of the file cannot be measured: {error}."
    except OSError as error:
        problem = f"No decoder process could be started to check the file: {type(error).__name__}."
        raise StorageError(problem) from None
    raise ResultInvalid(reason)


def findings_of(
    sample: QualitySample,
    expected: MediaExpectation,
    checks: Collection[QualityCheck] = DEFAULT_CHECKS,
    thresholds: QualityThresholds = THRESHOLDS,
) -> tuple[QualityFinding, ...]:
    """Returns what is wrong with a measured file.

    Args:
        sample: what was measured.
        expected: what is known of it.
        checks: what to check.
        thresholds: from when on a value is reported.
    """
    found = [*_of_picture(sample), *_of_sound(sample, expected, thresholds), *_of_duration(sample, expected)]
    found += _of_orientation(sample, expected, thresholds)
    if "face" in checks:
        found += _of_faces(sample)
    return tuple(finding for finding in found if finding.check in checks)


def _of_picture(sample: QualitySample) -> list[QualityFinding]:
    found: list[QualityFinding] = []
    if is_black := sample.black_seconds >= sample.black_limit:
        words = f"the picture is black for {sample.black_seconds:.1f} of {sample.seconds:.1f} s"
        found.append(_finding("black", sample.black_seconds, sample.black_limit, words))
    if sample.still_seconds >= sample.still_limit:
        words = f"nothing moves for {sample.still_seconds:.1f} of {sample.seconds:.1f} s"
        found.append(_finding("frozen", sample.still_seconds, sample.still_limit, words))
    if sample.flat_first_frame and not is_black:
        words = "the first frame is a single colour, and the picture does not fade in"
        found.append(_finding("flat_first_frame", sample.first_contrast, THRESHOLDS.flat_contrast, words))
    return found


def _of_sound(sample: QualitySample, expected: MediaExpectation, thresholds: QualityThresholds) -> list[QualityFinding]:
    if not sample.has_audio:
        if not expected.has_audio:
            return []
        return [_finding("silent", 0.0, thresholds.heard_level, "it has no sound track, and must have one")]
    if not sample.is_heard:
        decibels = f"{20 * math.log10(sample.loudness):.0f} dB at most" if sample.loudness else "digital silence"
        words = f"nothing is heard in its sound ({decibels})"
        return [_finding("silent", sample.loudness, thresholds.heard_level, words)]
    is_clipped = sample.clipped_ratio >= thresholds.clipped_ratio
    if not is_clipped or sample.clipped_share < thresholds.clipped_share:
        return []
    words = f"its sound is clipped: {sample.clipped_share:.2%} of the samples are where it is cut off"
    return [_finding("clipped", sample.clipped_share, thresholds.clipped_share, words)]


def _of_duration(sample: QualitySample, expected: MediaExpectation) -> list[QualityFinding]:
    asked = sample.seconds if expected.seconds is None else expected.seconds
    tolerance = seconds_tolerance(asked)
    if abs(drift := sample.seconds - asked) > tolerance:
        words = f"it plays {sample.seconds:.2f} s, not {asked:.2f} s"
        return [_finding("duration", abs(drift), tolerance, words)]
    if sample.has_audio and abs(drift := sample.audio_seconds - sample.seconds) > tolerance:
        words = f"its sound ends after {sample.audio_seconds:.2f} s, its picture after {sample.seconds:.2f} s"
        return [_finding("duration", abs(drift), tolerance, words)]
    return []


def _of_orientation(
    sample: QualitySample, expected: MediaExpectation, thresholds: QualityThresholds
) -> list[QualityFinding]:
    wanted = expected.aspect_ratio or expected.orientation_ratio
    ratio = sample.width / sample.height
    names = _orientation(wanted or 1.0, thresholds.square), _orientation(ratio, thresholds.square)
    if wanted is None or set(names) != {"portrait", "landscape"}:
        return []
    words = f"it is {names[1]} ({sample.width}×{sample.height}), not {names[0]}"
    return [_finding("orientation", ratio, wanted, words)]


def _orientation(ratio: float, square: float) -> str:
    return "landscape" if ratio > square else "portrait" if ratio < 1 / square else "square"


def _of_faces(sample: QualitySample) -> list[QualityFinding]:
    if not sample.faces:
        return []
    try:
        if any(_has_face(base64.b64decode(picture)) for picture in sample.faces):
            return []
    except Exception as error:  # OpenCV has an error class of its own
        reason = f"The search for faces failed: {type(error).__name__}."
    else:
        words = f"no face is found in {len(sample.faces)} pictures of it"
        return [_finding("face", 0, 1, words)]
    raise ResultInvalid(reason)


def _has_face(picture: bytes) -> bool:
    """Whether OpenCV finds a face that looks at the camera. The picture is a JPEG that the decoder process made."""
    cv2 = _opencv()
    numpy = __import__("numpy")  # OpenCV needs it
    grey = cv2.imdecode(numpy.frombuffer(picture, numpy.uint8), cv2.IMREAD_GRAYSCALE)
    smallest = max(min(grey.shape) // 12, 24)
    names = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml", "haarcascade_profileface.xml")
    models = (cv2.CascadeClassifier(f"{cv2.data.haarcascades}{name}") for name in names)
    return any(len(model.detectMultiScale(grey, 1.1, 5, minSize=(smallest, smallest))) for model in models)


def require_checks(checks: Collection[QualityCheck]) -> None:
    """Check that what is to be checked is known and installed, before anything is paid.

    Args:
        checks: their names.

    Raises:
        InvalidRequest: an unknown check, or one whose extra is not installed.
    """
    unknown = [check for check in checks if check not in QUALITY_CHECKS]
    if unknown:
        problem = f"has no check {unknown[0]!r}: {', '.join(QUALITY_CHECKS)}"
        raise InvalidRequest.of("The run", [FieldProblem("quality_checks", problem)])
    if "face" in checks:
        _opencv()


def _opencv() -> ModuleType:
    try:
        import cv2

        found: Any = cv2
        found.CascadeClassifier, found.data.haarcascades  # noqa: B018 - OpenCV 5 has neither
    except (ImportError, AttributeError):
        problem = "the check `face` needs OpenCV 4: pip install 'prefect-genmedia[faces]'"
        refusal = InvalidRequest.of("The run", [FieldProblem("quality_checks", problem)])
    else:
        return found  # type: ignore[no-any-return]
    raise refusal


def _finding(check: QualityCheck, value: float, limit: float, message: str) -> QualityFinding:
    return QualityFinding(check=check, value=round(value, 4), limit=round(limit, 4), message=message)

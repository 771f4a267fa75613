"""Preflight: what is documented about inputs is checked before anything is paid (docs/providers/, and the catalogs).

Only what a provider documents is a problem; everything else is left to the provider. What cannot
be inspected from here is logged, and the submission goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import log

from prefect_genmedia._inputs.content import WANTED
from prefect_genmedia._inputs.convert import how_to_convert
from prefect_genmedia._inputs.inspect import Inspection, InspectionResult, Picture
from prefect_genmedia._inputs.publish import HOW_TO_PUBLISH, Publication
from prefect_genmedia._inputs.reading import MAX_INPUT_BYTES, Unusable, is_own
from prefect_genmedia.errors import FieldProblem, GenMediaError
from prefect_genmedia.providers.inputs import PictureLimits, RequestInput, is_public
from prefect_genmedia.providers.protocol import DurationSource, GenerationRequest

MAX_INLINE_BYTES = 20 * 1024**2
"""The largest file that travels inside of a request, in bytes: a slow line must send it, a third larger as base64, well
within the time that a submission may take, or nobody can know whether it was paid."""

SAME_RATIO = 0.01
"""How far two aspect ratios may be apart and still count as the same: sizes are whole pixels."""

ADDED_SECONDS = 0.2
"""How much encoders add to a recording at most, in seconds: priming before the sound, padding behind it."""

_NOT_MEASURED = "The recording cannot be measured from here, so its length is not checked"

Warn = Callable[[str], None]
"""Told what could not be checked, in one sentence."""


@dataclass
class Findings:
    """The result of checking all inputs of a request.

    Args:
        problems: what is wrong with them.
        seconds: how long the recording plays that the result must be as long as; None where that is not known.
    """

    problems: list[FieldProblem] = field(default_factory=list)
    seconds: float | None = None


def validate_inputs(
    request: GenerationRequest,
    results: Mapping[str, InspectionResult],
    publication: Publication,
    preflight: bool,
    warn: Warn,
) -> Findings:
    """What is wrong with a request's inputs: with each of them, and with how they can travel.

    Args:
        request: what is asked for.
        results: the inspection results of its inputs, by URL.
        publication: where own files are published.
        preflight: whether documented limits are checked.
        warn: called with each thing that cannot be checked from here.
    """
    inputs, source = request.inputs(), request.duration_source()
    problems = _unusable(inputs, results)
    if preflight:
        problems += check_pictures(inputs, results, warn)
    recording = Findings()
    if source is not None:
        recording = check_recording(source, results.get(source.url), preflight, warn)
    problems += recording.problems
    if preflight:
        problems += check_media(inputs, results, {each.field for each in problems})
        check_presence(request, results, warn)
    own = {each.url: each for each in inputs if is_own(each.url)}
    if own and not publication.url and not travels_inline(inputs, results):
        problems += [FieldProblem(each.field, _cannot_travel(inputs, each)) for each in own.values()]
    return Findings(problems, recording.seconds)


def travels_inline(inputs: Sequence[RequestInput], results: Mapping[str, InspectionResult]) -> bool:
    """Whether the user's own files travel inside of the request: all of them, or none.

    Providers take the pictures of one request as URLs or as base64, not both.

    Args:
        inputs: the request's files.
        results: their inspection results, by URL.
    """
    own = [results.get(each.url) for each in inputs if is_own(each.url)]
    fits = all(not isinstance(each, Inspection) or each.size <= MAX_INLINE_BYTES for each in own)
    return bool(own) and fits and _may_be_inline(inputs)


def picture_problems(inspection: Inspection, limits: PictureLimits) -> list[str]:
    """In what a picture is not as documented, in words.

    Args:
        inspection: its inspection result.
        limits: what the provider documents.
    """
    problems = []
    if inspection.size > limits.max_bytes:
        problems.append(f"is larger than {limits.max_bytes / 1024**2:.1f} MB")
    picture = inspection.picture
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


def check_pictures(
    inputs: Sequence[RequestInput], results: Mapping[str, InspectionResult], warn: Warn
) -> list[FieldProblem]:
    """Check every picture whose limits are documented.

    Args:
        inputs: the request's files.
        results: their inspection results, by URL.
        warn: called with each thing that cannot be checked from here.
    """
    problems = []
    for each in inputs:
        inspection = results.get(each.url)
        if each.picture is None or inspection is None:
            continue
        if isinstance(inspection, GenMediaError):
            if not is_own(each.url):
                warn(f"{each.field} cannot be inspected from here, so it is not checked: {inspection.message}")
        elif isinstance(inspection, Inspection):
            if is_public(each.url) and inspection.picture is None:
                # It may be a page that only we are shown.
                warn(f"{each.field} cannot be inspected from here, so it is not checked: the URL gave no picture.")
                continue
            found = picture_problems(inspection, each.picture)
            if found:
                found[0] += how_to_convert(each, inspection)
            problems += [FieldProblem(each.field, problem) for problem in found]
            problems += _ratio_problems(each, inspection.picture, inputs, results)
    return problems


def check_recording(
    source: DurationSource, inspection: InspectionResult | None, preflight: bool, warn: Warn
) -> Findings:
    """Check what is documented about the recording that the result is as long as.

    Args:
        source: the input, and what is documented about it.
        inspection: its inspection result.
        preflight: whether anything is checked; it is measured in any case, since the result is compared with it.
        warn: called if it cannot be measured.
    """
    if isinstance(inspection, GenMediaError):
        if not is_own(source.url):
            warn(f"{_NOT_MEASURED}: {inspection.message}")
        return Findings()
    if not isinstance(inspection, Inspection):
        return Findings()
    if inspection.size > MAX_INPUT_BYTES:
        warn(f"{_NOT_MEASURED}: The file is larger than {MAX_INPUT_BYTES} bytes.")
        return Findings()
    is_silent = inspection.sound is False or (inspection.sound is None and not is_public(source.url))
    if preflight and source.needs_sound and is_silent:
        return Findings([FieldProblem(source.field, "has no sound in it")])
    if inspection.seconds is None:
        warn(f"{_NOT_MEASURED}: The file holds no sound or picture that plays.")
        return Findings()
    if preflight and inspection.is_silent:
        warn(f"{source.field} is silent: its sound has no audible sample.")
    return Findings(_too_long(source, inspection, inspection.seconds, warn) if preflight else [], inspection.seconds)


def _too_long(source: DurationSource, inspection: Inspection, seconds: float, warn: Warn) -> list[FieldProblem]:
    """Compare a recording with the documented limit; the provider decides where the encoder's part matters."""
    limit = source.below_seconds
    if limit is None or seconds < limit:
        return []
    if not inspection.is_exact and seconds < limit + ADDED_SECONDS:
        warn(
            f"{source.field} plays {seconds:.2f} s with what its encoder added: whether it is shorter than "
            f"{limit:.0f} s is for the provider to decide."
        )
        return []
    return [FieldProblem(source.field, f"plays {seconds:.1f} s and must be shorter than {limit:.0f} s")]


def check_media(
    inputs: Sequence[RequestInput], results: Mapping[str, InspectionResult], found: Set[str]
) -> list[FieldProblem]:
    """Check that each local file is of the kind that its field takes.

    Args:
        inputs: the request's files.
        results: their inspection results, by URL.
        found: fields in which something is wrong already: one sentence about a file is enough.
    """
    problems = []
    for each in inputs:
        inspection = results.get(each.url)
        content = inspection.content if isinstance(inspection, Inspection) else None
        if each.media is None or content is None or each.field in found or content.suits(each.media):
            continue
        problems.append(FieldProblem(each.field, f"is {content.name}, and must be {WANTED[each.media]}"))
    return problems


def check_presence(request: GenerationRequest, results: Mapping[str, InspectionResult], warn: Warn) -> None:
    """Tell of http(s) inputs that were only asked for, and did not answer as a file does.

    Args:
        request: what is asked for.
        results: the inspection results of its inputs, by URL.
        warn: called with a sentence for each.
    """
    source = request.duration_source()
    for each in request.inputs():
        answer = results.get(each.url)
        was_read = each.picture is not None or (source is not None and source.url == each.url)
        if is_public(each.url) and not was_read and isinstance(answer, GenMediaError):
            warn(f"{each.field} cannot be fetched from here, and may be out of the provider's reach: {answer.message}")


def _unusable(inputs: Sequence[RequestInput], results: Mapping[str, InspectionResult]) -> list[FieldProblem]:
    inspections = ((each.field, results.get(each.url)) for each in inputs)
    return [
        FieldProblem(field, inspection.problem) for field, inspection in inspections if isinstance(inspection, Unusable)
    ]


def _may_be_inline(inputs: Sequence[RequestInput]) -> bool:
    return all(each.inline and (is_own(each.url) or each.url.startswith("data:")) for each in inputs)


def _cannot_travel(inputs: Sequence[RequestInput], each: RequestInput) -> str:
    if not each.inline:
        return f"cannot be fetched by the provider from where it is: {HOW_TO_PUBLISH}"
    if not _may_be_inline(inputs):
        return f"cannot travel as base64 beside an http(s) URL: {HOW_TO_PUBLISH}"
    return f"is larger than {MAX_INLINE_BYTES / 1024**2:.0f} MiB, too much for base64: {HOW_TO_PUBLISH}"


def _ratio_problems(
    each: RequestInput, own: Picture | None, inputs: Sequence[RequestInput], results: Mapping[str, InspectionResult]
) -> list[FieldProblem]:
    first = next((other for other in inputs if other.field == each.ratio_of), None)
    other = results.get(first.url) if first is not None else None
    wanted = other.picture if isinstance(other, Inspection) else None
    if first is None or own is None or wanted is None:
        return []
    if any(abs(log(one / two)) <= SAME_RATIO for one in own.ratios for two in wanted.ratios):
        return []
    sizes = f"{own.width}×{own.height} and {wanted.width}×{wanted.height}"
    return [FieldProblem(each.field, f"must have the same aspect ratio as {first.field}: they are {sizes}")]

"""Preparing a request: its inputs are looked at, and brought to where the provider can take them."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import anyio
from anyio import to_thread

from prefect_genmedia._inputs.convert import Inconvertible, after_conversion, converted
from prefect_genmedia._inputs.inspect import (
    InspectionResult,
    Wanted,
    contents_of,
    inspect_all,
    inspect_reading,
    inspections_wanted,
    urls_with_credentials,
)
from prefect_genmedia._inputs.presence import Sleep, ask, asked_inputs, confirm_gone
from prefect_genmedia._inputs.publish import NotPublishable, Publication, early_end, media_type_of
from prefect_genmedia._inputs.reading import MAX_INPUT_BYTES, LocalCopy, Reading, Unusable, is_own, read_all
from prefect_genmedia._inputs.validate import Warn, travels_inline, validate_inputs
from prefect_genmedia._media.staging import temporary_folder
from prefect_genmedia._media.verify import media_seconds
from prefect_genmedia._transport import MASK, FetchRules, Redactor
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, ProviderError
from prefect_genmedia.providers.inputs import RequestInput, SentInput, SentInputs, input_url
from prefect_genmedia.providers.protocol import GenerationRequest, MediaExpectation, PreparedRequest, Request

PREPARED_SECONDS = 3600.0
"""How long what was prepared is taken as it is: its signed URLs must outlive the job's wait at the provider."""

PUBLISH_SECONDS = 600.0
"""How long publishing one file may take, in seconds; after that the storage is given up."""

_logger = logging.getLogger(__name__)


async def no_problems() -> list[FieldProblem]:
    """Find nothing."""
    return []


@dataclass(frozen=True)
class Submission:
    """What is known about the submission that a request is prepared for.

    Args:
        is_due: whether the request will be sent; if not, it joins a job that the ledger has. It is given the request as
            its identity needs it.
        problems: finds what else is wrong with the submission, such as its output.
        sleep: waits before an input is asked for again.
    """

    is_due: Callable[[PreparedRequest[Any]], Awaitable[bool]]
    problems: Callable[[], Awaitable[list[FieldProblem]]] = no_problems
    sleep: Sleep = asyncio.sleep


async def prepare_inputs(
    request: Request,
    rules: FetchRules,
    publication: Publication,
    *,
    preflight: bool = True,
    convert: bool = False,
    before: Mapping[str, InspectionResult] | None = None,
    warn: Warn = _logger.warning,
    submission: Submission | None = None,
) -> PreparedRequest[Request]:
    """Look at a request's inputs and bring the user's own files to where the provider can take them.

    http(s) inputs stay as they are. A user's own file (a path, or an fsspec URL) travels as base64 where the provider
    documents that, or else behind a signed URL. Each input is read at most once.

    Args:
        request: what is asked for.
        rules: what a fetch of an http(s) input may do.
        publication: where own files are published.
        preflight: whether documented limits are checked, and whether http(s) inputs are there.
        convert: whether the user's own pictures are converted to what the provider takes; see `_inputs.convert`.
        before: what was seen of its inputs in an earlier look, by URL, of which everything was told then: nothing of it
            is fetched again. The user's own files are read, to be sent, and looked at where their bytes have changed.
        warn: called with each thing that cannot be checked from here.
        submission: what the request is prepared for. None if that is not known: then http(s) inputs of which nothing
            is documented are not asked for.

    Returns:
        The prepared request. If it joins a job, nothing is checked or published, and `prepared_at` is None.

    Raises:
        InvalidRequest: with every problem of every input; nothing was sent.
        ProviderError: a storage failed; retryable, nothing was sent.
    """
    inputs = request.inputs()
    wanted, results = inspections_wanted(request, preflight, convert), dict(before or {})
    own = {each.url: each for each in inputs if is_own(each.url)}
    identifying = [*own, *(url for url in urls_with_credentials(request) if url not in results)]
    with temporary_folder() if inputs else nullcontext(Path()) as folder:
        readings = await read_all({url: wanted[url].max_bytes for url in identifying}, rules, folder)
        held = {url: each for url, each in readings.items() if isinstance(each, LocalCopy)}
        if submission is not None and held.keys() >= own.keys():
            named = PreparedRequest(request, _digests(request, held, results))
            if not await submission.is_due(named):
                return named
        unread = {url: want for url, want in wanted.items() if url in own or url not in results}
        limits = {url: want.max_bytes for url, want in unread.items() if url not in readings}
        readings |= await read_all(limits, rules, folder)
        if unread:
            results |= await to_thread.run_sync(inspect_all, readings, unread, results)
        others: list[FieldProblem] = []
        if submission is not None:
            others = await submission.problems()
            if preflight and not before:  # else all of them were asked then
                results |= await _presence(request, results, rules, submission.sleep)
        will_be = after_conversion(inputs, results) if convert else results
        findings = validate_inputs(request, will_be, publication, preflight, _logger.debug if before else warn)
        _raise_for(request, [*others, *findings.problems], readings, own)
        files = {url: each for url, each in readings.items() if url in own and isinstance(each, LocalCopy)}
        if convert:
            files = await to_thread.run_sync(_converted, request, results, files)
        sent = await _sent(request, files, publication, travels_inline(inputs, will_be))
        digests = {url: each.sha256 for url, each in readings.items() if isinstance(each, LocalCopy)}
        sent = {url: replace(each, sha256=digests[url]) for url, each in sent.items()}  # the original's
        for warning in (early_end(each.url, publication) for each in sent.values() if each.url):
            if warning:
                warn(warning)
    found = MediaExpectation(seconds=findings.seconds)
    return PreparedRequest(request, SentInputs(sent, contents_of(request, results)), found, time.time())


async def _presence(
    request: GenerationRequest, results: Mapping[str, InspectionResult], rules: FetchRules, sleep: Sleep
) -> dict[str, InspectionResult]:
    """What http(s) inputs answer that were not read, and which of all are gone."""
    urls = asked_inputs(request)
    unasked = [url for url in dict.fromkeys(urls) if url not in results]
    answers = dict(zip(unasked, await asyncio.gather(*(ask(url, rules) for url in unasked)), strict=True))
    return answers | await confirm_gone(urls, {**results, **answers}, lambda url: rules, sleep)


def _digests(
    request: GenerationRequest, held: Mapping[str, LocalCopy], results: Mapping[str, InspectionResult]
) -> SentInputs:
    """What the request's identity needs of its inputs."""
    own = {url: SentInput(each.sha256) for url, each in held.items() if is_own(url)}
    read = {url: each.sha256 for url, each in held.items() if not is_own(url) and each.size <= MAX_INPUT_BYTES}
    return SentInputs(own, tuple((dict(contents_of(request, results)) | read).items()))


def is_fresh(prepared: PreparedRequest[Request]) -> bool:
    """Whether a request was prepared so recently that its signed URLs outlive the job's wait at the provider.

    Args:
        prepared: a request, prepared or not.
    """
    return prepared.prepared_at is not None and 0 <= time.time() - prepared.prepared_at < PREPARED_SECONDS


async def identified(request: Request, rules: FetchRules) -> PreparedRequest[Request]:
    """The request as its identity needs it, for whoever looks a job up without submitting: own files by their bytes.

    Nothing is checked, published or encoded. Files that cannot be read now keep their names in the identity. Of http(s)
    files, only those are read whose URL holds a credential.

    Args:
        request: what is asked for.
        rules: what a fetch may do.
    """
    limits = {each.url: MAX_INPUT_BYTES for each in request.inputs() if is_own(each.url)}
    limits |= dict.fromkeys(urls_with_credentials(request), MAX_INPUT_BYTES + 1)
    with temporary_folder() as folder:
        readings = await read_all(limits, rules, folder)
    held = {url: reading for url, reading in readings.items() if isinstance(reading, LocalCopy)}
    return PreparedRequest(request, _digests(request, held, {}))


async def measured(url: str, rules: FetchRules) -> float | None:
    """How long a recording or video plays, in seconds; None where it cannot be read from here, or nothing in it plays.

    Args:
        url: where the user has it.
        rules: what a fetch may do.
    """
    with temporary_folder() as folder:
        (reading,) = (await read_all({url: MAX_INPUT_BYTES + 1}, rules, folder)).values()
        if not isinstance(reading, LocalCopy) or reading.size > MAX_INPUT_BYTES:
            return None
        return await to_thread.run_sync(media_seconds, reading.path)


async def prepared_url(url: str, field: str, rules: FetchRules, publication: Publication, convert: bool = False) -> str:
    """The URL that a provider is given for one input: itself if it is http(s), or else a signed one.

    Args:
        url: where the user has it.
        field: what errors call it.
        rules: what a fetch may do.
        publication: where own files are published.
        convert: whether a picture of the user's own is converted, see `_inputs.convert`.

    Raises:
        InvalidRequest: it is not there, or cannot be converted or published.
        ProviderError: a storage failed; retryable.
    """
    try:
        url = input_url(url)
    except ValueError as error:
        raise InvalidRequest.of("The input", [FieldProblem(field, str(error))]) from None
    if not is_own(url):
        return url
    with temporary_folder() as folder:
        (reading,) = (await read_all({url: MAX_INPUT_BYTES}, rules, folder)).values()
        if isinstance(reading, GenMediaError):
            raise reading
        if isinstance(reading, Unusable):
            raise InvalidRequest.of("The input", [FieldProblem(field, reading.problem)])
        try:
            if convert:
                reading = await to_thread.run_sync(_converted_picture, url, reading)
            return await _published(publication, reading, url)
        except (NotPublishable, Inconvertible) as error:
            problem = FieldProblem(field, str(error))
    raise InvalidRequest.of("The input", [problem])


def _converted_picture(url: str, held: LocalCopy) -> LocalCopy:
    """A file, converted if it is a picture. No limits of it are known here."""
    inspection = inspect_reading(held, Wanted(MAX_INPUT_BYTES, as_picture=True, as_media=True))
    return converted(RequestInput("", url, media="picture"), inspection, held)


def _raise_for(
    request: GenerationRequest,
    problems: Sequence[FieldProblem],
    readings: Mapping[str, Reading],
    own: Mapping[str, RequestInput],
) -> None:
    if problems:
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    for url in own:
        reading = readings[url]
        if isinstance(reading, GenMediaError):
            raise reading


def _converted(
    request: GenerationRequest, results: Mapping[str, InspectionResult], held: Mapping[str, LocalCopy]
) -> dict[str, LocalCopy]:
    """The files that are sent in place of the user's own; one that is in several fields must suit the first."""
    files, problems = dict(held), []
    for each in {each.url: each for each in reversed(request.inputs()) if each.url in held}.values():
        try:
            files[each.url] = converted(each, results.get(each.url), held[each.url])
        except Inconvertible as error:
            problems.append(FieldProblem(each.field, str(error)))
    if problems:
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    return files


async def _sent(
    request: GenerationRequest, held: Mapping[str, LocalCopy], publication: Publication, inline: bool
) -> dict[str, SentInput]:
    """How files are sent, by the URL that the user gave."""
    fields = {each.url: each.field for each in request.inputs()}
    if inline:
        return {url: await to_thread.run_sync(_inline, each, url) for url, each in held.items()}
    by_digest = {each.sha256: (each, url) for url, each in held.items()}
    outcomes = await asyncio.gather(
        *(_published(publication, each, url) for each, url in by_digest.values()),
        return_exceptions=True,
    )
    published = dict(zip(by_digest, outcomes, strict=True))
    problems, sent = [], {}
    for url, each in held.items():
        outcome = published[each.sha256]
        if isinstance(outcome, str):
            sent[url] = SentInput(each.sha256, url=outcome)
        elif isinstance(outcome, NotPublishable):
            problems.append(FieldProblem(fields[url], str(outcome)))
    if problems:
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return sent


async def _published(publication: Publication, held: LocalCopy, name: str) -> str:
    with anyio.move_on_after(PUBLISH_SECONDS):
        # A storage that hangs keeps its thread; a file is published whole or not at all.
        return await to_thread.run_sync(publication.publish, held, name, abandon_on_cancel=True)
    raise ProviderError(f"Publishing an input took longer than {PUBLISH_SECONDS:.0f} s.", outcome="unsent")


def _inline(held: LocalCopy, url: str) -> SentInput:
    text = base64.b64encode(held.path.read_bytes()).decode()
    return SentInput(held.sha256, base64=text, media_type=media_type_of(held.path, url))


_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{100,}={0,2}")
"""An answer may cut what it repeats, so that no exact comparison finds it. No word of a language is as long."""
_SHORTEST_SECRET = 16
"""Characters: shorter values in a signed URL are dates and numbers."""


def without_inputs(error: GenMediaError, inputs: SentInputs) -> GenMediaError:
    """The error without the base64 text and the signed URLs that were sent. Errors go into ledgers and logs.

    Args:
        error: what the submission ended with.
        inputs: what was sent in place of the user's own files.
    """
    queries = [urlsplit(sent.url).query for sent in inputs.by_url.values() if sent.url]
    values = [value for query in queries for _, value in parse_qsl(query) if len(value) >= _SHORTEST_SECRET]
    redactor = Redactor([*queries, *values, *map(quote, values)])

    def clean(text: str) -> str:
        return _BASE64_RUN.sub(MASK, redactor.clean(text))

    error.message = clean(error.message)
    error.args = (error.message,)
    error.body = clean(error.body) if error.body is not None else None
    return error

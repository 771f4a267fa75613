"""Preparing a request: its inputs are looked at, and brought to where the provider can take them."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlsplit

import anyio
from anyio import to_thread

from prefect_genmedia._inputs.inspect import Seen, contents_of, looks_wanted, seen_in_all, urls_with_credentials
from prefect_genmedia._inputs.publish import NotPublishable, Publication, media_type_of
from prefect_genmedia._inputs.reading import MAX_INPUT_BYTES, Held, Reading, Unusable, is_own, read_all
from prefect_genmedia._inputs.validate import Tell, judged, travels_inline
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


async def prepare_inputs(
    request: Request,
    rules: FetchRules,
    publication: Publication,
    *,
    preflight: bool = True,
    before: Mapping[str, Seen] | None = None,
    tell: Tell = _logger.warning,
) -> PreparedRequest[Request]:
    """Look at a request's inputs and bring the user's own files to where the provider can take them.

    http(s) inputs stay as they are. A user's own file (a path, or an fsspec URL) travels as base64 where the provider
    documents that, or else behind a signed URL. Each input is read at most once.

    Parameters:
        request: what is asked for.
        rules: what a fetch of an http(s) input may do.
        publication: where own files are published.
        preflight: whether documented limits are checked.
        before: what was seen of its inputs in an earlier look, by URL, of which everything was told then: nothing of it
            is fetched again. The user's own files are read, to be sent, and looked at where their bytes have changed.
        tell: told what cannot be checked from here.

    Raises:
        InvalidRequest: with every problem of every input; nothing was sent.
        ProviderError: a storage failed; retryable, nothing was sent.
    """
    inputs = request.inputs()
    wanted, seen = looks_wanted(request, preflight), dict(before or {})
    if not inputs and not wanted:
        return PreparedRequest(request, prepared_at=time.time())
    unread = {url: want for url, want in wanted.items() if is_own(url) or url not in seen}
    with temporary_folder() as folder:
        limits = {url: want.max_bytes for url, want in unread.items()}
        readings = await read_all(limits, rules, folder)
        seen |= await to_thread.run_sync(seen_in_all, readings, unread, seen)
        findings = judged(request, seen, publication, preflight, _logger.debug if before else tell)
        own = {each.url: each for each in inputs if is_own(each.url)}
        _raise_for(request, findings.problems, readings, own)
        sent = await _sent(request, own, readings, publication, travels_inline(inputs, seen))
    found = MediaExpectation(seconds=findings.seconds)
    return PreparedRequest(request, SentInputs(sent, contents_of(request, seen)), found, time.time())


def is_fresh(prepared: PreparedRequest[Request]) -> bool:
    """Whether a request was prepared so recently that its signed URLs outlive the job's wait at the provider.

    Parameters:
        prepared: a request, prepared or not.
    """
    return prepared.prepared_at is not None and 0 <= time.time() - prepared.prepared_at < PREPARED_SECONDS


async def identified(request: Request, rules: FetchRules) -> PreparedRequest[Request]:
    """The request as its identity needs it, for whoever looks a job up without submitting: own files by their bytes.

    Nothing is checked, published or encoded. Files that cannot be read now keep their names in the identity. Of http(s)
    files, only those are read whose URL holds a credential.

    Parameters:
        request: what is asked for.
        rules: what a fetch may do.
    """
    limits = {each.url: MAX_INPUT_BYTES for each in request.inputs() if is_own(each.url)}
    limits |= dict.fromkeys(urls_with_credentials(request), MAX_INPUT_BYTES + 1)
    with temporary_folder() as folder:
        readings = await read_all(limits, rules, folder)
    held = {url: reading for url, reading in readings.items() if isinstance(reading, Held)}
    digests = {url: SentInput(each.sha256) for url, each in held.items() if is_own(url)}
    contents = {url: each.sha256 for url, each in held.items() if not is_own(url) and each.size <= MAX_INPUT_BYTES}
    return PreparedRequest(request, SentInputs(digests, tuple(contents.items())))


async def measured(url: str, rules: FetchRules) -> float | None:
    """How long a recording or video plays, in seconds; None where it cannot be read from here, or nothing in it plays.

    Parameters:
        url: where the user has it.
        rules: what a fetch may do.
    """
    with temporary_folder() as folder:
        (reading,) = (await read_all({url: MAX_INPUT_BYTES + 1}, rules, folder)).values()
        if not isinstance(reading, Held) or reading.size > MAX_INPUT_BYTES:
            return None
        return await to_thread.run_sync(media_seconds, reading.path)


async def prepared_url(url: str, field: str, rules: FetchRules, publication: Publication) -> str:
    """The URL that a provider is given for one input: itself if it is http(s), or else a signed one.

    Parameters:
        url: where the user has it.
        field: what errors call it.
        rules: what a fetch may do.
        publication: where own files are published.

    Raises:
        InvalidRequest: it is not there, or cannot be published.
        ProviderError: a storage failed; retryable.
    """
    try:
        input_url(url)
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
            return await _published(publication, reading, url)
        except NotPublishable as error:
            problem = FieldProblem(field, str(error))
    raise InvalidRequest.of("The input", [problem])


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


async def _sent(
    request: GenerationRequest,
    own: Mapping[str, RequestInput],
    readings: Mapping[str, Reading],
    publication: Publication,
    inline: bool,
) -> dict[str, SentInput]:
    held = {url: reading for url, reading in readings.items() if url in own and isinstance(reading, Held)}
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
            problems.append(FieldProblem(own[url].field, str(outcome)))
    if problems:
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return sent


async def _published(publication: Publication, held: Held, name: str) -> str:
    with anyio.move_on_after(PUBLISH_SECONDS):
        # A storage that hangs keeps its thread; a file is published whole or not at all.
        return await to_thread.run_sync(publication.publish, held, name, abandon_on_cancel=True)
    raise ProviderError(f"Publishing an input took longer than {PUBLISH_SECONDS:.0f} s.", outcome="unsent")


def _inline(held: Held, url: str) -> SentInput:
    text = base64.b64encode(held.path.read_bytes()).decode()
    return SentInput(held.sha256, base64=text, media_type=media_type_of(held.path, url))


_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{100,}={0,2}")
"""An answer may cut what it repeats, so that no exact comparison finds it. No word of a language is as long."""
_SHORTEST_SECRET = 16
"""Characters: shorter values in a signed URL are dates and numbers."""


def without_inputs(error: GenMediaError, inputs: SentInputs) -> GenMediaError:
    """The error without the base64 text and the signed URLs that were sent. Errors go into ledgers and logs.

    Parameters:
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

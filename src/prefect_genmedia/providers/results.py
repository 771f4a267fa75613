"""Opening a finished file, the same way for every provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from urllib.parse import urljoin

import httpx

from prefect_genmedia._transport import ApiClient, FetchRules, Redactor, body_of, excerpt, fetch, read_body
from prefect_genmedia._transport.bodies import MAX_ANSWER_BYTES
from prefect_genmedia.errors import GenMediaError, JobExpired, ProviderError
from prefect_genmedia.providers.answers import parsed, url_in
from prefect_genmedia.providers.protocol import ResultStream
from prefect_genmedia.providers.refusals import is_not_ready
from prefect_genmedia.providers.responses import ErrorAnswer
from prefect_genmedia.text import clean_text


def result_stream(response: httpx.Response) -> ResultStream:
    """The answer's body as a file on its way.

    Args:
        response: an answer whose body is not read yet.

    Raises:
        ProviderError: it is compressed, which no video gains by and which was not asked for: a megabyte may become a
            gigabyte of memory; retryable.
    """
    length = response.headers.get("content-length")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise ProviderError(f"The download is compressed ({excerpt(encoding, 40)}), which is refused for media.")
    return ResultStream(
        chunks=lambda: body_of(response, "The download"),
        content_length=int(length) if length and length.isdecimal() else None,
        content_type=response.headers.get("content-type", ""),
    )


def redirect_target(response: httpx.Response) -> str | None:
    """Where an answer of the API redirects to; None if it does not. Open it with `open_url`, without the key.

    Args:
        response: an answer; its body need not be read.

    Raises:
        ProviderError: its `Location` cannot be read; retryable.
    """
    if not response.has_redirect_location or not response.headers["location"].strip():
        return None
    try:
        return urljoin(str(response.request.url), response.headers["location"])
    except ValueError:
        raise ProviderError("A redirect leads to a URL that cannot be read.") from None


@asynccontextmanager
async def open_url(url: str, rules: FetchRules) -> AsyncIterator[ResultStream]:
    """Open a result's public URL, without any credential.

    Args:
        url: the file's address.
        rules: which hosts may be asked, and how.

    Raises:
        JobExpired: the URL is no longer valid; retryable, since asking the provider again may give a fresh one.
        ProviderError: no file came.
    """
    if clean_text(url) != url:
        raise ProviderError("The result's URL contains characters that no URL has.")
    async with fetch(url, rules) as response:
        if response.status_code in (403, 404, 410):
            raise JobExpired(
                f"The result's URL answered {response.status_code}: it is no longer valid.",
                http_status=response.status_code,
                retryable=True,
            )
        if not response.is_success:
            raise ProviderError(f"The result's URL answered {response.status_code}.", http_status=response.status_code)
        yield result_stream(response)


@asynccontextmanager
async def open_content(api: ApiClient, path: str, what: str, rules: FetchRules) -> AsyncIterator[ResultStream]:
    """Open a job's content endpoint: the file, JSON that names its URL, or a redirect to it.

    What came is told by its first bytes and not by its Content-Type. The key goes to the endpoint only. Whether a URL
    has expired is told by whoever serves it: a time beside it may be zero, a number of seconds, or by another clock.

    Args:
        api: the account's API.
        path: the endpoint's path.
        what: the call, as errors name it, such as `GET /videos/{id}/content`.
        rules: which hosts a URL may lead to.

    Raises:
        JobExpired: the file is not there; retryable, since it may not be there yet.
        ProviderError: no file came; retryable.
        GenMediaError: the provider refuses to say.
    """
    async with api.stream(path) as response:
        url = redirect_target(response)
        if url is None:
            if not response.is_success:
                raise no_content(await read_body(response, what, api.redactor), what, api.redactor)
            stream, beginning = await _peeked(await _stream_of(response, what, api.redactor))
            if not _is_text(beginning):
                yield stream
                return
            url = await _url_named(response, stream, what, api.redactor)
    async with api.download_turn(), open_url(url, rules) as stream:
        yield stream


def no_content(response: httpx.Response, what: str, redactor: Redactor) -> GenMediaError:
    """The error of a content endpoint that has no file: one that is not ready yet is worth another try.

    Args:
        response: the answer, read as a whole.
        what: the call, as errors name it, such as `GET /videos/{id}/content`.
        redactor: takes secrets out of what errors show.
    """
    said = ErrorAnswer.of(response, what, redactor)
    if said.status < 500 and is_not_ready(said.codes, said.message):
        return said.error(ProviderError, "The file is not ready yet.")
    error = said.by_status()
    if isinstance(error, JobExpired):
        error.retryable = True
    return error


async def is_media(stream: ResultStream) -> bool:
    """Whether a file comes, and not a text about it. Reads its beginning.

    Args:
        stream: a file that was opened.
    """
    media_type = stream.content_type.lower()
    if "html" in media_type or "json" in media_type or media_type.startswith("text/"):
        return False
    async for piece in stream.chunks():
        if piece.strip():
            return piece.lstrip()[:1] not in (b"<", b"{", b"[")
    return False


async def _stream_of(response: httpx.Response, what: str, redactor: Redactor) -> ResultStream:
    """The body as it comes; compressed JSON is read as a whole, within the bounds of an answer."""
    media_type = response.headers.get("content-type", "").lower()
    is_text = "json" in media_type or media_type.startswith("text/plain")
    if is_text and response.headers.get("content-encoding"):
        response = await read_body(response, what, redactor)
    return result_stream(response)


async def _peeked(stream: ResultStream) -> tuple[ResultStream, bytes]:
    """The stream as it was, and its first bytes."""
    pieces, beginning = stream.chunks(), b""
    async for piece in pieces:
        beginning += piece
        if beginning.strip():
            break

    async def whole() -> AsyncIterator[bytes]:
        if beginning:
            yield beginning
        async for piece in pieces:
            yield piece

    return replace(stream, chunks=whole), beginning


def _is_text(beginning: bytes) -> bool:
    """Whether JSON comes, or a URL alone, in place of a file."""
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n")
    return text[:1] in (b"{", b"[", b'"') or text[:4].lower() == b"http"


async def _url_named(response: httpx.Response, stream: ResultStream, what: str, redactor: Redactor) -> str:
    body = bytearray()
    async with aclosing(stream.chunks()) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise ProviderError(f"{what} answered with more than {MAX_ANSWER_BYTES} bytes of JSON.")
    answer = httpx.Response(200, content=bytes(body), request=response.request)
    payload = parsed(answer.content)
    url = url_in(answer.text if payload is None else payload)
    if url is None:
        said = ErrorAnswer.of(answer, what, redactor)
        raise said.error(ProviderError, "It is JSON without a video_url.")
    return _absolute(response, url)


def _absolute(response: httpx.Response, url: str) -> str:
    try:
        return urljoin(str(response.url), url)
    except ValueError:
        raise ProviderError("The result's URL cannot be read.") from None

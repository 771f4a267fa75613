"""The HTTP client of one account: a gate, explicit timeouts, and network failures told by what they did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
from aiolimiter import AsyncLimiter

from prefect_genmedia._transport.bodies import ACCEPTED_CODINGS, UnreadableBody, read_answer
from prefect_genmedia._transport.network import Network, UnusableSettings, proxy_in_words
from prefect_genmedia._transport.noted import note
from prefect_genmedia._transport.redact import Redactor, redacted_logs
from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.errors import ProviderError, SendOutcome

USER_AGENT = f"prefect-genmedia/{version('prefect-genmedia')}"

TIMEOUTS = httpx.Timeout(connect=10.0, read=60.0, write=60.0, pool=30.0)
"""Seconds for each step of a request; the gate keeps the pool from ever being waited for."""

IDLE_CONNECTIONS = 4
"""Connections that are kept for the next request: the pool asks the system about each idle one, at every request."""

API_SECONDS = 60.0
"""The longest a call that costs nothing may take, from connecting to the last byte of its answer, in seconds."""

SUBMIT_SECONDS = 180.0
"""The longest a paid POST may take, from connecting to the last byte of its answer, in seconds."""

FilePart = tuple[str, bytes, str]
"""A file in a form: its name, its content, its media type."""

_NEVER_SENT = (
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol),
    UnusableSettings,
)


@dataclass(frozen=True)
class Gates:
    """How many requests and downloads of one account are under way at once.

    The gate stands in front of httpx's pool because the pool scans all its queued requests at every step: a thousand
    queued ones take three times as long as a thousand that come in eight at a time.
    """

    requests: int = 8
    downloads: int = 4


class ApiClient:
    """Talks to one account's API; made and closed inside one event loop.

    Args:
        base_url: the API's root, without a trailing slash.
        auth: puts the credential on each request.
        redactor: knows the credential, to keep it out of every error.
        gates: how many requests and downloads may be under way.
        transport: replaces the network, for tests.
        submissions_per_minute: how often this one client gives `turn()`, at most; None for as often as the gate allows.
            The account's pace is kept in the ledger, see `_core.pace`.
    """

    def __init__(
        self,
        base_url: str,
        auth: httpx.Auth,
        redactor: Redactor,
        gates: Gates | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        submissions_per_minute: float | None = None,
    ) -> None:
        """Open no connection yet."""
        gates = gates or Gates()
        self.base_url = base_url.rstrip("/")
        self.redactor = redactor
        self._traces = transport is None
        self._requests = asyncio.Semaphore(gates.requests)
        self._downloads = asyncio.Semaphore(gates.downloads)
        # Evenly spaced, not a full minute's allowance at once: a burst and what follows it would break the limit of a
        # provider that counts over a sliding minute.
        self._pace = AsyncLimiter(1, 60.0 / submissions_per_minute) if submissions_per_minute else None
        options: dict[str, Any] = {
            "auth": auth,
            "headers": {"User-Agent": USER_AGENT},
            "timeout": TIMEOUTS,
            "cookies": no_cookies(),
            "trust_env": False,  # `Network` reads the environment
        }
        slots = gates.requests + gates.downloads
        limits = httpx.Limits(max_connections=slots, max_keepalive_connections=IDLE_CONNECTIONS)
        self._client = httpx.AsyncClient(**options, transport=transport or Network(limits))
        # A paid POST always travels on a connection of its own: a kept-alive one that the server closes at that very
        # moment would leave an answer that nobody can interpret.
        once = httpx.Limits(max_connections=gates.requests, max_keepalive_connections=0)
        self._fresh = httpx.AsyncClient(**options, transport=transport or Network(once))

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """GET `path` below the base URL and read the whole answer, whatever its status.

        Args:
            path: what follows the base URL.
            params: the query.
            headers: headers of this call alone.

        Raises:
            ProviderError: no answer came within `API_SECONDS`, or one that is too large; retryable.
        """
        async with self._requests:
            return await self._exchange(self._client, API_SECONDS, "GET", path, params=params, headers=headers)

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """POST a JSON `body` that costs nothing to repeat.

        Args:
            path: what follows the base URL.
            body: what is sent, as JSON.

        Raises:
            ProviderError: no answer came within `API_SECONDS`, or one that is too large; retryable.
        """
        async with self._requests:
            return await self._exchange(self._client, API_SECONDS, "POST", path, json=body)

    def absolute(self, url: str) -> str:
        """A URL that an answer names, which may be relative to the API's root.

        Args:
            url: the URL.
        """
        try:
            return urljoin(f"{self.base_url}/", url)
        except ValueError:
            return url  # whoever opens it says that it cannot be read

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until the pace allows a submission and there is a place among the requests under way; hold the place."""
        if self._pace is not None:
            await self._pace.acquire()  # before the gate: whoever waits for the pace must not keep polls from theirs
        async with self._requests:
            yield

    async def post_paid(
        self,
        path: str,
        body: Mapping[str, Any],
        files: Mapping[str, FilePart] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """POST a `body` that may cost money: sent once, on a fresh connection, within `SUBMIT_SECONDS`.

        Call it inside `turn()`: it does not wait for a place itself, so that whoever writes down "sending" just before
        it really is about to send.

        Args:
            path: what follows the base URL.
            body: what is sent, as JSON; with `files`, as the fields of a form.
            files: the form's parts, by name: file name, content and media type; None for JSON. An empty mapping sends
                the body as multipart/form-data all the same.
            headers: headers of this call alone.

        Raises:
            ProviderError: no answer came; its `outcome` tells whether the request was surely not sent.
        """
        content = {"json": body} if files is None else {"files": _form(body, files)}
        if not self._traces:
            await check_now()
        extensions = {"trace": trace} if self._traces else None
        return await self._exchange(
            self._fresh, SUBMIT_SECONDS, "POST", path, **content, headers=headers, extensions=extensions
        )

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[httpx.Response]:
        """GET `path` and hand the answer over before its body is read; redirects are not followed.

        Raises:
            ProviderError: no answer came; retryable.
        """
        async with self._downloads:
            request = self._request(self._client, "GET", path)
            request.headers["Accept-Encoding"] = "identity"
            response = await self._answered(self._client, request, API_SECONDS, f"GET {path}")
            try:
                yield response
            finally:
                await response.aclose()

    @asynccontextmanager
    async def download_turn(self) -> AsyncIterator[None]:
        """Hold a place among the downloads under way."""
        async with self._downloads:
            yield

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._fresh.aclose()

    async def _exchange(
        self, client: httpx.AsyncClient, seconds: float, method: str, path: str, **content: Any
    ) -> httpx.Response:
        """Send a request and read its whole answer within `seconds`."""
        request, what = self._request(client, method, path, **content), f"{method} {path}"
        request.headers["Accept-Encoding"] = ACCEPTED_CODINGS
        with anyio.move_on_after(seconds):
            response = await self._answered(client, request, seconds, what)
            try:
                return await _whole(response, what, self.redactor)
            finally:
                await response.aclose()
        raise _too_late(what, seconds)

    def _request(self, client: httpx.AsyncClient, method: str, path: str, **content: Any) -> httpx.Request:
        url = self.base_url + path
        reason = "the port is 0"
        try:
            if urlsplit(url).port != 0:
                return client.build_request(method, url, **content)
        except (httpx.InvalidURL, ValueError) as error:
            reason = str(error)
        raise ProviderError(f"{method} {path} failed: {reason}. Is base_url right?", outcome="unsent", retryable=False)

    async def _answered(
        self, client: httpx.AsyncClient, request: httpx.Request, seconds: float, what: str
    ) -> httpx.Response:
        """Send a request; returns its answer before the body is read."""
        failure: ProviderError
        try:
            with anyio.move_on_after(seconds), redacted_logs(self.redactor):
                response = await client.send(request, stream=True)
                note(response)
                return response
            failure = _too_late(what, seconds)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            failure = network_failure(error, what, self.redactor)
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                asked = f"Is base_url right, and can {shown_url(self.base_url)} be reached from here?"
                failure = failure.noting(f"{asked} {proxy_in_words(request.url)}".rstrip())
        # Raised out here so that the httpx error, which holds the request and its Authorization header, is not
        # this error's context.
        raise failure


def _form(body: Mapping[str, Any], files: Mapping[str, FilePart]) -> list[tuple[str, Any]]:
    """The parts of a form. A field is a part without a file name: httpx then sends multipart without files, too."""
    return [*((name, (None, text)) for name, text in _form_fields("", body)), *files.items()]


def _form_fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A JSON value as fields: `name[key]` for objects and `name[]` for lists, as the OpenAI client writes them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _form_fields(f"{name}[{key}]" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _form_fields(f"{name}[]", inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def no_cookies() -> CookieJar:
    """A jar that takes no cookie: they would be sent back, and kept for as long as the client lives."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


async def read_body(response: httpx.Response, what: str, redactor: Redactor) -> httpx.Response:
    """Read the whole body of a streamed answer within `API_SECONDS`; returns the answer with it.

    Args:
        response: an answer whose body is not read yet.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.

    Raises:
        ProviderError: the body is too large, too slow, or the connection broke; retryable.
    """
    with anyio.move_on_after(API_SECONDS):
        return await _whole(response, what, redactor)
    raise _too_late(what, API_SECONDS)


async def _whole(response: httpx.Response, what: str, redactor: Redactor) -> httpx.Response:
    failure: ProviderError
    try:
        with redacted_logs(redactor):
            return await read_answer(response)
    except UnreadableBody as error:
        words = f"{what} answered {response.status_code}, but {error}."
        failure = ProviderError(redactor.clean(words), http_status=response.status_code, outcome="uncertain")
    except (httpx.HTTPError, ValueError) as error:
        failure = network_failure(error, what, redactor)
    raise failure


def _too_late(what: str, seconds: float) -> ProviderError:
    return ProviderError(f"{what} had no answer within {seconds:.0f} s.", outcome="uncertain")


def network_failure(error: Exception, what: str, redactor: Redactor) -> ProviderError:
    """Tell what a failed exchange did at the provider.

    Nothing was sent where no connection came about (refused, DNS, TLS, connect or pool timeout); after that nobody
    can know.

    Args:
        error: what httpx raised.
        what: the call, as errors name it, such as `POST /videos`.
        redactor: takes secrets out of what errors show.
    """
    outcome: SendOutcome = "unsent" if isinstance(error, _NEVER_SENT) else "uncertain"
    reason = redactor.clean(str(error)).rstrip(".") or "no details"
    method, _, target = what.rpartition(" ") if "://" in what else ("", "", what)
    shown = f"{method} {shown_url(target)}".strip()
    if isinstance(error, UnusableSettings):
        message = f"{shown} was not sent: {reason}."
        return ProviderError(message, outcome=outcome, retryable=False, next_step=f"correct it; {_DOCTOR}.")
    message = f"{shown} failed: {type(error).__name__}: {reason}."
    return ProviderError(message, outcome=outcome, next_step=_network_step(error, reason))


_DOCTOR = "`prefect-genmedia doctor` shows proxy and certificates"


def _network_step(error: Exception, reason: str) -> str | None:
    """What a person can do about the network between here and the provider; None for the error's own advice."""
    if isinstance(error, httpx.ProxyError):
        return f"check the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, and NO_PROXY; {_DOCTOR}."
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return f"if a proxy replaces certificates, name its CA in SSL_CERT_FILE; {_DOCTOR}."
    return None


Check = Callable[[], Awaitable[None]]
"""Raises an error whose `outcome` is unsent if the request must not be sent any more."""

InTime = Callable[[], None]
"""Raises such an error if too much time has passed; waits for nothing."""

_HEADERS, _BODY = "send_request_headers.started", "send_request_body.started"

_CHECK: ContextVar[Check | None] = ContextVar("genmedia_before_paid_request", default=None)
_IN_TIME: ContextVar[InTime | None] = ContextVar("genmedia_before_paid_body", default=None)


@contextmanager
def checked_before_sending(check: Check, in_time: InTime | None = None) -> Iterator[None]:
    """Let each paid request that is made inside be checked.

    Args:
        check: called right before the first byte.
        in_time: called right before the body: the process may have been frozen after the check, and no provider accepts
            a request of which it has the headers only.
    """
    token, other = _CHECK.set(check), _IN_TIME.set(in_time)
    try:
        yield
    finally:
        _CHECK.reset(token)
        _IN_TIME.reset(other)


async def check_now() -> None:
    """Call the check, if there is one; for transports that have no `trace` extension."""
    check = _CHECK.get()
    if check is not None:
        await check()


async def trace(event: str, info: dict[str, Any]) -> None:
    """httpcore's `trace` extension: an error that is raised here closes the connection before the request is complete.

    Args:
        event: such as `http11.send_request_headers.started`.
        info: what httpcore tells with it.
    """
    request = info.get("request")
    # A proxy's CONNECT comes first, on the same extension: TLS follows, and then the request itself.
    if not event.endswith((_HEADERS, _BODY)) or getattr(request, "method", b"") == b"CONNECT":
        return
    if event.endswith(_HEADERS):
        await check_now()
    elif (in_time := _IN_TIME.get()) is not None:
        in_time()

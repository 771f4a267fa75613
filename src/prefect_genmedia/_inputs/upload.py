"""HTTP around publishing: putting a file to an upload server, and whether a public URL has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from prefect_genmedia._transport import Redactor, shown_url
from prefect_genmedia._transport.api import USER_AGENT, no_cookies
from prefect_genmedia._transport.network import Routes, UnusableSettings, ssl_context, usable_proxy, variable_of
from prefect_genmedia._transport.redact import redacted_logs
from prefect_genmedia.errors import ProviderError

PUT_TIMEOUTS = httpx.Timeout(connect=10.0, read=120.0, write=120.0, pool=10.0)
"""Seconds for each step of an upload."""

CHECK_TIMEOUTS = httpx.Timeout(5.0)
"""Timeout in seconds for each step of a request to a public URL, which only the provider may reach."""

ABSENT = frozenset({404, 410})
"""Answers that say that a file is not there."""

_LATER = frozenset({408, 425, 429})

_unreachable: set[str] = set()
"""Hosts of public URLs that this process cannot reach: they are not asked for each file."""


class UploadRefused(Exception):
    """The server does not take the file; the text says what it answered."""


def put_file(url: str, path: Path, media_type: str, authorization: str | None) -> None:
    """Put a file under a URL. Blocks; run it in a thread.

    Args:
        url: where it goes; its query may hold a signature.
        path: the file.
        media_type: its type.
        authorization: the header of that name, such as `Bearer …`.

    Raises:
        UploadRefused: the server refuses it, as it would again.
        ProviderError: the server failed; retryable, nothing was sent to the provider.
    """
    headers = {"Content-Type": media_type}
    if authorization:
        headers["Authorization"] = authorization
    with _client(url, authorization, PUT_TIMEOUTS) as client, path.open("rb") as file:
        status = client.put(url, content=file, headers=headers).status_code
    if 200 <= status < 300:
        return
    if status >= 500 or status in _LATER:
        raise ProviderError(f"PUT {shown_url(url)} answered {status}.", outcome="unsent", http_status=status)
    raise UploadRefused(f"PUT {shown_url(url)} answered {status}")


def has_file(url: str, size: int) -> bool:
    """Whether a public URL has a file of this size; False if that cannot be told from here.

    Args:
        url: the URL.
        size: bytes of the file.
    """
    try:
        with _client(url, None, CHECK_TIMEOUTS) as client:
            answer = client.head(url)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.headers.get("Content-Length") == str(size)


def lacks_file(url: str) -> bool:
    """Whether a public URL says that it has no file; False if it has one, or cannot be reached from here.

    Args:
        url: the URL.
    """
    host = urlsplit(url).netloc
    if host in _unreachable:
        return False
    try:
        with _client(url, None, CHECK_TIMEOUTS) as client, client.stream("GET", url) as answer:
            return answer.status_code in ABSENT
    except httpx.HTTPError:
        _unreachable.add(host)
        return False


@contextmanager
def _client(url: str, authorization: str | None, timeouts: httpx.Timeout) -> Iterator[httpx.Client]:
    secrets = [each for each in (authorization, urlsplit(url).query) if each]
    routes = Routes.from_environment()
    scheme = routes.scheme_for(httpx.URL(url))
    try:
        proxy = None if scheme is None else usable_proxy(routes.proxies[scheme], variable_of(scheme))
        certificates = ssl_context()
    except UnusableSettings as error:
        raise UploadRefused(str(error)) from None
    client = httpx.Client(
        headers={"User-Agent": USER_AGENT},
        timeout=timeouts,
        verify=certificates,
        trust_env=False,
        proxy=proxy,
        follow_redirects=False,  # an Authorization goes to no other host
        cookies=no_cookies(),
    )
    with redacted_logs(Redactor(secrets)), client:
        yield client

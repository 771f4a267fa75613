"""What httpx and httpcore log: of our exchanges without a secret, of everybody else's as ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from prefect_genmedia import JeniusCredentials
from prefect_genmedia._transport import FetchRules, body_of, fetch
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.providers.jenius import JeniusClient
from prefect_genmedia.simulator import RunningSimulator

SIGNATURE = "5ec2e75ec2e7"
KEY = "sk-live-0123456789"


class Lines(logging.Handler):
    """Keeps every line, as a handler writes it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(f"{record.name}: {self.format(record)}")

    def of(self, logger: str) -> list[str]:
        return [line for line in self.text if line.startswith(logger)]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that these loggers say at DEBUG, to a handler of their own and to one of the root logger."""
    handler = Lines()
    names = ["httpx", "httpcore", "httpcore.http11", "httpcore.connection", "httpcore.proxy"]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    for logger in (loggers[0], loggers[1], logging.getLogger()):
        logger.addHandler(handler)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for logger in (loggers[0], loggers[1], logging.getLogger()):
        logger.removeHandler(handler)


@pytest.mark.usefixtures("prefect_server")
async def test_a_run_logs_no_signature_of_its_result_even_at_debug(
    simulator: RunningSimulator, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = simulator.world.publish
    monkeypatch.setattr(
        simulator.world,
        "publish",
        lambda *given, **options: (
            f"{publish(*given, **options)}?Expires=1&unknown={SIGNATURE}&X-Tos-Signature={SIGNATURE}"
        ),
    )
    credentials = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    await live_poster(simulator.portrait_url, "firework", credentials=credentials)
    fetched = [line for line in lines.of("httpx") if "/files/" in line]
    assert fetched, "the download is logged"
    assert all("GET http" in line and ".mp4" in line and "200 OK" in line for line in fetched)
    assert lines.of("httpcore.http11")
    assert SIGNATURE not in "\n".join(lines.text)
    assert simulator.key not in "\n".join(lines.text)


class Server:
    """Answers every request with the same headers, on loopback."""

    def __init__(self, *headers: str, status: str = "200 OK") -> None:
        self.head = "".join(f"{header}\r\n" for header in headers)
        self.status = status

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        done = "/done" in request.split("\r\n")[0]
        status, head = ("200 OK", "") if done else (self.status, self.head)
        writer.write(f"HTTP/1.1 {status}\r\n{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        writer.close()


@pytest.mark.parametrize(
    "location", [f"/done?sig={SIGNATURE}", f"done?x=1&auth={SIGNATURE}", f"/done#{SIGNATURE}?{SIGNATURE}"]
)
async def test_a_redirect_is_logged_without_its_signature(location: str, lines: Lines) -> None:
    rules = FetchRules(allow_private=True)
    async with (
        Server(f"Location: {location}", status="302 Found") as url,
        fetch(f"{url}/a?sig={SIGNATURE}", rules) as response,
    ):
        assert [piece async for piece in body_of(response, "The download")] == [b"{}"]
    ours = [line for line in lines.of("httpx") if url in line]  # a Prefect client may talk at the same time
    assert len(ours) == 4, "two requests, and two handlers"
    assert SIGNATURE not in "\n".join(lines.text)


async def test_a_header_that_quotes_the_key_or_sets_a_cookie_is_logged_without_it(lines: Lines) -> None:
    async with Server(f"X-Debug: Bearer {KEY}", f"Set-Cookie: session={SIGNATURE}") as url:
        client = JeniusClient(KEY, url)
        with pytest.raises(Exception, match="answered 200"):
            await client.poll("1")
        await client.aclose()
    assert any("X-Debug" in line for line in lines.of("httpcore"))
    assert KEY not in "\n".join(lines.text)
    assert SIGNATURE not in "\n".join(lines.text)


async def test_other_clients_of_the_process_are_logged_as_ever(lines: Lines) -> None:
    async with Server() as url, httpx.AsyncClient() as mine:

        async def ask(**params: Any) -> None:
            await mine.get(f"{url}/mine", params=params)

        async with fetch(f"{url}/a?sig={SIGNATURE}", FetchRules(allow_private=True)) as response:
            await ask(sig="while-a-fetch-is-open")
            async for _ in body_of(response, "The download"):
                await ask(sig="while-a-body-is-read")
        await asyncio.gather(ask(sig="beside"), _fetched(f"{url}/b?sig={SIGNATURE}"))
    text = "\n".join(lines.text)
    for sign in ("while-a-fetch-is-open", "while-a-body-is-read", "beside"):
        assert f"/mine?sig={sign}" in text
    assert SIGNATURE not in text


async def _fetched(url: str) -> None:
    async with fetch(url, FetchRules(allow_private=True)) as response:
        assert response.is_success

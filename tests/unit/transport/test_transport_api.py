"""The client of one account: what a failed exchange did, how much is under way, and no key in any error."""

import asyncio
import gzip
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from dataclasses import replace

import httpx
import pytest

from prefect_genmedia._transport import ApiClient, Gates, Redactor
from prefect_genmedia._transport.api import read_body
from prefect_genmedia.errors import ProviderError
from prefect_genmedia.providers.tokenops import TokenOpsClient
from prefect_genmedia.simulator.hostile import MIB, gzip_bomb

KEY = "sk-live-0123456789"
BASE = "https://api.example.com/v1"

NEVER_SENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
}


def all_below(parent: type[httpx.HTTPError]) -> Iterator[type[httpx.HTTPError]]:
    for child in parent.__subclasses__():
        yield child
        yield from all_below(child)


EVERY_FAILURE = sorted(set(all_below(httpx.HTTPError)), key=lambda failure: failure.__name__)


class KeyAuth(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {KEY}"
        yield request


Handler = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


def client_of(handler: Handler, gates: Gates | None = None, base_url: str = BASE) -> ApiClient:
    return ApiClient(base_url, KeyAuth(), Redactor([KEY]), gates, httpx.MockTransport(handler))


def failing(failure: type[httpx.HTTPError], text: str = "it broke") -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        if issubclass(failure, httpx.HTTPStatusError):
            raise failure(text, request=request, response=httpx.Response(500, request=request))
        raise failure(text)

    return handler


async def paid(client: ApiClient) -> httpx.Response:
    async with client.turn():
        return await client.post_paid("/videos", {"prompt": "x"})


async def streamed(client: ApiClient) -> bytes:
    async with client.stream("/videos/1/content") as response:
        return await response.aread()


CALLS = {
    "get": lambda client: client.get("/videos/1"),
    "post": lambda client: client.post("/look", {"image_url": "x"}),
    "post_paid": paid,
    "stream": streamed,
}


def reachable(error: BaseException) -> Iterator[object]:
    """The error, everything chained to it, and all that these hold."""
    chained: list[BaseException | None] = [error]
    while chained:
        link = chained.pop()
        if link is None:
            continue
        yield link
        yield from link.args
        yield from vars(link).values()
        chained += [link.__cause__, link.__context__]


# --- What a failure did ---


@pytest.mark.parametrize("failure", EVERY_FAILURE, ids=lambda failure: failure.__name__)
async def test_only_what_failed_before_a_connection_was_there_is_unsent(failure: type[httpx.HTTPError]) -> None:
    with pytest.raises(ProviderError) as caught:
        await paid(client_of(failing(failure)))
    assert caught.value.outcome == ("unsent" if failure in NEVER_SENT else "uncertain")


async def test_a_read_timeout_on_submit_is_uncertain() -> None:
    with pytest.raises(ProviderError, match="ReadTimeout") as caught:
        await paid(client_of(failing(httpx.ReadTimeout)))
    assert caught.value.outcome == "uncertain"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("failure", EVERY_FAILURE, ids=lambda failure: failure.__name__)
async def test_every_network_failure_is_a_provider_error_that_names_the_call(
    failure: type[httpx.HTTPError], call: Callable[[ApiClient], Awaitable[object]]
) -> None:
    with pytest.raises(ProviderError, match=r"(GET|POST) /\w+.*failed: \w+: it broke") as caught:
        await call(client_of(failing(failure)))
    assert caught.value.http_status is None


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:99999/v1", "http://127.0.0.1:port/v1", "127.0.0.1/v1", "ftp://127.0.0.1/v1"]
)
async def test_a_base_url_that_leads_nowhere_is_surely_unsent(base_url: str) -> None:
    # With the real transport, which refuses such a URL before it tries any connection.
    client = ApiClient(base_url, KeyAuth(), Redactor([KEY]))
    with pytest.raises(ProviderError) as caught:
        await paid(client)
    assert caught.value.outcome == "unsent"


async def test_an_answer_is_handed_over_whatever_its_status() -> None:
    response = await client_of(lambda _: httpx.Response(503, text="later")).get("/videos/1")
    assert (response.status_code, response.text) == (503, "later")


# --- A paid POST ---


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadError])
async def test_a_paid_post_is_sent_once_even_if_it_fails(failure: type[httpx.HTTPError]) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise failure("gone")

    with pytest.raises(ProviderError):
        await paid(client_of(handler))
    assert len(sent) == 1


async def test_a_paid_post_is_not_repeated_at_a_redirect() -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(307, headers={"Location": "https://elsewhere.example.com/"})

    assert (await paid(client_of(handler))).status_code == 307
    assert len(sent) == 1


async def test_a_redirect_that_cannot_be_read_leaves_a_paid_post_uncertain() -> None:
    client = client_of(lambda _: httpx.Response(302, headers={"Location": "data:text/plain,x"}))
    with pytest.raises(ProviderError) as caught:
        await paid(client)
    assert caught.value.outcome == "uncertain"


async def test_a_paid_post_without_an_answer_in_time_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_genmedia._transport.api.SUBMIT_SECONDS", 0.0)

    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ProviderError, match="no answer within") as caught:
        await paid(client_of(never))
    assert caught.value.outcome == "uncertain"


# --- What is sent ---


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_every_request_carries_the_key_and_names_this_package(
    call: Callable[[ApiClient], Awaitable[object]],
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    await call(client_of(handler))
    (request,) = sent
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["User-Agent"].startswith("prefect-genmedia/")
    assert str(request.url).startswith(f"{BASE}/")


async def test_a_slash_at_the_end_of_the_base_url_does_no_harm() -> None:
    client = client_of(lambda request: httpx.Response(200, text=str(request.url)), base_url=f"{BASE}/")
    assert (await client.get("/videos/1", {"a": "b"})).text == f"{BASE}/videos/1?a=b"


# --- Nothing secret in an error ---


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("failure", EVERY_FAILURE, ids=lambda failure: failure.__name__)
async def test_nothing_of_httpx_is_chained_to_an_error(
    failure: type[httpx.HTTPError], call: Callable[[ApiClient], Awaitable[object]]
) -> None:
    with pytest.raises(ProviderError) as caught:
        await call(client_of(failing(failure)))
    for held in reachable(caught.value):
        assert not type(held).__module__.startswith(("httpx", "httpcore")), held


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_the_key_is_in_no_form_of_an_error(call: Callable[[ApiClient], Awaitable[object]]) -> None:
    with pytest.raises(ProviderError) as caught:
        await call(client_of(failing(httpx.RemoteProtocolError, f"illegal header: Authorization: Bearer {KEY}")))
    error = caught.value
    assert "RemoteProtocolError" in str(error)
    assert KEY not in f"{error!s} {error!r} {vars(error)}"
    assert KEY.encode() not in pickle.dumps(error)


def test_a_client_does_not_show_its_key() -> None:
    client = client_of(lambda _: httpx.Response(200))
    assert KEY not in repr(client)
    assert KEY not in repr(client.redactor)


# --- The gate ---


class Crowd:
    """Answers every request after a while, and knows how many were there at once."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self.served = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await self.stay()
        return httpx.Response(200, json={})

    async def stay(self) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)
        for _ in range(10):
            await asyncio.sleep(0)
        self.now -= 1
        self.served += 1


@pytest.mark.parametrize("places", [1, 3])
async def test_no_more_requests_than_the_gate_has_places_are_under_way(places: int) -> None:
    crowd = Crowd()
    client = client_of(crowd, Gates(requests=places))
    kinds = [CALLS["get"], CALLS["post"], CALLS["post_paid"]]
    await asyncio.gather(*(kinds[number % 3](client) for number in range(30)))
    assert crowd.peak == places
    assert crowd.served == 30


@pytest.mark.parametrize("places", [1, 3])
async def test_no_more_downloads_than_the_gate_has_places_are_under_way(places: int) -> None:
    crowd = Crowd()
    client = client_of(lambda _: httpx.Response(200, content=b"mp4"), Gates(downloads=places))

    async def download() -> None:
        async with client.stream("/videos/1/content"):
            await crowd.stay()

    await asyncio.gather(*(download() for _ in range(12)))
    assert crowd.peak == places
    assert crowd.served == 12


async def test_downloads_from_the_urls_that_a_provider_names_keep_to_the_gate_too() -> None:
    async def at_public_address(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    def answer(request: httpx.Request) -> httpx.Response:
        named = {"video_url": "https://cdn.example.com/v.mp4"}
        return httpx.Response(200, json=named if request.url.path.endswith("/content") else {})

    crowd = Crowd()
    client = TokenOpsClient(KEY, BASE, Gates(downloads=2), transport=httpx.MockTransport(answer))
    client.fetch_rules = replace(client.fetch_rules, resolver=at_public_address)

    async def download() -> None:
        async with client.open_result("1"):
            await crowd.stay()

    await asyncio.gather(*(download() for _ in range(8)))
    assert crowd.peak == 2


async def test_downloads_take_no_place_from_requests() -> None:
    client = client_of(lambda _: httpx.Response(200, json={}), Gates(requests=1, downloads=1))
    async with client.stream("/videos/1/content"):
        assert (await client.get("/videos/1")).status_code == 200


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_failed_call_gives_its_place_back(call: Callable[[ApiClient], Awaitable[object]]) -> None:
    client = client_of(failing(httpx.ReadError), Gates(requests=1, downloads=1))
    for _ in range(3):
        with pytest.raises(ProviderError):
            await call(client)


async def test_a_download_that_is_left_early_is_closed() -> None:
    closed = []

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"first"
            yield b"second"

        async def aclose(self) -> None:
            closed.append(True)

    client = client_of(lambda _: httpx.Response(200, stream=Body()))
    with pytest.raises(RuntimeError, match="mine"):
        async with client.stream("/videos/1/content"):
            raise RuntimeError("mine")
    assert closed


# --- Bounds of answers ---


class Endless(httpx.AsyncByteStream):
    """A body without end; counts its pieces."""

    def __init__(self, piece: bytes, pause: float = 0.0) -> None:
        self.piece, self.pause, self.sent = piece, pause, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self.pause)
            self.sent += len(self.piece)
            yield self.piece


def answering(body: httpx.AsyncByteStream, status: int = 200, **headers: str) -> Handler:
    return lambda _: httpx.Response(status, headers=headers, stream=body)


async def read_of_content(client: ApiClient) -> httpx.Response:
    async with client.stream("/videos/1/content") as response:
        return await read_body(response, "GET /content", Redactor([]))


WHOLE_ANSWERS = {**{name: CALLS[name] for name in ("get", "post", "post_paid")}, "read_body": read_of_content}


@pytest.mark.parametrize("status", [200, 429, 500])
@pytest.mark.parametrize("call", WHOLE_ANSWERS.values(), ids=WHOLE_ANSWERS.keys())
async def test_an_endless_answer_is_left_after_one_mib_and_is_uncertain(
    call: Callable[[ApiClient], Awaitable[object]], status: int
) -> None:
    body = Endless(b" " * 65536)
    with pytest.raises(ProviderError, match="larger than 1048576 bytes") as caught:
        await call(client_of(answering(body, status)))
    assert (caught.value.outcome, caught.value.http_status) == ("uncertain", status)
    assert body.sent <= MIB + 65536


@pytest.mark.parametrize("call", WHOLE_ANSWERS.values(), ids=WHOLE_ANSWERS.keys())
async def test_an_answer_is_measured_after_decoding(call: Callable[[ApiClient], Awaitable[object]]) -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield gzip_bomb(64)

    with pytest.raises(ProviderError, match="larger than 1048576 bytes") as caught:
        await call(client_of(answering(Body(), **{"Content-Encoding": "gzip"})))
    assert caught.value.outcome == "uncertain"


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "snappy"])
async def test_an_answer_in_an_encoding_that_nobody_asked_for_is_uncertain(coding: str) -> None:
    with pytest.raises(ProviderError, match="Content-Encoding") as caught:
        await paid(client_of(answering(Endless(b"x"), **{"Content-Encoding": coding})))
    assert caught.value.outcome == "uncertain"


async def test_a_compressed_answer_of_a_usual_size_is_read() -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for byte in gzip.compress(b'{"id": "1"}'):
                yield bytes([byte])

    client = client_of(answering(Body(), **{"Content-Encoding": "gzip", "X-Request-Id": "7"}))
    response = await client.get("/videos/1")
    assert (response.json(), response.headers["X-Request-Id"]) == ({"id": "1"}, "7")


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        ("gbk", "无效".encode("gbk"), "无效"),
        ("zlib", b"plain", "plain"),  # Python's codec of that name decompresses
        ("punycode", b"plain", "plain"),  # takes minutes for a MiB
        ("no such", "无效".encode(), "无效"),
        ("utf-8\x00", b"plain", "plain"),
    ],
)
async def test_a_charset_can_do_no_harm(charset: str, content: bytes, text: str) -> None:
    headers = {"Content-Type": f"text/html; charset={charset}"}
    response = await client_of(lambda _: httpx.Response(502, headers=headers, content=content)).get("/videos/1")
    assert response.text == text


@pytest.mark.parametrize("name", ["get", "post", "stream", "read_body"])
async def test_a_call_that_takes_too_long_in_all_ends_however_often_a_byte_arrives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_genmedia._transport.api.API_SECONDS", 0.2)

    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    call = {**CALLS, **WHOLE_ANSWERS}[name]
    handler = never if name == "stream" else answering(Endless(b" ", 0.01))
    with pytest.raises(ProviderError, match="no answer within") as caught:
        await asyncio.wait_for(call(client_of(handler)), 120)
    assert caught.value.retryable


async def test_a_paid_post_whose_answer_drips_is_uncertain_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_genmedia._transport.api.SUBMIT_SECONDS", 0.2)
    with pytest.raises(ProviderError, match="no answer within") as caught:
        await asyncio.wait_for(paid(client_of(answering(Endless(b" ", 0.01)))), 120)
    assert caught.value.outcome == "uncertain"


async def test_no_cookie_is_kept_or_sent_back() -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={}, headers={"Set-Cookie": f"a{len(sent)}={'x' * 1000}; Path=/"})

    client = client_of(handler)
    for _ in range(3):
        await client.get("/videos/1")
    assert not any("Cookie" in request.headers for request in sent)


@pytest.mark.parametrize("depth", [101, 970, 985, 500_000])
async def test_deeply_nested_json_is_an_answer_that_cannot_be_read(depth: int) -> None:
    nested = b'{"status": "failed", "error": ' + b"[" * depth + b"]" * depth + b"}"
    client = TokenOpsClient(KEY, BASE, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=nested)))
    with pytest.raises(ProviderError, match="not a JSON object"):
        await client.poll("1")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" + "0" * 400])
async def test_a_huge_number_in_an_answer_does_no_harm(number: str) -> None:
    text = f'{{"status": "processing", "progress": {number}, "error": {{"code": {number}}}}}'
    client = TokenOpsClient(KEY, BASE, transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text)))
    assert (await client.poll("1")).progress is None


async def test_a_number_of_more_digits_than_python_reads_is_an_answer_that_cannot_be_read() -> None:
    text = f'{{"status": "processing", "progress": {"9" * 5000}}}'
    client = TokenOpsClient(KEY, BASE, transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text)))
    with pytest.raises(ProviderError, match="not a JSON object"):
        await client.poll("1")

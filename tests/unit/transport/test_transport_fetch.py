"""Fetching URLs that somebody else chose: from public addresses only, without a credential or a signature shown."""

import asyncio
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from prefect_genmedia._transport import BodyBounds, FetchRules, body_of, fetch
from prefect_genmedia._transport.fetch import MAX_REDIRECTS, Resolver, system_resolver
from prefect_genmedia._transport.hosts import Origin
from prefect_genmedia.errors import ProviderError
from prefect_genmedia.simulator.hostile import MIB, gzip_bomb

PUBLIC = "93.184.216.34"
GATEWAY = frozenset({Origin("http", "gateway.example.com", 80)})
SIGNED = "https://cdn.example.com/a.mp4?X-Amz-Signature=5ec2e7&X-Amz-Credential=AKIA123"


def names(**addresses: str | list[str]) -> Resolver:
    """A resolver that knows these hosts (`_` stands for `.`), and any other as public."""

    async def resolve(host: str, port: int) -> list[str]:
        found = addresses.get(host.replace(".", "_"), PUBLIC)
        return [found] if isinstance(found, str) else found

    return resolve


class Web:
    """Answers as it is told for each URL (with the address already in it), and keeps what it was asked."""

    def __init__(self, answers: Callable[[httpx.Request], httpx.Response] | None = None) -> None:
        self.asked: list[httpx.Request] = []
        self._answers = answers or (lambda _: httpx.Response(200, content=b"mp4"))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._answers(request)


def redirecting(*locations: str) -> Web:
    """Answers the first requests with these redirects, one each, and the next with a file."""
    left = list(locations)
    return Web(lambda _: httpx.Response(302, headers={"Location": left.pop(0)}) if left else httpx.Response(200))


async def get(url: str, web: Web, resolver: Resolver | None = None, **rules: object) -> bytes:
    rules_ = FetchRules(resolver=resolver or names(), transport=httpx.MockTransport(web), **rules)
    async with fetch(url, rules_) as response:
        return b"".join([piece async for piece in body_of(response, "The download")])


# --- Where it connects to ---


async def test_it_connects_to_the_address_that_was_checked_in_the_name_of_the_host() -> None:
    web = Web()
    assert await get("https://cdn.example.com:8443/a.mp4?b=1", web) == b"mp4"
    (request,) = web.asked
    assert str(request.url) == f"https://{PUBLIC}:8443/a.mp4?b=1"
    assert request.headers["Host"] == "cdn.example.com:8443"
    assert request.extensions["sni_hostname"] == "cdn.example.com"


async def test_it_connects_to_an_ipv6_address_too() -> None:
    web = Web()
    await get("https://cdn.example.com/a.mp4", web, names(cdn_example_com="2606:4700::1111"))
    assert str(web.asked[0].url) == "https://[2606:4700::1111]/a.mp4"


async def test_a_host_name_in_chinese_is_sent_in_its_ascii_form() -> None:
    web = Web()
    await get("https://例え.jp/a.mp4", web)
    (request,) = web.asked
    assert request.headers["Host"] == "xn--r8jz45g.jp"
    assert request.extensions["sni_hostname"] == "xn--r8jz45g.jp"


async def test_the_system_resolver_puts_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        found = ["2606:4700::1111", PUBLIC, "2606:4700::1111"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await system_resolver("cdn.example.com", 443) == [PUBLIC, "2606:4700::1111"]


# --- Private addresses ---

PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:10.0.0.1",
]
PRIVATE_INSIDE_IPV6 = [
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::5db8:d822",
    "64:ff9b:1:ffff::1",
    "2002:a00:1::",
    "2002:5db8:d822::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "::127.0.0.1",
    "::93.184.216.34",
    "fec0::1",
    "2606:4700::5efe:a00:1",
    "2606:4700::200:5efe:a00:1",
    "2606:4700::1111%eth0",
    "100::1",
    "5f00::1",
    "fd00:ec2::254",
]
OF_CLOUDS = ["192.0.0.192", "100.100.100.200", "168.63.129.16", "192.88.99.1", "240.0.0.1"]


@pytest.mark.parametrize("address", [*PRIVATE, *PRIVATE_INSIDE_IPV6, *OF_CLOUDS])
async def test_a_private_address_is_refused(address: str) -> None:
    web = Web()
    with pytest.raises(ProviderError, match="private address") as caught:
        await get("https://inside.example.com/a.mp4", web, names(inside_example_com=address))
    assert not web.asked
    assert not caught.value.retryable
    assert "ALLOW_PRIVATE_HOSTS" in caught.value.next_step


async def test_a_host_with_one_private_address_among_public_ones_is_refused() -> None:
    with pytest.raises(ProviderError, match=r"10\.0\.0\.1"):
        await get("https://both.example.com/", Web(), names(both_example_com=[PUBLIC, "10.0.0.1"]))


async def test_a_trusted_host_may_have_a_private_address() -> None:
    web = Web()
    await get("http://Gateway.Example.com/", web, names(gateway_example_com="10.0.0.1"), trusted_origins=GATEWAY)
    assert web.asked[0].url.host == "10.0.0.1"


async def test_trust_in_one_host_is_not_trust_in_another() -> None:
    with pytest.raises(ProviderError, match="private address"):
        await get(
            "http://a.gateway.example.com/", Web(), names(a_gateway_example_com="10.0.0.1"), trusted_origins=GATEWAY
        )


async def test_private_addresses_can_be_allowed() -> None:
    web = Web()
    await get("http://inside.example.com/", web, names(inside_example_com="10.0.0.1"), allow_private=True)
    assert len(web.asked) == 1


ELSEWHERE = [
    "http://gateway.example.com:8443/",
    "https://gateway.example.com/",
    "https://gateway.example.com:80/",
    "http://gateway.example.com./",
]


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_trust_in_a_server_is_trust_in_its_scheme_host_and_port(url: str) -> None:
    rules = FetchRules.beside("http://Gateway.example.com/v1", allow_private=False, transport=None)
    assert rules.trusted_origins == GATEWAY

    async def inside(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    with pytest.raises(ProviderError, match="private address"):
        await get(url, Web(), inside, trusted_origins=GATEWAY)
    await get("http://gateway.example.com:80/", Web(), inside, trusted_origins=GATEWAY)


# --- Hosts that are refused by their name, since a proxy resolves names by itself ---

REFUSED_NAMES = [
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain", "ip6-localhost"),
    *("metadata.google.internal", "metadata", "instance-data.ec2.internal", "metadata.tencentyun.com"),
    *("host.docker.internal", "printer.local", "router.lan", "nas.home.arpa", "db.corp", "postgres"),
]
ODD_SPELLINGS = [
    *("2130706433", "0x7f000001", "0x7F.0.0.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "0"),
    *("127.0.0.1.", "10.0.0.0x1", "1.2.3.4.5", "0x", "127.0.0.01"),
]
PRIVATE_LITERALS = [
    "198.18.0.1",
    "[::ffff:198.19.255.255]",
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "[::1]",
    "[fe80::1]",
    "[::ffff:127.0.0.1]",
]
REFUSED_HOSTS = [*REFUSED_NAMES, *ODD_SPELLINGS, *PRIVATE_LITERALS]


@pytest.mark.parametrize("host", REFUSED_HOSTS)
async def test_a_private_host_is_refused_before_its_name_is_resolved(host: str) -> None:
    async def never(name: str, port: int) -> list[str]:
        raise AssertionError(f"{name} was resolved")

    web = Web()
    with pytest.raises(ProviderError) as caught:
        await get(f"http://{host}/a.mp4", web, never)
    assert not caught.value.retryable
    assert not web.asked


@pytest.mark.parametrize("host", ["%31%32%37.0.0.1", "loc%61lhost", "１２７.0.0.1", "①②⑦.0.0.1", "[fe80::1%25eth0]"])
async def test_no_other_way_of_writing_it_leads_to_a_private_host(host: str) -> None:
    web = Web()
    with pytest.raises(ProviderError):
        await get(f"http://{host}/a.mp4", web)
    assert not web.asked


async def test_the_rules_hold_behind_a_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nmp4")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        rules = FetchRules(resolver=names())
        for host in REFUSED_HOSTS:
            for scheme in ("http", "https"):
                with pytest.raises(ProviderError):
                    async with fetch(f"{scheme}://{host}/a.mp4", rules):
                        pass
        assert asked == []
        async with fetch("http://cdn.example.com/a.mp4", rules) as response:
            assert b"".join([piece async for piece in body_of(response, "The download")]) == b"mp4"
    assert asked == [b"GET http://cdn.example.com/a.mp4 HTTP/1.1"]


async def test_a_public_literal_and_a_private_one_that_is_allowed_are_fetched() -> None:
    async def literal(host: str, port: int) -> list[str]:
        return [host]

    assert await get(f"http://{PUBLIC}/a.mp4", Web(), literal) == b"mp4"
    assert await get("http://127.0.0.1/a.mp4", Web(), literal, allow_private=True) == b"mp4"
    assert await get("http://[::1]/a.mp4", Web(), literal, allow_private=True) == b"mp4"


# --- Redirects ---


async def test_a_redirect_is_followed_in_the_name_of_the_new_host() -> None:
    web = redirecting("https://other.example.com/b.mp4", "/c.mp4")
    await get("https://cdn.example.com/a.mp4", web, names(other_example_com="198.41.0.4"))
    assert [str(request.url) for request in web.asked] == [
        f"https://{PUBLIC}/a.mp4",
        "https://198.41.0.4/b.mp4",
        "https://198.41.0.4/c.mp4",
    ]
    assert [request.headers["Host"] for request in web.asked] == [
        "cdn.example.com",
        "other.example.com",
        "other.example.com",
    ]


@pytest.mark.parametrize("hops", [1, 2])
async def test_every_hop_is_checked_for_private_addresses(hops: int) -> None:
    web = redirecting(*["https://cdn.example.com/next"] * (hops - 1), "http://inside.example.com/")
    with pytest.raises(ProviderError, match="private address"):
        await get("https://cdn.example.com/a.mp4", web, names(inside_example_com="169.254.169.254"))
    assert len(web.asked) == hops


async def test_a_trusted_host_cannot_redirect_to_a_private_address_elsewhere() -> None:
    web = redirecting("http://inside.example.com/")
    addresses = names(gateway_example_com="10.0.0.1", inside_example_com="10.0.0.2")
    with pytest.raises(ProviderError, match=r"10\.0\.0\.2"):
        await get("http://gateway.example.com/", web, addresses, trusted_origins=GATEWAY)


async def test_the_last_allowed_redirect_is_followed() -> None:
    web = redirecting(*[SIGNED] * MAX_REDIRECTS)
    await get(SIGNED, web)
    assert len(web.asked) == MAX_REDIRECTS + 1


async def test_too_many_redirects_are_an_error_that_is_not_retried() -> None:
    web = redirecting(*[SIGNED] * (MAX_REDIRECTS + 1))
    with pytest.raises(ProviderError, match="redirected more than") as caught:
        await get(SIGNED, web)
    assert not caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


# --- What is no URL to fetch ---

NOT_FETCHABLE = [
    "ftp://example.com/a.mp4",
    "file:///etc/passwd",
    "gopher://example.com/",
    "data:video/mp4;base64,AAAA",
    "https:///a.mp4",
    "http://example.com:99999/a.mp4",
    "http://[bad/a.mp4",
    "http://example.com/a\x01.mp4",
]


@pytest.mark.parametrize("url", NOT_FETCHABLE)
async def test_what_is_not_an_http_url_is_refused(url: str) -> None:
    web = Web()
    with pytest.raises(ProviderError) as caught:
        await get(url, web)
    assert not caught.value.retryable
    assert not web.asked


@pytest.mark.parametrize(
    "location", ["ftp://example.com/a.mp4", "file:///etc/passwd", "data:video/mp4;base64,AAAA", *NOT_FETCHABLE[-3:-1]]
)
async def test_a_redirect_to_what_is_not_an_http_url_is_refused(location: str) -> None:
    web = redirecting(location)
    with pytest.raises(ProviderError):
        await get("https://cdn.example.com/a.mp4", web)
    assert len(web.asked) == 1


async def test_a_host_that_is_not_found_is_worth_another_try() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ProviderError, match="cannot be resolved") as caught:
        await get(SIGNED, Web(), unknown)
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


async def test_a_host_that_no_name_server_could_know_is_an_error_of_ours() -> None:
    # Refused by the name's length, before any name server is asked.
    with pytest.raises(ProviderError):
        await get(f"https://{'a' * 64}.com/", Web(), system_resolver)


# --- Secrets ---


async def test_no_credential_travels_and_we_say_who_we_are() -> None:
    web = redirecting("https://other.example.com/b.mp4")
    await get(SIGNED, web)
    for request in web.asked:
        assert "authorization" not in request.headers
        assert "cookie" not in request.headers
        assert request.headers["User-Agent"].startswith("prefect-genmedia/")


async def test_a_signature_is_not_in_the_text_of_any_refusal() -> None:
    with pytest.raises(ProviderError) as caught:
        await get(SIGNED, Web(), names(cdn_example_com="10.0.0.1"))
    assert "5ec2e7" not in f"{caught.value} {caught.value!r}"
    assert "https://cdn.example.com/a.mp4" in str(caught.value)


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_a_network_failure_is_reported_without_the_signature(failure: type[httpx.TransportError]) -> None:
    def quote(request: httpx.Request) -> httpx.Response:
        raise failure(f"broke at {request.url} ({SIGNED})")

    with pytest.raises(ProviderError, match=failure.__name__) as caught:
        await get(SIGNED, Web(quote))
    error = caught.value
    assert error.retryable
    assert "5ec2e7" not in f"{error} {error!r}"
    assert "AKIA123" not in f"{error} {error!r}"
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_a_password_in_the_url_is_in_no_error() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ProviderError) as caught:
        await get("https://me:pa55word@cdn.example.com/a.mp4", Web(fail))
    assert "pa55word" not in str(caught.value)


async def test_a_body_that_breaks_off_is_an_error_worth_another_try() -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"half"
            raise httpx.RemoteProtocolError(f"peer closed at {SIGNED}")

    with pytest.raises(ProviderError, match="The download failed") as caught:
        await get(SIGNED, Web(lambda _: httpx.Response(200, stream=Body())))
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)
    assert caught.value.__context__ is None


# --- Time, rate and encoding ---


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in these pieces, and then hangs or goes on with the last one."""

    def __init__(self, *pieces: bytes, pause: float = 0.0, endless: bool = False) -> None:
        self.pieces, self.pause, self.endless = pieces, pause, endless

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(self.pause)
            yield piece
        while self.endless:
            await asyncio.sleep(self.pause)
            yield self.pieces[-1]


async def read(body: httpx.AsyncByteStream, bounds: BodyBounds, **headers: str) -> bytes:
    web = Web(lambda _: httpx.Response(200, headers=headers, stream=body))
    async with fetch(SIGNED, FetchRules(resolver=names(), transport=httpx.MockTransport(web))) as response:
        return b"".join([piece async for piece in body_of(response, "The download", bounds)])


PATIENT = BodyBounds(seconds=300.0, window=100.0, min_rate=1.0)


@pytest.mark.parametrize(
    ("body", "bounds"),
    [
        (Pieces(b"x", pause=0.01, endless=True), BodyBounds(seconds=300.0, window=0.2, min_rate=1000.0)),
        (Pieces(b"x" * 9999, pause=0.01, endless=True), BodyBounds(seconds=0.2, window=100.0, min_rate=1000.0)),
        (Pieces(b"x", pause=1000.0), BodyBounds(seconds=300.0, window=0.2, min_rate=0.0)),
    ],
    ids=["below the rate", "beyond the total", "silent"],
)
async def test_a_body_that_takes_too_long_is_given_up(body: Pieces, bounds: BodyBounds) -> None:
    with pytest.raises(ProviderError, match="too slow") as caught:
        await read(body, bounds)
    assert caught.value.retryable


async def test_a_slow_reader_is_no_slow_line() -> None:
    web = Web(lambda _: httpx.Response(200, stream=Pieces(b"ab", b"cd", b"ef")))
    bounds = BodyBounds(seconds=300.0, window=0.1, min_rate=1e9)
    got = b""
    async with fetch(SIGNED, FetchRules(resolver=names(), transport=httpx.MockTransport(web))) as response:
        async for piece in body_of(response, "The download", bounds):
            got += piece
            await asyncio.sleep(0.15)
    assert got == b"abcdef"


async def test_a_fetch_whose_headers_never_come_is_given_up() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    rules = FetchRules(resolver=names(), seconds=0.1, transport=httpx.MockTransport(never))
    with pytest.raises(ProviderError, match="no answer within") as caught:
        async with fetch(SIGNED, rules):
            pass
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


async def test_media_is_asked_for_uncompressed_and_read_if_it_is_compressed_all_the_same() -> None:
    web = Web()
    await get(SIGNED, web)
    assert web.asked[0].headers["Accept-Encoding"] == "identity"
    packed = gzip.compress(b"mp4" * 100_000)
    body = Pieces(*(packed[start : start + 7] for start in range(0, len(packed), 7)))
    assert await read(body, PATIENT, **{"Content-Encoding": "gzip"}) == b"mp4" * 100_000
    assert await read(Pieces(zlib.compress(b"mp4")), PATIENT, **{"Content-Encoding": "deflate"}) == b"mp4"
    assert await read(Pieces(zlib.compress(b"mp4")[2:-4]), PATIENT, **{"Content-Encoding": "deflate"}) == b"mp4"


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "zstd", "gzip,deflate", "compress", "x" * 5000])
async def test_an_encoding_that_nobody_asked_for_is_refused(coding: str) -> None:
    with pytest.raises(ProviderError, match="Content-Encoding"):
        await read(Pieces(b"anything"), PATIENT, **{"Content-Encoding": coding})


async def test_a_compressed_body_is_handed_over_in_pieces_of_bounded_size() -> None:
    bomb = Pieces(gzip_bomb(64))
    web = Web(lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=bomb))
    async with fetch(SIGNED, FetchRules(resolver=names(), transport=httpx.MockTransport(web))) as response:
        sizes = [len(piece) async for piece in body_of(response, "The download", PATIENT)]
    assert sum(sizes) == 64 * MIB
    assert max(sizes) <= MIB


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"mp4" * 1000)[:-20]], ids=["other", "cut short"])
async def test_a_compressed_body_that_cannot_be_decoded_is_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(ProviderError, match="compressed body"):
        await read(Pieces(content), PATIENT, **{"Content-Encoding": "gzip"})

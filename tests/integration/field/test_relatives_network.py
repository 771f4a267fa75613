"""Relatives of the reported networks: other proxies, resolvers, addresses, redirects, and what doctor says of them."""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from field_network import API, CDN, Box, ForwardProxy, Front, TestCA, _served
from test_field_doctor import doctor
from test_field_network import AT_CDN, PUBLIC, accepted, run

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

STORE = "store.field.example"


@pytest.fixture
def direct(provider: Front, box: Box, test_ca: TestCA, monkeypatch: pytest.MonkeyPatch) -> Box:
    """No proxy: the API and the CDN are at public addresses."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(test_ca.ca))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    box.names[API] = box.names[CDN] = [PUBLIC]
    box.machines[PUBLIC] = provider
    provider.content = AT_CDN
    return box


# --- Proxies ---


async def test_behind_a_proxy_a_result_at_another_port_is_asked_for_by_name_and_port(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy
) -> None:
    provider.content = f"json https://{CDN}:8443/files/{{id}}.mp4"
    await run(account)
    assert f"CONNECT {CDN}:8443" in proxy.asked


@pytest.mark.parametrize("written", ["http://{user}@127.0.0.1:{port}/", "{user}@127.0.0.1:{port}"])
async def test_a_proxys_password_may_be_percent_encoded(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
) -> None:
    proxy.password = "worker:p@ss/word"
    monkeypatch.setenv("HTTPS_PROXY", written.format(user="worker:p%40ss%2Fword", port=proxy.port))
    provider.content = AT_CDN
    await run(account)
    assert set(proxy.hosts) == {API, CDN}


async def test_no_proxy_may_be_a_star(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, direct: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    await run(account)
    assert proxy.asked == []


async def test_a_proxy_that_is_down_is_named_and_nothing_is_paid(
    account: TokenOpsCredentials,
    proxy: ForwardProxy,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://worker:hunter2@127.0.0.1:9")
    with pytest.raises(errors.GenMediaError) as caught:
        await run(account)
    assert "HTTPS_PROXY" in f"{caught.value} {caught.value.next_step}"
    assert "hunter2" not in f"{caught.value} {caught.value!r}"
    assert caught.value.outcome == "unsent"
    assert accepted(simulator) == 0


async def test_the_ca_of_curl_is_trusted_too(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    test_ca: TestCA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("CURL_CA_BUNDLE", os.fspath(test_ca.ca))
    provider.content = AT_CDN
    await run(account)


# --- Names and addresses ---


async def test_the_api_itself_may_have_a_fake_ip_of_either_family(
    account: TokenOpsCredentials, provider: Front, direct: Box, simulator: RunningSimulator
) -> None:
    direct.names[API] = ["fc00::17", "198.18.0.17"]
    direct.machines["198.18.0.17"] = provider
    await run(account)
    assert accepted(simulator) == 1


@pytest.mark.parametrize(
    "host", ["[::ffff:198.18.0.5]", "3323068421", "198.19.0.5", "0xc6.0x12.0.5", "[64:ff9b::c612:5]", "198.18.0.5."]
)
async def test_a_fake_ip_in_a_url_is_refused_however_it_is_written(
    account: TokenOpsCredentials, provider: Front, direct: Box, host: str
) -> None:
    provider.content = f"json http://{host}/files/{{id}}.mp4"
    with pytest.raises(errors.ProviderError, match="not allowed"):
        await run(account)
    assert set(direct.tried) == {PUBLIC}


async def test_a_redirect_to_a_fake_ip_is_refused_and_to_a_name_that_has_one_is_followed(
    account: TokenOpsCredentials, provider: Front, direct: Box
) -> None:
    provider.content = "302 http://198.18.0.5/files/{id}.mp4"
    with pytest.raises(errors.ProviderError, match="not allowed"):
        await run(account)
    direct.names[STORE], direct.machines["198.18.0.5"] = ["198.18.0.5"], provider
    provider.content = f"302 https://{STORE}/files/{{id}}.mp4"
    await run(account)


@pytest.mark.parametrize("address", "64:ff9b::a00:5 ::ffff:10.0.0.5 2002:a00:5::1 0.0.0.0 169.254.169.254".split())
async def test_a_private_address_inside_another_one_is_refused(
    account: TokenOpsCredentials, provider: Front, direct: Box, address: str
) -> None:
    direct.names[CDN] = [address]
    direct.machines[address] = provider
    with pytest.raises(errors.ProviderError, match="private address"):
        await run(account)
    assert not provider.paths(CDN)


async def test_a_public_address_behind_nat64_is_connected_to(
    account: TokenOpsCredentials, provider: Front, direct: Box
) -> None:
    direct.names[CDN] = ["64:ff9b::5db8:d822"]
    direct.machines["64:ff9b::5db8:d822"] = provider
    await run(account)
    assert provider.paths(CDN)


DEAD = {
    "no route": OSError(errno.EHOSTUNREACH, "No route to host"),
    "no network": OSError(errno.ENETUNREACH, "Network is unreachable"),
    "no address": OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
    "reset": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "timeout": TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
}


@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD.keys())
@pytest.mark.parametrize("name", [API, CDN])
async def test_the_next_address_is_tried_whatever_the_first_ones_answer(
    account: TokenOpsCredentials,
    provider: Front,
    direct: Box,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dead: OSError,
) -> None:
    through = Box._through

    def unless_dead(box: Box, sock: Any, address: Any) -> Any:
        if address[0] in ("2606:2800::7", "93.184.216.99"):
            raise dead
        return through(box, sock, address)

    monkeypatch.setattr(Box, "_through", unless_dead)
    direct.names[name] = ["2606:2800::7", "93.184.216.99", PUBLIC]
    await run(account)
    assert accepted(simulator) == 1


# --- A redirect of /content ---


@pytest.mark.parametrize("status", [301, 303, 308])
@pytest.mark.parametrize(
    "location",
    [
        f"HTTPS://{STORE.upper()}/files/{{id}}.mp4",
        f"//{STORE}/files/{{id}}.mp4?name=a%20b",
        f"https://{STORE}:443/files/{{id}}.mp4#t=1",
        f"https://{STORE}/files/./{{id}}.mp4?name=a b",
    ],
)
async def test_other_redirects_to_a_storage_are_followed_without_the_key(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, status: int, location: str
) -> None:
    provider.content = f"{status} {location}"
    await run(account)
    asked = [key for host, _, key in provider.asked if host.lower() == STORE]
    assert asked == [None]


async def test_a_redirect_without_a_place_fails_and_may_be_asked_for_again(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, simulator: RunningSimulator
) -> None:
    provider.content = "302 "
    with pytest.raises(errors.ProviderError) as caught:
        await run(account)
    assert caught.value.retryable
    assert accepted(simulator) == 1


# --- Doctor ---


async def test_a_bundle_without_a_certificate_is_named(
    account: TokenOpsCredentials,
    direct: Box,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.pem").write_text("# nothing\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    status, table = await doctor(capsys, account)
    assert status == 1
    assert "SSL_CERT_FILE" in table


async def test_a_host_that_has_no_address_is_a_problem_of_base_url(
    account: TokenOpsCredentials, direct: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    del direct.names[API]
    status, table = await doctor(capsys, account)
    assert status == 1
    assert any(row.startswith("base URL") and "wrong" in row for row in table.splitlines()), table


@pytest.mark.parametrize("date", ["yesterday", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_a_date_that_tells_no_time_is_no_traceback(
    account: TokenOpsCredentials,
    provider: Front,
    direct: Box,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    date: str,
) -> None:
    handler = provider.handler

    def with_date() -> Any:
        return type("Handler", (handler(),), {"date_time_string": lambda *_: date})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(os.environ["SSL_CERT_FILE"]).with_name("chain.pem"))
    with _served(with_date(), context) as provider.tls_port:
        status, table = await doctor(capsys, account)
    assert "Traceback" not in table
    assert status == (1 if "1970" in date else 0), table


async def test_a_firewall_in_front_of_the_api_is_not_taken_for_a_refused_key(
    account: TokenOpsCredentials,
    provider: Front,
    direct: Box,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"
    monkeypatch.setattr(Front, "answer_to", lambda *_: (403, {"Content-Type": "text/html"}, page))
    status, table = await doctor(capsys, account)
    assert status == 1
    assert "firewall" in table
    assert "refused" not in table, table

"""Real networks: proxies, certificates, resolvers and redirects between this machine and the provider."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from field_network import API, CDN, Box, ForwardProxy, Front, TestCA

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

PUBLIC = "93.184.216.34"
SIGNATURE = "5ec2e7" * 8
AT_CDN = f"json https://{CDN}/files/{{id}}.mp4"


async def run(account: TokenOpsCredentials) -> Delivery:
    delivery: Delivery = await jimeng_video("a horse", model="jimeng-video-3.0-720P", credentials=account)
    assert Path(delivery.uri).stat().st_size == delivery.bytes
    return delivery


def accepted(simulator: RunningSimulator) -> int:
    return len(simulator.world.jobs)


# --- Proxies ---


async def test_behind_a_proxy_a_result_is_fetched_by_name_and_without_the_key(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy
) -> None:
    provider.content = AT_CDN
    await run(account)
    assert set(proxy.asked) == {f"CONNECT {API}:443", f"CONNECT {CDN}:443"}
    assert [key for host, _, key in provider.asked if host == CDN] == [None]


async def test_a_plain_http_result_goes_through_the_proxy_by_name(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy
) -> None:
    provider.content = f"json http://{CDN}/files/{{id}}.mp4?part=1"
    await run(account)
    (plain,) = [each for each in proxy.asked if each.startswith("GET")]
    assert plain.startswith(f"GET http://{CDN}/files/")
    assert plain.endswith(".mp4?part=1")


async def test_all_proxy_is_the_proxy_of_every_scheme(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", os.environ["HTTPS_PROXY"].removeprefix("http://"))
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.delenv("HTTP_PROXY")
    provider.content = AT_CDN
    await run(account)
    assert set(proxy.hosts) == {API, CDN}


async def test_an_input_is_read_through_the_proxy_by_name(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, simulator: RunningSimulator
) -> None:
    # The simulator has samples of its own for names that exist in documents only; the package reads the real ones.
    assets = simulator.url + "/assets"
    provider.assets = assets
    await omnihuman_video(
        f"https://{CDN}/assets/portrait.jpg",
        f"https://{CDN}/assets/speech.mp3",
        credentials=account,
        output_resolution=720,
    )
    assert "/assets/speech.mp3" in provider.paths(CDN)
    assert set(proxy.hosts) == {API, CDN}


async def test_a_proxy_with_a_password_is_used_and_its_password_shown_nowhere(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.password = "worker:hunter2-of-the-proxy"
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.password}@127.0.0.1:{proxy.port}")
    provider.content = AT_CDN
    await run(account)
    assert "hunter2-of-the-proxy" not in caplog.text
    assert b"hunter2-of-the-proxy" not in (tmp_path / "ledger.db").read_bytes()


async def test_a_proxy_that_refuses_is_named_and_nothing_is_paid(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.password = "worker:right"
    monkeypatch.setenv("HTTPS_PROXY", f"http://worker:hunter2-wrong@127.0.0.1:{proxy.port}")
    with pytest.raises(errors.GenMediaError) as caught:
        await run(account)
    assert "407" in str(caught.value)
    assert "HTTPS_PROXY" in caught.value.next_step
    assert "hunter2" not in f"{caught.value} {caught.value!r}"
    assert caught.value.outcome == "unsent"
    assert accepted(simulator) == 0


@pytest.mark.parametrize(
    "entry",
    [CDN, f".{CDN.partition('.')[2]}", "*.field.example", f"{CDN}:443", f"https://{CDN}", "a.example, \tfield.example"],
)
async def test_no_proxy_names_hosts_that_are_fetched_directly(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
) -> None:
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1,localhost,{entry}")
    box.names[CDN] = box.names[API] = [PUBLIC]
    box.machines[PUBLIC] = provider
    provider.content = AT_CDN
    await run(account)
    assert CDN not in proxy.hosts
    assert provider.paths(CDN)


@pytest.mark.parametrize("entry", ["93.184.216.34", "93.184.0.0/16", "93.184.216.34:80"])
async def test_no_proxy_takes_addresses_and_networks(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
) -> None:
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1,localhost,{entry}")
    box.machines[PUBLIC] = provider
    provider.content = f"json http://{PUBLIC}/files/{{id}}.mp4"
    await run(account)
    assert set(proxy.hosts) == {API}


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "10.0.0.1", "[::1]", "198.18.0.7", "localhost", "metadata.google.internal", "2130706433"],
)
async def test_behind_a_proxy_private_addresses_and_names_are_refused_and_never_asked_for(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, host: str
) -> None:
    provider.content = f"json https://{host}/files/{{id}}.mp4"
    with pytest.raises(errors.ProviderError, match="not allowed"):
        await run(account)
    assert set(proxy.hosts) == {API}


# --- Certificates ---


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "bundle folder"])
async def test_a_ca_of_the_environment_is_trusted_for_the_api_and_for_results(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    test_ca: TestCA,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    folder = variable in ("SSL_CERT_DIR", "bundle folder")
    if folder and shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    place = test_ca.hashed_folder(tmp_path / "certs") if folder else test_ca.ca
    monkeypatch.setenv("REQUESTS_CA_BUNDLE" if variable == "bundle folder" else variable, os.fspath(place))
    provider.content = AT_CDN
    await run(account)


async def test_a_ca_that_is_not_known_is_reported_with_what_to_set_and_nothing_is_paid(
    account: TokenOpsCredentials,
    proxy: ForwardProxy,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(errors.GenMediaError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        await run(account)
    assert "SSL_CERT_FILE" in caught.value.next_step
    assert accepted(simulator) == 0


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
async def test_certificates_that_do_not_exist_are_named_by_their_variable_and_nothing_is_paid(
    account: TokenOpsCredentials,
    proxy: ForwardProxy,
    simulator: RunningSimulator,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv(variable, "/there/is/no/such.pem")
    with pytest.raises(errors.GenMediaError, match=f"{variable} names /there/is/no/such.pem"):
        await run(account)
    assert accepted(simulator) == 0


# --- Names and addresses ---


@pytest.fixture
def direct(provider: Front, box: Box, test_ca: TestCA, monkeypatch: pytest.MonkeyPatch) -> Box:
    """No proxy: the API is at a public address, and results are at the CDN."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(test_ca.ca))
    box.names[API] = [PUBLIC]
    box.machines[PUBLIC] = provider
    provider.content = AT_CDN
    return box


@pytest.mark.parametrize(
    "addresses", [["198.18.0.5"], ["198.19.255.7", "fc00::5"], ["fdfe:dcba:9876::5", "198.18.0.5"]]
)
async def test_a_fake_ip_that_dns_answers_is_connected_to(
    account: TokenOpsCredentials, provider: Front, direct: Box, addresses: list[str]
) -> None:
    direct.names[CDN] = addresses
    direct.machines |= dict.fromkeys(addresses, provider)
    await run(account)
    assert {address for address in direct.tried if address != PUBLIC} == {each for each in addresses if "." in each}


async def test_a_fake_ip_that_stands_in_a_url_is_refused(
    account: TokenOpsCredentials, provider: Front, direct: Box
) -> None:
    direct.machines["198.18.0.5"] = provider
    provider.content = "json http://198.18.0.5/files/{id}.mp4"
    with pytest.raises(errors.ProviderError, match=r"private address 198\.18\.0\.5"):
        await run(account)
    assert "198.18.0.5" not in direct.tried


@pytest.mark.parametrize("addresses", [["10.0.0.5"], ["100.64.0.5"], [PUBLIC, "10.0.0.5"], ["fc00::5"]])
async def test_other_private_addresses_that_dns_answers_are_refused(
    account: TokenOpsCredentials, provider: Front, direct: Box, addresses: list[str]
) -> None:
    direct.names[CDN] = addresses
    direct.machines |= dict.fromkeys(addresses, provider)
    with pytest.raises(errors.ProviderError, match="private address"):
        await run(account)
    assert not provider.paths(CDN)


@pytest.mark.parametrize(
    "addresses",
    [
        ["93.184.216.40", "2606:4700::1111"],
        ["2606:4700::40", "93.184.216.35"],
        ["93.184.216.40", "93.184.216.41", PUBLIC],
    ],
)
async def test_where_an_address_of_a_host_does_not_answer_the_next_one_is_tried(
    account: TokenOpsCredentials, provider: Front, direct: Box, addresses: list[str]
) -> None:
    direct.names[CDN] = addresses
    direct.machines[addresses[-1]] = provider
    await run(account)
    assert provider.paths(CDN)


# --- A redirect of /content ---


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_to_a_signed_storage_is_followed_without_the_key(
    account: TokenOpsCredentials,
    provider: Front,
    proxy: ForwardProxy,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    signed = f"https://store.field.example/files/{{id}}.mp4?X-Amz-Credential=AKIA&X-Amz-Signature={SIGNATURE}"
    provider.content = f"{status} {signed}"
    delivery = await run(account)
    assert [key for host, _, key in provider.asked if host == "store.field.example"] == [None]
    for text in (caplog.text, delivery.model_dump_json(), (tmp_path / "ledger.db").read_bytes().decode("latin-1")):
        assert SIGNATURE not in text


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest", "not allowed"),
        ("https://[::1]/files/{id}.mp4", "not allowed"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("http://[bad", "cannot be read"),
        ("/again", "redirected more than 5 times"),
    ],
)
async def test_a_redirect_obeys_the_rules_of_every_fetch(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, location: str, reason: str
) -> None:
    provider.content = f"302 {location}"
    with pytest.raises(errors.ProviderError, match=reason):
        await run(account)


async def test_a_redirect_may_be_a_path_of_the_same_host(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy
) -> None:
    provider.content = "302 /files/{id}.mp4"
    await run(account)
    assert [key for _, path, key in provider.asked if path.startswith("/files/")] == [None]

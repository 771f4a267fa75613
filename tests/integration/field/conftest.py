"""What the field tests share. They use flows and the command line only, so that they also run with an older wheel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from field_network import API, Box, ForwardProxy, Front, TestCA, forward_proxy, front

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia.simulator import RunningSimulator

if TYPE_CHECKING:
    from tables import Tables

    from prefect_genmedia.simulator.media import Recipe
    from prefect_genmedia.simulator.world import World

_OF_THE_NETWORK = (
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of five frames: five seconds long, decoded in no time."""
    from prefect_genmedia.simulator.media import Recipe
    from prefect_genmedia.simulator.world import World

    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=720, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


@pytest.fixture
def tables(simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path) -> Tables:
    from tables import Tables

    return Tables(credentials, tmp_path)


@pytest.fixture(scope="session")
def test_ca(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA.at(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def clean_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no CA of this machine's; local servers, Prefect's too, are reached directly."""
    for name in _OF_THE_NETWORK.split():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    # An earlier version read the certificates once in a process.
    from prefect_genmedia._transport import api

    if hasattr(api, "shared_ssl_context"):
        api.shared_ssl_context.cache_clear()


@pytest.fixture
def box(clean_network: None, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(monkeypatch)


@pytest.fixture
def provider(simulator: RunningSimulator, test_ca: TestCA) -> Iterator[Front]:
    with front(simulator.tokenops_url, simulator.key, test_ca) as served:
        yield served


@pytest.fixture
def proxy(provider: Front, box: Box, test_ca: TestCA, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
    """The only way out: no name is resolved here."""
    with forward_proxy(provider) as served:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{served.port}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{served.port}")
        monkeypatch.setenv("SSL_CERT_FILE", os.fspath(test_ca.ca))
        yield served


@pytest.fixture
def account(simulator: RunningSimulator) -> TokenOpsCredentials:
    return TokenOpsCredentials(api_key=simulator.key, base_url=f"https://{API}/v1")

"""Polls of several jobs that come together are one request, where the provider has an endpoint for that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clocks import QuickClock
from pydantic import SecretStr

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia._core.shared_polls import APART_SECONDS, MAX_IDS, poll
from prefect_genmedia.errors import CredentialsError, ProviderError
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.providers.protocol import Observation, Phase
from prefect_genmedia.simulator import RunningSimulator


def observed(name: str) -> Observation:
    return Observation(Phase.RUNNING, f"word of {name}")


@dataclass(eq=False)
class Provider:
    """A client that notes its requests; `many` is what the endpoint for many jobs does."""

    many: Any = None
    requests: list[Any] = field(default_factory=list)
    clock: QuickClock = field(default_factory=QuickClock)

    async def poll(self, provider_job_id: str) -> Observation:
        self.requests.append(provider_job_id)
        return observed(provider_job_id)

    async def poll_many(self, provider_job_ids: Sequence[str]) -> dict[str, Observation]:
        self.requests.append(list(provider_job_ids))
        if isinstance(self.many, Exception):
            raise self.many
        return {name: observed(name) for name in provider_job_ids if name not in (self.many or ())}

    async def polled(self, *names: str) -> list[Any]:
        client: Any = self
        return await asyncio.gather(*(poll(client, name, self.clock) for name in names), return_exceptions=True)


async def test_a_job_alone_is_polled_at_once() -> None:
    provider = Provider()
    assert await provider.polled("a") == await provider.polled("a") == [observed("a")]
    assert provider.requests == ["a", "a"]
    assert provider.clock.passed == 0


async def test_polls_of_several_jobs_are_one_request() -> None:
    provider = Provider()
    await provider.polled("x")
    assert await provider.polled("a", "b", "c", "b") == [observed(name) for name in ("a", "b", "c", "b")]
    assert provider.requests == ["x", ["a", "b", "c"]]


async def test_a_request_asks_for_so_many_jobs_at_most() -> None:
    provider = Provider()
    names = [str(number) for number in range(MAX_IDS + 2)]
    assert await provider.polled("first", *names) == [observed("first"), *map(observed, names)]
    assert provider.requests == ["first", names[:MAX_IDS], names[MAX_IDS:]]


async def test_a_job_that_the_shared_answer_leaves_out_is_polled_by_itself() -> None:
    provider = Provider(many={"b"})
    await provider.polled("x")
    assert await provider.polled("a", "b") == [observed("a"), observed("b")]
    assert provider.requests == ["x", ["a", "b"], "b"]


async def test_where_the_shared_request_fails_jobs_are_polled_one_by_one_for_some_minutes() -> None:
    provider = Provider(many=ProviderError("no such endpoint"))
    await provider.polled("x")
    for _ in range(2):
        assert await provider.polled("a", "b") == [observed("a"), observed("b")]
    assert provider.requests == ["x", ["a", "b"], "a", "b", "a", "b"]
    provider.many = None
    provider.clock.passed += APART_SECONDS
    await provider.polled("a", "b")
    assert provider.requests[-1] == ["a", "b"]


async def test_a_refused_key_ends_each_wait_with_an_error_of_its_own() -> None:
    provider = Provider(many=CredentialsError("no such key", code="4", http_status=401))
    await provider.polled("x")
    first, second = await provider.polled("a", "b")
    assert isinstance(first, CredentialsError)
    assert isinstance(second, CredentialsError)
    assert first.about("key-a", "a").provider_job_id == "a"
    assert (second.provider_job_id, second.message, second.code) == (None, "no such key", "4")
    assert provider.requests == ["x", ["a", "b"]]


async def test_a_wait_that_ends_does_not_end_the_polls_of_others() -> None:
    provider = Provider()
    client: Any = provider
    await provider.polled("x")
    waits = [asyncio.create_task(poll(client, name, provider.clock)) for name in ("a", "a", "b")]
    await asyncio.sleep(0)
    waits[0].cancel()
    assert await asyncio.gather(*waits[1:]) == [observed("a"), observed("b")]


@pytest.mark.usefixtures("prefect_server")
async def test_the_rows_of_a_batch_share_their_polls(simulator: RunningSimulator, tmp_path: Path) -> None:
    credentials = HiDreamCredentials(
        token=SecretStr(simulator.key), base_url=simulator.hidream_url, submissions_per_minute=None
    )
    simulator.world.settings.run_seconds = 3.0
    rows = [{"id": f"row-{n}", "video_url": simulator.clip_url, "style": "anime", "prompt": str(n)} for n in range(6)]
    report = await generate_batch(
        rows, kind="stylize", credentials=credentials, output=str(tmp_path), canary=0, preflight=False
    )
    requests = simulator.world.requests
    assert report.delivered == 6
    assert requests["hidream.batch"] > 0
    assert requests["hidream.batch"] + requests["hidream.poll"] < 6 * 4

"""Callbacks: whoever has the token may hint, once or often; the waiting task looks at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from prefect_genmedia._core import Job, JobState, Ledger, PollPolicy, wait_for_job
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia.callbacks.app import MAX_BODY_BYTES, callback_app
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import Observation, Phase

SECRET = "a long random text"


@pytest.fixture
async def receiver(ledger_url: str, heard: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    async def hear(job: Job, words: str) -> None:
        heard.append(f"{job.key} {words}")

    app = callback_app(ledger_url, SECRET, hear)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://callbacks.example") as client:
            yield client


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
async def job(ledger: Ledger) -> Job:
    reserved = await ledger.reserve(Job(key="", identity="x" * 64, provider="hidream"))
    sending = await ledger.move(reserved, JobState.SENDING) or reserved
    return await ledger.move(sending, JobState.SUBMITTED, provider_job_id="b178") or sending


BODY = {"main_task_id": "b178", "sub_task_results": [{"task_status": 1, "video": "https://cdn.example.com/1.mp4"}]}


async def test_a_callback_is_recorded_once_and_heard_however_often_it_comes(
    receiver: httpx.AsyncClient, job: Job, ledger: Ledger, heard: list[str]
) -> None:
    url = callback_url("https://callbacks.example/", SECRET, job)
    answers = [await receiver.post(url, json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert heard == [f"{job.key} done"] * 3, "the first may have found the run awake"
    noted = await ledger.get(job.key)
    assert noted
    assert noted.notified_at
    assert noted.state is JobState.SUBMITTED


@pytest.mark.parametrize("token", ["", "0" * 32, "é"])
async def test_without_the_token_nothing_is_recorded(
    token: str, receiver: httpx.AsyncClient, job: Job, ledger: Ledger
) -> None:
    answer = await receiver.post(f"/callbacks/hidream/{job.key}/{token}", json=BODY)
    assert answer.status_code == 404
    assert await ledger.get(job.key) == job


async def test_a_job_that_is_gone_is_answered_so_that_the_provider_stops(receiver: httpx.AsyncClient, job: Job) -> None:
    url = callback_url("https://callbacks.example", SECRET, job.model_copy(update={"key": "gone"}))
    assert (await receiver.post(url, json=BODY)).json() == {"received": True, "known": False}


async def test_a_body_that_is_too_large_is_refused_and_rubbish_is_still_a_hint(
    receiver: httpx.AsyncClient, job: Job, heard: list[str]
) -> None:
    url = callback_url("https://callbacks.example", SECRET, job)
    assert (await receiver.post(url, content=b"x" * (MAX_BODY_BYTES + 1))).status_code == 413
    assert (await receiver.post(url, content=b"not json")).status_code == 200
    assert heard == [f"{job.key} "]


class Done:
    """A provider whose job is done, and which counts how often it is asked."""

    def __init__(self) -> None:
        self.looks = 0

    async def poll(self, provider_job_id: str) -> Observation:
        self.looks += 1
        return Observation(Phase.SUCCEEDED, "1")


async def test_the_waiting_task_looks_at_once_when_the_callback_comes(
    receiver: httpx.AsyncClient, job: Job, ledger: Ledger
) -> None:
    provider = Done()
    policy = PollPolicy(shortest=3600.0, longest=3600.0, watch_callback=0.01)
    waiting = asyncio.create_task(wait_for_job(ledger, provider, job, 7200.0, policy))
    await receiver.post(callback_url("https://callbacks.example", SECRET, job), json=BODY)
    done = await asyncio.wait_for(waiting, 120)
    assert done.state is JobState.SUCCEEDED
    assert provider.looks == 1


async def test_without_a_callback_the_wait_falls_back_to_looking(job: Job, ledger: Ledger) -> None:
    policy = PollPolicy(shortest=0.05, longest=0.05, watch_callback=0.01)
    done = await wait_for_job(ledger, Done(), job, 60.0, policy)
    assert done.state is JobState.SUCCEEDED
    assert done.notified_at is None
    assert not issubclass(type(done), GenMediaError)

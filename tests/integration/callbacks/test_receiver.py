"""The ready-made receiver: mounted or served, it answers in time, tells Prefect, and ends the wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.routing import Mount

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia._prefect import run as prefect_run
from prefect_genmedia.callbacks import app as callbacks
from prefect_genmedia.callbacks import app as receiver
from prefect_genmedia.callbacks.app import callback_app, callback_receiver
from prefect_genmedia.cli.callbacks import serve_callbacks
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.providers.hidream import simulator as dialect
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.server import bound_url

SECRET = "a long random text"
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
BODY = {"main_task_id": "b178", "sub_task_results": [{"task_status": 1, "video": "https://cdn.example.com/1.mp4"}]}


@pytest.fixture
async def job(ledger: Ledger) -> Job:
    reserved = await ledger.reserve(Job(key="", identity="x" * 64, provider="hidream"))
    sending = await ledger.move(reserved, JobState.SENDING) or reserved
    return await ledger.move(sending, JobState.SUBMITTED, provider_job_id="b178") or sending


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}CALLBACK_SECRET", SECRET)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every event of the package, in place of the server."""
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(prefect_run, "emit_event", lambda **event: emitted.append(event))
    return emitted


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the jobs whose runs were to be resumed."""
    keys: list[str] = []

    async def resume(job: Job) -> None:
        keys.append(job.key)

    monkeypatch.setattr(receiver, "resume_run_of", resume)
    return keys


def client_of(app: Starlette) -> httpx.AsyncClient:
    """Talks to an app whose lifespan nobody runs."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://callbacks.example")


async def test_a_mounted_receiver_records_the_outcome_tells_prefect_once_and_wakes_the_run_each_time(
    job: Job, ledger: Ledger, secret: None, events: list[dict[str, Any]], woken: list[str]
) -> None:
    app = Starlette(routes=[Mount("/genmedia", app=callback_receiver())])
    url = callback_url("https://callbacks.example/genmedia", SECRET, job)
    async with client_of(app) as client:
        answers = [await client.post(url, json=BODY) for _ in range(2)]
        assert (await client.get("/genmedia/health")).is_success
    assert [answer.status_code for answer in answers] == [200, 200]
    noted = await ledger.get(job.key)
    assert noted
    assert noted.notified_at
    assert (noted.provider_status, noted.state) == ("done", JobState.SUBMITTED), "told, and not believed"
    (event,) = events
    assert event["event"] == "genmedia.job.notified"
    assert event["resource"]["prefect.resource.id"] == f"genmedia.job.{job.key}"
    assert event["payload"]["provider_status"] == "done"
    assert woken == [job.key] * 2, "the first may have found the run awake"


def test_without_a_secret_there_is_no_receiver() -> None:
    with pytest.raises(InvalidRequest, match="CALLBACK_SECRET"):
        callback_receiver()


def test_the_command_serves_the_receiver_and_writes_no_paths_down(
    secret: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append(server.config))
    assert serve_callbacks("127.0.0.1", 0, Console()) == 0
    (config,) = served
    app: Any = config.app
    assert "/callbacks/{provider}/{key}/{token}" in [getattr(route, "path", "") for route in app.routes]
    assert config.access_log is False
    monkeypatch.delenv(f"{PREFIX}CALLBACK_SECRET")
    assert serve_callbacks("127.0.0.1", 0, Console(quiet=True)) == 2
    assert len(served) == 1


class Stuck:
    """A ledger whose database answers nothing."""

    async def get(self, key: str) -> Job | None:
        await anyio.sleep_forever()
        return None


async def test_a_ledger_that_hangs_is_answered_before_the_provider_gives_up_so_that_it_comes_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callbacks.ANSWER_SECONDS < 5, "the provider's own bound"
    heard: list[str] = []

    async def hear(job: Job, words: str) -> None:
        heard.append(job.key)

    @asynccontextmanager
    async def stuck(*arguments: Any) -> AsyncIterator[Stuck]:
        yield Stuck()

    app = callback_app("sqlite:///unused.db", SECRET, hear)
    url = callback_url("https://callbacks.example", SECRET, job)
    monkeypatch.setattr(callbacks, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(callbacks, "open_ledger", stuck)
    async with client_of(app) as client:
        assert (await client.post(url, json=BODY)).status_code == 503
    assert heard == []


async def test_a_callback_that_overtakes_the_writing_down_of_its_job_is_not_lost(
    ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = await ledger.reserve(Job(key="", identity="y" * 64, provider="hidream"))
    sending = await ledger.move(reserved, JobState.SENDING)
    assert sending
    get = Ledger.get

    async def overtaken(self: Ledger, key: str) -> Job | None:
        found = await get(self, key)
        await ledger.move(sending, JobState.SUBMITTED, provider_job_id="b178")
        return found

    monkeypatch.setattr(Ledger, "get", overtaken)
    async with client_of(callback_app(ledger_url, SECRET)) as client:
        answer = await client.post(callback_url("https://callbacks.example", SECRET, sending), json=BODY)
    assert answer.json() == {"received": True, "known": True}
    noted = await get(ledger, sending.key)
    assert noted
    assert noted.notified_at


Serve = Callable[[Starlette], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an app on a free loopback port until the test ends; gives its address."""
    servings: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Starlette) -> str:
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        serving = asyncio.create_task(server.serve())
        servings.append((server, serving))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        return bound_url(server)

    yield start
    for server, serving in servings:
        server.should_exit = True
        await serving


@pytest.mark.usefixtures("prefect_server")
async def test_hidream_calls_back_by_itself_and_the_flow_that_would_look_in_an_hour_goes_on(
    simulator: RunningSimulator,
    serve: Serve,
    secret: None,
    events: list[dict[str, Any]],
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow the machine is, the callback that comes is the only way for the run to go on.
    monkeypatch.setattr(dialect, "_CALLBACK_TIMEOUT", 120.0)
    monkeypatch.setattr(callbacks, "ANSWER_SECONDS", 120.0)
    monkeypatch.setenv(f"{PREFIX}POLL_SHORTEST_SECONDS", "3600")
    monkeypatch.setenv(f"{PREFIX}POLL_LONGEST_SECONDS", "3600")
    url = await serve(callback_receiver())
    monkeypatch.setenv(f"{PREFIX}CALLBACK_URL", url)
    credentials = HiDreamCredentials(token=simulator.key, user_id="u", base_url=simulator.hidream_url)
    running = stylize_video(
        simulator.clip_url, "ink_wash", credentials=credentials, output=str(tmp_path), timeout_seconds=7200
    )
    delivery = await asyncio.wait_for(running, 300)
    job = await ledger.get(delivery.job_key)
    assert job
    (submitted,) = simulator.world.jobs.values()
    assert submitted.body["notify_url"] == callback_url(url, SECRET, job)
    assert job.notified_at
    with anyio.fail_after(300):  # the event comes after HiDream has its answer, beside the run
        while not (notified := [event for event in events if event["event"] == "genmedia.job.notified"]):
            await asyncio.sleep(0.01)
    assert [event["resource"]["genmedia.provider-job-id"] for event in notified] == [submitted.id]
    assert notified[0]["payload"]["provider_status"] == "done"

"""A run that sleeps until its job is done: no news is lost, at whatever moment it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async

from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia._prefect import suspension as suspend
from prefect_genmedia._prefect.suspension import resume_run_of, suspend_until_done, wake_sleepers
from prefect_genmedia.callbacks.app import callback_app

pytestmark = pytest.mark.usefixtures("prefect_server")

SECRET = "a long random text"
GONE_ON = "it went on without sleeping, or after it"


@flow(name="sleeper")
async def sleeper(job: dict[str, Any]) -> str:
    await suspend_until_done(Job.model_validate(job))
    return GONE_ON


class Sleeper:
    """A deployed run, with its job."""

    def __init__(self, run: FlowRun, job: Job) -> None:
        self.run, self.job = run, job

    async def goes(self) -> str | None:
        """What the run returns; None where it sleeps."""
        async with get_client() as client:
            run = await client.read_flow_run(self.run.id)
        try:
            returned: str = await run_flow_async(sleeper, flow_run=run, parameters={"job": self.job.model_dump()})
        except Pause:
            return None
        return returned

    async def state(self) -> str:
        async with get_client() as client:
            state = (await client.read_flow_run(self.run.id)).state
        assert state
        return state.name


@pytest.fixture
async def sleeping(ledger: Ledger) -> AsyncIterator[Sleeper]:
    """A run that could sleep; nothing of it is left for tests that look at what is paused or deployed."""
    async with get_client() as client:
        flow_id = await client.create_flow(sleeper)
        deployment = await client.create_deployment(flow_id=flow_id, name="sleeper", enforce_parameter_schema=False)
        run = await client.create_flow_run_from_deployment(deployment)
    reserved = await ledger.reserve(Job(key="", identity=str(run.id), provider="hidream", flow_run_id=str(run.id)))
    sending = await ledger.move(reserved, JobState.SENDING) or reserved
    yield Sleeper(run, await ledger.move(sending, JobState.SUBMITTED, provider_job_id="b178") or sending)
    async with get_client() as client:
        await client.delete_flow_run(run.id)
        await client.delete_deployment(deployment)


@pytest.fixture
async def call_back(ledger_url: str, sleeping: Sleeper) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async def heard(job: Job, words: str) -> None:
        await resume_run_of(job)

    app = callback_app(ledger_url, SECRET, heard)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://callbacks.example") as client,
    ):

        async def call() -> None:
            answer = await client.post(callback_url("https://callbacks.example", SECRET, sleeping.job), json={})
            assert answer.is_success

        yield call


async def test_a_run_sleeps_until_the_callback_comes(
    sleeping: Sleeper, call_back: Callable[[], Awaitable[None]]
) -> None:
    assert await sleeping.goes() is None
    assert await sleeping.state() == "Suspended"
    await call_back()
    assert await sleeping.state() == "Resuming"
    assert await sleeping.goes() == GONE_ON


async def test_a_run_whose_callback_has_come_does_not_sleep(
    sleeping: Sleeper, call_back: Callable[[], Awaitable[None]]
) -> None:
    await call_back()
    assert await sleeping.goes() == GONE_ON


async def test_a_callback_that_comes_while_the_run_falls_asleep_wakes_it(
    sleeping: Sleeper, call_back: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = suspend.asuspend_flow_run

    async def interrupted(**options: Any) -> None:
        await call_back()  # the run is awake yet, so nothing is resumed
        await asleep(**options)

    monkeypatch.setattr(suspend, "asuspend_flow_run", interrupted)
    assert await sleeping.goes() is None
    assert await sleeping.state() == "Resuming"
    assert await sleeping.goes() == GONE_ON


async def test_a_later_callback_wakes_a_run_that_the_first_did_not(
    sleeping: Sleeper, call_back: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await sleeping.goes() is None

    async def no_server(run_id: Any, **options: Any) -> None:
        raise RuntimeError("the server did not take it")

    with monkeypatch.context() as broken:
        broken.setattr(suspend, "aresume_flow_run", no_server)
        await call_back()
    assert await sleeping.state() == "Suspended"
    await call_back()
    assert await sleeping.state() == "Resuming"


async def test_a_run_that_is_resumed_twice_is_resumed_once(sleeping: Sleeper) -> None:
    assert await sleeping.goes() is None
    assert await resume_run_of(sleeping.job) == "resumed"
    assert await resume_run_of(sleeping.job) == "not waiting"


@pytest.mark.parametrize("ended", [JobState.SUCCEEDED, JobState.FAILED])
async def test_a_run_that_sleeps_for_a_job_which_another_run_took_up_is_woken_when_that_has_ended(
    ended: JobState, sleeping: Sleeper, ledger: Ledger
) -> None:
    assert await sleeping.goes() is None
    taken = await ledger.note(sleeping.job, flow_run_id="another")
    assert taken
    assert await wake_sleepers(ledger) == [], "there is no news yet"
    await ledger.move(taken, ended)
    assert await resume_run_of(taken) == "not waiting"
    assert await wake_sleepers(ledger) == [sleeping.run.name]
    assert await sleeping.state() == "Resuming"
    assert await sleeping.goes() == GONE_ON


async def test_runs_that_sleep_for_something_else_are_left_alone(
    sleeping: Sleeper, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspend, "pause_key", lambda job: f"another-{job.key}")
    assert await sleeping.goes() is None
    await ledger.move(sleeping.job, JobState.SUCCEEDED)
    assert await wake_sleepers(ledger) == []
    assert await sleeping.state() == "Suspended"

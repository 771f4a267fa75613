"""Jenius and HiDream from request to file, against the simulator: each fault is told for what it is, and paid once."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from jobs import submit_once

from prefect_genmedia._core import Job, JobState, Ledger, PollPolicy, deliver, wait_for_job
from prefect_genmedia._media.storage import target_at
from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    InvalidRequest,
    JobExpired,
    ProviderError,
    QuotaError,
    RateLimited,
    ResultInvalid,
    SubmissionUnknown,
)
from prefect_genmedia.providers.hidream import HiDreamClient, StylizedVideo
from prefect_genmedia.providers.hidream import simulator as dialect
from prefect_genmedia.providers.jenius import JeniusClient, LivePoster
from prefect_genmedia.providers.protocol import GenerationRequest, ProviderClient
from prefect_genmedia.simulator import RunningSimulator

POLICY = PollPolicy(shortest=0.05)
DOCUMENTED_VIDEO = "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4"
DOCUMENTED_PICTURE = "https://example.com/user-photo.jpg"


class Life:
    """Jobs of one account at the simulator."""

    def __init__(
        self, name: str, client: ProviderClient, ledger: Ledger, simulator: RunningSimulator, folder: Path
    ) -> None:
        self.name = name
        self.client = client
        self.ledger = ledger
        self.simulator = simulator
        self.folder = folder

    def request(self, **changes: Any) -> GenerationRequest:
        if self.name == "jenius":
            return LivePoster(**{"image_url": DOCUMENTED_PICTURE, "scene": "firework"} | changes)
        return StylizedVideo(**{"video_url": self.simulator.clip_url, "style": "ink_wash"} | changes)

    async def submitted(self, scope: str = "test", **changes: Any) -> Job:
        return await submit_once(self.ledger, self.client, self.request(**changes), scope=scope)

    async def finished(self, **changes: Any) -> Job:
        return await wait_for_job(self.ledger, self.client, await self.submitted(**changes), 600, POLICY)

    async def fetched(self, job: Job) -> Job:
        return await deliver(self.ledger, self.client, job, target_at(str(self.folder)))

    async def delivered(self, **changes: Any) -> Job:
        return await self.fetched(await self.finished(**changes))


@pytest.fixture
async def jenius(ledger: Ledger, simulator: RunningSimulator, tmp_path: Path) -> AsyncIterator[Life]:
    client = JeniusClient(simulator.key, simulator.jenius_url)
    yield Life("jenius", client, ledger, simulator, tmp_path / "media")
    await client.aclose()


@pytest.fixture
async def hidream(ledger: Ledger, simulator: RunningSimulator, tmp_path: Path) -> AsyncIterator[Life]:
    client = HiDreamClient(token=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    yield Life("hidream", client, ledger, simulator, tmp_path / "media")
    await client.aclose()


@pytest.fixture(params=["jenius", "hidream"])
def life(request: pytest.FixtureRequest) -> Life:
    found: Life = request.getfixturevalue(request.param)
    return found


# --- Both ---


@pytest.mark.parametrize(
    ("fault", "kind", "accepted"),
    [
        ("refuse_invalid", InvalidRequest, 0),
        ("refuse_key", CredentialsError, 0),
        ("refuse_balance", QuotaError, 0),
        ("rate_limited", RateLimited, 0),
        ("drop_before_accept", SubmissionUnknown, 0),
        ("accept_then_drop", SubmissionUnknown, 1),
        ("accept_then_500", SubmissionUnknown, 1),
        ("accept_then_502", SubmissionUnknown, 1),
        ("accept_then_504", SubmissionUnknown, 1),
        ("accept_then_garbage", SubmissionUnknown, 1),
    ],
)
async def test_a_fault_at_submission_is_reported_for_what_it_is(
    life: Life, fault: str, kind: type, accepted: int
) -> None:
    life.simulator.order(fault, provider=life.name)
    with pytest.raises(GenMediaError) as caught:
        await life.submitted()
    assert type(caught.value) is kind
    assert life.simulator.accepted == accepted


@pytest.mark.parametrize("fault", ["poll_503", "poll_html", "poll_unknown_status", "poll_drop", "poll_404"])
async def test_a_bad_look_does_not_end_the_wait(life: Life, fault: str) -> None:
    life.simulator.order(fault, times=2)
    assert (await life.finished()).state is JobState.SUCCEEDED


async def test_a_revoked_key_ends_the_wait_and_not_the_job(life: Life) -> None:
    life.simulator.order("poll_key_revoked")
    with pytest.raises(CredentialsError):
        await life.finished()
    assert (await life.finished()).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *[(f"content_{name}", ProviderError) for name in ("502", "html", "empty", "json", "json_expired")],
        *[(f"content_{name}", ResultInvalid) for name in ("truncated_chunked", "corrupt")],
        ("content_gone", JobExpired),
    ],
)
async def test_a_bad_download_is_no_delivery_and_can_be_repeated(life: Life, fault: str, kind: type) -> None:
    life.simulator.order(fault)
    with pytest.raises(kind) as caught:
        await life.delivered()
    assert caught.value.retryable
    assert not list(life.folder.glob("*.mp4"))
    job = await life.ledger.find(caught.value.job_key or "")
    assert job is not None
    assert (await life.fetched(job)).state is JobState.DELIVERED
    assert life.simulator.accepted == 1


async def test_a_url_that_expired_since_the_last_look_is_asked_for_anew(life: Life) -> None:
    life.simulator.world.settings.file_seconds = -1.0
    job = await life.finished()
    life.simulator.world.settings.file_seconds = 3600.0
    assert (await life.fetched(job)).state is JobState.DELIVERED


# --- Jenius ---


async def test_a_poster_is_paid_once_and_delivered(jenius: Life) -> None:
    first, second = await jenius.delivered(), await jenius.delivered()
    assert first.key == second.key
    assert first.delivery is not None
    assert (first.delivery.seconds, first.delivery.width, first.delivery.height) == (5.0, 1280, 720)
    assert jenius.simulator.accepted == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [("fail_input", "图片未通过审核"), ("fail_output", "生成内容未通过审核"), ("fail_internal", "内部错误")],
)
async def test_a_failed_poster_tells_why_and_the_price_it_was_given(jenius: Life, fault: str, words: str) -> None:
    jenius.simulator.order(fault)
    for _ in ("the first error", "the ledger's"):
        with pytest.raises(GenerationFailed, match=words) as caught:
            await jenius.finished()
        assert "does not document whether failed jobs are billed; it names a price of" in caught.value.paid


async def test_the_simulated_jenius_refuses_what_is_not_documented(simulator: RunningSimulator) -> None:
    headers = {"Authorization": f"Bearer {simulator.key}"}
    tasks = f"{simulator.jenius_url}/api/plugins/poster/tasks"
    good = {"prompt": "youqian", "image_url": DOCUMENTED_PICTURE}
    async with httpx.AsyncClient() as web:
        for body in ({}, good | {"prompt": "sunset"}, good | {"image_url": "photo.jpg"}):
            assert (await web.post(tasks, json=body, headers=headers)).json()["code"] == 400
        assert (await web.post(tasks, json=good, headers={"Authorization": simulator.key})).status_code == 401
        # The sample on the provider's page forgets to put the task's id into the URL.
        assert (await web.get(f"{tasks}/{{task_id}}", headers=headers)).status_code == 404
    assert simulator.accepted == 0


# --- HiDream ---


async def test_a_video_is_paid_once_and_delivered_as_long_as_its_source(hidream: Life) -> None:
    first, second = await hidream.delivered(), await hidream.delivered(request_id="another")
    assert first.key == second.key
    assert first.delivery is not None
    assert (first.delivery.seconds, first.delivery.width, first.delivery.height) == (3.0, 640, 360)
    assert first.delivery.has_audio
    assert hidream.simulator.accepted == 1


async def test_the_documents_own_video_works_at_the_simulator(hidream: Life) -> None:
    job = await hidream.delivered(video_url=DOCUMENTED_VIDEO, style=None, prompt="a pig is eating")
    assert job.state is JobState.DELIVERED


@pytest.mark.parametrize(("fault", "code"), [("fail_input", "4"), ("fail_output", "4"), ("fail_internal", "3")])
async def test_a_failed_stylization_tells_why(hidream: Life, fault: str, code: str) -> None:
    hidream.simulator.order(fault)
    with pytest.raises(GenerationFailed) as caught:
        await hidream.finished()
    assert caught.value.code == code


async def test_tokens_that_end_while_a_job_runs_are_renewed(hidream: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = hidream.simulator
    monkeypatch.setattr(simulator.world, "keys", frozenset({"plain-key"}))
    client = HiDreamClient(api_key="plain-key", base_url=simulator.hidream_url, submissions_per_minute=None)
    hidream.client = client
    job = await hidream.submitted()
    for _ in range(2):
        simulator.order("poll_key_revoked", provider="hidream")
        await client.poll(job.provider_job_id or "")
    assert simulator.world.requests["hidream.token"] == 3
    assert (await hidream.finished()).state is JobState.SUCCEEDED
    assert set(await client.poll_many([job.provider_job_id or "", "of nobody"])) == {job.provider_job_id}
    await client.aclose()


async def test_tokens_that_have_ended_when_they_come_are_a_refused_key(
    hidream: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = hidream.simulator
    monkeypatch.setattr(simulator.world, "keys", frozenset({"plain-key"}))
    simulator.world.settings.token_seconds = -1.0
    client = HiDreamClient(api_key="plain-key", base_url=simulator.hidream_url, submissions_per_minute=None)
    hidream.client = client
    with pytest.raises(CredentialsError):
        await hidream.submitted()
    assert simulator.accepted == 0
    await client.aclose()


async def test_the_third_submission_in_a_minute_is_not_taken(hidream: Life) -> None:
    hidream.simulator.world.settings.submissions_per_minute = 2
    await hidream.submitted("one")
    await hidream.submitted("two")
    with pytest.raises(RateLimited) as caught:
        await hidream.submitted("three")
    assert caught.value.retry_after == 30.0
    assert hidream.simulator.accepted == 2


class Receiver(HTTPServer):
    """Hears callbacks, and answers the first ones with 500."""

    def __init__(self, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.failures = failures
        self.heard: list[tuple[float, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/callback"


class Hearing(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard.append((time.monotonic(), body))
        self.send_response(500 if len(self.server.heard) <= self.server.failures else 200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize(("failures", "tries"), [(0, 1), (1, 2), (9, 3)])
async def test_the_simulator_calls_back_at_most_three_times_a_second_apart(
    hidream: Life, failures: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_back, over = dialect.HiDream._call_back, threading.Event()

    async def until_over(*arguments: Any) -> None:
        await call_back(*arguments)
        over.set()

    monkeypatch.setattr(dialect.HiDream, "_call_back", until_over)
    monkeypatch.setattr(dialect, "_CALLBACK_TIMEOUT", 120.0)
    receiver = Receiver(failures)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    job = await hidream.finished(notify_url=receiver.url)
    assert await asyncio.to_thread(over.wait, 200)
    await asyncio.to_thread(receiver.shutdown)
    receiver.server_close()
    moments = [moment for moment, _ in receiver.heard]
    assert len(moments) == tries
    assert all(later - earlier >= 0.95 for earlier, later in itertools.pairwise(moments))
    body = receiver.heard[0][1]
    assert body["main_task_id"] == job.provider_job_id
    assert [result["task_status"] for result in body["sub_task_results"]] == [1]


async def test_the_simulated_hidream_refuses_what_is_not_documented(simulator: RunningSimulator) -> None:
    headers = {"Authorization": f"Bearer {simulator.key}"}
    url = f"{simulator.hidream_url}/api-pub/gw/v2/video/video_edit/async"
    good = {"style": "ink_wash", "video_name": DOCUMENTED_VIDEO}
    bad: list[dict[str, Any]] = [
        {},
        {"style": "ink_wash"},
        {"video_name": DOCUMENTED_VIDEO},
        good | {"style": "cubism"},
        good | {"prompt": 3},
        good | {"notify_url": "callback"},
    ]
    async with httpx.AsyncClient() as web:
        for body in bad:
            answer = await web.post(url, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (200, 400)
        assert (await web.post(url, json=good, headers={"Authorization": "Bearer no"})).status_code == 401
    assert simulator.accepted == 0

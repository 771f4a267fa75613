"""Jenius over HTTP: what is sent, and what each answer means."""

import json
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import respx
from refusals import REFUSALS

from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    JobExpired,
    ProviderError,
    RateLimited,
)
from prefect_genmedia.providers.jenius import JeniusClient, LivePoster
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase

KEY = "jenius/Ab+Cd0123456789=="
TASKS = "https://www.jenius.cn/api/plugins/poster/tasks"
UUID = "6f2c1b7e-5a0d-4b5e-9f6c-2f1d8f0b7a11"
ADDRESS = "93.184.216.34"
FILE_URL = "https://cdn.example.com/poster.mp4?Expires=1&OSSAccessKeyId=a&Signature=5ec2e7"
MP4 = b"\x00\x00\x00\x18ftypmp42" * 1000

# The payload of the provider's page.
DOCUMENT = """{
        "prompt": "youqian",
        "image_url": "https://example.com/user-photo.jpg"
    }"""
POSTER = LivePoster(image_url="https://example.com/user-photo.jpg", scene="youqian")


async def at_public_address(host: str, port: int) -> list[str]:
    return [ADDRESS]


def envelope(data: Any, code: Any = 200) -> dict[str, Any]:
    return {"code": code, "message": "success", "data": data}


class Api:
    """A client, and the web that it sees."""

    def __init__(self, client: JeniusClient, web: respx.Router) -> None:
        self.client = client
        self.web = web
        client.fetch_rules = replace(client.fetch_rules, resolver=at_public_address)

    async def submit(self) -> Accepted:
        async with self.client.turn():
            return await self.client.submit(POSTER)

    async def refusal(self, answer: httpx.Response) -> GenMediaError:
        """What submitting raises where this is the answer."""
        route = self.web.post(TASKS).mock(return_value=answer)
        with pytest.raises(GenMediaError) as caught:
            await self.submit()
        assert route.call_count == 1
        return caught.value

    def task(self, **task: Any) -> respx.Route:
        return self.web.get(f"{TASKS}/{UUID}").respond(json=envelope({"id": 7, "uuid": UUID} | task))

    async def look(self, **task: Any) -> Observation:
        self.task(**task)
        return await self.client.poll(UUID)

    def file(self, answer: httpx.Response) -> respx.Route:
        return self.web.get(FILE_URL.replace("cdn.example.com", ADDRESS)).mock(return_value=answer)

    async def download(self) -> tuple[bytes, int | None, str]:
        async with self.client.open_result(UUID) as stream:
            content = b"".join([piece async for piece in stream.chunks()])
            return content, stream.content_length, stream.content_type


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    with respx.mock(assert_all_called=False) as web:
        client = JeniusClient(KEY)
        yield Api(client, web)
        await client.aclose()


def sent(route: respx.Route) -> httpx.Request:
    (call,) = route.calls
    request: httpx.Request = call.request
    return request


# --- Submit ---


async def test_a_submission_is_the_documents(api: Api) -> None:
    data = {"uuid": UUID, "status": "pending", "remaining_points": 990, "task_type": "poster", "message": "已提交"}
    route = api.web.post(TASKS).respond(json=envelope(data))
    assert await api.submit() == Accepted(UUID, "pending", points_remaining=990.0)
    assert json.loads(sent(route).content) == json.loads(DOCUMENT)
    assert sent(route).headers["Authorization"] == f"Bearer {KEY}"
    assert sent(route).headers["Content-Type"] == "application/json"


async def test_the_least_that_the_documents_program_reads_is_enough(api: Api) -> None:
    api.web.post(TASKS).respond(json={"data": {"uuid": UUID}})
    assert await api.submit() == Accepted(UUID, "pending")


@pytest.mark.parametrize(("code", "kind", "outcome"), REFUSALS)
@pytest.mark.parametrize("in_body", [True, False], ids=["code in a 200", "http status"])
async def test_a_no_is_the_same_as_a_status_and_as_a_code_in_the_body(
    api: Api, code: int, kind: type, outcome: str, in_body: bool
) -> None:
    body = {"code": code, "message": "不能处理", "data": None}
    error = await api.refusal(httpx.Response(200 if in_body else code, json=body))
    assert (type(error), error.outcome, error.code) == (kind, outcome, str(code))
    assert error.http_status == (200 if in_body else code)
    assert "不能处理" in str(error)
    assert "不能处理" in (error.body or "")


@pytest.mark.parametrize("code", [1001, -1, "A0001", True])
async def test_a_code_that_no_document_explains_is_uncertain(api: Api, code: Any) -> None:
    error = await api.refusal(httpx.Response(200, json=envelope({"uuid": UUID}, code)))
    assert (type(error), error.outcome, error.retryable) == (ProviderError, "uncertain", False)
    assert "Paid: unknown" in str(error)


@pytest.mark.parametrize(
    "text",
    ["", "<html>", "[]", "{}", "[" * 100_000, '{"code": 200}', '{"code": 200, "data": []}']
    + [f'{{"code": 200, "data": {{"uuid": {uuid}}}}}' for uuid in ("null", '""', '" "', "true")],
    ids=lambda text: text[:40],
)
async def test_a_yes_without_a_task_is_uncertain(api: Api, text: str) -> None:
    error = await api.refusal(httpx.Response(200, text=text))
    assert (type(error), error.outcome, error.retryable) == (ProviderError, "uncertain", False)


@pytest.mark.parametrize(("failure", "outcome"), [(httpx.ConnectError, "unsent"), (httpx.ReadTimeout, "uncertain")])
async def test_a_broken_connection_tells_whether_anything_was_sent(
    api: Api, failure: type[httpx.RequestError], outcome: str
) -> None:
    api.web.post(TASKS).mock(side_effect=failure)
    with pytest.raises(ProviderError) as caught:
        await api.submit()
    assert (caught.value.outcome, caught.value.retryable) == (outcome, outcome == "unsent")


async def test_a_rate_limit_tells_how_long_to_wait(api: Api) -> None:
    error = await api.refusal(httpx.Response(429, json={"code": 429}, headers={"Retry-After": "7"}))
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7.0


# --- Looking at a task ---


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("created", Phase.QUEUED),
        ("pending", Phase.QUEUED),
        ("processing", Phase.RUNNING),
        ("completed", Phase.SUCCEEDED),
        ("failed", Phase.FAILED),
    ],
)
async def test_every_documented_word_has_its_phase(api: Api, word: str, phase: Phase) -> None:
    observed = await api.look(status=word, price=12.5)
    assert (observed.phase, observed.status, observed.recognized, observed.price) == (phase, word, True, 12.5)
    assert (observed.failure is not None) == (phase is Phase.FAILED)


@pytest.mark.parametrize("word", ["rendering", "审核中", "", None, 3])
async def test_any_other_word_means_still_running(api: Api, word: Any) -> None:
    observed = await api.look(status=word)
    assert (observed.phase, observed.recognized, observed.price) == (Phase.RUNNING, False, None)


async def test_the_task_is_named_in_the_path_and_cannot_leave_it(api: Api) -> None:
    route = api.web.get(f"{TASKS}/..%2Faccounts").respond(json=envelope({"status": "pending"}))
    await api.client.poll("../accounts")
    assert sent(route).headers["Authorization"] == f"Bearer {KEY}"


async def test_a_failed_task_keeps_the_providers_reason_and_price(api: Api) -> None:
    observed = await api.look(status="failed", error_msg="人脸检测失败。", price=10)
    assert isinstance(observed.failure, GenerationFailed)
    assert "人脸检测失败." in str(observed.failure)
    assert "does not document" in observed.failure.paid
    assert observed.price == 10
    assert not observed.failure.retryable


async def test_a_failed_task_may_have_no_reason(api: Api) -> None:
    assert "no details" in str((await api.look(status="failed")).failure)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {}, CredentialsError),
        (200, envelope(None, 401), CredentialsError),
        (404, {}, JobExpired),
        (200, envelope(None, 404), JobExpired),
        (429, {}, RateLimited),
        (503, {}, ProviderError),
        (200, envelope(None, 500), ProviderError),
        (200, envelope(None, 1001), ProviderError),
        (200, envelope(None), ProviderError),
        (200, envelope({"uuid": UUID}), ProviderError),
        (200, [], ProviderError),
    ],
)
async def test_a_bad_look_is_an_error_that_says_nothing_about_the_task(
    api: Api, status: int, body: Any, kind: type
) -> None:
    api.web.get(f"{TASKS}/{UUID}").respond(status, json=body)
    with pytest.raises(GenMediaError) as caught:
        await api.client.poll(UUID)
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind in (RateLimited, ProviderError))


# --- The file ---


async def test_the_file_is_fetched_from_a_fresh_url_which_never_sees_the_key(api: Api) -> None:
    task = api.task(status="completed", live_poster_url=FILE_URL)
    file = api.file(httpx.Response(200, content=MP4, headers={"Content-Type": "video/mp4"}))
    assert await api.download() == (MP4, len(MP4), "video/mp4")
    assert task.call_count == 1
    assert "authorization" not in sent(file).headers


@pytest.mark.parametrize("url", [None, "", " ", 3])
async def test_a_task_without_a_url_is_worth_another_look(api: Api, url: Any) -> None:
    api.task(status="completed", live_poster_url=url)
    with pytest.raises(ProviderError) as caught:
        await api.download()
    assert caught.value.retryable


async def test_a_task_that_failed_after_all_says_so(api: Api) -> None:
    api.task(status="failed", error_msg="内部错误", live_poster_url=FILE_URL)
    with pytest.raises(GenerationFailed, match="内部错误"):
        await api.download()


@pytest.mark.parametrize(
    ("status", "kind"), [(403, JobExpired), (404, JobExpired), (410, JobExpired), (500, ProviderError)]
)
async def test_a_url_that_no_longer_works_is_worth_asking_for_another(api: Api, status: int, kind: type) -> None:
    api.task(status="completed", live_poster_url=FILE_URL)
    api.file(httpx.Response(status))
    with pytest.raises(kind) as caught:
        await api.download()
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


# --- The key ---


@pytest.mark.parametrize("quoted", [KEY, KEY.replace("/", "\\/"), KEY.replace("+", "\\u002B")])
@pytest.mark.parametrize("status", [200, 400, 401, 402, 429, 500])
async def test_a_key_in_an_answer_gets_into_no_error(api: Api, status: int, quoted: str) -> None:
    text = f'{{"code": {status + 1000}, "message": "无效的接口密钥: {quoted}", "data": null}}'
    error = await api.refusal(httpx.Response(status, text=text))
    assert KEY.encode() not in pickle.dumps(error)
    for shown in (str(error), repr(error), error.body or ""):
        assert KEY not in shown
        assert quoted not in shown


async def test_a_key_in_a_failed_task_gets_into_no_error(api: Api) -> None:
    observed = await api.look(status="failed", error_msg=f"{KEY} 积分不足")
    assert "积分不足" in str(observed.failure)
    assert KEY not in f"{observed.failure} {vars(observed.failure)}"


def test_a_client_and_its_account_show_nothing_of_the_key() -> None:
    client = JeniusClient(KEY)
    assert KEY not in f"{client} {vars(client)} {client.account}"


QUOTED_URL = "https://bucket.example.com/portrait.jpg?v=7&X-Tos-Credential=AKLT1&X-Tos-Signature=5ec2e7"


def assert_only_the_url_is_shown(error: GenMediaError) -> None:
    """What signs the user's own URL is theirs alone, and the ledger, cards and events hold what the error says."""
    assert "https://bucket.example.com/portrait.jpg?v=7" in error.message
    for part in ("5ec2e7", "AKLT1"):
        assert part.encode() not in pickle.dumps(error)


@pytest.mark.parametrize("status", [400, 403, 502])
async def test_a_signed_url_that_an_answer_quotes_gets_into_no_error(api: Api, status: int) -> None:
    answer = httpx.Response(status, json={"code": status, "message": f"Cannot fetch {QUOTED_URL}."})
    assert_only_the_url_is_shown(await api.refusal(answer))


async def test_a_signed_url_that_a_failed_job_quotes_gets_into_no_error(api: Api) -> None:
    observed = await api.look(status="failed", error_msg=f"无法下载 {QUOTED_URL} 请检查")
    assert observed.failure
    assert_only_the_url_is_shown(observed.failure)

"""HiDream over HTTP: what is sent, and what each answer means."""

import json
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hidream_web import DOCUMENT, ID, MP4, SUBMIT, TOKENS, Api, api, done, envelope, make, sub_task
from refusals import REFUSALS

from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    JobExpired,
    ProviderError,
    RateLimited,
)
from prefect_genmedia.providers.protocol import Accepted, Phase

__all__ = ["api", "make"]


# --- Submit ---


async def test_a_submission_is_the_documents_and_so_is_its_answer(make: Callable[..., Api]) -> None:
    api = make(token=TOKENS[0], user_id="team-7")
    route = api.web.post(SUBMIT).respond(text=DOCUMENT, content_type="application/json")
    assert await api.submit() == Accepted(ID, "waiting")
    (call,) = route.calls
    assert json.loads(call.request.content) == {
        "style": "ink_wash",
        "video_name": "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4",
        "request_id": "b146d886-5c57-11ee-bf2b-f6f8d60dadec",
    }
    headers = call.request.headers
    assert headers["Authorization"] == f"Bearer {TOKENS[0]}"
    assert headers["Content-Type"] == "application/json"
    assert headers["API-User-ID"] == "team-7"


async def test_no_user_id_is_no_header(api: Api) -> None:
    route = api.web.post(SUBMIT).respond(text=DOCUMENT)
    await api.submit()
    assert "API-User-ID" not in route.calls[0].request.headers


@pytest.mark.parametrize(("code", "kind", "outcome"), REFUSALS)
@pytest.mark.parametrize("in_body", [True, False], ids=["code in a 200", "http status"])
async def test_a_no_is_the_same_as_a_status_and_as_a_code_in_the_body(
    api: Api, code: int, kind: type, outcome: str, in_body: bool
) -> None:
    body = {"code": code, "message": "不能处理", "request_id": ""}
    error = await api.refusal(httpx.Response(200 if in_body else code, json=body))
    assert (type(error), error.outcome, error.code) == (kind, outcome, str(code))
    assert error.http_status == (200 if in_body else code)
    assert "不能处理" in str(error)


async def test_a_model_that_is_not_available_is_a_certain_no(api: Api) -> None:
    error = await api.refusal(httpx.Response(200, json={"code": 2031, "message": "模型不可用"}))
    assert (type(error), error.outcome, error.retryable, error.code) == (ProviderError, "refused", False, "2031")


@pytest.mark.parametrize("code", [1, 2004, -1, "E1", True])
async def test_a_code_that_no_document_explains_is_uncertain(api: Api, code: Any) -> None:
    error = await api.refusal(httpx.Response(200, json=envelope({"task_id": ID}, code)))
    assert (type(error), error.outcome, error.retryable) == (ProviderError, "uncertain", False)
    assert "Paid: unknown" in str(error)


@pytest.mark.parametrize(
    "text",
    ["", "<html>", "[]", "{}", "[" * 100_000, '{"code": 0}', '{"code": 0, "result": []}']
    + [f'{{"code": 0, "result": {{"task_id": {task_id}}}}}' for task_id in ("null", '""', '" "', "true")],
    ids=lambda text: text[:40],
)
async def test_a_yes_without_a_task_is_uncertain(api: Api, text: str) -> None:
    error = await api.refusal(httpx.Response(200, text=text))
    assert (type(error), error.outcome, error.retryable) == (ProviderError, "uncertain", False)


async def test_a_refused_token_that_was_given_is_not_worth_a_retry(api: Api) -> None:
    assert not (await api.refusal(httpx.Response(401, json={}))).retryable


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (None, 30.0)])
async def test_a_rate_limit_without_a_time_waits_for_the_documented_pace(
    api: Api, header: str | None, seconds: float
) -> None:
    headers = {"Retry-After": header} if header else {}
    error = await api.refusal(httpx.Response(429, json={"code": 429}, headers=headers))
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize(("failure", "outcome"), [(httpx.ConnectError, "unsent"), (httpx.ReadTimeout, "uncertain")])
async def test_a_broken_connection_tells_whether_anything_was_sent(
    api: Api, failure: type[httpx.RequestError], outcome: str
) -> None:
    api.web.post(SUBMIT).mock(side_effect=failure)
    with pytest.raises(ProviderError) as caught:
        await api.submit()
    assert (caught.value.outcome, caught.value.retryable) == (outcome, outcome == "unsent")


# --- Looking at a task ---


@pytest.mark.parametrize(
    ("sub_tasks", "phase", "status"),
    [
        ([], Phase.QUEUED, "waiting"),
        ([sub_task(0)], Phase.QUEUED, "waiting"),
        ([sub_task(-3)], Phase.QUEUED, "waiting"),
        ([sub_task("2")], Phase.RUNNING, "processing"),
        ([sub_task(1)], Phase.RUNNING, "done, without a file yet"),
        ([sub_task(1, video="")], Phase.RUNNING, "done, without a file yet"),
        ([sub_task(1, video="https://e.com/v.mp4")], Phase.SUCCEEDED, "done"),
        ([sub_task(1, video="", url="https://e.com/v.mp4")], Phase.SUCCEEDED, "done"),
        ([sub_task(1, image="https://e.com/v.mp4")], Phase.SUCCEEDED, "done"),
        ([sub_task(3)], Phase.FAILED, "failed"),
        ([sub_task(4)], Phase.FAILED, "refused by moderation"),
        ([sub_task(1000)], Phase.FAILED, "task_status 1000"),
        ([done(0), done(1)], Phase.SUCCEEDED, "2 done"),
        ([done(0), sub_task(2)], Phase.RUNNING, "1 done, 1 processing"),
        ([sub_task(0), sub_task(0)], Phase.QUEUED, "2 waiting"),
        ([sub_task(3), sub_task(0)], Phase.RUNNING, "1 failed, 1 waiting"),
        ([sub_task(3), sub_task(4)], Phase.FAILED, "1 failed, 1 refused by moderation"),
    ],
)
async def test_the_states_of_sub_tasks_are_one_state(
    api: Api, sub_tasks: list[dict[str, Any]], phase: Phase, status: str
) -> None:
    observed = await api.look(*sub_tasks)
    assert (observed.phase, observed.status, observed.recognized) == (phase, status, True)
    assert (observed.failure is not None) == (phase is Phase.FAILED)


@pytest.mark.parametrize("status", [5, 42, 999, None, "painting", {"state": 1}])
async def test_any_other_status_means_still_running(api: Api, status: Any) -> None:
    observed = await api.look(sub_task(status))
    assert (observed.phase, observed.recognized) == (Phase.RUNNING, False)


async def test_files_that_were_made_are_delivered_where_others_failed(api: Api) -> None:
    observed = await api.look(sub_task(4), done(1), sub_task(3), done(3))
    assert (observed.phase, observed.outputs) == (Phase.SUCCEEDED, 2)
    assert observed.status == "1 refused by moderation, 2 done, 1 failed"


@pytest.mark.parametrize(
    ("completions", "percent"), [([0.25], 25.0), ([40], 40.0), ([0.5, 0.1], 30.0), ([0.5, None], None), ([300], None)]
)
async def test_progress_is_a_percentage_or_nothing(api: Api, completions: list[Any], percent: float | None) -> None:
    observed = await api.look(*[sub_task(2, task_completion=completion) for completion in completions])
    assert observed.progress == percent


async def test_moderation_claims_neither_that_the_input_nor_that_the_output_was_refused(api: Api) -> None:
    failure = (await api.look(sub_task(4, description="内容安全"))).failure
    assert type(failure) is GenerationFailed
    assert failure.code == "4"
    assert "内容安全" in str(failure)
    assert "does not say whether the input or the output" in str(failure)
    assert "does not document whether failed jobs are billed" in str(failure)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {}, CredentialsError),
        (200, envelope(None, 401), CredentialsError),
        (404, {}, JobExpired),
        (429, {}, RateLimited),
        (503, {}, ProviderError),
        (200, envelope(None, 2004), ProviderError),
        (200, envelope(None), ProviderError),
        (200, envelope({"task_id": ID}), ProviderError),
        (200, envelope({"sub_task_results": {}}), ProviderError),
        (200, [], ProviderError),
    ],
)
async def test_a_bad_look_is_an_error_that_says_nothing_about_the_task(
    api: Api, status: int, body: Any, kind: type
) -> None:
    api.web.get(f"{SUBMIT}/results").respond(status, json=body)
    with pytest.raises(GenMediaError) as caught:
        await api.client.poll(ID)
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind in (RateLimited, ProviderError))


async def test_an_answer_that_names_thousands_of_files_is_read_for_a_few(api: Api) -> None:
    assert (await api.look(*map(done, range(2000)))).outputs == 16


async def test_many_tasks_are_looked_at_in_one_request(api: Api) -> None:
    results = [
        {"task_id": "a", "sub_task_results": [sub_task(2)]},
        {"task_id": "b", "sub_task_results": [done()]},
        {"task_id": "another", "sub_task_results": [done()]},
        {"task_id": "c"},
        "nonsense",
    ]
    route = api.web.post(f"{SUBMIT}/results/batch").respond(json=envelope(results))
    observed = await api.client.poll_many(["a", "b", "c"])
    assert {task_id: look.phase for task_id, look in observed.items()} == {"a": Phase.RUNNING, "b": Phase.SUCCEEDED}
    assert json.loads(route.calls[0].request.content) == {"task_id_list": ["a", "b", "c"]}


async def test_looking_at_no_tasks_asks_nobody(api: Api) -> None:
    assert await api.client.poll_many([]) == {}


async def test_a_batch_that_is_no_list_is_an_error(api: Api) -> None:
    api.web.post(f"{SUBMIT}/results/batch").respond(json=envelope({}))
    with pytest.raises(ProviderError):
        await api.client.poll_many(["a"])


# --- The files ---


@pytest.mark.parametrize(("index", "number"), [(0, 1), (1, 3)])
async def test_files_are_counted_over_the_finished_sub_tasks(api: Api, index: int, number: int) -> None:
    api.task(sub_task(4), done(1), sub_task(3), done(3))
    file = api.file(number, httpx.Response(200, content=MP4, headers={"Content-Type": "video/mp4"}))
    assert await api.download(index) == (MP4, len(MP4), "video/mp4")
    assert "authorization" not in file.calls[0].request.headers


@pytest.mark.parametrize("index", [-1, 1])
async def test_a_file_that_is_not_there_is_an_error(api: Api, index: int) -> None:
    api.task(done())
    with pytest.raises(ProviderError, match="1 finished files"):
        await api.download(index)


@pytest.mark.parametrize(
    ("status", "kind"), [(403, JobExpired), (404, JobExpired), (410, JobExpired), (500, ProviderError)]
)
async def test_a_url_that_no_longer_works_is_worth_asking_for_another(api: Api, status: int, kind: type) -> None:
    api.task(done())
    api.file(0, httpx.Response(status))
    with pytest.raises(kind) as caught:
        await api.download()
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


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
    observed = await api.look(sub_task(4, description=f"无法下载 {QUOTED_URL} 请检查"))
    assert observed.failure
    assert_only_the_url_is_shown(observed.failure)

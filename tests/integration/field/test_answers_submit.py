"""What gateways answer to a submission: refused, accepted, or unknown; never sent again where it may be paid."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from anyio import to_thread
from scripted import KEY, Gateway, Said, gateway, page

from prefect_genmedia import JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery, Job, JobState, Ledger
from prefect_genmedia.cli.app import app
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

ID = "10762451179911711518"
DONE = Said(200, {"id": ID, "status": "completed"})


async def run(there: Gateway, **options: Any) -> Delivery:
    credentials = TokenOpsCredentials(api_key=KEY, base_url=there.base_url)
    options = {"model": "jimeng-video-3.0-720P", "credentials": credentials, "idempotency_key": "field", **options}
    delivery: Delivery = await jimeng_video("leaves in the wind", **options)
    return delivery


async def ended(there: Gateway, ledger: Ledger) -> tuple[errors.GenMediaError, Job]:
    """Run, and run again: the first error, and the one job. Nothing may be sent a second time that may be paid."""
    with pytest.raises(errors.GenMediaError) as caught:
        await run(there)
    (job,) = await ledger.jobs()
    if job.state is JobState.UNKNOWN:
        with pytest.raises(errors.SubmissionUnknown):
            await run(there)
    assert there.count("submit") == 1
    return caught.value, job


def no(status: int, message: str, code: Any = None, **rest: Any) -> Said:
    return Said(status, {"error": {"message": message, "type": "new_api_error", "code": code, **rest}})


MONEY = {
    "429 insufficient_quota": no(429, "You exceeded your current quota, check your plan.", "insufficient_quota"),
    "403 insufficient_user_quota": no(403, "用户额度不足, 剩余额度: 0", "insufficient_user_quota"),
    "403 pre_consume": no(403, "预扣费失败", "pre_consume_token_quota_failed"),
    "400 balance in words": Said(400, {"message": "账户余额不足,请充值"}),
    "429 camel case": Said(429, {"code": "InsufficientBalance", "msg": "The account has no balance"}),
    "200 no id": Said(200, {"error": {"message": "额度已用尽"}}),
}


@pytest.mark.parametrize("answer", MONEY.values(), ids=MONEY.keys())
async def test_used_up_money_is_a_quota_error_that_is_not_retried(answer: Said, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert (type(error), error.outcome, error.retryable) == (errors.QuotaError, "refused", False)
    assert job.state is JobState.REJECTED


REFUSED = {
    "no channel": (
        no(503, "No available channel for model x under group g (distributor)", "model_not_found"),
        "channel",
    ),
    "无可用渠道": (no(503, "当前分组 g 下对于模型 x 无可用渠道 (distributor)", "model_not_found"), "渠道"),
    "301": (Said(301, b"", {"Location": "https://api.example.com/v1/videos"}), "base_url"),
    "307": (Said(307, b"", {"Location": "/elsewhere"}), "base_url"),
    "302 to a slash": (Said(302, b"", {"Location": "/v1/videos/"}), "base_url"),
    "303 to https": (Said(303, b"", {"Location": "https://127.0.0.1/v1/videos"}), "base_url"),
    **{str(status): (page(status), "base_url") for status in (404, 405, 407, 411, 413, 414, 415, 431)},
    "403 page": (page(403), "firewall answered, not the API"),
    "error in a 200": (Said(200, {"error": {"message": "The prompt is too odd."}}), "The prompt is too odd"),
    "error list in a 200": (Said(200, {"errors": ["The size", "is odd"], "id": None}), "The size; is odd"),
    "body without a message": (Said(400, {"problem": "the size is odd"}), "the size is odd"),
}


@pytest.mark.parametrize(("answer", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_certain_refusal_costs_nothing_and_says_why(answer: Said, words: str, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert (error.outcome, job.state) == ("refused", JobState.REJECTED)
    assert words in error.message
    assert "Paid: nothing" in str(error)


UNKNOWN = {
    "get_channel_failed": no(503, "no channel", "get_channel_failed"),
    "retry": no(503, "No available channel for model x under group g (retry)", "model_not_found"),
    "retry with 404": no(404, "分组 g 下模型 x 的可用渠道失败(重试)", "model_not_found"),
    "302 elsewhere": Said(302, b"", {"Location": "/login"}),
    "303 to a job": Said(303, b"", {"Location": f"/v1/videos/{ID}"}),
    "302 to itself": Said(302, b"", {"Location": "/v1/videos"}),
    "page, and polls are JSON": page(),
    "late behind the gateway": Said(200, {"error": {"message": "upstream timed out"}}),
    "500 in a 200": Said(200, {"error": {"message": "busy", "code": 500}}),
    "nothing": Said(200, {}),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_an_answer_that_is_no_certain_refusal_is_unknown_and_never_sent_again(
    answer: Said, ledger: Ledger
) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert isinstance(error, errors.SubmissionUnknown)
    assert job.state is JobState.UNKNOWN


async def test_a_site_in_place_of_the_api_is_a_refusal_that_names_base_url(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    simulator.world.settings.gateway = "web-page"
    with pytest.raises(errors.ProviderError, match="is base_url right") as caught:
        await jimeng_video("leaves", model="jimeng-video-3.0-720P", credentials=credentials)
    assert caught.value.outcome == "refused"
    assert [job.state for job in await ledger.jobs()] == [JobState.REJECTED]


async def test_an_error_beside_an_id_is_unknown_and_the_id_can_be_adopted(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Said(200, {"data": {"task_id": ID}, "error": {"message": "do request failed"}, "request_id": "req-7"})
    with gateway(submit=answer, poll=DONE) as there:
        error, job = await ended(there, ledger)
        assert (job.state, job.provider_job_id) == (JobState.UNKNOWN, ID)
        assert f"jobs adopt {job.key} {ID}" in str(error)
        assert job.evidence == {"request_id": "req-7"}
        await TokenOpsCredentials(api_key=KEY, base_url=there.base_url).asave("default", overwrite=True)
        await to_the_command("jobs", "adopt", job.key, ID)
        delivery = await run(there)
    assert delivery.provider_job_id == ID
    assert there.count("submit") == 1


async def to_the_command(*words: str) -> None:
    def call() -> None:
        with contextlib.suppress(SystemExit):  # cyclopts ends the process it runs in
            app(list(words))

    await to_thread.run_sync(call)


ACCEPTED = {
    "an integer": {"id": int(ID)},
    "task_id": {"task_id": ID, "id": 0, "error": {"message": "", "code": 0}},
    "inside data": {"code": "success", "message": "", "data": {"id": 7, "task_id": ID}, "error": None},
    "data itself": {"code": "success", "data": ID},
    "empty errors": {"id": ID, "error": {}, "errors": [], "message": ""},
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_an_id_is_found_wherever_it_stands(answer: dict[str, Any], ledger: Ledger) -> None:
    with gateway(submit=Said(200, answer), poll=DONE) as there:
        assert (await run(there)).provider_job_id == ID
    assert there.count("submit") == 1


async def test_what_proves_a_job_is_kept_and_shown(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Said(200, {"id": ID, "created_at": 1762776961, "sub_task_ids": ["a", "b"]}, {"X-Request-Id": f"r-{KEY}"})
    with gateway(submit=answer, poll=Said(200, {"id": ID, "status": "completed", "request_id": "poll-9"})) as there:
        await run(there)
    (job,) = await ledger.jobs()
    assert job.evidence == {
        "created_at": "1762776961",
        "sub_task_ids": ["a", "b"],
        "x-request-id": "r-[redacted]",
        "ending": {"request_id": "poll-9"},
    }
    await to_the_command("jobs", "show", job.key)
    assert "poll-9" in capsys.readouterr().out


@pytest.mark.parametrize("code", [None, 0, "success", 200])
async def test_every_good_code_of_jenius_beside_a_task_is_a_yes(code: Any, ledger: Ledger) -> None:
    submitted = Said(200, {"code": code, "data": {"uuid": 4711, "status": "PENDING"}})
    failed = Said(200, {"code": 200, "data": {"uuid": 4711, "status": "failed", "error_msg": ["no face", "no light"]}})
    with gateway(submit=submitted, poll=failed) as there:
        credentials = JeniusCredentials(api_key=KEY, base_url=there.url)
        with pytest.raises(errors.GenerationFailed, match="no face; no light"):
            await live_poster(f"{there.url}/files/a.jpg", "youqian", credentials=credentials, preflight=False)
    (job,) = await ledger.jobs()
    assert (job.state, job.provider_job_id) == (JobState.FAILED, "4711")


@pytest.mark.parametrize("code", [1001, "E1"])
async def test_a_bad_code_of_jenius_beside_a_task_is_unknown(code: Any, ledger: Ledger) -> None:
    with gateway(submit=Said(200, {"code": code, "message": "?", "data": {"uuid": "u-1"}})) as there:
        credentials = JeniusCredentials(api_key=KEY, base_url=there.url)
        with pytest.raises(errors.SubmissionUnknown, match="adopt"):
            await live_poster(f"{there.url}/files/a.jpg", "youqian", credentials=credentials, preflight=False)
    (job,) = await ledger.jobs()
    assert (job.state, job.provider_job_id) == (JobState.UNKNOWN, "u-1")


NUMBERS = {
    "request id 20250411 50411": errors.SubmissionUnknown,
    "failed after 50411 ms": errors.SubmissionUnknown,
    "[50411] Risk Not Pass": errors.InputRefused,
}


@pytest.mark.parametrize(("words", "kind"), NUMBERS.items(), ids=NUMBERS.keys())
async def test_a_number_in_free_text_is_no_code(words: str, kind: type, ledger: Ledger) -> None:
    with gateway(submit=no(500, words)) as there:
        error, _ = await ended(there, ledger)
    assert type(error) is kind


async def test_a_refused_connection_names_base_url(ledger: Ledger) -> None:
    with gateway() as there:
        pass
    with pytest.raises(errors.ProviderError, match=r"Is base_url right, and can http://127\.0\.0\.1:\d+/v1"):
        await run(there)

"""Relatives of the reported answers to a submission: what other gateways, firewalls and clouds send in their place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from scripted import KEY, Said, gateway, page
from test_answers_submit import DONE, ID, ended, no, run

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.stylize import stylize_video

pytestmark = pytest.mark.usefixtures("prefect_server")

MONEY = {
    "402": no(402, "Insufficient Balance", "invalid_request_error"),
    "402 page": page(402),
    "400 arrearage": Said(
        400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}
    ),
    "403 overdue": no(403, "The request failed because your account has an overdue balance.", "AccountOverdueError"),
    "401 key without money": no(401, "该令牌额度已用尽 token.RemainQuota = -12 (request id: 2025041150411)"),
    "403 quota in words": no(403, "user quota is not enough, remaining quota: $0.02, need quota: $0.30"),
    "400 hard limit": no(400, "Billing hard limit has been reached", "billing_hard_limit_reached"),
    "200 credits": Said(200, {"success": False, "message": "Insufficient credits, please top up"}),
}


@pytest.mark.parametrize("answer", MONEY.values(), ids=MONEY.keys())
async def test_other_words_for_used_up_money_are_quota_errors_too(answer: Said, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert (type(error), error.outcome, error.retryable) == (errors.QuotaError, "refused", False)
    assert job.state is JobState.REJECTED


async def test_used_up_points_of_jenius_and_hidream_are_quota_errors(ledger: Ledger) -> None:
    short = Said(200, {"code": 1010, "message": "积分不足,请先充值", "data": None, "result": {}})
    with gateway(submit=short) as there:
        jenius = JeniusCredentials(api_key=KEY, base_url=there.url)
        with pytest.raises(errors.QuotaError):
            await live_poster(f"{there.url}/files/a.jpg", "youqian", credentials=jenius, preflight=False)
        hidream = HiDreamCredentials(token=KEY, base_url=there.url, submissions_per_minute=None)
        with pytest.raises(errors.QuotaError):
            await stylize_video(f"{there.url}/files/a.mp4", "ink_wash", credentials=hidream, preflight=False)


NO_MONEY = {
    "a parameter": no(400, "white_balance must be auto or daylight", "invalid_parameter"),
    "a credit": no(400, "The credit line in the prompt is not allowed", "invalid_prompt"),
}


@pytest.mark.parametrize("answer", NO_MONEY.values(), ids=NO_MONEY.keys())
async def test_a_refusal_that_only_mentions_such_a_word_is_no_quota_error(answer: Said, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, _ = await ended(there, ledger)
    assert not isinstance(error, errors.QuotaError)
    assert error.outcome == "refused"


async def test_a_quota_of_requests_per_minute_is_a_limit_that_is_waited_out(ledger: Ledger) -> None:
    slow = Said(
        429,
        {"error": {"message": "Quota exceeded for requests per minute", "code": "rate_limit_exceeded"}},
        {"Retry-After": "0"},
    )
    with gateway(submit=[slow, Said(200, {"id": ID})], poll=DONE) as there:
        await run(there)
    assert there.count("submit") == 2


# What a gateway sends along with a refusal: none of it is a job.
BESIDE = {
    "user": {"user": {"id": 12, "group": "default"}},
    "user_id": {"user_id": "u-12", "organization_id": "org-1"},
    "channel": {"channel": {"id": 5, "name": "tokenops"}},
    "model": {"model": {"id": "jimeng-video-3.0-720P", "object": "model"}},
    "trace": {"trace_id": "t-1", "span_id": "s-1", "log_id": "l-1", "event_id": "e-1"},
    "request": {"request": {"id": "req-1"}, "request_id": "req-1"},
    "response": {"ResponseMetadata": {"RequestId": "r-1", "Action": "CVSync2AsyncSubmitTask"}},
    "empty data": {"data": {"id": "", "task_id": 0}},
    "empty id": {"id": "", "object": "video"},
    "key": {"token": {"id": 9, "name": "nightly"}, "account": {"id": 3}, "project": {"id": "p"}},
    "inside the error": {"error": {"message": "The size is odd.", "request_id": "r", "user": {"id": 3}, "param": "id"}},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE.keys())
async def test_ids_of_other_things_beside_an_error_leave_a_refusal_certain(
    beside: dict[str, Any], ledger: Ledger
) -> None:
    with gateway(submit=Said(200, {"error": {"message": "The size is odd."}, **beside})) as there:
        error, job = await ended(there, ledger)
    assert (error.outcome, job.state) == ("refused", JobState.REJECTED)
    assert "The size is odd" in error.message


REFUSED = {
    "plain http to an https port": (
        Said(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"),
        "base_url",
    ),
    "308 with a slash": (Said(308, b"", {"Location": "/v1/videos/"}), "base_url"),
    "302 to https of its name": (Said(302, b"", {"Location": "https://127.0.0.1/v1/videos/"}), "base_url"),
    "421": (page(421), "base_url"),
    "426": (Said(426, b"", {"Upgrade": "TLS/1.2"}), "base_url"),
    "405 of a firewall": (Said(405, "<html><body>您的访问被阻断</body></html>"), "firewall|base_url"),
    "success false": (Said(200, {"success": False, "message": "The size is odd."}), "The size is odd"),
    "an error that is text": (Said(200, {"error": "The size is odd."}), "The size is odd"),
    "type error": (
        Said(200, {"type": "error", "error": {"type": "invalid", "message": "The size is odd."}, "request_id": "r"}),
        "The size is odd",
    ),
    "detail of a validator": (
        Said(422, {"detail": [{"loc": ["body", "size"], "msg": "The size is odd.", "type": "value_error"}]}),
        "The size is odd",
    ),
    "problem+json": (
        Said(400, '{"title":"Bad","detail":"The size is odd."}', {"Content-Type": "application/problem+json"}),
        "The size is odd",
    ),
}


@pytest.mark.parametrize(("answer", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_other_certain_refusals_cost_nothing_and_say_why(answer: Said, words: str, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert (error.outcome, job.state) == ("refused", JobState.REJECTED)
    assert any(word in error.message for word in words.split("|")), error.message


UNKNOWN = {
    "408": Said(408, {"message": "request timeout"}),
    "409": Said(409, {"message": "conflict"}),
    "499": Said(499, b""),
    "520 page": page(520),
    "524 page": page(524),
    "502 of a gateway": Said(502, {"message": "An invalid response was received from the upstream server"}),
    "503 without words": Said(503, b"upstream connect error or disconnect/reset before headers"),
    "no key enabled": no(503, "no enabled keys", "channel:no_available_key"),
    "do_request_failed": no(500, "do request failed", "do_request_failed"),
    "a sign-in": Said(302, b"", {"Location": "https://team.cloudflareaccess.com/cdn-cgi/access/login/x"}),
    "a page called JSON": Said(200, "<html><body>Welcome</body></html>", {"Content-Type": "application/json"}),
    "202 and nothing": Said(202, b""),
    "204": Said(204, b""),
    "cut JSON": Said(200, '{"id": "107624', {"Content-Type": "application/json"}),
    "a list": Said(200, [], {}),
    # The text alone is also that of a retry, in earlier versions of the same gateways.
    "no channel without a code": Said(503, {"error": {"message": "模型 x 无可用渠道", "type": "one_api_error"}}),
    "a code that no document explains": Said(200, {"code": "E17", "message": "The size is odd.", "data": None}),
    "null": Said(200, "null", {"Content-Type": "application/json"}),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_other_answers_that_prove_nothing_are_unknown(answer: Said, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    assert isinstance(error, errors.SubmissionUnknown)
    assert job.state is JobState.UNKNOWN


FAILED_LATER = {"message": "saving the task failed"}
WITH_A_JOB = {
    "a job": {"data": {"job": {"id": ID}}},
    "a task": {"task": {"id": ID}},
    "output": {"output": {"task_id": ID, "task_status": "PENDING"}},
    "camel case": {"taskId": ID},
    "a list": {"data": [{"task_id": ID, "status": "submitted"}]},
    "data itself": {"data": ID},
    "video_id": {"video_id": ID},
    "a number": {"result": {"id": int(ID)}},
    "inside the error": {"error": {**FAILED_LATER, "task_id": ID}},
    "deep inside the error": {"error": {**FAILED_LATER, "metadata": {"task": {"id": ID}}}},
    "uuid": {"data": {"uuid": ID}},
    "generation": {"generation": {"id": ID, "state": "queued"}},
    "a list of several": {"tasks": [{"id": ID}, {"id": "second"}]},
    "JSON in the message": {"error": {"message": "upstream: saved {}", "raw": f'{{"task_id":"{ID}"}}'}},
    "capitals": {"Result": {"TaskId": ID}},
    "of the upstream": {"upstream": {"id": ID}},
    "a user's task": {"user": {"id": 7, "task_id": ID}},
    "beside a user": {"user": {"id": 7}, "video": {"id": ID}},
}


@pytest.mark.parametrize("beside", WITH_A_JOB.values(), ids=WITH_A_JOB.keys())
async def test_a_job_anywhere_beside_an_error_is_never_called_refused_and_is_kept(
    beside: dict[str, Any], ledger: Ledger
) -> None:
    with gateway(submit=Said(200, {"error": FAILED_LATER, **beside})) as there:
        error, job = await ended(there, ledger)
    assert isinstance(error, errors.SubmissionUnknown)
    assert (job.state, job.provider_job_id) == (JobState.UNKNOWN, ID)


ACCEPTED = {
    "camel case": {"taskId": ID},
    "output": {"request_id": "r", "output": {"task_id": ID, "task_status": "PENDING"}},
    "result": {"code": 0, "message": "ok", "result": {"task_id": int(ID)}},
    "a list": {"code": 200, "data": [{"status": "submitted", "task_id": ID}]},
    "zero error": {"id": ID, "error": {"code": "", "message": "", "type": "", "param": None, "status": 0}},
    "false error": {"id": ID, "success": True, "error": False, "code": 200, "message": "ok"},
    "text null error": {"id": ID, "error": "null"},
    "empty id": {"id": "", "task_id": ID, "object": "video", "error": ""},
    "video_id": {"video_id": ID, "status": "queued"},
    "capitals": {"Response": {"TaskId": ID, "RequestId": "r"}},
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_an_id_under_other_names_is_an_accepted_job(answer: dict[str, Any], ledger: Ledger) -> None:
    with gateway(submit=Said(200, answer), poll=DONE) as there:
        assert (await run(there)).provider_job_id == ID
    assert there.count("submit") == 1


@pytest.mark.parametrize("code", ["200", "0", "OK", "Success", 201])
async def test_other_good_codes_of_jenius_are_a_yes(code: Any, ledger: Ledger) -> None:
    submitted = Said(200, {"code": code, "data": {"uuid": "u-1", "status": "created"}})
    failed = Said(200, {"code": code, "data": {"uuid": "u-1", "status": "failed", "error_msg": "no face"}})
    with gateway(submit=submitted, poll=failed) as there:
        credentials = JeniusCredentials(api_key=KEY, base_url=there.url)
        with pytest.raises(errors.GenerationFailed, match="no face"):
            await live_poster(f"{there.url}/files/a.jpg", "youqian", credentials=credentials, preflight=False)


HEADERS = {
    "X-Oneapi-Request-Id": "20250411-one",
    "X-Tt-Logid": "20250411-log",
    "CF-Ray": "8f00-HKG",
    "X-Tos-Request-Id": "tos-1",
    "EagleEye-TraceId": "ali-1",
}


@pytest.mark.parametrize("name", HEADERS)
async def test_request_ids_of_other_clouds_are_evidence_too(name: str, ledger: Ledger) -> None:
    with gateway(submit=Said(200, {"id": ID}, {name: HEADERS[name]}), poll=DONE) as there:
        await run(there)
    (job,) = await ledger.jobs()
    assert job.evidence
    assert job.evidence[name.lower()] == HEADERS[name]


@pytest.mark.parametrize("answer", [{"requestId": "r-1"}, {"data": {"request_id": "r-1"}}, {"trace_id": "r-1"}])
async def test_request_ids_under_other_names_are_evidence_too(answer: dict[str, Any], ledger: Ledger) -> None:
    with gateway(submit=Said(200, {"id": ID, **answer}), poll=DONE) as there:
        await run(there)
    (job,) = await ledger.jobs()
    assert "r-1" in str(job.evidence)


CODES = {
    "a time": (no(500, "waited 50430 ms behind 50411 jobs"), errors.SubmissionUnknown),
    "a size": (no(500, "read 50412 of 99999 bytes"), errors.SubmissionUnknown),
    "a nested field": (Said(500, {"error": {"message": "x", "details": {"code": 50412}}}), errors.InputRefused),
    "JSON in the message": (no(500, '{"code":50411,"message":"Input image risk"}'), errors.InputRefused),
    "JSON behind words": (no(500, 'upstream: {"code":50411,"message":"Risk"}'), errors.InputRefused),
}


@pytest.mark.parametrize(("answer", "kind"), CODES.values(), ids=CODES.keys())
async def test_codes_are_read_from_fields_wherever_they_are(answer: Said, kind: type, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, _ = await ended(there, ledger)
    assert type(error) is kind


SECRETS = {
    "the key": no(401, f"Incorrect API key provided: {KEY}. You can find your key at the site."),
    "a signed URL": no(400, "cannot fetch https://b.example.com/a.jpg?X-Amz-Signature=5ec2e75ec2e7&X-Amz-Date=1"),
    "a header": Said(400, {"problem": f"bad header Authorization: Bearer {KEY}"}),
}


@pytest.mark.parametrize("answer", SECRETS.values(), ids=SECRETS.keys())
async def test_what_a_gateway_repeats_is_shown_without_secrets(answer: Said, ledger: Ledger) -> None:
    with gateway(submit=answer) as there:
        error, job = await ended(there, ledger)
    for text in (str(error), repr(error), job.model_dump_json()):
        assert KEY not in text
        assert "5ec2e7" not in text


# --- The Block ---

ROOTS = {
    "https://gw.example.com/v1/chat/completions": "give https://gw.example.com/v1",
    "https://gw.example.com/v1/images/generations": "give https://gw.example.com/v1",
    "https://gw.example.com/v1/video/generations/": "give https://gw.example.com/v1",
    "https://https://gw.example.com/v1": "",
    "htps://gw.example.com/v1": "http",
    "https\uff1a//gw.example.com/v1": "",
    "https://gw.example.com/v1?key=sk-1": "",
    "https://user:sk-1@gw.example.com/v1": "",
    "https://gw.exam\u200bple.com/v1": "",
    "<https://gw.example.com/v1>": "",
    "https://gw.example.com:443443/v1": "",
    "https:///v1": "",
}


@pytest.mark.parametrize(("root", "words"), ROOTS.items())
def test_other_base_urls_that_cannot_be_right_are_refused(root: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        TokenOpsCredentials(api_key="sk-2", base_url=root)
    assert "sk-1" not in str(caught.value)


async def test_other_ways_to_write_a_base_url_lead_to_the_same_account(ledger: Ledger) -> None:
    with gateway(submit=Said(200, {"id": ID}), poll=DONE) as there:
        for root in (there.base_url, f"{there.base_url}/", there.base_url.replace("http:", "HTTP:")):
            await run(there, credentials=TokenOpsCredentials(api_key=KEY, base_url=root))
    assert there.count("submit") == 1


@pytest.mark.parametrize("key", ["Bearer sk-one", "Authorization: Bearer sk-one", "sk-\u00f6ne", "sk one", "<API-KEY>"])
def test_what_cannot_be_a_key_is_refused_before_it_is_sent(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TokenOpsCredentials(api_key=key)
    for part in ("sk-", "sk ", "API-KEY"):
        assert part not in str(caught.value)


@pytest.mark.parametrize("root", ["http://no-such-host.invalid/v1", "https://127.0.0.1:{port}/v1"])
async def test_a_name_or_port_that_is_not_the_api_is_reported_by_base_url(root: str, ledger: Ledger) -> None:
    with gateway(submit=Said(200, {"id": ID})) as there:
        credentials = TokenOpsCredentials(api_key=KEY, base_url=root.format(port=there.url.rpartition(":")[2]))
        with pytest.raises(errors.ProviderError, match="base_url") as caught:
            await run(there, credentials=credentials)
    assert caught.value.outcome == "unsent"
    assert there.count("submit") == 0

"""What gateways answer about a job and its file: any shape and word, and no paid job lost or paid again."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from scripted import KEY, Gateway, Said, file, gateway, page
from test_answers_submit import ID, run, to_the_command

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia.callbacks.app import callback_app
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.flows.reconcile import reconcile_jobs
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

CREATED = Said(200, {"id": ID, "status": "in_queue"})


def status(word: Any, **rest: Any) -> Said:
    return Said(200, {"id": ID, "status": word, **rest})


DONE = status("completed")


@pytest.fixture(autouse=True)
def taken_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_genmedia._core.reconcile.STALLED_SECONDS", 0.0)


async def saved(there: Gateway) -> None:
    await TokenOpsCredentials(api_key=KEY, base_url=there.base_url).asave("default", overwrite=True)


# --- Status ---


async def test_a_whole_run_behind_new_api_is_delivered(simulator: RunningSimulator, ledger: Ledger) -> None:
    simulator.world.settings.gateway = "new-api"
    credentials = TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url)
    assert await jimeng_video("leaves", model="jimeng-video-3.0-720P", credentials=credentials)
    (job,) = await ledger.jobs()
    assert (job.state, job.provider_status) == (JobState.DELIVERED, "SUCCESS")
    assert job.evidence
    assert job.evidence["request_id"].startswith("req-")


@pytest.mark.parametrize("word", ["succeed", "FINISHED", "ready", "TASK_SUCCEED", "生成成功"])
async def test_a_word_like_success_counts_once_the_file_can_be_fetched(word: str, ledger: Ledger) -> None:
    not_yet = [Said(404, {"error": {"message": "not ready"}}), page(), Said(200, {"message": "processing"})]
    with gateway(submit=CREATED, poll=status(word), content=[*not_yet, file()]) as there:
        await run(there)
        assert there.count("content") >= 4
    assert [job.state for job in await ledger.jobs()] == [JobState.DELIVERED]


@pytest.mark.parametrize("word", ["not_ready", "QUEUED_AFTER_TIMEOUT", "UNKNOWN", "审核中", "retrying_failed"])
async def test_a_word_that_tells_no_end_is_waited_out(word: str, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=[status(word), status("Completed")]) as there:
        await run(there)


GIVEN_UP = {
    "FAILURE": {"fail_reason": "no GPU"},
    "rejected": {"reason": {"message": "no GPU"}},
    "timeout": {"error": [{"msg": "no GPU"}]},
    "生成失败": {"message": "no GPU"},
}


@pytest.mark.parametrize(("word", "why"), GIVEN_UP.items(), ids=GIVEN_UP.keys())
async def test_a_word_like_failure_ends_the_run_and_the_job_is_delivered_later(
    word: str, why: dict[str, Any], ledger: Ledger
) -> None:
    reported = status(word, **why)
    with gateway(submit=CREATED, poll=[reported, reported, reported, DONE]) as there:
        with pytest.raises(errors.GenerationFailed, match="no GPU") as caught:
            await run(there)
        assert "may still be finished and billed" in str(caught.value)
        (job,) = await ledger.jobs()
        assert (job.state, job.provider_status) == (JobState.UNDELIVERABLE, word)
        await saved(there)
        with pytest.raises(errors.GenerationFailed):  # another run joins it
            await run(there)
        assert await reconcile_jobs() == 0, "no job needs a person"
        assert [job.state for job in await ledger.jobs()] == [JobState.UNDELIVERABLE]
        assert await reconcile_jobs() == 0
        assert [job.state for job in await ledger.jobs()] == [JobState.DELIVERED]
        assert there.count("submit") == 1


async def test_a_job_that_was_given_up_is_never_sent_again_unless_a_person_says_so(ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=status("FAILURE")) as there:
        await saved(there)
        for _ in range(2):
            with pytest.raises(errors.GenerationFailed):
                await run(there)
        (job,) = await ledger.jobs()
        await ledger.note(job, expires_at=1.0)
        polled = there.count("poll")
        assert await reconcile_jobs() == 0
        with pytest.raises(errors.GenerationFailed, match="resubmit"):
            await run(there)
        assert (there.count("submit"), there.count("poll")) == (1, polled), "its lifetime is over"
        await to_the_command("jobs", "resubmit", job.key)
        with pytest.raises(errors.GenerationFailed):
            await run(there)
        assert there.count("submit") == 2


async def test_the_providers_own_word_after_a_give_up_is_final(ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=[status("FAILURE"), status("failed", error={"code": "50411"})]) as there:
        with pytest.raises(errors.GenerationFailed):
            await run(there)
        with pytest.raises(errors.InputRefused):
            await run(there)
    assert [job.state for job in await ledger.jobs()] == [JobState.FAILED]


REASONS = {
    "text": {"fail_reason": "the face is hidden"},
    "object": {"error": {"code": "E7", "msg": "the face is hidden"}},
    "list": {"errors": [{"detail": "the face is hidden"}]},
    "json in text": {"fail_reason": json.dumps({"error": {"message": "the face is hidden"}})},
    "nothing usual": {"problem": "the face is hidden"},
}


@pytest.mark.parametrize("why", REASONS.values(), ids=REASONS.keys())
async def test_a_reason_is_reported_however_it_is_written(why: dict[str, Any], ledger: Ledger) -> None:
    failed = Said(200, {"code": "success", "message": "", "data": {"task_id": ID, "status": "FAILED", **why}})
    hidden = pytest.raises(errors.GenerationFailed, match="the face is hidden")
    with gateway(submit=CREATED, poll=failed) as there, hidden:
        await run(there)
    assert [job.state for job in await ledger.jobs()] == [JobState.FAILED]


BAD_POLLS = {
    "task_not_exist": Said(400, {"error": {"code": "task_not_exist", "message": "task_not_exist"}}),
    "not exist in a 200": Said(200, {"error": {"message": "任务不存在"}}),
    "firewall": page(403),
    "400": Said(400, {"message": "busy"}),
    "302": Said(302, b"", {"Location": "/login"}),
    "quota": Said(403, {"error": {"code": "insufficient_user_quota"}}),
}


@pytest.mark.parametrize("bad", BAD_POLLS.values(), ids=BAD_POLLS.keys())
async def test_a_bad_poll_ends_no_wait(bad: Said, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=[bad, bad, DONE]) as there:
        await run(there)
    assert there.count("submit") == 1


# --- Content ---

NAMED = {
    "text/plain": {"video_url": "{url}/files/a.mp4"},
    "expired by the local clock": {"url": "{url}/files/a.mp4", "expires_at": 1},
    "zero": {"data": {"video_url": "{url}/files/a.mp4"}, "expires_at": 0},
    "relative": {"data": {"videos": [{"url": "/files/a.mp4"}]}, "expires_at": 600},
    "relative to the endpoint": {"output": ["../../files/a.mp4"]},
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED.keys())
async def test_a_url_is_found_and_tried_without_the_key(named: dict[str, Any], ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=DONE) as there:
        body = json.dumps(named).replace("{url}", there.url)
        there.scripts["content"] = [Said(200, body, {"Content-Type": "text/plain"})]
        await run(there)
        keys = {key for name, _, key in there.asked if name == "files"}
    assert keys == {None}


@pytest.mark.parametrize("code", [400, 404, 409, 425])
async def test_content_that_is_not_ready_right_after_completed_is_asked_for_again(code: int, ledger: Ledger) -> None:
    not_ready = Said(code, {"error": {"message": "video is not ready"}})
    with gateway(submit=CREATED, poll=DONE, content=[not_ready, not_ready, file()]) as there:
        await run(there)
    assert there.count("content") == 3


async def test_hidreams_file_may_be_a_list_and_its_ids_numbers(
    simulator: RunningSimulator, ledger: Ledger, tmp_path: Any
) -> None:
    created = Said(200, {"code": 0, "request_id": "q", "result": {"task_id": 4711, "sub_task_ids": [8, 9]}})
    done = {"task_id": 4711, "sub_task_results": [{"task_status": "1", "video": [{"url": "/files/a.mp4"}]}]}
    with gateway(submit=created, poll=Said(200, {"code": 0, "result": done})) as there:
        clip = httpx.get(simulator.clip_url).content
        there.scripts["files"] = [Said(200, clip, {"Content-Type": "video/mp4"})]
        credentials = HiDreamCredentials(token="sk-field", base_url=there.url, submissions_per_minute=None)
        delivery = await stylize_video(f"{there.url}/files/in.mp4", "ink_wash", credentials=credentials)
    assert delivery.provider_job_id == "4711"
    (job,) = await ledger.jobs()
    assert job.evidence == {"request_id": "q", "sub_task_ids": ["8", "9"]}


# --- Callbacks ---

SECRET = "a secret of the receiver"


async def test_a_callback_that_names_another_job_is_ignored(ledger: Ledger, ledger_url: str) -> None:
    created = Said(200, {"code": 0, "result": {"task_id": "t-1"}})
    waiting = Said(200, {"code": 0, "result": {"sub_task_results": []}})
    with gateway(submit=created, poll=waiting) as there:
        credentials = HiDreamCredentials(token="sk-field", base_url=there.url, submissions_per_minute=None)
        with pytest.raises(errors.JobTimeout):
            await stylize_video(
                f"{there.url}/files/a.mp4", "ink_wash", credentials=credentials, timeout_seconds=0.5, preflight=False
            )
    (job,) = await ledger.jobs()
    url = callback_url("https://callbacks.example", SECRET, job)
    app = callback_app(ledger_url, SECRET)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        said = {"sub_task_results": [{"task_status": 1}]}
        other = await client.post(url, json={"main_task_id": "t-2", **said})
        assert (other.status_code, other.json()) == (200, {"received": True, "known": False})
        (untouched,) = await ledger.jobs()
        assert untouched.notified_at is None
        await client.post(url, json={"main_task_id": "t-1", **said})
    (reported,) = await ledger.jobs()
    assert reported.notified_at is not None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/cb", "https://receiver.internal/cb", "http://10.0.0.7/cb"])
async def test_a_callback_to_a_private_host_is_refused_before_anything_is_sent(url: str, ledger: Ledger) -> None:
    credentials = HiDreamCredentials(token="sk-field", base_url="https://api.example.com")
    with pytest.raises(errors.InvalidRequest, match="notify_url"):
        await stylize_video(
            "https://example.com/a.mp4", "ink_wash", credentials=credentials, notify_url=url, preflight=False
        )
    assert await ledger.jobs() == []


# --- The Block ---

ROOTS = {
    "api.tokenops.ai/v1": "http",
    "https://api.tokenops.ai": "lacks /v1: give https://api.tokenops.ai/v1",
    "https://gw.example.com/v1/videos": "the endpoint /videos: give https://gw.example.com/v1",
    "https://gw.example.com/v1/videos/1/content": "give https://gw.example.com/v1",
    "https://gw.example.com /v1": "spaces",
}


@pytest.mark.parametrize(("root", "words"), ROOTS.items())
def test_a_base_url_that_cannot_be_right_is_refused_with_the_right_one(root: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TokenOpsCredentials(api_key="sk-1", base_url=root)


def test_jenius_endpoint_pasted_in_part_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"give https://www\.jenius\.cn"):
        JeniusCredentials(api_key="k-1", base_url="https://www.jenius.cn/api/plugins/poster")


@pytest.mark.parametrize("key", ["  sk-one\r\n", "\ufeffsk-one", "\u00a0sk-one\u200b", "\nsk-one\n\n"])
def test_blanks_around_a_key_are_taken_off(key: str) -> None:
    for block in (TokenOpsCredentials, JeniusCredentials, HiDreamCredentials):
        assert block(api_key=key).api_key.get_secret_value() == "sk-one"


@pytest.mark.parametrize("key", ['"sk-one"', "'sk-one'", "`sk-one`", "\u201csk-one\u201d"])
def test_a_key_in_quotes_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValidationError, match="quotation marks") as caught:
        TokenOpsCredentials(api_key=key)
    assert "sk-one" not in str(caught.value)


async def test_a_firewall_before_jenius_does_not_end_the_wait(ledger: Ledger) -> None:
    submitted = Said(200, {"code": 200, "data": {"uuid": "u-1"}})
    failed = Said(200, {"code": 200, "data": {"uuid": "u-1", "status": "FAILED", "reason": "no face"}})
    with gateway(submit=submitted, poll=[page(403), failed]) as there:
        credentials = JeniusCredentials(api_key=KEY, base_url=there.url)
        with pytest.raises(errors.GenerationFailed, match="no face"):
            await live_poster(f"{there.url}/files/a.jpg", "youqian", credentials=credentials, preflight=False)

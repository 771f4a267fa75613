"""Relatives of the reported answers about a job and its file, as other gateways and clouds give them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from scripted import KEY, Said, file, gateway, page
from test_answers_poll import CREATED, DONE, SECRET, status
from test_answers_submit import ID, run

from prefect_genmedia import HiDreamCredentials, errors
from prefect_genmedia._core import JobState, Ledger
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia.callbacks.app import callback_app
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")


def nested(word: str, **rest: Any) -> Said:
    return Said(200, {"code": "success", "message": "", "data": {"task_id": ID, "status": word, **rest}})


FINISHED = {
    "task_status": Said(
        200, {"code": 0, "message": "SUCCEED", "data": {"task_id": ID, "task_status": "succeed", "task_status_msg": ""}}
    ),
    "output": Said(200, {"request_id": "r", "output": {"task_id": ID, "task_status": "SUCCEEDED"}}),
    "of the upstream too": nested("SUCCESS", progress="100%", data={"id": "cgt-1", "status": "running"}),
    "a URL as the reason": nested("SUCCESS", fail_reason="https://cdn.example.com/a.mp4?sign=5ec2e7"),
    "state": Said(200, {"id": ID, "state": "COMPLETED"}),
    "blanks": status(" Completed\n"),
    "prefixed": status("TASK_STATUS_SUCCEED"),
    "complete": status("COMPLETE"),
    "a list": Said(200, {"code": 200, "data": [{"task_id": ID, "status": "completed"}]}),
    "upper-case result": Said(200, {"id": ID, "status": "DONE", "progress": "100.0 %"}),
}


@pytest.mark.parametrize("reported", FINISHED.values(), ids=FINISHED.keys())
async def test_a_finished_job_is_known_however_it_is_reported(reported: Said, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=reported) as there:
        await run(there)
        assert there.count("poll") <= 3
    (job,) = await ledger.jobs()
    assert job.state is JobState.DELIVERED
    assert "5ec2e7" not in job.model_dump_json()


RUNNING = {
    "the upstream is ahead": nested("IN_PROGRESS", progress="70%", data={"status": "succeeded"}),
    "incomplete": status("INCOMPLETE"),
    "unfinished": status("unfinished"),
    "not started": status("NOT_START"),
    "progress of no kind": status("processing", progress="half"),
    "progress below one": status("processing", progress=0.4),
    "no status": Said(200, {"id": ID}),
    "empty status": status(""),
    "a number": status(2),
    "success of the query": Said(200, {"code": "success", "message": "success", "data": None}),
}


@pytest.mark.parametrize("reported", RUNNING.values(), ids=RUNNING.keys())
async def test_a_job_that_is_not_finished_is_waited_for(reported: Said, ledger: Ledger) -> None:
    not_yet = Said(404, {"error": {"message": "not ready"}})
    with gateway(submit=CREATED, poll=[reported, reported, DONE], content=[not_yet, file()]) as there:
        await run(there)
        assert there.count("poll") == 3
    assert there.count("submit") == 1


@pytest.mark.parametrize("word", "TIMED_OUT task_failed aborted 审核不通过 moderation_blocked unsuccessful".split())
async def test_other_words_like_failure_give_the_job_up_and_keep_it(word: str, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=status(word, fail_reason="no GPU")) as there:
        with pytest.raises(errors.GenerationFailed, match="no GPU"):
            await run(there)
        with pytest.raises(errors.GenerationFailed):
            await run(there)
        assert there.count("submit") == 1
    assert [job.state for job in await ledger.jobs()] == [JobState.UNDELIVERABLE]


REASONS = {
    "task_status_msg": {"task_status_msg": "the face is hidden"},
    "a list of texts": {"errors": ["the face is hidden", "and dark"]},
    "error_message": {"error_message": "the face is hidden"},
    "failReason": {"failReason": "the face is hidden"},
    "nested twice": {"error": {"error": {"message": "the face is hidden"}}},
    "failure_reason": {"failure_reason": {"text": "the face is hidden"}},
    "of the upstream": {"fail_reason": "", "data": {"status": "failed", "error": {"message": "the face is hidden"}}},
}


@pytest.mark.parametrize("why", REASONS.values(), ids=REASONS.keys())
async def test_a_reason_under_other_names_is_reported(why: dict[str, Any], ledger: Ledger) -> None:
    hidden = pytest.raises(errors.GenerationFailed, match="the face is hidden")
    with gateway(submit=CREATED, poll=nested("FAILED", **why)) as there, hidden:
        await run(there)


BAD_POLLS = {
    "code above": Said(400, {"code": "task_not_exist", "message": "task_not_exist", "statusCode": 400}),
    "words": Said(400, {"error": {"message": "Task not found"}}),
    "detail": Said(404, {"detail": f"Video with id '{ID}' not found."}),
    "gateway down": page(502),
    "challenge": page(503),
    "gone for now": Said(410, b""),
    "no body": Said(200, b""),
    "401 for once": Said(401, page().body),
    "500 of the database": Said(500, {"code": "get_task_failed", "message": "sql: connection is closed"}),
    "code in a 200": Said(200, {"code": 500, "message": "busy", "data": None}),
}


@pytest.mark.parametrize("bad", BAD_POLLS.values(), ids=BAD_POLLS.keys())
async def test_other_bad_polls_end_no_wait(bad: Said, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=[bad, bad, DONE]) as there:
        await run(there)
    assert there.count("submit") == 1


# --- Content ---

JSON = "application/json"
NAMED = {
    "a list": ('{"data":[{"url":"{url}/files/a.mp4"}]}', JSON),
    "the URL alone": ("{url}/files/a.mp4\n", "text/plain"),
    "the URL as JSON": ('"{url}/files/a.mp4"', JSON),
    "content.video_url": ('{"content":{"video_url":"{url}/files/a.mp4"},"status":"succeeded"}', JSON),
    "task_result": (
        '{"code":0,"data":{"task_id":"1","task_result":{"videos":[{"id":"2","url":"{url}/files/a.mp4"}]}}}',
        JSON,
    ),
    "ISO time": ('{"video_url":"{url}/files/a.mp4","expires_at":"2020-01-01T00:00:00Z"}', JSON),
    "milliseconds": ('{"video_url":"{url}/files/a.mp4","expires_at":1762776961000}', JSON),
    "words for a time": ('{"video_url":"{url}/files/a.mp4","expires_at":"1h"}', JSON),
    "negative": ('{"video_url":"{url}/files/a.mp4","expires_at":-62135596800}', JSON),
    "without a scheme": ('{"video_url":"//{host}/files/a.mp4"}', JSON),
    "a BOM": ('\ufeff{"video_url":"{url}/files/a.mp4"}', JSON),
    "octets": ('{"video_url":"{url}/files/a.mp4"}', "application/octet-stream"),
    "said to be video": ('{"video_url":"{url}/files/a.mp4"}', "video/mp4"),
    "blanks": ('{"video_url":" {url}/files/a.mp4\\n"}', JSON),
    "a cover before it": ('{"cover_url":"{url}/v1/none.jpg","data":{"videoUrl":"{url}/files/a.mp4"}}', JSON),
    "JSON in text": ('{"data":"{\\"video_url\\":\\"{url}/files/a.mp4\\"}"}', JSON),
}


@pytest.mark.parametrize(("body", "media_type"), NAMED.values(), ids=NAMED.keys())
async def test_a_url_that_is_reported_in_other_ways_is_found(body: str, media_type: str, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=DONE) as there:
        text = body.replace("{url}", there.url).replace("{host}", there.url.partition("//")[2])
        there.scripts["content"] = [Said(200, text, {"Content-Type": media_type})]
        await run(there)
        keys = {key for name, _, key in there.asked if name == "files"}
    assert keys == {None}


NOT_READY = {
    "new-api": Said(400, {"error": {"message": "Task is not completed yet, current status: IN_PROGRESS"}}),
    "202": Said(202, {"status": "processing"}),
    "404 page": page(404),
    "423": Said(423, {"message": "locked"}),
    "500": Said(500, {"error": {"message": "Failed to fetch video"}}),
    "empty file": Said(200, b"", {"Content-Type": "video/mp4"}),
    "NoSuchKey": Said(404, "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "text/xml"}),
}


@pytest.mark.parametrize("bad", NOT_READY.values(), ids=NOT_READY.keys())
async def test_content_that_is_not_ready_in_other_words_is_asked_for_again(bad: Said, ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=DONE, content=[bad, bad, file()]) as there:
        await run(there)
    assert there.count("content") == 3


async def test_two_redirects_in_a_row_end_at_the_file_without_the_key(ledger: Ledger) -> None:
    with gateway(submit=CREATED, poll=DONE) as there:
        host = there.url.partition("//")[2]
        there.scripts["content"] = [Said(303, b"", {"Location": "../../files/a.mp4"})]
        there.scripts["files"] = [Said(308, b"", {"Location": f"//{host}/files/b.mp4"}), file()]
        await run(there)
        keys = {key for name, _, key in there.asked if name == "files"}
    assert keys == {None}


VIDEOS = {
    "texts": {"video": ["{url}/files/a.mp4"]},
    "an object": {"video": {"url": "{url}/files/a.mp4"}},
    "empty, and url": {"video": [], "url": ["{url}/files/a.mp4"]},
    "a JSON list": {"video": '["{url}/files/a.mp4"]'},
}


@pytest.mark.parametrize("named", VIDEOS.values(), ids=VIDEOS.keys())
async def test_hidreams_file_is_found_in_other_shapes(
    named: dict[str, Any], simulator: RunningSimulator, ledger: Ledger
) -> None:
    created = Said(200, {"code": "0", "result": {"task_id": 4711}})
    with gateway(submit=created) as there:
        shaped = json.loads(json.dumps(named).replace("{url}", there.url))
        reported = {"code": 0, "result": {"task_id": "4711", "sub_task_results": [{"task_status": 1, **shaped}]}}
        there.scripts |= {"poll": [Said(200, reported)]}
        clip = httpx.get(simulator.clip_url).content
        there.scripts["files"] = [Said(200, clip, {"Content-Type": "video/mp4"})]
        credentials = HiDreamCredentials(token=KEY, base_url=there.url, submissions_per_minute=None)
        delivery = await stylize_video(f"{there.url}/files/in.mp4", "ink_wash", credentials=credentials)
    assert delivery.provider_job_id == "4711"


# --- Callbacks ---


async def test_a_callback_that_names_its_job_by_a_number_is_taken(ledger: Ledger, ledger_url: str) -> None:
    created = Said(200, {"code": 0, "result": {"task_id": 4711}})
    waiting = Said(200, {"code": 0, "result": {"sub_task_results": []}})
    with gateway(submit=created, poll=waiting) as there:
        credentials = HiDreamCredentials(token=KEY, base_url=there.url, submissions_per_minute=None)
        with pytest.raises(errors.JobTimeout):
            await stylize_video(
                f"{there.url}/files/a.mp4", "ink_wash", credentials=credentials, timeout_seconds=0.5, preflight=False
            )
    (job,) = await ledger.jobs()
    url = callback_url("https://callbacks.example", SECRET, job)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(callback_app(ledger_url, SECRET))) as client:
        for other in (4712, "04711", {"id": 4711}, True):
            await client.post(url, json={"main_task_id": other, "sub_task_results": [{"task_status": 1}]})
        (untouched,) = await ledger.jobs()
        assert untouched.notified_at is None
        await client.post(url, json={"main_task_id": 4711, "sub_task_results": [{"task_status": 1}]})
    (reported,) = await ledger.jobs()
    assert reported.notified_at is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/cb",
        "http://[::1]/cb",
        "http://[::ffff:10.0.0.7]/cb",
        "http://2130706433/cb",
        "http://0x7f.1/cb",
        "http://nas.local/cb",
        "http://169.254.169.254/cb",
        "http://100.100.100.200/cb",
        "http://receiver/cb",
        "http://LOCALHOST./cb",
        "http://198.18.0.9/cb",
    ],
)
async def test_other_private_callbacks_are_refused(url: str, ledger: Ledger) -> None:
    credentials = HiDreamCredentials(token=KEY, base_url="https://api.example.com")
    with pytest.raises(errors.InvalidRequest, match="notify_url"):
        await stylize_video(
            "https://example.com/a.mp4", "ink_wash", credentials=credentials, notify_url=url, preflight=False
        )
    assert await ledger.jobs() == []

"""TokenOps over HTTP: what is sent, what each answer means, and which error each refusal becomes."""

import json
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import respx

from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    InputRefused,
    InvalidRequest,
    JobExpired,
    OutputRefused,
    ProviderError,
    QuotaError,
    RateLimited,
)
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo, TokenOpsClient

KEY = "sk-live/Ab+Cd0123456789=="
BASE = "https://api.tokenops.ai/v1"
ID = "10762451179911711518"
ADDRESS = "93.184.216.34"

# Taken from the provider's page; only some line breaks are taken out.
OMNIHUMAN = """{
    "model": "OmniHuman_1.5", "req_key": "jimeng_realman_avatar_picture_omni_v15",
    "prompt": "自然说话,面带微笑", "generation_type": "omni_human", "output_resolution": 1080,
    "content": [
      {"type": "image_url", "image_url": {"url": "https://example.com/portrait.jpg"}},
      {"type": "audio_url", "audio_url": {"url": "https://example.com/speech.mp3"}}
    ]
  }"""
JIMENG = """{
    "model": "jimeng-video-3.0-pro", "prompt": "千军万马奔腾在草原上,阳光明媚,高清画质",
    "req_key": "jimeng_ti2v_v30_pro", "seed": -1, "frames": 121, "aspect_ratio": "16:9"
  }"""
CREATED = '{"id": "10762451179911711518", "object": "video", "created_at": 1762776961, "status": "in_queue"}'
QUEUED = '{"id": "10762451179911711518", "object": "video", "status": "in_queue"}'
COMPLETED = '{"id": "10762451179911711518", "object": "video", "status": "completed"}'
AVATAR = OmniHumanVideo(
    image_url="https://example.com/portrait.jpg", audio_url="https://example.com/speech.mp3", prompt="自然说话,面带微笑"
)
CLIP = JimengVideo(**json.loads(JIMENG))
FILE_URL = "https://cdn.example.com/v.mp4?X-Tos-Signature=5ec2e7"
MP4 = b"\x00\x00\x00\x18ftypmp42" * 1000


class Api:
    """A client, and the web that it sees."""

    def __init__(self, client: TokenOpsClient, web: respx.Router) -> None:
        self.client = client
        self.web = web
        client.fetch_rules = replace(client.fetch_rules, resolver=at_public_address)

    async def submit(self, request: OmniHumanVideo | JimengVideo = AVATAR) -> Accepted:
        async with self.client.turn():
            return await self.client.submit(request)

    async def refusal(self, answer: httpx.Response) -> GenMediaError:
        """What submitting raises where this is the answer."""
        route = self.web.post(f"{BASE}/videos").mock(return_value=answer)
        with pytest.raises(GenMediaError) as caught:
            await self.submit()
        assert route.call_count == 1
        return caught.value

    async def look(self, job: dict[str, Any]) -> Observation:
        self.web.get(f"{BASE}/videos/{ID}").respond(json={"id": ID, "object": "video"} | job)
        return await self.client.poll(ID)

    def content(self, answer: httpx.Response) -> respx.Route:
        """The content endpoint answers so."""
        return self.web.get(f"{BASE}/videos/{ID}/content").mock(return_value=answer)

    def linked(self, answer: httpx.Response) -> respx.Route:
        """The content endpoint answers with a URL, and the URL answers so."""
        self.content(httpx.Response(200, json={"video_url": FILE_URL, "expires_at": 4102444800}))
        return self.web.get(FILE_URL.replace("cdn.example.com", ADDRESS)).mock(return_value=answer)

    async def download(self) -> tuple[bytes, int | None, str]:
        async with self.client.open_result(ID) as stream:
            content = b"".join([piece async for piece in stream.chunks()])
            return content, stream.content_length, stream.content_type


async def at_public_address(host: str, port: int) -> list[str]:
    return [ADDRESS]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    with respx.mock(assert_all_called=False) as web:
        client = TokenOpsClient(KEY)
        yield Api(client, web)
        await client.aclose()


def sent(route: respx.Route) -> httpx.Request:
    assert route.call_count == 1
    return route.calls.last.request


# --- Submit ---


@pytest.mark.parametrize(("wish", "document"), [(AVATAR, OMNIHUMAN), (CLIP, JIMENG)], ids=["avatar", "clip"])
async def test_a_submission_is_the_documents_and_so_is_its_answer(api: Api, wish: Any, document: str) -> None:
    route = api.web.post(f"{BASE}/videos").respond(text=CREATED, content_type="application/json")
    assert await api.submit(wish) == Accepted(ID, "in_queue")
    assert json.loads(sent(route).content) == json.loads(document)
    assert sent(route).headers["Authorization"] == f"Bearer {KEY}"
    assert sent(route).headers["Content-Type"] == "application/json"


async def test_a_number_as_id_keeps_every_digit(api: Api) -> None:
    api.web.post(f"{BASE}/videos").respond(text=f'{{"id": {ID}}}')
    assert await api.submit() == Accepted(ID, "in_queue")


# --- Documented errors ---

DOCUMENTED = [
    *[(400, code, InvalidRequest, "refused") for code in (2001, 2004, 2005)],
    *[(status, code, CredentialsError, "refused") for status, code in ((401, 2101), (403, 2102))],
    (403, 2103, QuotaError, "refused"),
    *[(424, code, ProviderError, "uncertain") for code in (2002, 2003, 2006)],
    *[(429, code, RateLimited, "unsent") for code in (2007, 2008)],
    *[(status, None, ProviderError, "uncertain") for status in (500, 502, 503, 504)],
]
SHAPES = {
    "error.message": lambda code, words: {"error": {"message": words, "code": code}},
    "error": lambda code, words: {"error": words, "code": code},
    "message": lambda code, words: {"message": words, "code": str(code)},
    "detail": lambda code, words: {"detail": words, "code": code},
}


@pytest.mark.parametrize(("status", "code", "kind", "outcome"), DOCUMENTED)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_a_documented_error_becomes_its_class_in_every_shape(
    api: Api, status: int, code: int | None, kind: type, outcome: str, shape: Any
) -> None:
    body = {name: value for name, value in shape(code, "参数不对").items() if value not in (None, "None")}
    error = await api.refusal(httpx.Response(status, json=body))
    assert (type(error), error.outcome, error.http_status) == (kind, outcome, status)
    assert error.code == (str(code) if code else None)
    assert "参数不对" in str(error)
    assert "参数不对" in json.dumps(json.loads(error.body or ""), ensure_ascii=False)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Thu, 01 Jan 2015 00:00:00 GMT", 0.0), ("Fri, 01 Jan 2100 00:00:00 GMT", 900.0), (None, None)],
)
async def test_a_rate_limit_tells_how_long_to_wait(api: Api, header: str | None, seconds: float | None) -> None:
    answer = httpx.Response(429, json={"code": 2007}, headers={"Retry-After": header} if header else {})
    error = await api.refusal(answer)
    assert isinstance(error, RateLimited)
    assert (error.retry_after, error.retryable) == (seconds, True)


UNREADABLE = """<html>|[]|"yes"|{|{}|{"id": ""}|{"id": null}|{"id": "  "}|{"id": true}|""".split("|")


@pytest.mark.parametrize("text", [*UNREADABLE, "[" * 100_000], ids=lambda text: text[:20])
async def test_an_accepting_answer_without_an_id_is_uncertain(api: Api, text: str) -> None:
    error = await api.refusal(httpx.Response(200, text=text))
    assert (type(error), error.outcome) == (ProviderError, "uncertain")


@pytest.mark.parametrize("status", [302, 409, 500, 502])
async def test_an_answer_that_no_document_explains_is_uncertain(api: Api, status: int) -> None:
    error = await api.refusal(httpx.Response(status, html="<html><h1>Bad Gateway</h1></html>"))
    assert (type(error), error.outcome) == (ProviderError, "uncertain")
    assert "Bad Gateway" in str(error)


@pytest.mark.parametrize("answer", [httpx.Response(502, text="x"), httpx.Response(200, text="x")])
async def test_an_uncertain_submission_is_neither_called_free_nor_retryable(api: Api, answer: httpx.Response) -> None:
    error = await api.refusal(answer)
    assert "Paid: nothing" not in str(error)
    assert not error.retryable


async def test_a_wrong_base_url_is_a_certain_no(api: Api) -> None:
    error = await api.refusal(httpx.Response(404, html="<html>Not Found</html>"))
    assert (type(error), error.outcome, error.retryable) == (ProviderError, "refused", False)


# --- Codes that come from further up ---

UPSTREAM = [
    *[(code, InputRefused) for code in (50411, 50412, 50413, 50518)],
    *[(code, OutputRefused) for code in (50511, 50516, 50517, 50519)],
    *[(code, InputRefused) for code in (50512, 50513, 50514, 50520, 50521, 50522)],
    (50215, InputRefused),
    (50400, CredentialsError),
]
BREAKDOWNS = [(code, GenerationFailed) for code in (50500, 50501, 50429, 50430)]
PASSED_ON: dict[str, Any] = {
    "code": lambda code: {"error": {"code": code, "message": "Risk Not Pass"}},
    "text": lambda code: {"error": f"upstream said [{code}] Risk Not Pass"},
    "nested": lambda code: {"error": {"message": json.dumps({"code": code, "message": "Risk Not Pass"})}},
}


@pytest.mark.parametrize(("code", "kind"), UPSTREAM)
@pytest.mark.parametrize("status", [400, 500])
async def test_an_upstream_refusal_is_certain_whatever_its_http_status(
    api: Api, status: int, code: int, kind: type
) -> None:
    error = await api.refusal(httpx.Response(status, json=PASSED_ON["text"](code)))
    assert (type(error), error.outcome, error.retryable) == (kind, "refused", False)


@pytest.mark.parametrize("code", [50429, 50430])
@pytest.mark.parametrize("status", [400, 500])
async def test_an_upstream_limit_means_slow_down(api: Api, status: int, code: int) -> None:
    error = await api.refusal(httpx.Response(status, json=PASSED_ON["code"](code)))
    assert (type(error), error.outcome) == (RateLimited, "unsent")


@pytest.mark.parametrize("code", [50500, 50501])
async def test_an_upstream_breakdown_is_uncertain(api: Api, code: int) -> None:
    error = await api.refusal(httpx.Response(500, json=PASSED_ON["code"](code)))
    assert (type(error), error.outcome) == (ProviderError, "uncertain")


@pytest.mark.parametrize(("code", "kind"), [*UPSTREAM, *BREAKDOWNS])
@pytest.mark.parametrize("shape", PASSED_ON.values(), ids=PASSED_ON.keys())
async def test_a_failed_job_tells_why(api: Api, code: int, kind: type, shape: Any) -> None:
    observed = await api.look({"status": "failed"} | shape(code))
    assert observed.phase is Phase.FAILED
    assert (type(observed.failure), observed.failure.code, observed.failure.retryable) == (kind, str(code), False)
    assert "Risk Not Pass" in str(observed.failure)


@pytest.mark.parametrize("beside", [{"code": 50411, "message": "No."}, {"message": "50411 Risk Not Pass"}])
async def test_a_failed_job_may_tell_why_beside_its_error(api: Api, beside: dict[str, Any]) -> None:
    assert isinstance((await api.look({"status": "failed"} | beside)).failure, InputRefused)


# --- Looking at a job ---

WORDS = {
    Phase.QUEUED: "in_queue queued pending created",
    Phase.RUNNING: "processing in_progress running generating",
    Phase.SUCCEEDED: "completed succeeded success done COMPLETED",
    Phase.FAILED: "failed cancelled canceled expired not_found error Failed",
}


@pytest.mark.parametrize(("text", "phase"), [(QUEUED, Phase.QUEUED), (COMPLETED, Phase.SUCCEEDED)])
async def test_the_documents_answers_are_understood(api: Api, text: str, phase: Phase) -> None:
    route = api.web.get(f"{BASE}/videos/{ID}").respond(text=text)
    assert await api.client.poll(ID) == Observation(phase, json.loads(text)["status"])
    assert sent(route).headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("phase", "word"), [(phase, word) for phase in WORDS for word in WORDS[phase].split()])
async def test_every_known_word_has_its_phase(api: Api, phase: Phase, word: str) -> None:
    observed = await api.look({"status": word, "progress": 40})
    assert (observed.phase, observed.status, observed.recognized) == (phase, word, True)
    assert (observed.failure is not None) == (phase is Phase.FAILED)
    assert isinstance(observed.failure, JobExpired) == (word in ("expired", "not_found"))


@pytest.mark.parametrize("word", ["rendering", "审核中", "", 3, None, {"state": "done"}])
async def test_any_other_word_means_still_running(api: Api, word: Any) -> None:
    observed = await api.look({"status": word})
    assert (observed.phase, observed.recognized) == (Phase.RUNNING, False)


@pytest.mark.parametrize(
    ("progress", "percent"),
    [(0, 0.0), (40.5, 40.5), (100, 100.0), (250, None), ("40", 40.0), ("100%", 100.0), ("soon", None)],
)
async def test_progress_is_a_percentage_or_nothing(api: Api, progress: Any, percent: float | None) -> None:
    assert (await api.look({"status": "processing", "progress": progress})).progress == percent


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, "{}", CredentialsError),
        *[(status, "{}", JobExpired) for status in (404, 410)],
        (429, "{}", RateLimited),
        *[(status, "<html>", ProviderError) for status in (424, 500, 503, 200)],
        *[(200, text, ProviderError) for text in ("{}", "[]", "[" * 100_000)],
    ],
)
async def test_a_bad_look_is_an_error_that_says_nothing_about_the_job(
    api: Api, status: int, text: str, kind: type
) -> None:
    api.web.get(f"{BASE}/videos/{ID}").respond(status, text=text)
    with pytest.raises(GenMediaError) as caught:
        await api.client.poll(ID)
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind in (RateLimited, ProviderError))


# --- The file ---


def mp4() -> httpx.Response:
    return httpx.Response(200, content=MP4, headers={"Content-Type": "video/mp4"})


async def test_content_may_be_the_file(api: Api) -> None:
    route = api.content(mp4())
    assert await api.download() == (MP4, len(MP4), "video/mp4")
    assert sent(route).headers["Authorization"] == f"Bearer {KEY}"


async def test_content_may_be_a_url_which_never_sees_the_key(api: Api) -> None:
    route = api.linked(mp4())
    assert await api.download() == (MP4, len(MP4), "video/mp4")
    assert "authorization" not in sent(route).headers
    assert sent(route).headers["Host"] == "cdn.example.com"


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_json_however_it_is_written(api: Api, media_type: str) -> None:
    api.linked(mp4())
    api.content(httpx.Response(200, text=json.dumps({"url": FILE_URL}), headers={"Content-Type": media_type}))
    assert (await api.download())[0] == MP4


@pytest.mark.parametrize("expires_at", [0, 600, 1762776961, None, "soon"])
async def test_a_url_is_tried_whatever_time_stands_beside_it(api: Api, expires_at: Any) -> None:
    api.linked(mp4())
    api.content(httpx.Response(200, json={"video_url": FILE_URL, "expires_at": expires_at}))
    assert (await api.download())[0] == MP4


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[(httpx.Response(status), JobExpired) for status in (404, 410)],
        *[(httpx.Response(200, json=body), ProviderError) for body in ({}, [], {"video_url": None}, {"video_url": ""})],
        (httpx.Response(502, html="<html>"), ProviderError),
        (httpx.Response(401), CredentialsError),
    ],
)
async def test_content_that_is_no_file_is_an_error(api: Api, answer: httpx.Response, kind: type) -> None:
    api.content(answer)
    with pytest.raises(GenMediaError) as caught:
        await api.download()
    assert type(caught.value) is kind


@pytest.mark.parametrize(("status", "kind"), [*[(gone, JobExpired) for gone in (403, 404, 410)], (500, ProviderError)])
async def test_a_url_that_no_longer_works_is_worth_asking_for_another(api: Api, status: int, kind: type) -> None:
    api.linked(httpx.Response(status))
    with pytest.raises(kind) as caught:
        await api.download()
    assert caught.value.retryable
    assert "5ec2e7" not in str(caught.value)


class BreaksOff(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"video_'
        raise httpx.ReadError("gone")


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_that_breaks_off_is_an_error_of_the_tree(api: Api, status: int) -> None:
    api.content(httpx.Response(status, stream=BreaksOff(), headers={"Content-Type": "application/json"}))
    with pytest.raises(ProviderError) as caught:
        await api.download()
    assert caught.value.__context__ is None


# --- The key ---

QUOTED = {
    "as it is": KEY,
    "slash escaped": KEY.replace("/", "\\/"),
    "plus escaped": KEY.replace("+", "\\u002B").replace("=", "\\u003D"),
}


@pytest.mark.parametrize("quoted", QUOTED.values(), ids=QUOTED.keys())
@pytest.mark.parametrize("status", [200, 400, 401, 429, 502])
async def test_a_key_in_an_answer_gets_into_no_error(api: Api, status: int, quoted: str) -> None:
    text = f'{{"error": {{"message": "Incorrect API key: {quoted}", "code": 2101}}}}'
    error = await api.refusal(httpx.Response(status, text=text))
    assert KEY.encode() not in pickle.dumps(error)
    for shown in (str(error), repr(error), error.body or ""):
        assert KEY not in shown
        assert quoted not in shown


async def test_a_key_in_a_failed_job_gets_into_no_error(api: Api) -> None:
    observed = await api.look({"status": "failed", "error": {"message": f"Key {KEY} has no balance."}})
    assert "has no balance" in str(observed.failure)
    assert KEY not in f"{observed.failure} {vars(observed.failure)}"


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
    observed = await api.look({"status": "failed", "error": {"message": f"Cannot fetch {QUOTED_URL}."}})
    assert observed.failure
    assert_only_the_url_is_shown(observed.failure)

"""A HiDream client, the web that it sees, and its clock, for the tests of its client and of its tokens."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest
import respx

from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.hidream import HiDreamClient, StylizedVideo
from prefect_genmedia.providers.protocol import Accepted, Observation

KEY = "hidream/Ab+Cd0123456789=="
TOKENS = [f"eyJ0-{number}-{'x' * 20}" for number in range(4)]
BASE = "https://www.hidreamai.com"
SUBMIT = f"{BASE}/api-pub/gw/v2/video/video_edit/async"
EXCHANGE = f"{BASE}/prod-api/user/apikey2token"
ID = "b1781982-5c57-11ee-bf2b-f6f8d60dadec"
ADDRESS = "93.184.216.34"
MP4 = b"\x00\x00\x00\x18ftypmp42" * 1000
NOW = 1_800_000_000.0

# The answer of the provider's page, as it stands there.
DOCUMENT = """{
"code": 0,
"message": "请求成功",
"request_id": "b146d886-5c57-11ee-bf2b-f6f8d60dadec",
"result": {
"sub_task_ids": [
"d832ac2b-4591-4fc3-8995-adf81a87ce53"
],
"task_id": "b1781982-5c57-11ee-bf2b-f6f8d60dadec"
}
}"""
VIDEO = StylizedVideo(
    video_url="https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4",
    style="ink_wash",
    request_id="b146d886-5c57-11ee-bf2b-f6f8d60dadec",
)


async def at_public_address(host: str, port: int) -> list[str]:
    return [ADDRESS]


def envelope(result: Any, code: Any = 0) -> dict[str, Any]:
    return {"code": code, "message": "请求成功", "request_id": "", "result": result}


def sub_task(status: Any, **facts: Any) -> dict[str, Any]:
    return {"sub_task_id": "d832ac2b", "task_status": status} | facts


def done(number: int = 0) -> dict[str, Any]:
    return sub_task(1, task_completion=1, video=f"https://cdn.example.com/{number}.mp4?Signature=5ec2e7&Expires=1")


class Api:
    """A client, the web that it sees, and its clock."""

    def __init__(self, web: respx.Router, **credentials: Any) -> None:
        self.web = web
        self.now = NOW
        options = {"submissions_per_minute": None} | (credentials or {"token": TOKENS[0]})
        self.client = HiDreamClient(**options, now=lambda: self.now)
        self.client.fetch_rules = replace(self.client.fetch_rules, resolver=at_public_address)

    async def submit(self) -> Accepted:
        async with self.client.turn():
            return await self.client.submit(VIDEO)

    async def refusal(self, answer: httpx.Response) -> GenMediaError:
        """What submitting raises where this is the answer."""
        route = self.web.post(SUBMIT).mock(return_value=answer)
        with pytest.raises(GenMediaError) as caught:
            await self.submit()
        assert route.call_count == 1
        return caught.value

    def task(self, *sub_tasks: dict[str, Any]) -> respx.Route:
        result = {"task_id": ID, "sub_task_results": list(sub_tasks)}
        return self.web.get(f"{SUBMIT}/results", params={"task_id": ID}).respond(json=envelope(result))

    async def look(self, *sub_tasks: dict[str, Any]) -> Observation:
        self.task(*sub_tasks)
        return await self.client.poll(ID)

    def exchange(self, expire_time: Any = None) -> respx.Route:
        """The API key is exchanged for one token after another."""
        tokens = iter(TOKENS)

        def answer(request: httpx.Request) -> httpx.Response:
            ends_at = self.now + 86400 if expire_time is None else expire_time
            return httpx.Response(200, json=envelope({"token": next(tokens), "expire_time": ends_at}))

        return self.web.get(EXCHANGE).mock(side_effect=answer)

    def file(self, number: int, answer: httpx.Response) -> respx.Route:
        return self.web.get(f"https://{ADDRESS}/{number}.mp4").mock(return_value=answer)

    async def download(self, index: int = 0) -> tuple[bytes, int | None, str]:
        async with self.client.open_result(ID, index) as stream:
            content = b"".join([piece async for piece in stream.chunks()])
            return content, stream.content_length, stream.content_type


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Api]]:
    made: list[Api] = []
    with respx.mock(assert_all_called=False) as web:

        def build(**credentials: Any) -> Api:
            made.append(Api(web, **credentials))
            return made[-1]

        yield build
        for api in made:
            await api.client.aclose()


@pytest.fixture
def api(make: Callable[..., Api]) -> Api:
    return make()


@pytest.fixture
def keyed(make: Callable[..., Api]) -> Api:
    return make(api_key=KEY)


class _Jumps(selectors.DefaultSelector):
    """Does not wait for a timer, but says that its time has come; a turn of the loop takes a microsecond."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0 if timeout is not None else None)
        self.passed += 1e-6 if found else max(timeout or 0.0, 1e-6)
        return found


class _IdleLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumps = _Jumps()
        super().__init__(self.jumps)

    def time(self) -> float:
        return self.jumps.passed


def in_idle_time(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it where no time passes while there is anything to do, and all until the next timer where there is not."""
    loop = _IdleLoop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


def tokens_sent(route: respx.Route) -> list[str]:
    return [call.request.headers["Authorization"].removeprefix("Bearer ") for call in route.calls]

"""HiDream's tokens and pace: exchanged once, renewed in time, never shown; a paid POST is never repeated for them."""

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hidream_web import (
    DOCUMENT,
    EXCHANGE,
    ID,
    KEY,
    NOW,
    SUBMIT,
    TOKENS,
    VIDEO,
    Api,
    done,
    envelope,
    keyed,
    make,
    sub_task,
    tokens_sent,
)
from pydantic import ValidationError

from prefect_genmedia import HiDreamCredentials
from prefect_genmedia.errors import CredentialsError, GenMediaError, InvalidRequest, ProviderError, RateLimited
from prefect_genmedia.providers.hidream import HiDreamClient
from prefect_genmedia.providers.protocol import Accepted, Phase

__all__ = ["keyed", "make"]


# --- Tokens ---


async def test_an_api_key_is_exchanged_once_for_many_requests(keyed: Api) -> None:
    exchange = keyed.exchange()
    results = keyed.task(sub_task(2))
    await asyncio.gather(*[keyed.client.poll(ID) for _ in range(5)])
    (call,) = exchange.calls
    assert call.request.headers["Api-Key"] == KEY
    assert "Authorization" not in call.request.headers
    assert tokens_sent(results) == [TOKENS[0]] * 5
    assert all("Api-Key" not in call.request.headers for call in results.calls)


@pytest.mark.parametrize("credentials", [{"token": "sk-live-0123456789"}, {"api_key": "sk-live-0123456789"}])
async def test_a_key_that_works_directly_is_not_exchanged(
    make: Callable[..., Api], credentials: dict[str, str]
) -> None:
    api = make(**credentials)
    route = api.web.post(SUBMIT).respond(text=DOCUMENT)
    await api.submit()
    assert tokens_sent(route) == ["sk-live-0123456789"]


@pytest.mark.parametrize("credentials", [{}, {"token": "t", "api_key": "k"}, {"token": "", "api_key": ""}])
def test_a_client_takes_a_token_or_a_key(credentials: dict[str, str]) -> None:
    with pytest.raises(CredentialsError):
        HiDreamClient(**credentials)


async def test_a_token_near_its_end_is_renewed_before_a_paid_post(keyed: Api) -> None:
    keyed.exchange()
    route = keyed.web.post(SUBMIT).respond(text=DOCUMENT)
    await keyed.submit()
    keyed.now += 86400 - 500
    await keyed.submit()
    assert tokens_sent(route) == TOKENS[:2]


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end(keyed: Api) -> None:
    keyed.exchange()
    route = keyed.web.post(SUBMIT).respond(text=DOCUMENT)
    await keyed.submit()
    keyed.web.get(EXCHANGE).respond(503)
    keyed.now += 86400 - 500
    await keyed.submit()
    assert tokens_sent(route) == [TOKENS[0]] * 2
    keyed.now += 501
    with pytest.raises(ProviderError) as caught:
        await keyed.submit()
    assert (caught.value.outcome, caught.value.retryable) == ("unsent", True)
    assert route.call_count == 2


@pytest.mark.parametrize("answer", [httpx.Response(401), httpx.Response(200, json=envelope(None, 401))])
async def test_a_look_with_a_refused_token_is_repeated_once_with_another(keyed: Api, answer: httpx.Response) -> None:
    exchange = keyed.exchange()
    good = httpx.Response(200, json=envelope({"task_id": ID, "sub_task_results": [done()]}))
    results = keyed.web.get(f"{SUBMIT}/results").mock(side_effect=[answer, good])
    assert (await keyed.client.poll(ID)).phase is Phase.SUCCEEDED
    assert tokens_sent(results) == TOKENS[:2]
    assert exchange.call_count == 2


async def test_a_look_is_repeated_no_more_than_once(keyed: Api) -> None:
    keyed.exchange()
    results = keyed.web.get(f"{SUBMIT}/results").respond(401)
    with pytest.raises(CredentialsError):
        await keyed.client.poll(ID)
    assert results.call_count == 2


async def test_many_looks_with_a_refused_token_renew_it_once(keyed: Api) -> None:
    exchange = keyed.exchange()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Authorization"] == f"Bearer {TOKENS[0]}":
            return httpx.Response(401)
        return httpx.Response(200, json=envelope({"task_id": ID, "sub_task_results": [done()]}))

    keyed.web.get(f"{SUBMIT}/results").mock(side_effect=answer)
    await asyncio.gather(*[keyed.client.poll(ID) for _ in range(5)])
    assert exchange.call_count == 2


async def test_a_paid_post_with_a_refused_token_is_not_repeated_but_the_next_has_another(keyed: Api) -> None:
    keyed.exchange()
    route = keyed.web.post(SUBMIT).mock(side_effect=[httpx.Response(401), httpx.Response(200, text=DOCUMENT)])
    with pytest.raises(CredentialsError) as caught:
        await keyed.submit()
    assert (caught.value.outcome, caught.value.retryable) == ("refused", True)
    assert tokens_sent(route) == TOKENS[:1]
    assert await keyed.submit() == Accepted(ID, "waiting")
    assert tokens_sent(route) == TOKENS[:2]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401), CredentialsError),
        (httpx.Response(200, json=envelope(None, 401)), CredentialsError),
        (httpx.Response(429), RateLimited),
        (httpx.Response(404), ProviderError),
        (httpx.Response(500), ProviderError),
        (httpx.Response(200, json=envelope({})), ProviderError),
        (httpx.Response(200, json=envelope({"token": ""})), ProviderError),
        (httpx.Response(200, text="<html>"), ProviderError),
    ],
)
async def test_a_failed_exchange_sends_nothing_and_says_nothing_about_a_job(
    keyed: Api, answer: httpx.Response, kind: type
) -> None:
    keyed.web.get(EXCHANGE).mock(return_value=answer)
    submission, results = keyed.web.post(SUBMIT), keyed.web.get(f"{SUBMIT}/results")
    for call in (keyed.submit(), keyed.client.submit(VIDEO), keyed.client.poll(ID)):
        with pytest.raises(GenMediaError) as caught:
            await call
        assert type(caught.value) is kind
        assert caught.value.outcome == "unsent"
    assert not submission.called
    assert not results.called


@pytest.mark.parametrize(
    ("expire_time", "lives"),
    [
        (NOW + 7200, 7200),
        (str(int(NOW + 7200)), 7200),
        ((NOW + 7200) * 1000, 7200),
        (7200, 7200),
        ("2027-01-15T10:00:00Z", 7200),
        ("2027-01-15 18:00:00", 7200),  # in China
        ("2027/01/15 18:00:00", 7200),
        (NOW - 60, 86400),
        ("soon", 86400),
        (None, 86400),
        (True, 86400),
    ],
)
async def test_the_end_of_a_token_is_understood_in_any_form(keyed: Api, expire_time: Any, lives: float) -> None:
    keyed.web.get(EXCHANGE).mock(
        side_effect=[
            httpx.Response(200, json=envelope({"token": token, "expire_time": expire_time})) for token in TOKENS
        ]
    )
    results = keyed.task(sub_task(2))
    await keyed.client.poll(ID)
    for seconds in (lives - 800, 300):
        keyed.now = NOW + seconds if seconds > 300 else keyed.now + seconds
        await keyed.client.poll(ID)
    assert tokens_sent(results) == [TOKENS[0], TOKENS[0], TOKENS[1]]


def test_an_account_outlives_its_tokens_where_something_lasting_is_known() -> None:
    def account(**credentials: str) -> str:
        return str(HiDreamClient(**credentials).account)

    assert account(token="one", user_id="team-7") == account(token="two", user_id="team-7")
    assert account(token="one") != account(token="two")
    assert account(api_key="one", user_id="team-7") != account(api_key="two", user_id="team-7")
    assert account(token="sk-one", user_id="team-7") != account(token="sk-two", user_id="team-7")


# --- Secrets ---


@pytest.mark.parametrize("quoted", [KEY, KEY.replace("/", "\\/"), KEY.replace("+", "\\u002B")])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
async def test_a_key_in_an_answer_gets_into_no_error(keyed: Api, status: int, quoted: str) -> None:
    text = f'{{"code": {status + 1000}, "message": "无效的API Key: {quoted}"}}'
    keyed.web.get(EXCHANGE).respond(status, text=text)
    with pytest.raises(GenMediaError) as caught:
        await keyed.client.poll(ID)
    assert KEY.encode() not in pickle.dumps(caught.value)
    for shown in (str(caught.value), repr(caught.value), caught.value.body or ""):
        assert KEY not in shown
        assert quoted not in shown


async def test_a_token_that_was_exchanged_gets_into_no_error_either(keyed: Api) -> None:
    keyed.exchange()
    keyed.web.post(SUBMIT).respond(400, json={"code": 400, "message": f"bad token {TOKENS[0]}"})
    with pytest.raises(InvalidRequest) as caught:
        await keyed.submit()
    assert TOKENS[0].encode() not in pickle.dumps(caught.value)
    failure = (await keyed.look(sub_task(3, description=f"token {TOKENS[0]} 余额不足"))).failure
    assert "余额不足" in str(failure)
    assert TOKENS[0] not in f"{failure} {vars(failure)}"
    assert TOKENS[0] not in f"{vars(keyed.client)} {keyed.client.account}"


# --- Pace ---


async def test_the_documented_pace_is_the_default() -> None:
    client = HiDreamClient(token=TOKENS[0])
    assert client.submissions_per_minute == 2.0
    await client.aclose()


# --- The Block ---


@pytest.mark.parametrize(
    "fields", [{}, {"token": "the-secret", "api_key": "the-secret"}, {"token": "the secret"}, {"token": ""}]
)
def test_a_block_takes_a_token_or_a_key_and_repeats_neither(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        HiDreamCredentials(**fields)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"token": TOKENS[0], "api_key": ""}, {"api_key": KEY, "user_id": "team-7"}])
async def test_a_block_opens_its_account(fields: dict[str, str]) -> None:
    async with HiDreamCredentials(**fields).client() as client:
        assert isinstance(client, HiDreamClient)
        assert client.account == HiDreamClient(**{"token": "", "api_key": "", "user_id": ""} | fields).account


async def test_all_users_of_a_block_share_one_pace() -> None:
    block = HiDreamCredentials(token=TOKENS[0])
    async with block.client() as one, HiDreamCredentials(token=TOKENS[0]).client() as other:
        assert one is other

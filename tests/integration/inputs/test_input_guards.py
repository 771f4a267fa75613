"""What a person or an operator sets is refused where it cannot be meant; the receiver's time and work have bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
import yaml
from pydantic import ValidationError
from sqlalchemy import text
from test_hostile_text import LAKE

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._prefect.session import prices_of
from prefect_genmedia.batch.spec import Money
from prefect_genmedia.callbacks import callback_url
from prefect_genmedia.callbacks.app import MOST_CALLBACKS, REPLAY_SECONDS, callback_app
from prefect_genmedia.cli.callbacks import DeadlineProtocol, serve_callbacks
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.prices import Price, in_micros, price_table
from prefect_genmedia.settings import GenMediaSettings, current_settings
from prefect_genmedia.simulator import RunningSimulator

SECRET = "a long random text"
BAD_AMOUNTS = [float("inf"), float("-inf"), float("nan"), -2.0, 1e300]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "option",
    [
        *({"max_cost": amount} for amount in BAD_AMOUNTS),
        *({"prices": {"tokenops/jimeng-video-3.0-720P": amount}} for amount in BAD_AMOUNTS),
        {"prices": {"tokenops/jimeng-video-3.0-720P": {"per_job": -1}}},
        {"prices": {"tokenops/jimeng-video-3.0-720P": {"per_second": float("nan")}}},
        {"max_jobs": 10**30},
    ],
    ids=str,
)
async def test_a_limit_or_price_that_limits_nothing_is_refused_before_anything_is_paid(
    option: dict[str, Any], simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"max_cost|max_jobs|prices\.|price"):
        await generate_batch([{"id": "a", **LAKE}], "jimeng", credentials, batch_id="b", output=str(tmp_path), **option)
    assert simulator.accepted == 0


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity", '{"per_job": -2}', '{"per_second": NaN}'])
def test_a_price_in_the_settings_is_refused(price: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PRICES", f'{{"a/b": {price}}}')
    with pytest.raises(errors.InvalidRequest):
        _ = prices_of(current_settings())


def test_amounts_that_can_be_meant_are_taken() -> None:
    assert price_table({}, {"a/b": 0, "a/c": 2, "a/d": Price(per_job=1)})["a/c"].per_second == 2
    assert prices_of(GenMediaSettings(prices={"a/b": 1, "a/c": {"per_job": 2}}))["a/c"].per_job == 2
    assert Money(max_cost=0.0, max_jobs=0).limited
    with pytest.raises(errors.InvalidRequest):
        in_micros(float("nan"))


BLOCKS = [TokenOpsCredentials, JeniusCredentials, HiDreamCredentials]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "url",
    [
        "https://user:password@api.example.com",
        "https://user@api.example.com",
        "https://api.example.com/v1?key=1",
        "https://api.example.com/v1?",
        "https://api.example.com/v1#part",
        " https://api.example.com",
        "https://api.example.com/v 1",
        "https://api.example.com\n",
        "https://api.ex\u200bample.com",
        "https://api.example.com\\@evil.example",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "api.example.com/v1",
        "https://",
        "https://api.example.com:0/",
        "https://api.example.com:99999/",
        "https://[::1/",
        "",
    ],
)
def test_a_base_url_that_is_no_plain_address_is_refused(block: Any, url: str) -> None:
    with pytest.raises(ValidationError, match=r"base_url\n  Value error, must") as caught:
        block(api_key="sk-secret-key", base_url=url)
    assert "sk-secret-key" not in str(caught.value)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1/",
        "http://127.0.0.1:8787/tokenops/v1",
        "HTTPS://API.example.com/v1",
        "http://[::1]:8080/v1",
        "https://网关.example/v1",
        "http://gateway:3000/openai",
    ],
)
def test_a_base_url_that_works_is_kept_as_it_is(block: Any, url: str) -> None:
    made = block(api_key="sk-key", base_url=url)
    assert made.base_url == url
    assert block.model_validate(json.loads(json.dumps({"api_key": "sk-key", "base_url": url}))).base_url == url


class HandClock(Clock):
    time = 0.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
async def job(ledger: Ledger) -> Job:
    reserved = await ledger.reserve(Job(key="", identity="x" * 64, provider="hidream"))
    sending = await ledger.move(reserved, JobState.SENDING) or reserved
    return await ledger.move(sending, JobState.SUBMITTED, provider_job_id="b178") or sending


async def test_a_callback_that_is_replayed_is_answered_and_does_nothing(job: Job, ledger_url: str) -> None:
    heard: list[str] = []

    async def hear(job: Job, words: str) -> None:
        heard.append(words)

    clock = HandClock()
    app = callback_app(ledger_url, SECRET, hear, clock)
    url = callback_url("https://callbacks.example", SECRET, job)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        answers = [await client.post(url, json={}) for _ in range(50)]
        assert {answer.status_code for answer in answers} == {200}
        assert len(heard) == MOST_CALLBACKS
        clock.time += REPLAY_SECONDS
        await client.post(url, json={})
        assert len(heard) == MOST_CALLBACKS + 1


async def test_what_a_callback_says_is_cleaned_before_it_is_written_down(
    job: Job, ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"sub_task_results": [{"task_status": number} for number in range(5, 900)]})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(callback_app(ledger_url, SECRET))) as client:
        answer = await client.post(callback_url("https://callbacks.example", SECRET, job), content=body)
    assert answer.status_code == 200
    noted = await ledger.get(job.key)
    assert noted is not None
    assert 0 < len(noted.provider_status or "") <= 128


class Hasty(DeadlineProtocol):
    request_seconds = 0.2


@pytest.fixture
async def port(ledger_url: str) -> AsyncIterator[int]:
    app = callback_app(ledger_url, SECRET)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Hasty, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /callbacks/hidream/x/y HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he",
        b"POST /callbacks/hidream/x/y HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab",
    ],
    ids=["nothing", "headers", "second request", "body"],
)
async def test_a_connection_whose_request_drips_is_cut(begun: bytes, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        writer.write(begun)
        while True:
            await asyncio.sleep(0.05)
            writer.write(b"a" if begun else b"")

    dripping = asyncio.create_task(drip())
    try:
        with anyio.fail_after(60), contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
    finally:
        dripping.cancel()
        writer.close()


async def test_requests_in_time_are_served_on_one_connection(port: int) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.get(f"http://127.0.0.1:{port}/health")).is_success
            await asyncio.sleep(0.15)


def test_the_command_serves_with_deadlines_and_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    served: list[dict[str, Any]] = []
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET", SECRET)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append(vars(server.config)))
    assert serve_callbacks("127.0.0.1", 0, Console()) == 0
    assert served[0]["http"] is DeadlineProtocol
    assert served[0]["h11_max_incomplete_event_size"] <= 64 * 1024
    assert served[0]["limit_concurrency"]


def test_compose_gives_the_receiver_no_key_of_a_storage_or_provider() -> None:
    compose = Path(__file__).parents[3] / "deployments" / "compose.yaml"
    services = yaml.safe_load(compose.read_text("utf-8"))["services"]
    given = services["callbacks"]["environment"]
    assert "PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET" in given
    assert not [
        name for name in given if name.startswith(("AWS_", "GENMEDIA_")) or name.endswith(("_OUTPUT", "PUBLISH_URL"))
    ]
    for service in ("worker", "deploy"):
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= services[service]["environment"].keys()


# The migration to ids of any length.

OLD_VERSION = "0003"
OLD_INSERT = """
INSERT INTO genmedia_jobs (key, identity, attempt, scope, variant, provider, account, kind, model, label, request,
    expectation, state, provider_job_id, outputs, created_at, updated_at)
VALUES ('{key}', '{key}', 1, '', 0, 'tokenops', '', '', '', '', '{{}}', '{{}}', 'submitted', '{id}', 1, 0, 0)
"""


async def at_old_version(url: str) -> None:
    """A ledger as the previous version made it, with one job, in place of a present one."""
    from alembic import command
    from alembic.config import Config

    from prefect_genmedia._core import database, schema

    def downgrade(connection: Any) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0004@0002")
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE genmedia_jobs ALTER COLUMN provider_job_id TYPE VARCHAR(256)"))
        connection.execute(text(OLD_INSERT.format(key="old", id="107")))

    opened = await database.open_database(url)
    await opened.transact(downgrade)
    await opened.close()


async def test_a_ledger_is_widened_and_a_worker_of_the_previous_version_goes_on_writing(shared_ledger: str) -> None:
    from prefect_genmedia._core import schema

    await at_old_version(shared_ledger)
    long_id = "é" * 2048
    async with open_ledger(shared_ledger) as ledger:
        kept = await ledger.find("107")
        assert kept is not None
        assert kept.key == "old"
        job = await ledger.reserve(Job(key="", identity="x", provider="tokenops"))
        job = await ledger.move(job, JobState.SENDING) or job
        job = await ledger.move(job, JobState.SUBMITTED, provider_job_id=long_id) or job
        assert job.provider_job_id == long_id
        assert await ledger.find(long_id) == job

        def as_before(connection: Any) -> str:
            connection.execute(text(OLD_INSERT.format(key="newer", id="108")))
            return str(connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalar())

        # What the previous version looks for, in its own words, when it opens the ledger.
        assert await ledger.transact(as_before) == OLD_VERSION
        assert await ledger.find("108") is not None


async def test_a_statement_prepared_before_the_migration_is_prepared_anew(shared_ledger: str) -> None:
    if shared_ledger.startswith("sqlite"):
        pytest.skip("SQLite prepares anew by itself")
    async with open_ledger(shared_ledger) as ledger:
        job = await ledger.reserve(Job(key="", identity="x", provider="tokenops"))
        await ledger.get(job.key)
        import asyncpg

        connection = await asyncpg.connect(shared_ledger)
        await connection.execute("ALTER TABLE genmedia_jobs ALTER COLUMN provider_job_id TYPE VARCHAR(5000)")
        await connection.close()
        assert await ledger.get(job.key) == job
        assert await ledger.move(job, JobState.SENDING) is not None

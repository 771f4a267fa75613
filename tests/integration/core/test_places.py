"""Jobs in flight: never one more of an account than its Block allows, over all processes; the dead hold none."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import submit_once
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency

from prefect_genmedia import HiDreamCredentials, JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobState, Ledger, limits, open_ledger, wait_for_job
from prefect_genmedia._core.clock import Clock
from prefect_genmedia._core.model import FORGOTTEN_SECONDS, STALE_SENDING_SECONDS
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, select_subject
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.tasks import submit

ACCOUNT = "tokenops:00000000@https://api.example.com"


class FastClock(Clock):
    """A clock whose sleepers wake at once, and later."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> float:
        return 1_000_000.0 + self.passed

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += max(seconds, 0.0)
        await asyncio.sleep(0)


def wanted(name: str, account: str = ACCOUNT) -> Job:
    return Job(key="", identity=name, provider="tokenops", account=account)


def claims_in_own_loop(url: str, who: int, limit: int) -> int:
    """One process's worth of claims with connections of its own: how many it got."""

    async def work() -> int:
        got = 0
        async with open_ledger(url) as ledger:
            for number in range(6):
                job = await ledger.reserve(wanted(f"{who}:{number}"))
                sending = await ledger.start_sending(job, None, limit)
                if sending is not None:
                    got += 1
                    assert await ledger.in_flight(ACCOUNT) <= limit
                    if number % 3 == 2:
                        await ledger.move(sending, JobState.REJECTED)
                        got -= 1
        return got

    return asyncio.run(work())


async def test_sixteen_claimants_at_once_never_exceed_the_limit_by_one(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:  # so that they find a schema
        got = await asyncio.gather(*(asyncio.to_thread(claims_in_own_loop, shared_ledger, who, 7) for who in range(16)))
        assert sum(got) == await ledger.in_flight(ACCOUNT) <= 7
        left = [await ledger.reserve(wanted(f"left:{number}")) for number in range(12)]
        claimed = await asyncio.gather(*(ledger.start_sending(job, "run", 7) for job in left))
        assert sum(job is not None for job in claimed) == 7 - sum(got)
        assert await ledger.in_flight(ACCOUNT) == 7
        assert await ledger.in_flight("tokenops:11111111@https://api.example.com") == 0
        other = await ledger.reserve(wanted("other", "tokenops:11111111@https://api.example.com"))
        assert await ledger.start_sending(other, None, 1) is not None


async def test_one_job_is_claimed_once_however_many_places_there_are(shared_ledger: str) -> None:
    async with open_ledger(shared_ledger) as ledger:
        job = await ledger.reserve(wanted("one"))
        claimed = await asyncio.gather(*(ledger.start_sending(job, None, 100) for _ in range(8)))
        assert sum(each is not None for each in claimed) == 1


async def test_what_dead_processes_left_holds_no_place_for_ever(ledger_url: str) -> None:
    clock = FastClock()
    async with open_ledger(ledger_url, clock) as ledger:
        for number, lifetime in enumerate([None, 3600.0]):
            sending = await ledger.start_sending(await ledger.reserve(wanted(f"submitted {number}")), None)
            assert sending is not None
            ends = None if lifetime is None else clock.now() + lifetime
            await ledger.move(sending, JobState.SUBMITTED, expires_at=ends, provider_job_id=f"p{number}")
        await ledger.start_sending(await ledger.reserve(wanted("sending")), None)
        assert await ledger.in_flight(ACCOUNT) == 3
        clock.passed = STALE_SENDING_SECONDS + 1
        assert await ledger.in_flight(ACCOUNT) == 2  # the one whose sender must be dead is not counted
        clock.passed = 3601
        assert await ledger.in_flight(ACCOUNT) == 1  # nor is the one that its provider has forgotten
        clock.passed = FORGOTTEN_SECONDS + 1
        assert await ledger.in_flight(ACCOUNT) == 0


@pytest.mark.parametrize("ended", [JobState.SUCCEEDED, JobState.FAILED, JobState.UNDELIVERABLE])
async def test_a_job_leaves_its_place_when_it_has_ended(ledger: Ledger, ended: JobState) -> None:
    sending = await ledger.start_sending(await ledger.reserve(wanted("a")), None, 1)
    assert sending is not None
    submitted = await ledger.move(sending, JobState.SUBMITTED, provider_job_id="p")
    assert submitted is not None
    assert await ledger.in_flight(ACCOUNT) == 1
    await ledger.move(submitted, ended)
    assert await ledger.in_flight(ACCOUNT) == 0


async def test_whoever_waits_says_so_once_and_sends_nothing_until_there_is_a_place(
    ledger_url: str, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    clock, reported = FastClock(), list[str]()
    async with credentials.client() as client, open_ledger(ledger_url, clock) as ledger:
        first = await submit_once(ledger, client, JimengVideo(prompt="1"), scope="a", max_in_flight=1, clock=clock)
        second = asyncio.create_task(
            submit_once(
                ledger, client, JimengVideo(prompt="2"), scope="b", max_in_flight=1, reported=reported, clock=clock
            )
        )
        while clock.passed < 600:
            await asyncio.sleep(0)
        assert simulator.accepted == 1
        assert reported == ["Waiting for an in-flight slot: this account has 1 of 1 job in flight"]
        assert len(await ledger.jobs({JobState.RESERVED})) == 1
        await ledger.move(first, JobState.SUCCEEDED)
        assert (await second).state is JobState.SUBMITTED
        assert simulator.accepted == 2


async def test_a_wait_without_end_ends_with_nothing_sent_and_a_later_run_goes_on(
    ledger_url: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FastClock()
    monkeypatch.setattr(limits, "CHECK_SECONDS", (600.0, 3600.0))
    async with credentials.client() as client, open_ledger(ledger_url, clock) as ledger:
        first = await submit_once(ledger, client, JimengVideo(prompt="1"), scope="a", max_in_flight=1, clock=clock)
        lasting = await ledger.note(first, expires_at=clock.now() + 10 * FORGOTTEN_SECONDS)
        options: dict[str, Any] = {"scope": "b", "max_in_flight": 1, "clock": clock}
        with pytest.raises(errors.RateLimited, match="did not become free in time") as caught:
            await submit_once(ledger, client, JimengVideo(prompt="2"), **options)
        assert caught.value.paid == "nothing"
        assert not caught.value.retryable
        assert clock.passed >= FORGOTTEN_SECONDS
        assert lasting is not None
        await ledger.move(lasting, JobState.FAILED)
        later = await submit_once(ledger, client, JimengVideo(prompt="2"), **options)
        assert later.state is JobState.SUBMITTED


async def test_a_job_that_is_in_flight_is_joined_without_a_place(
    ledger: Ledger, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    async with credentials.client() as client:
        first = await submit_once(ledger, client, JimengVideo(prompt="1"), scope="same", max_in_flight=1)
        assert await submit_once(ledger, client, JimengVideo(prompt="1"), scope="same", max_in_flight=1) == first
        await wait_for_job(ledger, client, first, 30)
    assert simulator.accepted == 1


# --- in flows ---


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECK_SECONDS", (0.02, 0.1))


def of(simulator: RunningSimulator, **limits: object) -> TokenOpsCredentials:
    return TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url, **limits)


async def limited_to(name: str, number: int) -> str:
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(name, number)
    return name


async def held_of(name: str) -> int:
    async with get_client() as client:
        return (await client.read_global_concurrency_limit_by_name(name)).active_slots


@pytest.mark.usefixtures("prefect_server", "looking_often")
@pytest.mark.parametrize("limit", [1, 2])
async def test_a_run_without_a_place_sends_nothing_while_another_job_is_at_the_provider(
    limit: int, simulator: RunningSimulator, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    simulator.world.settings.run_seconds = 3600.0
    runs = [
        asyncio.create_task(jimeng_video(f"lake {n}", credentials=of(simulator, max_in_flight=limit))) for n in range(2)
    ]
    while simulator.accepted < limit or (
        limit == 1 and "Waiting for an in-flight slot: this account has 1 of 1 job" not in caplog.text
    ):
        await asyncio.sleep(0.02)
    assert simulator.accepted == limit
    assert len(await ledger.jobs({JobState.RESERVED})) == 2 - limit
    simulator.world.settings.run_seconds = 0.2
    await asyncio.gather(*runs)
    assert simulator.accepted == 2
    assert caplog.text.count("Waiting for an in-flight slot") == 2 - limit


@pytest.mark.usefixtures("prefect_server")
async def test_a_run_holds_the_named_concurrency_limit_until_its_job_has_ended(simulator: RunningSimulator) -> None:
    name = await limited_to("held", 5)
    simulator.world.settings.run_seconds = 3600.0
    run = asyncio.create_task(jimeng_video("a lake", credentials=of(simulator, concurrency_limit=name)))
    while not simulator.accepted:
        await asyncio.sleep(0.02)
    assert await held_of(name) == 1
    simulator.world.settings.run_seconds = 0.2
    await run
    assert await held_of(name) == 0


@pytest.mark.usefixtures("prefect_server")
async def test_a_limit_that_does_not_exist_is_named_before_anything_is_sent(simulator: RunningSimulator) -> None:
    with pytest.raises(errors.InvalidRequest, match="prefect gcl create nowhere"):
        await jimeng_video("a lake", credentials=of(simulator, concurrency_limit="nowhere"))
    assert not simulator.world.requests


@pytest.mark.usefixtures("prefect_server")
async def test_a_run_joins_its_paid_job_while_others_hold_every_place(simulator: RunningSimulator) -> None:
    name = await limited_to("full", 1)
    credentials = of(simulator, concurrency_limit=name, max_in_flight=1)
    simulator.world.settings.run_seconds = 3600.0
    with pytest.raises(errors.JobTimeout):
        await jimeng_video("a lake", credentials=credentials, idempotency_key="joined", timeout_seconds=0.05)
    simulator.world.settings.run_seconds = 0.2
    async with concurrency(name, strict=True):
        await jimeng_video("a lake", credentials=credentials, idempotency_key="joined")
    assert simulator.accepted == 1


@pytest.mark.usefixtures("prefect_server", "looking_often")
async def test_a_batch_keeps_within_its_block_and_its_canary_never_waits_for_its_own_jobs(
    simulator: RunningSimulator, tmp_path: Path, ledger: Ledger
) -> None:
    rows = [{"id": f"row-{number}", "kind": "jimeng", "prompt": f"lake {number}"} for number in range(5)]
    options = {"credentials": of(simulator, max_in_flight=2), "batch_id": "lakes", "output": str(tmp_path / "lakes")}
    simulator.world.settings.run_seconds = 3600.0
    killed = asyncio.create_task(generate_batch(rows[1:], **options))
    while len(await ledger.jobs({JobState.SUBMITTED})) < 2:
        await asyncio.sleep(0.02)
    assert simulator.accepted == 2
    killed.cancel()
    await asyncio.wait({killed})
    simulator.world.settings.run_seconds = 0.2
    report = await generate_batch(rows, canary=1, max_in_flight=8, **options)
    assert report.delivered == simulator.accepted == 5


@pytest.mark.usefixtures("prefect_server")
async def test_masks_that_grew_old_while_waiting_are_made_anew(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    @flow
    async def late() -> Job:
        request = OmniHumanVideo(image_url=simulator.portrait_url, audio_url=simulator.speech_url)
        detection = await detect_subjects(simulator.portrait_url, credentials=credentials)
        chosen = request.with_subject(await select_subject(detection, "leftmost", credentials=credentials))
        chosen._chosen_at = time.time() - 3000
        return await submit(chosen, credentials=credentials)

    await late()
    assert simulator.world.requests["tokenops.detect"] == 2
    (job,) = simulator.world.jobs.values()
    assert len(job.body["mask_urls"]) == 1


# --- in Blocks ---

BLOCKS = (TokenOpsCredentials, JeniusCredentials, HiDreamCredentials)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_takes_limits_as_text_too_and_shows_them_last(block: type[ProviderCredentials]) -> None:
    """Documents made from environment variables give them as text."""
    credentials = block(api_key="key", submissions_per_minute="30", max_in_flight="3", concurrency_limit="shared")
    assert (credentials.submissions_per_minute, credentials.max_in_flight) == (30.0, 3)
    limits = ["submissions_per_minute", "max_in_flight", "concurrency_limit"]
    caps = ["max_cost_per_day", "max_cost_per_month", "max_jobs_per_day", "budget_time_zone"]
    assert list(block.model_fields)[-10:] == [*limits, "account_name", *caps, "project", "tags"]
    assert block(api_key="key").max_in_flight is None
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        block(api_key="key", max_in_flight=0)


@pytest.mark.parametrize("block", BLOCKS)
async def test_every_block_tells_the_accounts_pace(block: type[ProviderCredentials]) -> None:
    client = block(api_key="sk-key", submissions_per_minute=600.0).get_client()
    assert client.submissions_per_minute == 600.0
    await client.aclose()

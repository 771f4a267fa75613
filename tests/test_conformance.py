"""What every provider must do, told only its name: the job life, every fault, redaction, resuming, paid once."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import toy_provider
from jobs import submit_once

from prefect_genmedia import errors
from prefect_genmedia._core import (
    Job,
    JobState,
    Ledger,
    PollPolicy,
    deliver,
    open_ledger,
    wait_for_job,
)
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.providers import plugin, register
from prefect_genmedia.providers.hidream import HiDreamClient, StylizedVideo
from prefect_genmedia.providers.jenius import JeniusClient, LivePoster
from prefect_genmedia.providers.plugin import plugin_named
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo, TokenOpsClient
from prefect_genmedia.simulator import RunningSimulator, run_simulator
from prefect_genmedia.simulator.faults import STAGES
from prefect_genmedia.simulator.world import Settings

POLICY = PollPolicy(shortest=0.03, longest=0.1)
PATIENCE = 400.0
"""Seconds that only a hang takes."""
PORTRAIT, SPEECH, CLIP = (f"https://example.com/{name}" for name in ("portrait.jpg", "speech.mp3", "clip.mp4"))


class Ending(NamedTuple):
    """How a job ends: the error that is met first, if any, and the state in which the first attempt stays."""

    error: str | None
    state: JobState


UNTROUBLED = Ending(None, JobState.DELIVERED)
NOT_AS_ASKED = Ending("ResultInvalid", JobState.UNDELIVERABLE)


@dataclass(frozen=True)
class Case:
    """A provider by name: how its client is made, and one request for it.

    Parameters:
        connect: makes the client of a simulator's account, given its key.
        request: what is asked for.
        endings: the faults that end otherwise than `ENDINGS` has it, for the provider tells more about its failures,
            or the request promises more about its file.
    """

    connect: Callable[[RunningSimulator, str], Any]
    request: GenerationRequest
    endings: dict[str, Ending] = field(default_factory=dict)


TOKENOPS = {
    "fail_input": Ending("InputRefused", JobState.FAILED),
    "fail_output": Ending("OutputRefused", JobState.FAILED),
    "content_json": UNTROUBLED,
    "content_json_expired": Ending("JobExpired", JobState.DELIVERED),
}
"""TokenOps says what was refused, and its content may be JSON with a URL."""

CASES = {
    "omnihuman": Case(
        lambda simulator, key: TokenOpsClient(key, simulator.tokenops_url),
        OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH, output_resolution=720),
        TOKENOPS | {"silent_video": NOT_AS_ASKED, "small_video": NOT_AS_ASKED},
    ),
    "jimeng": Case(
        lambda simulator, key: TokenOpsClient(key, simulator.tokenops_url),
        JimengVideo(prompt="a horse", model="jimeng-video-3.0-720P"),
        TOKENOPS | {"short_video": NOT_AS_ASKED, "small_video": NOT_AS_ASKED},
    ),
    "jenius": Case(
        lambda simulator, key: JeniusClient(key, simulator.jenius_url), LivePoster(image_url=PORTRAIT, scene="youqian")
    ),
    "hidream": Case(
        lambda simulator, key: HiDreamClient(
            token=key, base_url=simulator.hidream_url, user_id="the same", submissions_per_minute=None
        ),
        StylizedVideo(video_url=CLIP, style="ink_wash"),
    ),
    "toy": Case(
        lambda simulator, key: toy_provider.ToyClient(key, simulator.url + toy_provider.Toy.prefix),
        toy_provider.ToyVideo(picture=PORTRAIT),
        {"short_video": NOT_AS_ASKED},
    ),
}


@pytest.fixture(scope="module")
def all_speaking() -> Iterator[RunningSimulator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin._REGISTRY, "registered", {})  # the toy is a provider of this module only
        register(toy_provider.PLUGIN)
        with run_simulator() as running:
            yield running


@pytest.fixture
def simulator(all_speaking: RunningSimulator) -> RunningSimulator:
    all_speaking.world.reset()
    all_speaking.world.settings.__dict__.update(vars(Settings(queue_seconds=0.05, run_seconds=0.05)))
    return all_speaking


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
async def client(case: Case, simulator: RunningSimulator) -> AsyncIterator[Any]:
    opened = case.connect(simulator, simulator.key)
    yield opened
    await opened.aclose()


async def live(ledger: Ledger, client: Any, request: GenerationRequest, folder: Path) -> Job:
    """The whole life of a job."""
    job = await submit_once(ledger, client, request, scope="test")
    job = await wait_for_job(ledger, client, job, PATIENCE, POLICY)
    return await deliver(ledger, client, job, target_at(str(folder)))


async def live_on(
    ledger: Ledger, client: Any, request: GenerationRequest, folder: Path
) -> tuple[Job | None, list[errors.GenMediaError]]:
    """The whole life, tried again as tasks and reruns do: the job if it is delivered, and the errors on the way."""
    met = []
    for _ in range(4):
        try:
            return await live(ledger, client, request, folder), met
        except errors.GenMediaError as error:
            met.append(error)
    return None, met


async def test_a_request_becomes_a_verified_file(case: Case, client: Any, ledger: Ledger, tmp_path: Path) -> None:
    job = await live(ledger, client, case.request, tmp_path / "out")
    assert job.state is JobState.DELIVERED
    assert job.delivery
    facts = examine_video(Path(job.delivery.uri))
    assert (facts.width, facts.height) == (job.delivery.width, job.delivery.height)
    assert facts.seconds == pytest.approx(job.delivery.seconds, abs=0.01)
    assert job.submitted_at


FAULTS = [fault for stage in ("submit", "job", "poll", "content") for fault in STAGES[stage] if fault != "stuck"]
NEVER_ACCEPTED = {"drop_before_accept"}

ENDINGS = {
    "refuse_invalid": Ending("InvalidRequest", JobState.REJECTED),
    "refuse_key": Ending("CredentialsError", JobState.REJECTED),
    "refuse_balance": Ending("QuotaError", JobState.REJECTED),
    "rate_limited": Ending("RateLimited", JobState.DELIVERED),
    "drop_before_accept": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_then_drop": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_then_500": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_then_502": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_then_504": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_then_garbage": Ending("SubmissionUnknown", JobState.UNKNOWN),
    "accept_slowly": UNTROUBLED,
    "fail_input": Ending("GenerationFailed", JobState.FAILED),
    "fail_output": Ending("GenerationFailed", JobState.FAILED),
    "fail_internal": Ending("GenerationFailed", JobState.FAILED),
    "silent_video": UNTROUBLED,
    "short_video": UNTROUBLED,
    "small_video": UNTROUBLED,
    "poll_503": UNTROUBLED,
    "poll_html": UNTROUBLED,
    "poll_unknown_status": UNTROUBLED,
    "poll_drop": UNTROUBLED,
    "poll_404": UNTROUBLED,
    "poll_key_revoked": Ending("CredentialsError", JobState.DELIVERED),
    "content_502": Ending("ProviderError", JobState.DELIVERED),
    "content_html": Ending("ProviderError", JobState.DELIVERED),
    "content_empty": Ending("ProviderError", JobState.DELIVERED),
    "content_truncated": Ending("ProviderError", JobState.DELIVERED),
    "content_truncated_chunked": Ending("ResultInvalid", JobState.DELIVERED),
    "content_corrupt": Ending("ResultInvalid", JobState.DELIVERED),
    "content_slow": UNTROUBLED,
    "content_json": Ending("ProviderError", JobState.DELIVERED),
    "content_json_expired": Ending("ProviderError", JobState.DELIVERED),
    "content_gone": Ending("JobExpired", JobState.DELIVERED),
}
"""What each fault comes to with any provider, unless its `Case` says otherwise."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_ends_as_it_must_in_one_accepted_job_and_no_broken_file(
    fault: str, case: Case, client: Any, simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    simulator.order(fault, retry_after=0.02, seconds=0.05)
    delivered, met = await live_on(ledger, client, case.request, tmp_path / "out")
    first = min(await ledger.jobs(), key=lambda job: job.attempt)
    assert Ending(met[0].kind if met else None, first.state) == case.endings.get(fault, ENDINGS[fault])
    assert delivered is not None or met[-1].kind == met[0].kind
    assert simulator.accepted == (0 if fault in NEVER_ACCEPTED else 1)
    for path in (tmp_path / "out").glob("*.mp4"):
        examine_video(path)
    for error in met:
        assert error.job_key
        assert error.job_key in str(error)
        assert type(pickle.loads(pickle.dumps(error))) is type(error)


@pytest.mark.parametrize("fault", ["fail_input", "fail_output", "fail_internal"])
async def test_a_failed_job_is_called_free_only_by_the_providers_word_at_first_and_ever_after(
    fault: str, case: Case, client: Any, simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    simulator.order(fault)
    delivered, met = await live_on(ledger, client, case.request, tmp_path)
    assert delivered is None
    assert len({error.paid for error in met}) == 1
    is_free = plugin_named(case.request.provider).failures_are_free
    assert met[0].paid.startswith("nothing" if is_free else errors.UNDOCUMENTED_BILLING)


async def test_a_stuck_job_is_let_go_of_in_time_and_not_lost(
    case: Case, client: Any, simulator: RunningSimulator, ledger: Ledger
) -> None:
    simulator.order("stuck")
    job = await submit_once(ledger, client, case.request, scope="test")
    with pytest.raises(errors.JobTimeout, match=job.key):
        await wait_for_job(ledger, client, job, 0.3, POLICY)
    (kept,) = await ledger.jobs()
    assert kept.state is JobState.SUBMITTED


async def test_an_error_never_holds_the_key_even_if_the_provider_quotes_it(
    case: Case, simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    wrong = "sk-wrong-key-that-is-quoted"
    client = case.connect(simulator, wrong)
    with pytest.raises(errors.CredentialsError) as caught:
        await live(ledger, client, case.request, tmp_path)
    await client.aclose()
    assert wrong not in f"{caught.value} {vars(caught.value)} {client!r} {client.account}"
    assert simulator.accepted == 0
    (job,) = await ledger.jobs()
    assert job.state is JobState.REJECTED
    assert wrong not in job.model_dump_json()


async def test_the_same_request_joins_its_job(
    case: Case, client: Any, simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    first = await live(ledger, client, case.request, tmp_path)
    copy = type(case.request).model_validate(case.request.model_dump())
    assert await live(ledger, client, copy, tmp_path) == first
    assert simulator.accepted == 1


def resume(
    name: str, url: str, prefixes: Mapping[str, str], key: str, ledger_url: str, job_key: str, folder: str
) -> None:
    """A fresh process that knows the job's key only."""
    import asyncio

    register(toy_provider.PLUGIN)

    async def work() -> None:
        case = CASES[name]
        client = case.connect(RunningSimulator(url, None, prefixes), key)
        async with open_ledger(ledger_url) as ledger:
            job = await ledger.get(job_key)
            assert job
            job = await wait_for_job(ledger, client, job, PATIENCE, POLICY)
            await deliver(ledger, client, job, target_at(folder))
        await client.aclose()

    asyncio.run(work())


@pytest.mark.parametrize("name", list(CASES))
async def test_a_fresh_process_takes_a_job_up_by_its_key(
    name: str, simulator: RunningSimulator, ledger: Ledger, ledger_url: str, tmp_path: Path
) -> None:
    case = CASES[name]
    client = case.connect(simulator, simulator.key)
    job = await submit_once(ledger, client, case.request, scope="test")
    await client.aclose()
    arguments = (name, simulator.url, simulator.prefixes, simulator.key, ledger_url, job.key, str(tmp_path / "out"))
    process = multiprocessing.get_context("forkserver").Process(target=resume, args=arguments)
    process.start()
    try:
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert simulator.accepted == 1
    taken_up = await ledger.get(job.key)
    assert taken_up
    assert taken_up.state is JobState.DELIVERED

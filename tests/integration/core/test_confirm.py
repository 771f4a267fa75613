"""`confirm_above`: a run asks a person before it pays much, and only for what is still to be paid."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asked_runs import asked
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from prefect.flow_runs import aresume_flow_run
from prefect.states import Scheduled
from test_suspending_flows import Deployed, deploy  # noqa: F401 - a fixture

from prefect_genmedia import JeniusCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Job, Ledger
from prefect_genmedia._core.confirmations import Costs, Part, Question, ask, decide, needed, questions
from prefect_genmedia._prefect import asking, confirm
from prefect_genmedia.cli.app import app, main
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.generate import confirm_cost, generate
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.tasks import submit_job

pytestmark = pytest.mark.usefixtures("prefect_server")

MODEL = "jimeng-video-3.0-720P"
PRICE = 1.4
"""CNY of one such video, by the list prices."""
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "POLL_SECONDS", 0.1)


async def answer(run: Any, decision: str = "approve", **more: Any) -> None:
    await aresume_flow_run(run.id, run_input={"decision": decision, **more})


def lake(credentials: TokenOpsCredentials, **more: Any) -> dict[str, Any]:
    return {"prompt": "a lake", "model": MODEL, "credentials": credentials, "confirm_above": 1, **more}


async def test_a_run_above_the_limit_sends_nothing_until_a_person_approves(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    run, running = await asked(lambda: jimeng_video(**lake(credentials)))
    assert simulator.accepted == 0
    (question,) = await questions(ledger)
    assert question.reason == (
        "This would cost about 1.40 CNY (estimate) for 1 job. Confirmation is asked above 1.00 CNY."
    )
    await answer(run, decided_by="Anna")
    assert (await running).seconds > 4
    assert simulator.accepted == 1
    (answered,) = await questions(ledger, unanswered=False)
    assert (answered.answer, answered.decided_by) == ("approved", "Anna")


@pytest.mark.parametrize("reply", [{"decision": "reject"}, {"decision": "approve", "up_to": 0.5}], ids=str)
async def test_a_no_sends_nothing(
    reply: dict[str, Any], simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    run, running = await asked(lambda: jimeng_video(**lake(credentials)))
    await aresume_flow_run(run.id, run_input=reply)
    with pytest.raises(errors.NotConfirmed, match="was rejected"):
        await running
    assert simulator.accepted == 0


async def test_no_answer_in_time_is_a_no_and_an_automatic_retry_does_not_ask_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIRM_TIMEOUT_SECONDS", "2")
    with pytest.raises(errors.NotConfirmed, match="was not confirmed in time, which means no"):
        await jimeng_video.with_options(retries=1, retry_delay_seconds=0)(**lake(credentials))
    assert simulator.accepted == 0
    assert [each.answer for each in await questions(ledger, unanswered=False)] == ["timeout"]


@pytest.mark.parametrize("above", [PRICE, 2])
async def test_nobody_is_asked_for_no_more_than_the_limit(
    above: float, simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIRM_ABOVE", "1")
    await jimeng_video(**lake(credentials, confirm_above=above))
    assert simulator.accepted == 1


async def test_a_job_without_a_price_is_asked_about_whatever_the_limit(simulator: RunningSimulator) -> None:
    block = JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)
    run, running = await asked(
        lambda: live_poster(simulator.portrait_url, "firework", credentials=block, confirm_above=1000)
    )
    assert simulator.accepted == 0
    await answer(run)
    await running
    assert simulator.accepted == 1


async def test_the_setting_holds_for_a_run_that_says_nothing_and_nothing_is_detected_before(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIRM_ABOVE", "0.5")
    run, running = await asked(
        lambda: omnihuman_video(simulator.portrait_url, simulator.speech_url, credentials=credentials)
    )
    assert not simulator.world.requests, "not even the picture was looked at"
    await answer(run)
    await running
    assert simulator.accepted == 1


async def test_a_task_that_nobody_was_asked_about_is_refused(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIRM_ABOVE", "1")
    request = JimengVideo(prompt="a lake", model=MODEL)

    @flow
    async def unasked() -> None:
        await submit_job(request, credentials=credentials)

    @flow
    async def own() -> None:
        prepared = await confirm_cost(request, credentials=credentials)
        await submit_job(prepared, credentials=credentials)

    with pytest.raises(errors.NotConfirmed, match="a person must confirm it first"):
        await unasked()
    assert simulator.accepted == 0
    run, running = await asked(own)
    await answer(run)
    await running
    assert simulator.accepted == 1


@pytest.mark.parametrize("at_once", [False, True], ids=["one-after-another", "at-once"])
async def test_small_results_of_one_run_add_up_and_an_approval_may_cover_what_follows(
    at_once: bool, simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    options: dict[str, Any] = {"credentials": credentials, "confirm_above": 2}

    @flow
    async def three() -> None:
        work = [generate(JimengVideo(prompt=f"lake {number}", model=MODEL), **options) for number in range(3)]
        if at_once:
            await asyncio.gather(*work)
        else:
            for each in work:
                await each

    run, running = await asked(three)
    assert simulator.accepted == 1, "the first is below the limit"
    (question,) = await questions(ledger)
    assert question.limit.micros == 2_800_000
    await answer(run, up_to=5)
    await running
    assert simulator.accepted == 3
    assert len(await questions(ledger, unanswered=False)) == 1


def rows(*ids: str) -> list[dict[str, str]]:
    return [{"id": each, "model": MODEL, "prompt": f"lake {each}"} for each in ids]


async def test_a_batch_asks_with_its_plan_and_a_later_run_only_for_what_is_not_paid(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger, tmp_path: Any
) -> None:
    options: dict[str, Any] = {"kind": "jimeng", "credentials": credentials, "batch_id": "lakes", "confirm_above": 3}
    options["output"] = str(tmp_path / "out")
    run, running = await asked(lambda: generate_batch(rows("a", "b", "c"), **options))
    assert simulator.accepted == 0
    (question,) = await questions(ledger)
    assert question.title == "Batch lakes"
    assert (question.due.jobs, question.due.micros) == (3, 4_200_000)
    await answer(run)
    assert (await running).delivered == 3

    report = await generate_batch(rows("a", "b", "c", "d", "e"), **options)
    assert report.delivered == 5, "two rows more cost 2.80 CNY, which is below the limit"
    assert simulator.accepted == 5
    assert len(await questions(ledger, unanswered=False)) == 1


async def test_what_was_approved_for_one_batch_of_a_run_is_not_anothers_that_goes_at_once(ledger: Ledger) -> None:
    def question(due: Costs, limit: Costs) -> Question:
        return Question("one", "root", "first", "Batch one", due, limit, 10, asked_at=0.0, expires_at=1e12)

    async def asked_for(part: Part) -> Costs | None:
        return await ledger.transact(lambda connection: needed(connection, "root", Costs(8, 80), 10, part=part))

    approved = await ask(ledger, question(Costs(10, 100), Costs(10, 100)))
    await decide(ledger, approved, "approved")
    assert await asked_for(Part("second", "Batch two")) == Costs(18, 180)
    assert await asked_for(Part("first", "Batch one")) is None
    assert await asked_for(Part("again", "Batch one")) is None, "the same batch, begun again"

    for number in range(10):
        job = Job(key="", identity=str(number), provider="tokenops", root_run_id="root", cost_micros=10)
        await ledger.start_sending(await ledger.reserve(job), "a shard of the first")
    assert await asked_for(Part("second", "Batch two")) == Costs(18, 180), "what is sent counts once"


async def test_a_batch_that_is_rejected_sends_nothing_and_a_dry_run_asks_nobody(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Any
) -> None:
    options: dict[str, Any] = {"kind": "jimeng", "credentials": credentials, "output": str(tmp_path)}
    options |= {"batch_id": "no", "confirm_above": 1}
    assert (await generate_batch(rows("a"), dry_run=True, **options)).estimated_cost == PRICE
    run, running = await asked(lambda: generate_batch(rows("a"), **options))
    await answer(run, "reject")
    with pytest.raises(errors.NotConfirmed):
        await running
    assert simulator.accepted == 0


async def test_a_deployed_run_frees_its_process_and_a_restart_after_a_crash_does_not_ask_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, deploy: Any, ledger: Ledger
) -> None:
    parameters = lake(credentials)
    deployed: Deployed = await deploy(jimeng_video)
    assert await deployed.goes(parameters) is None
    assert await deployed.state() == "Suspended"
    assert simulator.accepted == 0
    await answer(deployed.run)
    assert (await deployed.goes(parameters)).seconds > 4
    assert (await deployed.goes(parameters)).seconds > 4, "as after a crash"
    assert simulator.accepted == 1
    assert len(await questions(ledger, unanswered=False)) == 1


async def test_an_answer_that_the_process_did_not_live_to_read_counts_when_the_run_goes_on(
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    deploy: Any,
    monkeypatch: pytest.MonkeyPatch,
    ledger: Ledger,
) -> None:
    deployed: Deployed = await deploy(jimeng_video)
    monkeypatch.setattr(asking, "can_suspend", lambda: False)
    running = asyncio.create_task(deployed.goes(lake(credentials)))
    while await deployed.state() != "Paused":
        await asyncio.sleep(0.1)
    running.cancel()  # the process dies; what the person answers is stored with the run
    await asyncio.gather(running, return_exceptions=True)
    (question,) = await questions(ledger)
    async with get_client() as client:
        reply = json.dumps({"decision": "approve", "decided_by": "Anna"})
        await client.create_flow_run_input(deployed.run.id, f"paused-{confirm.PAUSE_KEY}{question.id}-response", reply)
    assert simulator.accepted == 0
    assert (await deployed.goes(lake(credentials))).seconds > 4
    assert simulator.accepted == 1
    (answered,) = await questions(ledger, unanswered=False)
    assert answered.decided_by == "Anna"


async def test_a_person_who_starts_a_rejected_run_again_is_asked_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, ledger: Ledger
) -> None:
    run, running = await asked(lambda: jimeng_video(**lake(credentials), return_state=True))
    await answer(run, "reject")
    assert "NotConfirmed" in (await running).message
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(message="Retried"), force=True)
        scheduled = await client.read_flow_run(run.id)
    again = asyncio.create_task(run_flow_async(jimeng_video, flow_run=scheduled, parameters=lake(credentials)))
    while not (await questions(ledger) or again.done()):
        await asyncio.sleep(0.1)
    assert simulator.accepted == 0
    while not again.done():
        try:
            await answer(run)
        except Exception:  # its form is not there yet
            await asyncio.sleep(0.1)
        else:
            break
    await again
    assert simulator.accepted == 1


async def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    await asyncio.to_thread(app, list(words), result_action="return_int_as_exit_code_else_zero")
    return capsys.readouterr().out


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_the_command_lists_and_answers(
    decision: str, simulator: RunningSimulator, credentials: TokenOpsCredentials, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No run waits" in await printed(capsys, "confirm", "list")
    run, running = await asked(lambda: jimeng_video(**lake(credentials), return_state=True))
    (listed,) = json.loads(await printed(capsys, "confirm", "list", "--json"))
    assert (listed["estimated_micros"], listed["flow_run_id"]) == (1_400_000, str(run.id))
    assert "about 1.40 CNY (estimate) for 1 job" in await printed(capsys, "confirm", "list")
    assert f"{decision.rstrip('e')}ed" in (await printed(capsys, "confirm", decision, listed["question"][:8])).lower()
    state = await running
    assert state.is_completed() == (decision == "approve")
    assert simulator.accepted == (1 if decision == "approve" else 0)
    with pytest.raises(SystemExit):
        await printed(capsys, "confirm", "approve", listed["question"][:8])
    assert "was answered before" in capsys.readouterr().err


def test_make_asks_in_the_terminal_and_is_refused_where_nobody_sits(
    simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    asyncio.run(
        TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url).asave("make", overwrite=True)
    )
    words = ["make", "jimeng", "--prompt", "a lake", "--model", MODEL, "--credentials", "make"]
    words += ["--output", str(tmp_path), "--confirm-above", "1"]
    with pytest.raises(SystemExit, match="1"):
        main(words)
    assert "was rejected" in capsys.readouterr().err
    assert simulator.accepted == 0
    app([*words, "--yes"], result_action="return_value")
    assert simulator.accepted == 1
    app(words, result_action="return_value")
    assert simulator.accepted == 1, "what is paid is not asked about"

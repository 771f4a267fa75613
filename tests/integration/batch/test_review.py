"""`review`: a batch pauses until a person has decided about its first results, and each result is paid once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asked_runs import asked, asked_again
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flow_runs import aresume_flow_run
from test_batch_flow import Batch, batch, lakes, quick  # noqa: F401 - fixtures
from test_suspending_flows import Deployed, deploy  # noqa: F401 - a fixture

from prefect_genmedia import errors
from prefect_genmedia._core import Ledger, open_ledger
from prefect_genmedia._core.prune import PruneFilter, prune
from prefect_genmedia._core.reviews import Decision, decisions_of, record, review_state, row_digest, waiting
from prefect_genmedia._prefect import asking
from prefect_genmedia.batch import review
from prefect_genmedia.batch.result import COLUMNS
from prefect_genmedia.batch.results import REVIEW_COLUMNS
from prefect_genmedia.batch.review import rows_under_review
from prefect_genmedia.batch.table import encode_table
from prefect_genmedia.cli.app import app
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.settings import current_settings

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "POLL_SECONDS", 0.1)


async def answer(run: Any, **reply: Any) -> None:
    await aresume_flow_run(run.id, run_input={"reviewer": "Anna", **reply})


def reviewed(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {name: (row.get("review", ""), row.get("reviewer", "")) for name, row in rows.items()}


async def decided(ledger: Ledger) -> dict[str, Decision]:
    """The last decisions, by the digests of their rows; of two jobs of a row the newer one."""
    return {each.row_digest: each for each in await decisions_of(ledger, "lakes")}


def page_rows(folder: Path) -> list[dict[str, Any]]:
    html = (folder / "out" / "index.html").read_text("utf-8")
    data = html.partition('id="data">')[2].partition("</script>")[0]
    rows: list[dict[str, Any]] = json.loads(data)["rows"]
    return rows


async def artifact_keys(run: Any) -> set[str | None]:
    async with get_client() as client:
        only_own = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return {each.key for each in await client.read_artifacts(artifact_filter=only_own)}


# --- what is paid, and when ---


async def test_nothing_but_the_canary_is_sent_until_a_person_accepts_it(
    batch: Batch, ledger: Ledger, tmp_path: Path
) -> None:
    run, running = await asked(lambda: batch.run(lakes(5), canary=3, review="canary"))
    assert batch.simulator.accepted == 3
    assert await artifact_keys(run) >= {"genmedia-review", "genmedia-batch-gallery", "genmedia-batch-results"}
    waits = {row["id"]: bool(row["review"] and row["review"]["waits"]) for row in page_rows(tmp_path)}
    assert waits == {"row-0": True, "row-1": True, "row-2": True, "row-3": False, "row-4": False}
    assert batch.states == ["delivered"] * 3 + ["not_sent"] * 2, "the table of results is up to date"
    await answer(run)
    report = await running
    assert (report.delivered, report.rejected, batch.simulator.accepted) == (5, 0, 5)
    accepted = {f"row-{number}": ("accepted", "Anna") if number < 3 else ("", "") for number in range(5)}
    assert reviewed(batch.results) == accepted
    assert not await waiting(ledger)


async def test_a_rejected_row_is_not_generated_again_and_a_regenerated_one_once_and_shown_again(
    batch: Batch, ledger: Ledger
) -> None:
    tag = str(uuid4())
    run, running = await asked(lambda: batch.run(lakes(3), canary=3, review="canary"), tag)
    assert batch.simulator.accepted == 3
    first = batch.results
    await answer(run, reject=["row-0"], regenerate=["row-1"], reason="a hand has six fingers")
    again, _ = await asked_again(tag, running)
    assert batch.simulator.accepted == 4
    (question,) = await waiting(ledger)
    assert list(question.job_keys) == [batch.results["row-1"]["job_key"]], "only the new result is asked about"
    await answer(again, reviewer="Bo")
    with pytest.raises(errors.BatchIncomplete, match="3 of 3 delivered · 1 rejected") as ended:
        await running
    assert "regenerate" in ended.value.next_step
    assert batch.simulator.accepted == 4
    assert reviewed(batch.results) == {
        "row-0": ("rejected", "Anna"),
        "row-1": ("accepted", "Bo"),
        "row-2": ("accepted", "Anna"),
    }
    assert batch.results["row-0"]["review_reason"] == "a hand has six fingers"
    assert batch.results["row-0"]["reviewed_at"]
    assert Path(batch.results["row-0"]["path"]).is_file(), "the rejected file stays"
    kept = {each.job_key: each for each in await decisions_of(ledger, "lakes")}
    assert len(kept) == 4
    old = kept[first["row-1"]["job_key"]]
    assert (old.decision, old.reviewer, old.reason) == ("regenerate", "Anna", "a hand has six fingers")
    assert old.decided_at > 0

    report = await batch.run(lakes(3), canary=3, review="canary", min_delivered=0.6)
    assert (report.delivered, report.rejected, batch.simulator.accepted) == (3, 1, 4), "a rerun asks and pays nothing"


async def test_a_regenerated_row_counts_in_the_budget(batch: Batch, ledger: Ledger) -> None:
    run, running = await asked(lambda: batch.run(lakes(2), review="all", max_jobs=2))
    await answer(run, regenerate=["row-0"])
    with pytest.raises(errors.BudgetStop):
        await running
    assert batch.simulator.accepted == 2
    tag = str(uuid4())
    _, running = await asked(lambda: batch.run(lakes(2), review="all", max_jobs=3), tag)
    assert batch.simulator.accepted == 3, "a rerun does what was decided, without asking again"
    (question,) = await waiting(ledger)
    await answer((await asked_again(tag, running))[0])
    assert len(question.job_keys) == 1
    assert (await running).delivered == 2


@pytest.mark.parametrize(
    ("rule", "options", "before"),
    [("all", {}, 4), ("0.5", {}, 2), (0.1, {}, 1), ("0.25", {"canary": 2}, 2)],
    ids=str,
)
async def test_all_rows_or_a_share_of_them_wait_for_the_review(
    rule: Any, options: dict[str, int], before: int, batch: Batch
) -> None:
    run, running = await asked(lambda: batch.run(lakes(4), review=rule, **options))
    assert batch.simulator.accepted == before
    await answer(run)
    assert (await running).delivered == 4
    assert batch.simulator.accepted == 4


def test_a_share_is_spread_over_the_table_and_never_empty() -> None:
    rows: list[Any] = list(range(10))
    assert rows_under_review("0.01", rows, 0) == [0]
    assert rows_under_review("0.3", rows, 0) == [0, 3, 6]
    assert rows_under_review("0.31", rows, 0) == [0, 2, 5, 7]
    assert rows_under_review("1", rows, 0) == rows
    assert rows_under_review("0.5", [], 0) == []


@pytest.mark.parametrize("rule", ["canari", 0, 1.5, -0.1, "nan", "0.1.1", True])
async def test_a_rule_that_is_none_is_refused(rule: Any, batch: Batch) -> None:
    with pytest.raises(Exception, match="canary, all, or a share"):
        await batch.run(lakes(2), review=rule)
    assert batch.submissions == 0


async def test_a_review_of_the_canary_needs_canary_rows(batch: Batch) -> None:
    with pytest.raises(errors.InvalidRequest, match="has no canary rows"):
        await batch.run(lakes(2), review="canary")
    assert batch.submissions == 0


# --- how it ends ---


async def test_no_review_in_time_stops_the_batch_and_a_rerun_goes_on(
    batch: Batch, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}REVIEW_TIMEOUT_SECONDS", "2")
    retried = generate_batch.with_options(retries=1, retry_delay_seconds=0)
    options: dict[str, Any] = {"canary": 1, "review": "canary", "batch_id": "lakes", "credentials": batch.credentials}
    options["output"] = str(batch.folder / "out")
    with pytest.raises(errors.ReviewStop) as stop:
        await retried(lakes(3), "jimeng", **options)
    assert batch.simulator.accepted == 1, "not even a retry sends more"
    assert "1 of 3 delivered" in stop.value.paid
    assert "run the batch again" in stop.value.next_step

    (key,) = [job.key for job in await ledger.jobs()]
    digest = row_digest("lakes", "row-0")
    await record(ledger, "lakes", [Decision(key, digest, "accept", "Anna")])
    assert (await batch.run(lakes(3), canary=1, review="canary")).delivered == 3, "what is decided is not asked"


async def test_a_reviewer_can_stop_the_batch_and_no_automatic_retry_goes_on(batch: Batch) -> None:
    @flow(retries=1, retry_delay_seconds=0)
    async def nightly() -> None:
        await batch.run(lakes(3), canary=2, review="canary")

    running = asyncio.create_task(nightly())
    run = await paused_batch(batch, running)
    await answer(run, afterwards="stop", reject=["row-0"], reason="blurred")
    with pytest.raises(errors.ReviewStop, match="stopped"):
        await running
    assert batch.simulator.accepted == 2
    report, _ = await asyncio.gather(
        batch.run(lakes(3), canary=2, review="canary", min_delivered=0.5), asyncio.sleep(0)
    )
    assert (report.delivered, report.rejected, batch.simulator.accepted) == (3, 1, 3), "a new run goes on"


async def test_a_canary_of_which_nothing_is_accepted_sends_no_more(batch: Batch) -> None:
    run, running = await asked(lambda: batch.run(lakes(4), canary=2, review="canary"))
    await answer(run, reject=["row-0", "row-1"], reason="wrong colours")
    with pytest.raises(errors.ReviewStop, match="None of the 2 rows under review is accepted"):
        await running
    assert batch.simulator.accepted == 2


@pytest.mark.parametrize(
    ("reply", "problem"),
    [({"reject": ["row-9"], "reason": "no"}, "No row 'row-9' is under review"), ({"reject": ["row-0"]}, "reason")],
    ids=["unknown", "no-reason"],
)
async def test_an_answer_that_cannot_be_meant_is_asked_again(
    reply: dict[str, Any], problem: str, batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    tag = str(uuid4())
    run, running = await asked(lambda: batch.run(lakes(2), canary=1, review="canary"), tag)
    await answer(run, **reply)
    while problem not in caplog.text:
        assert not running.done()
        await asyncio.sleep(0.05)
    again, _ = await asked_again(tag, running)
    assert batch.simulator.accepted == 1
    await answer(again)
    assert (await running).delivered == 2


# --- crashes ---


async def paused_batch(batch: Batch, running: asyncio.Task[Any]) -> Any:
    """The flow run of the batch, when it waits for its review."""
    async with open_ledger(current_settings().ledger) as ledger, get_client() as client:
        while True:
            assert not running.done(), running
            for question in await waiting(ledger):
                run = await client.read_flow_run(question.flow_run_id)  # type: ignore[arg-type]
                if run.state is not None and run.state.is_paused():
                    return run
            await asyncio.sleep(0.05)


async def test_a_deployed_run_frees_its_process_and_asks_once(
    batch: Batch,
    deploy: Any,
    ledger: Ledger,
) -> None:
    parameters = {"table": lakes(3), "kind": "jimeng", "batch_id": "lakes", "credentials": batch.credentials}
    parameters |= {"output": str(batch.folder / "out"), "canary": 2, "review": "canary"}
    deployed: Deployed = await deploy(generate_batch)
    assert await deployed.goes(parameters) is None
    assert await deployed.state() == "Suspended"
    assert batch.simulator.accepted == 2
    (question,) = await waiting(ledger)
    await answer(deployed.run, regenerate=["row-1"])
    assert await deployed.goes(parameters) is None, "the new result is asked about"
    assert batch.simulator.accepted == 3
    assert [each.id == question.id for each in await waiting(ledger)] == [False]
    await answer(deployed.run)
    assert (await deployed.goes(parameters)).delivered == 3
    assert (await deployed.goes(parameters)).delivered == 3, "as after a crash"
    assert batch.simulator.accepted == 4


@pytest.mark.parametrize("where", ["while it waits", "before it records", "before it is sent again"])
async def test_a_run_that_dies_in_a_review_pays_once_and_asks_once(
    where: str,
    batch: Batch,
    deploy: Any,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = {"table": lakes(2), "kind": "jimeng", "batch_id": "lakes", "credentials": batch.credentials}
    parameters |= {"output": str(batch.folder / "out"), "canary": 2, "review": "canary"}
    deployed: Deployed = await deploy(generate_batch)
    monkeypatch.setattr(asking, "can_suspend", lambda: False)
    if where != "while it waits":
        die_once(monkeypatch, "close" if where == "before it records" else "requester_of")
    running = asyncio.create_task(deployed.goes(parameters))
    await paused_batch(batch, running)
    (question,) = await waiting(ledger)
    if where == "while it waits":
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        reply = json.dumps({"reviewer": "Anna", "regenerate": ["row-1"]})
        async with get_client() as client:
            await client.create_flow_run_input(deployed.run.id, f"paused-genmedia-review-{question.id}-response", reply)
    else:
        await answer(deployed.run, regenerate=["row-1"])
        with pytest.raises(RuntimeError, match="killed"):
            await running
    assert batch.simulator.accepted == 2
    running = asyncio.create_task(deployed.goes(parameters))
    await paused_batch(batch, running)
    assert batch.simulator.accepted == 3
    (again,) = await waiting(ledger)
    assert len(again.job_keys) == 1, "only the new result is asked about"
    await answer(deployed.run)
    assert (await running).delivered == 2
    assert batch.simulator.accepted == 3
    made = {each.decision for each in await decisions_of(ledger, "lakes")}
    assert made == {"accept", "regenerate"}


def die_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the process die when it calls this function of the review for the first time."""
    does, died = getattr(review, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        if not died:
            died.append(name)
            raise RuntimeError("killed")
        return does(*args, **kwargs)

    monkeypatch.setattr(review, name, dying)


# --- the command ---


async def typed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    await asyncio.to_thread(app, list(words), result_action="return_int_as_exit_code_else_zero")
    return capsys.readouterr().out


def lines(*decisions: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in decisions)


async def test_a_decisions_file_lets_the_run_go_on_when_every_row_is_decided(
    batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    run, running = await asked(lambda: batch.run(lakes(3), canary=2, review="canary", min_delivered=0.5))
    assert "2 rows" in await typed(capsys, "review", "list")
    file = tmp_path / "decisions.jsonl"
    line = {"row": "row-0", "decision": "reject", "reason": "far\u2028too dark", "reviewer": "Cid"}
    file.write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
    said = await typed(capsys, "review", "apply", str(file), "--batch", "lakes")
    assert "still waits: 1 row of 2 not decided" in " ".join(said.split())
    assert batch.simulator.accepted == 2
    file.write_text(file.read_text() + lines({"row": "row-1", "decision": "accept"}))
    said = await typed(capsys, "review", "apply", str(file), "--batch", "lakes", "--reviewer", "Dora")
    assert f"Run {run.id} goes on" in " ".join(said.split())
    report = await running
    assert (report.delivered, report.rejected, batch.simulator.accepted) == (3, 1, 3)
    assert reviewed(batch.results) == {"row-0": ("rejected", "Cid"), "row-1": ("accepted", "Dora"), "row-2": ("", "")}
    assert batch.results["row-0"]["review_reason"] == "far too dark"
    assert "No batch waits" in await typed(capsys, "review", "list")


async def test_decisions_that_come_while_the_report_is_written_are_enough(
    batch: Batch, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = review.acreate_markdown_artifact

    async def meanwhile(**artifact: Any) -> Any:
        """What a person applies before the run has paused cannot resume it."""
        (question,) = await waiting(ledger)
        decisions = [Decision(key, row_digest("lakes", "row-0"), "accept", "Anna") for key in question.job_keys]
        await record(ledger, "lakes", decisions)
        return await publish(**artifact)

    monkeypatch.setattr(review, "acreate_markdown_artifact", meanwhile)
    assert (await batch.run(lakes(2), canary=1, review="canary")).delivered == 2
    assert not await waiting(ledger)


async def test_every_problem_of_a_decisions_file_is_named_and_nothing_is_recorded(
    batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    await batch.run(lakes(2))
    old = batch.results["row-0"]["job_key"]
    await batch.run(lakes(2), regenerate=["row-0"])
    file = tmp_path / "decisions.jsonl"
    file.write_text(
        lines(
            {"row": "row-1", "decision": "accept"},
            {"row": "row-1", "decision": "reject", "reason": "again"},
            {"row": "row-9", "decision": "accept"},
            {"row": "row-0", "decision": "perhaps", "colour": "red"},
            {"row": "row-0", "decision": "reject", "reason": " "},
            {"row": "row-0", "job": old, "decision": "accept"},
            {"row": "row-0", "decision": "accept", "batch": "rivers"},
        )
        + 'not json\n["a list"]\n'
    )
    with pytest.raises(SystemExit):
        await typed(capsys, "review", "apply", str(file), "--batch", "lakes")
    said = capsys.readouterr().err
    for words in [
        "line 2.row: is named more than once",
        "line 3.row: 'row-9' is no row of the batch",
        "line 4.decision",
        "line 4.colour",
        "line 5.reason: is missing",
        f"line 6.job: is not the present result of row 'row-0', which is job {batch.results['row-0']['job_key']}",
        "the ledger has no job of a batch 'rivers'",
        "line 8: is not JSON",
        "line 9",
    ]:
        assert words in said, words
    assert not await decisions_of(ledger, "lakes")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", b"[" * 100_000])
async def test_a_file_of_something_else_is_refused_in_a_sentence(
    content: bytes, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.jsonl").write_bytes(content)
    with pytest.raises(SystemExit):
        await typed(capsys, "review", "apply", str(tmp_path / "other.jsonl"), "--batch", "lakes")
    assert "The decisions file" in capsys.readouterr().err


# --- the ledger ---


async def test_the_last_decision_counts_and_is_recorded_once(ledger: Ledger) -> None:
    async def decide(verdict: Any, by: str = "Anna") -> int:
        link = "see https://example.com/a.mp4?X-Amz-Signature=abc123"
        return await record(ledger, "lakes", [Decision("key", row_digest("lakes", "a"), verdict, by, link)])

    assert [await decide(each) for each in ("reject", "reject", "accept", "reject")] == [1, 0, 1, 1]
    (last,) = await decisions_of(ledger, "lakes")
    assert (last.decision, last.reviewer) == ("reject", "Anna")
    assert "abc123" not in last.reason
    assert await decisions_of(ledger, "lakes:more") == []
    assert (await review_state(ledger, "lakes")).waiting == frozenset()


async def test_the_reasons_of_pruned_jobs_are_removed(batch: Batch, ledger: Ledger) -> None:
    await batch.run(lakes(1))
    key = batch.results["row-0"]["job_key"]
    await record(ledger, "lakes", [Decision(key, row_digest("lakes", "row-0"), "reject", "Anna", "too private")])
    await ledger.transact(lambda c: c.exec_driver_sql("UPDATE genmedia_jobs SET expires_at = 1, updated_at = 1"))
    assert (await prune(ledger, PruneFilter(older_than_seconds=60), vacuum=False)).jobs == 1
    (kept,) = await decisions_of(ledger, "lakes")
    assert (kept.decision, kept.reason) == ("reject", "")


async def test_a_table_of_results_without_a_review_has_no_columns_about_one(batch: Batch) -> None:
    await batch.run([{**row, "review": "my own"} for row in lakes(1)])
    assert batch.results["row-0"]["review"] == "my own"
    assert "reviewer" not in batch.results["row-0"]
    run, running = await asked(lambda: batch.run([{**row, "review": "my own"} for row in lakes(1)], review="all"))
    await answer(run)
    await running
    assert (batch.results["row-0"]["table_review"], batch.results["row-0"]["review"]) == ("my own", "accepted")
    earlier = [{**batch.results["row-0"], **lakes(1)[0], "error_kind": "OutputRefused"}]
    content = encode_table(earlier, [*COLUMNS, *REVIEW_COLUMNS, "prompt", "model"], "csv")
    (batch.folder / "again.csv").write_bytes(content)
    assert (await batch.run(str(batch.folder / "again.csv"), review="all")).delivered == 1
    assert batch.results["row-0"]["review"] == "accepted", "a table of results can be the table"
    assert "table_review" not in batch.results["row-0"]

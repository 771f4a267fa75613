"""Whatever a provider says, it breaks no ledger, log, table or terminal; and its ids stay what they are."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jobs import asking, submit_once
from test_conformance import TestShippedProviders as Shipped

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Job, JobState, Ledger, deliver, open_ledger, wait_for_job
from prefect_genmedia._core.decide import decide
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._prefect import run as support
from prefect_genmedia._transport import Redactor
from prefect_genmedia.batch.results import Results
from prefect_genmedia.batch.table import encode_table, read_table
from prefect_genmedia.cli.app import app
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.providers.protocol import Accepted, Observation, Phase
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.faults import HOSTILE_CODE, HOSTILE_TEXT, ODD_IDS, STATUSES
from prefect_genmedia.testing.conformance import PATIENCE_SECONDS as PATIENCE
from prefect_genmedia.testing.conformance import POLICY
from prefect_genmedia.text import clean_text, csv_cell, csv_value, escaped, json_text, path_segment

REAL = ("omnihuman", "jenius", "hidream")
LAKE = {"prompt": "a lake", "model": "jimeng-video-3.0-720P"}
UNDERWAY = [fault for fault in STATUSES if fault != "poll_likely_failure"]
"""Statuses under which a run goes on."""


def is_clean(text: str) -> bool:
    return clean_text(text) == text


def all_clean(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(all_clean, value.values()))
    return all(map(all_clean, value)) if isinstance(value, list) else not isinstance(value, str) or is_clean(value)


@pytest.fixture(params=REAL)
async def client(request: pytest.FixtureRequest, simulator: RunningSimulator) -> AsyncIterator[Any]:
    simulator.world.settings.__dict__.update(queue_seconds=0.05, run_seconds=0.05)
    case = Shipped.cases[request.param]
    opened: Any = case.client(simulator.base_url(case.request.provider), simulator.key)
    opened.request = case.request
    yield opened
    await opened.aclose()


async def live(ledger: Ledger, client: Any, folder: Path) -> Job:
    job = await submit_once(ledger, client, client.request, scope="test")
    job = await wait_for_job(ledger, client, job, PATIENCE, POLICY)
    return await deliver(ledger, client, job, target_at(str(folder)))


async def test_each_database_takes_whatever_a_provider_says(
    client: Any, simulator: RunningSimulator, shared_ledger: str, tmp_path: Path
) -> None:
    async with open_ledger(shared_ledger) as ledger:
        for fault in UNDERWAY:
            simulator.order(fault)
        assert (await live(ledger, client, tmp_path)).state is JobState.DELIVERED

        simulator.order("refuse_hostile")
        with pytest.raises(errors.InvalidRequest) as refused:
            await submit_once(ledger, client, client.request, scope="refused")
        simulator.order("fail_hostile")
        job = await submit_once(ledger, client, client.request, scope="failed")
        with pytest.raises(errors.GenerationFailed) as failed:
            await wait_for_job(ledger, client, job, PATIENCE, POLICY)
        for caught in (refused.value, failed.value):
            assert "second red" in caught.message
            assert all_clean([str(caught), caught.code, caught.body, caught.args[0]])
        for job in await ledger.jobs():
            assert all_clean(job.model_dump(mode="json"))
            assert len(job.provider_status or "") <= 128
            assert len(job.error_code or "") <= 64
        written = {job.state: job.error_message for job in await ledger.jobs()}
        assert written[JobState.FAILED] == failed.value.message
        assert written[JobState.REJECTED] == refused.value.message


async def test_an_id_is_stored_and_asked_for_unaltered(
    client: Any, simulator: RunningSimulator, shared_ledger: str, tmp_path: Path
) -> None:
    async with open_ledger(shared_ledger) as ledger:
        for fault in ("accept_odd_id", "accept_long_id"):
            simulator.world.reset()
            simulator.order(fault)
            job = await submit_once(ledger, client, client.request, scope=fault)
            (theirs,) = simulator.world.jobs
            assert job.provider_job_id == theirs
            assert await ledger.find(theirs) == job
            assert is_clean(job.shown_id)
            assert len(job.shown_id) <= 128
            job = await wait_for_job(ledger, client, job, PATIENCE, POLICY)
            job = await deliver(ledger, client, job, target_at(str(tmp_path / fault)))
            assert job.delivery is not None
            assert job.delivery.provider_job_id == theirs
            assert len(Path(job.delivery.uri).name) < 200


@pytest.mark.parametrize("fault", ["accept_nul_id", "accept_surrogate_id", "accept_huge_id"])
async def test_an_id_that_cannot_be_stored_makes_the_job_unknown_and_a_person_adopts_it(
    fault: str, client: Any, simulator: RunningSimulator, shared_ledger: str
) -> None:
    async with open_ledger(shared_ledger) as ledger:
        simulator.order(fault)
        with pytest.raises(errors.SubmissionUnknown) as caught:
            await submit_once(ledger, client, client.request, scope="test")
        (theirs,) = simulator.world.jobs
        (job,) = await ledger.jobs()
        assert job.state is JobState.UNKNOWN
        assert escaped(theirs)[:400] in (job.error_message or "")
        assert all_clean([str(caught.value), job.error_message])
        with pytest.raises(errors.InvalidRequest, match="cannot be stored"):
            await decide(ledger, job.key, "adopt", theirs, client_for=asking(client))
        simulator.world.jobs["the-id-that-the-console-shows"] = simulator.world.jobs.pop(theirs)
        adopted = await decide(ledger, job.key, "adopt", "the-id-that-the-console-shows", client_for=asking(client))
        assert adopted.state is JobState.SUBMITTED


async def test_a_third_partys_client_need_not_clean_anything() -> None:
    accepted = Accepted("id", HOSTILE_TEXT)
    observed = Observation(Phase.RUNNING, "\x00\ud800" * 200)
    error = errors.GenerationFailed(HOSTILE_TEXT, code=HOSTILE_CODE, body=HOSTILE_TEXT)
    assert all_clean([accepted.status, observed.status, error.message, str(error), error.code, error.body])
    assert max(len(accepted.status), len(observed.status)) <= 128
    with pytest.raises(errors.ProviderError) as caught:
        Accepted("id\x00", "taken")
    assert caught.value.outcome == "uncertain"
    assert not caught.value.retryable


async def test_the_ledger_stores_any_text_and_finds_by_any_text(shared_ledger: str) -> None:
    bad = "\x00\ud800" + "x" * 300
    async with open_ledger(shared_ledger) as ledger:
        wanted = Job(key="", identity="i", provider="tokenops", kind="k", label="l", request={"a": ["b"]})
        dirty = wanted.model_copy(update={"label": bad, "request": {bad: [bad]}, "scope": bad, "account": bad})
        job = await ledger.reserve(dirty)
        job = await ledger.move(job, JobState.SENDING, flow_run_id=bad) or job
        texts = {"provider_status": bad, "error_message": bad, "error_code": bad, "error_kind": bad, "note": bad}
        job = await ledger.move(job, JobState.UNKNOWN, **texts) or job
        assert job.state is JobState.UNKNOWN
        assert len(job.error_message or "") == len(bad)
        assert len(job.provider_status or "") == 128
        for name in (bad, "abcd\x00", "abcd\ud800"):
            assert await ledger.find(name) is None
            assert await ledger.get(name) is None
        assert set(await ledger.newest_in("\x00")) == {"i"}


def test_a_secret_between_invisible_characters_is_found() -> None:
    shown = Redactor(["sk-secret"]).clean("the key s\u200bk-se\x1b[0mcr\u202eet is wrong")
    assert shown == "the key [redacted] is wrong"


@pytest.mark.parametrize(
    ("hostile", "clean"),
    [
        ("a\r\nb\tc", "a b c"),
        ("\x1b[31mred\x1b[0m \x9b1mbold", "red bold"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b(B\x1bcreset", "reset"),
        ("a\u202eb\u2066c\u200bd\ufeffe\u2028f", "abcde f"),
        ("\x00 \ud800", "\ufffd \ufffd"),
        ("中文　“引号” é 😀", "中文　“引号” é 😀"),
        ("\u3164\u2800x", "x"),
    ],
)
def test_text_is_cleaned(hostile: str, clean: str) -> None:
    assert clean_text(hostile) == clean
    assert clean_text(clean) == clean


def test_what_is_printed_as_json_is_the_same_value_without_control_characters() -> None:
    value = {"a": [HOSTILE_TEXT.replace("\ud800", ""), 1.5, None]}
    assert json.loads(json_text(value, indent=2)) == value
    assert all(is_clean(line) or line.isprintable() for line in json_text(value, indent=2).split("\n"))
    json_text({"a": "\ud800"}).encode()


@pytest.mark.parametrize("text", [".", "..", "../x", "a/../..", "?a=b", "#f", "%2f..%2f", "a b\n", "\ud800"])
def test_an_id_is_one_segment_of_a_path(text: str) -> None:
    import httpx

    path = httpx.Request("GET", f"https://api.example/v1/videos/{path_segment(text)}/content").url.raw_path
    assert path.startswith(b"/v1/videos/")
    assert path.count(b"/") == 4
    assert path.endswith(b"/content")


# Through the flows and commands.


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(support, "emit_event", lambda **event: emitted.append(event))
    return emitted


@pytest.mark.usefixtures("prefect_server")
async def test_a_flow_ends_as_it_should_and_shows_nothing_hostile(
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    shared_ledger: str,
    events: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL", shared_ledger)
    simulator.order("accept_odd_id")
    for fault in UNDERWAY:
        simulator.order(fault)
    with caplog.at_level(logging.INFO):
        delivery = await jimeng_video(**LAKE, credentials=credentials, output=str(tmp_path / "out"))
        assert Path(delivery.uri).is_file()
        assert delivery.provider_job_id in simulator.world.jobs
        simulator.order("fail_hostile")
        with pytest.raises(errors.GenerationFailed):
            await jimeng_video(**LAKE, credentials=credentials, output=str(tmp_path / "out"))
        simulator.order("accept_surrogate_id")
        with pytest.raises(errors.SubmissionUnknown):
            await jimeng_video(**LAKE, credentials=credentials, output=str(tmp_path / "out"))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("prefect.")]
    shown = [line for message in ours if "Job " in message for line in message.split("\n")]
    assert shown
    assert all_clean(shown)
    assert events
    assert all_clean(events)


@pytest.mark.usefixtures("prefect_server")
async def test_one_hostile_row_costs_a_batch_nothing_else(
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    shared_ledger: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL", shared_ledger)
    simulator.order("fail_hostile")
    rows = [{"id": f"row-{number}", **LAKE, "prompt": f"lake {number}"} for number in range(3)]
    table = tmp_path / "results.csv"
    with pytest.raises(errors.BatchIncomplete):
        await generate_batch(
            rows, "jimeng", credentials, batch_id="b", output=str(tmp_path / "out"), results=str(table), breaker=0
        )
    states = sorted(row["state"] for row in read_table(str(table)))
    assert states == ["delivered", "delivered", "failed"]
    assert all_clean(read_table(str(table)))


@pytest.mark.usefixtures("prefect_server")
async def test_a_table_that_cannot_be_written_at_last_loses_no_row(
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ledger: Ledger,
) -> None:
    save = Results.save

    async def failing(results: Results, now: bool = False) -> None:
        if any(result.state == "delivered" for result in results.all()):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        await save(results, now)

    monkeypatch.setattr(Results, "save", failing)
    rows = [{"id": f"row-{number}", **LAKE, "prompt": f"lake {number}"} for number in range(2)]
    with pytest.raises(errors.StorageError, match="2 of 2 delivered") as caught:
        await generate_batch(rows, "jimeng", credentials, batch_id="b", output=str(tmp_path / "out"))
    assert "surrogates not allowed" in caught.value.message
    assert [job.state for job in await ledger.jobs()] == [JobState.DELIVERED] * 2
    monkeypatch.setattr(Results, "save", save)
    report = await generate_batch(rows, "jimeng", credentials, batch_id="b", output=str(tmp_path / "out"))
    assert (report.delivered, simulator.accepted) == (2, 2)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=quoted", "''-twice"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_of_a_results_table_is_a_formula_and_it_is_read_back_as_it_was(cell: str, tmp_path: Path) -> None:
    columns = ("id", "state", "provider_job_id", "job_key", "error_kind", "seconds")
    row = {"id": cell, "state": "failed", "provider_job_id": cell, "job_key": "k", "error_kind": "x", "seconds": -1.5}
    path = tmp_path / "results.csv"
    path.write_bytes(encode_table([row], columns, "csv"))
    with path.open(newline="", encoding="utf-8") as file:
        (written,) = csv.DictReader(file)
    assert written["id"].startswith("'")
    assert written["seconds"] == "-1.5"
    (read,) = read_table(str(path))
    assert (read["id"], read["provider_job_id"]) == (cell, cell)
    assert csv_value(csv_cell(cell)) == cell


def test_a_users_own_table_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,prompt\n1,'-5 degrees' it said\n", encoding="utf-8")
    assert read_table(str(path)) == [{"id": "1", "prompt": "'-5 degrees' it said"}]


@pytest.mark.parametrize("table_format", ["csv", "jsonl", "parquet"])
def test_every_format_takes_every_text(table_format: Any) -> None:
    if table_format == "parquet":
        pytest.importorskip("pyarrow")
    assert encode_table([{"a": HOSTILE_TEXT}], ["a"], table_format)


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["show", "KEY"],
        ["show", "KEY", "--json"],
        ["export"],
        ["export", "--format", "jsonl"],
    ],
    ids=" ".join,
)
async def test_the_commands_print_no_control_characters(
    words: list[str], ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    odd, storable = ODD_IDS["accept_odd_id"]("107"), HOSTILE_TEXT.replace("\x00", "").replace("\ud800", "")
    job = await ledger.reserve(Job(key="", identity="x", provider="tokenops", label=storable))
    job = await ledger.move(job, JobState.SENDING) or job
    job = await ledger.move(job, JobState.UNKNOWN, provider_job_id=odd, error_message=storable, note="a\nb") or job
    arguments = [job.key if word == "KEY" else word for word in words]
    assert await asyncio.to_thread(app, ["jobs", *arguments], result_action="return_int_as_exit_code_else_zero") == 0
    printed = capsys.readouterr().out
    assert "107" in printed
    for line in printed.replace("\r\n", "\n").split("\n"):
        assert line.isprintable(), ascii(line)


async def test_what_ends_a_command_is_printed_without_control_characters(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        await asyncio.to_thread(app, ["jobs", "show", "no\x1b[2Jsuch\u202e"])
    said = capsys.readouterr().err
    assert "\x1b[2J" not in said
    assert "\u202e" not in said

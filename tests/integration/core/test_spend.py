"""Whom jobs are paid for, and what was spent: by project, account, model and day, and against the caps."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bill_month import BEGIN, DAY, OTHER, job_at, put
from jobs import session
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from rich.cells import cell_len
from sqlalchemy import Connection

from prefect_genmedia import TokenOpsCredentials, generate_batch, jimeng_video, report_spend, submit_job
from prefect_genmedia._core import Job, JobSpec, JobState, Ledger, RunContext, open_ledger, schema, submit_once
from prefect_genmedia._core.account_admin import list_accounts, merge_accounts
from prefect_genmedia._core.attribution import MOST_TAGS, Attribution
from prefect_genmedia._core.caps import Caps, remember_caps
from prefect_genmedia._core.spend import SpendFilter, SpendLine, spend_by, totals
from prefect_genmedia._prefect import attribution as attribution_module
from prefect_genmedia._prefect import run as run_module
from prefect_genmedia.billing import BillSpec, compare_bill, spend
from prefect_genmedia.cli.app import app
from prefect_genmedia.prices import in_micros
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

MODEL = "jimeng-video-3.0-720P"


def job(number: int, project: str | None = None, at: float = BEGIN + DAY, **changes: Any) -> Job:
    """A job of 1.40 CNY; `number` is taken three times, so that the model is always the same."""
    return job_at(3 * number, at, project=project, **changes)


def amounts(lines: Sequence[SpendLine]) -> dict[str, Decimal]:
    return {line.name: line.cost for line in lines}


UNPRICED = {"cost_micros": None, "estimated_cost": None, "currency": None}


# --- whom a job is paid for ---


@pytest.mark.parametrize(
    ("project", "tags", "found"),
    [
        ("spring", ["a", "b", "a"], ("spring", ("a", "b"))),
        (2026.0, "a, b; c|d\ne", ("2026", ("a", "b", "c", "d", "e"))),
        (None, '["a, b", "c"]', ("", ("a, b", "c"))),
        ("  \x1b[31mspring\u202e\n ", ["", None, " "], ("spring", ())),
        ("x" * 500, "y" * 500, ("x" * 99 + "…", ("y" * 63 + "…",))),
        ("https://a.example/b?X-Amz-Signature=SECRET", "[not json", ("https://a.example/b", ("[not json",))),
        (["spring"], 7, ("", ("7",))),
        ("", {"a": 1}, ("", ())),
    ],
)
def test_a_project_and_tags_are_read_as_people_write_them(project: Any, tags: Any, found: Any) -> None:
    attribution = Attribution.of(project, tags)
    assert (attribution.project, attribution.tags) == found
    assert len(Attribution.of("", [str(n) for n in range(100)]).tags) == MOST_TAGS


async def test_the_jobs_own_word_comes_before_the_blocks_and_that_before_the_runs(
    ledger: Ledger, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    async def names() -> Attribution:
        return Attribution("nightly", ("my-flow",))

    async with credentials.client() as client:
        plain = session(ledger, client)
        made: list[tuple[str | None, list[str] | None]] = []
        for number, (own, block) in enumerate([("own", "block"), ("", "block"), ("", "")]):
            opened = replace(
                plain, attribution=Attribution.of(block, ["paid"]), run=RunContext(root_run_id="r", attribution=names)
            )
            spec = JobSpec(JimengVideo(prompt=f"lake {number}", model=MODEL), scope="key:a", project=own, tags=["mine"])
            found = await submit_once(opened, spec)
            made.append((found.project, found.tags))
    assert made == [
        ("own", ["mine", "paid"]),
        ("block", ["mine", "paid"]),
        ("nightly", ["mine", "paid", "my-flow"]),
    ]


async def test_a_project_is_no_part_of_the_identity_and_is_not_sent(
    ledger: Ledger, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    request = JimengVideo(prompt="a lake", model=MODEL)
    async with credentials.client() as client:
        opened = session(ledger, client)
        first = await submit_once(
            opened, JobSpec(request, scope="key:a", project="spring-campaign", tags=["hidden-tag"])
        )
        again = await submit_once(opened, JobSpec(request, scope="key:a", project="autumn"))
    assert again.key == first.key
    assert again.project == "spring-campaign"  # who asked first pays
    (sent,) = simulator.world.jobs.values()
    assert "spring" not in str(sent.body)
    assert "hidden-tag" not in str(sent.body)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []

    def keep(event: str, resource: dict[str, Any], **_: Any) -> None:
        found.append((event, resource))

    monkeypatch.setattr(run_module, "emit_event", keep)
    return found


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
async def test_rows_say_their_project_and_the_batch_says_it_for_the_others(
    ledger: Ledger, simulator: RunningSimulator, credentials: TokenOpsCredentials, tmp_path: Path
) -> None:
    rows = [
        {"id": "one", "prompt": "one", "model": MODEL, "Project": "spring", "TAGS": "a; b"},
        {"id": "two", "prompt": "two", "model": MODEL},
    ]
    results = tmp_path / "results.jsonl"
    await generate_batch(
        rows, "jimeng", credentials, "lakes", str(tmp_path), results=str(results), project="house", tags=["all"]
    )
    found = {each.label: (each.project, each.tags) for each in await ledger.jobs()}
    assert found == {"one": ("spring", ["a", "b", "all"]), "two": ("house", ["all"])}
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    assert [(line["project"], line["tags"]) for line in lines] == [("spring", "a; b"), (None, None)]
    assert all("spring" not in str(each.body) for each in simulator.world.jobs.values())


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
async def test_without_a_project_the_root_flow_and_its_deployment_name_it(
    ledger: Ledger,
    simulator: RunningSimulator,
    credentials: TokenOpsCredentials,
    tmp_path: Path,
    emitted: list[tuple[str, dict[str, Any]]],
) -> None:
    options: dict[str, Any] = {"credentials": credentials, "output": str(tmp_path)}

    @flow(name="autumn-campaign")
    async def campaign(prompt: str) -> None:
        await jimeng_video(prompt, MODEL, **options)

    await campaign("one")
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("autumn-campaign")
        deployment = await client.create_deployment(flow_id, "nightly")
        run = await client.create_flow_run_from_deployment(deployment, parameters={"prompt": "two"})
    await run_flow(campaign, flow_run=run, parameters={"prompt": "two"})

    @flow
    async def own() -> None:
        request = JimengVideo(prompt="three", model=MODEL)
        await submit_job(request, credentials=credentials, project="given", tags=["t"])

    await own()
    found = {each.request["prompt"]: (each.project, each.tags) for each in await ledger.jobs()}
    assert found == {
        "one": ("autumn-campaign", ["autumn-campaign"]),
        "two": ("nightly", ["autumn-campaign"]),
        "three": ("given", ["t"]),
    }
    (submitted, resource) = emitted[-1]
    assert submitted == "genmedia.job.submitted"
    assert (resource["genmedia.project"], resource["genmedia.tags"]) == ("given", "t")
    async with get_client() as client:
        cards = [each for each in await client.read_artifacts() if each.key == "genmedia-jimeng"]
    assert any("| Project | nightly |" in str(card.data) for card in cards)


# --- what was spent ---


async def test_what_was_paid_or_may_be_counts_and_nothing_else(ledger: Ledger) -> None:
    await put(
        ledger,
        [
            job(1, "spring"),
            job(2, "spring", state=JobState.SUBMITTED),
            job(3, "spring", state=JobState.UNKNOWN),
            job(4, "spring", **UNPRICED),
            job(5, "spring", state=JobState.FAILED),  # the provider documents that this is free
            job(6, "spring", state=JobState.REJECTED),
            job(7, "spring", state=JobState.RESERVED, sent_at=None),
            job(8, "spring", state=JobState.FAILED, provider="jenius", cost_micros=in_micros(Decimal(2))),
            job(9, None),
            job(10, "美金", currency="USD"),
        ],
    )
    spring, none, dollars = await spend_by(ledger, "project", SpendFilter())
    assert (spring.name, spring.jobs, spring.cost, spring.uncertain, spring.without_price) == (
        "spring",
        5,
        Decimal("6.2"),
        Decimal("1.4"),
        1,
    )
    assert (none.name, none.cost) == ("", Decimal("1.4"))
    assert (dollars.name, dollars.currency) == ("美金", "USD")
    assert {line.currency: line.cost for line in totals([spring, none, dollars])} == {
        "CNY": Decimal("7.6"),
        "USD": Decimal("1.4"),
    }
    with pytest.raises(ValueError, match="never added"):
        none.plus(dollars)


async def test_days_begin_in_the_time_zone_that_is_asked_for(ledger: Ledger) -> None:
    noon = datetime(2026, 11, 3, 20, tzinfo=timezone.utc).timestamp()
    await put(ledger, [job(1, at=noon), job(2, at=noon - 4 * 3600 - 1)])
    assert amounts(await spend_by(ledger, "day", SpendFilter())) == {"2026-11-03": Decimal("2.8")}
    shanghai = await spend_by(ledger, "day", SpendFilter(zone="Asia/Shanghai"))
    assert amounts(shanghai) == {"2026-11-03": Decimal("1.4"), "2026-11-04": Decimal("1.4")}
    kathmandu = await spend_by(ledger, "day", SpendFilter(zone="Asia/Kathmandu"))  # 5:45
    assert amounts(kathmandu) == {"2026-11-03": Decimal("1.4"), "2026-11-04": Decimal("1.4")}
    since = datetime.fromtimestamp(noon, timezone.utc)
    assert amounts(await spend("day", since=since)) == {"2026-11-03": Decimal("1.4")}
    assert amounts(await spend("day", until=since)) == {"2026-11-03": Decimal("1.4")}


async def test_both_kinds_of_database_give_the_same_sums_and_find_the_same_jobs(
    shared_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL", shared_ledger)
    midnight = datetime(2026, 11, 4, tzinfo=timezone.utc).timestamp()
    jobs = [
        job(1, "a", at=midnight - 0.25, tags=["x", "100%"]),  # a cast would round it to the next day
        job(2, "春", at=midnight, tags=["y_", "x"]),
        job(3, at=midnight, **{**UNPRICED, "estimated_cost": 1.4}),  # of an earlier version
        job(4, "a", at=midnight, state=JobState.UNKNOWN),
    ]
    async with open_ledger(shared_ledger) as ledger:
        await put(ledger, jobs)
    found = {by: amounts(await spend(by)) for by in ("day", "project", "model")}  # type: ignore[arg-type]
    assert found["day"] == {"2026-11-03": Decimal("1.4"), "2026-11-04": Decimal("4.2")}
    assert found["project"] == {"a": Decimal("2.8"), "春": Decimal("1.4"), "": Decimal("1.4")}
    assert found["model"] == {f"tokenops/{MODEL}": Decimal("5.6")}
    tagged = {tag: sum(line.jobs for line in await spend(tag=tag)) for tag in ("x", "100%", "y_", "y", "%", "xx")}
    assert tagged == {"x": 2, "100%": 1, "y_": 1, "y": 0, "%": 0, "xx": 0}
    rows = [{"id": each.provider_job_id, "paid": "1.40"} for each in jobs[:2]]
    rows.append({"request": "req-9", "paid": "1.40"})  # of the third job
    mapping = {
        "provider": "tokenops",
        "columns": {"job_id": "id", "request_id": "request", "amount": "paid"},
        "amounts": {"currency": "CNY"},
    }
    report = await compare_bill(BillSpec(tables=[rows], mapping=mapping, since="2026-11-03", until="2026-11-06"))
    assert [(each.kind, each.findings) for each in report.sums] == [("matched", 3)]


async def test_merged_accounts_are_one_and_projects_and_tags_can_be_chosen(ledger: Ledger) -> None:
    await put(ledger, [job(1, "a", tags=["x", "y"]), job(2, "a", account=OTHER), job(3, "b", tags=["xy"])])
    first, second = (each.record for each in await list_accounts(ledger))
    by_account = amounts(await spend_by(ledger, "account", SpendFilter()))
    assert by_account.keys() == {f"tokenops/{first.id}", f"tokenops/{second.id}"}
    assert sorted(by_account.values()) == [Decimal("1.4"), Decimal("2.8")]
    await merge_accounts(ledger, first.id, second.id)
    assert [line.cost for line in await spend_by(ledger, "account", SpendFilter())] == [Decimal("4.2")]
    assert amounts(await spend_by(ledger, "model", SpendFilter(tag="x"))) == {f"tokenops/{MODEL}": Decimal("1.4")}
    assert amounts(await spend_by(ledger, "project", SpendFilter(project="b"))) == {"b": Decimal("1.4")}


async def test_the_command_shows_bars_in_eighty_columns_and_the_same_sums_as_csv_and_json(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evil = "=cmd|' /C calc'!A0 [red]"
    dear = {"cost_micros": in_micros(Decimal("123456.789012")), "estimated_cost": 1.0}
    await put(ledger, [job(1, "春季" * 40), job(2, evil), job(3), job(4, "dear", **dear), job(5, "x", **UNPRICED)])
    assert await typed(["spend"]) == 0
    out = capsys.readouterr().out
    assert "█" * 20 in out
    assert "[red]" in out
    assert "123456.789012" in out
    assert "123460.989012" in out  # the sum is exact
    assert "1 job has no known price" in out
    assert "estimate by the price table, not a bill" in " ".join(out.split())
    assert max(map(width, out.splitlines())) <= 80
    assert await typed(["spend", "--format", "json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert sum(Decimal(each["estimated_cost"]) for each in as_json) == Decimal("123460.989012")
    assert await typed(["spend", "--output", str(tmp_path / "spend.csv")]) == 0
    lines = list(csv.DictReader(io.StringIO((tmp_path / "spend.csv").read_text("utf-8"))))
    assert [line["estimated_cost"] for line in lines] == [each["estimated_cost"] for each in as_json]
    assert f"'{evil}" in [line["name"] for line in lines]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--time-zone", "Mars/Olympus"], "--time-zone: 'Mars/Olympus' is not a time zone that this machine knows"),
        (["--until", "tomorrow"], "--until takes 30m"),
        (["--output", "spend.pdf"], "must end in .csv or .json"),
    ],
)
async def test_what_cannot_be_meant_ends_in_a_sentence(
    words: list[str], problem: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect_genmedia.cli.app import main

    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, ["spend", *words])
    assert ended.value.code == 1
    assert problem in " ".join(capsys.readouterr().err.split())


async def typed(words: list[str]) -> int:
    status: int = await asyncio.to_thread(app, words, result_action="return_int_as_exit_code_else_zero")
    return status


def width(line: str) -> int:
    return cell_len(line)


# --- against the caps ---


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
async def test_the_report_warns_once_a_month_of_a_cap_that_is_nearly_reached(
    ledger: Ledger, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    now = ledger.now()
    await put(ledger, [job(number, "spring", at=now - 1) for number in range(1, 11)])
    (listed,) = await list_accounts(ledger)
    await remember_caps(ledger, listed.record, Caps("near", month_micros=in_micros(Decimal(17))))
    await remember_caps(ledger, listed.record, Caps("far", month_micros=in_micros(Decimal(100)), day_jobs=11))
    first = await report_spend(return_state=True)
    report = await first.result()
    again = await report_spend(by="model")
    warnings = [resource for event, resource in emitted if event == "genmedia.budget.warning"]
    assert [each["genmedia.cap"] for each in warnings] == ["max_cost_per_month"]
    assert (len(report.warned), again.warned) == (1, [])
    async with get_client() as client:
        artifacts = await client.read_artifacts()
    (chart,) = (
        str(each.data) for each in artifacts if each.flow_run_id == first.state_details.flow_run_id and each.key
    )
    assert "**14.00 CNY** for 10 jobs: an estimate, not a bill." in chart
    near, far = (
        next(line for line in chart.splitlines() if f"Block {name}: max_cost" in line) for name in ("near", "far")
    )
    assert near.startswith("█" * 24)
    assert "82.4% !" in near
    assert "14.0%  " in far
    assert "14 of 100 CNY" in far

    def next_month(connection: Connection) -> None:
        connection.execute(schema.budget_events.update().values(period="2001-01 UTC"))

    await ledger.transact(next_month)
    await report_spend()
    assert len([event for event, _ in emitted if event == "genmedia.budget.warning"]) == 2


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
async def test_a_server_that_does_not_tell_the_names_holds_up_no_job(
    ledger: Ledger, credentials: TokenOpsCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def away(root: str) -> Attribution | None:
        asked.append(root)
        return None

    monkeypatch.setattr(attribution_module, "_names", away)

    @flow
    async def nightly() -> None:
        named = attribution_module.RunAttribution()
        assert [await named(), await named()] == [Attribution(), Attribution()]
        await submit_job(JimengVideo(prompt="a lake", model=MODEL), credentials=credentials)

    await nightly()
    (job,) = await ledger.jobs()
    assert (job.state, job.project, job.tags) == (JobState.SUBMITTED, None, None)
    assert len(asked) == 2  # once for each session

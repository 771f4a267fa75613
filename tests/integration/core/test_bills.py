"""A provider's bill against the ledger: every planted fault is found, nothing else is, and the sums are exact."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bill_month import ACCOUNT, BEGIN, DAY, HEADERS, JOBS, MAPPING, OF_EACH, Month, job_at, month, put
from documents import ROOT, blocks_of
from openpyxl import Workbook
from openpyxl import load_workbook as open_workbook

from prefect_genmedia import BillReport, errors, import_bill
from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia.billing import BillSpec, compare_bill, read_mapping
from prefect_genmedia.cli.app import app

WHOLE_MONTH = {"since": "2026-11-01", "until": "2026-12-01"}
PLAIN = """
provider = "tokenops"
[columns]
job_id = ["task_id", "id"]
request_id = "request_id"
amount = "amount"
currency = "currency"
time = "time"
item = "item"
words = "note"
[amounts]
currency = "CNY"
[times]
zone = "UTC"
"""


@pytest.fixture(scope="module")
def made() -> Month:
    return month()


def csv_of(rows: list[dict[str, Any]], encoding: str = "gb18030", delimiter: str = ";") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(HEADERS.values()), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def excel_of(rows: list[dict[str, Any]]) -> bytes:
    workbook, output = Workbook(write_only=True), io.BytesIO()
    sheet = workbook.create_sheet()
    sheet.append(list(HEADERS.values()))
    for row in rows:
        cells = [row.get(name) for name in HEADERS.values()]
        cells[3] = float(cells[3]) if cells[3] else None  # a number, as Excel has it
        sheet.append(cells)
    workbook.save(output)
    return output.getvalue()


def cents(amount: Decimal) -> int:
    assert amount * 100 == int(amount * 100)
    return int(amount * 100)


def check(report: BillReport, made: Month) -> None:
    """Every planted fault is found, nothing else is, and the sums agree to the cent."""
    found = {kind: {each.provider_job_id for each in report.of_kind(kind)} for kind in made.planted}
    assert found == made.planted
    assert {each.kind for each in report.findings} == made.planted.keys()
    assert Counter(each.kind for each in report.findings) == {
        kind: 2 * OF_EACH if kind == "price_difference" else OF_EACH for kind in made.planted
    }
    assert {currency: cents(amount) for currency, amount in report.billed.items()} == {"CNY": made.cents["bill"]}
    by_kind = {each.kind: cents(each.claim) for each in report.sums if each.kind != "matched"}
    assert by_kind == {kind: made.cents[kind] for kind in made.planted}
    rows = [row for each in report.sums for row in [each.rows]]
    assert sum(rows) == report.rows


@pytest.fixture
async def thousand(ledger: Ledger, made: Month) -> Ledger:
    await put(ledger, made.jobs)
    return ledger


async def test_ten_faults_of_each_kind_among_a_thousand_jobs_are_found_and_no_false_one(
    thousand: Ledger, made: Month, tmp_path: Path
) -> None:
    assert sum(job.account == ACCOUNT and job.sent_at is not None for job in made.jobs) >= JOBS
    (tmp_path / "november.csv").write_bytes(csv_of(made.rows))
    (tmp_path / "november.xlsx").write_bytes(excel_of(made.rows))
    for name in ("november.csv", "november.xlsx"):
        report = await compare_bill(BillSpec(tables=[str(tmp_path / name)], mapping=MAPPING, **WHOLE_MONTH))
        check(report, made)
        assert report.skipped == 2
        assert report.edge_jobs == 2


async def test_every_finding_has_what_proves_it_to_the_provider(thousand: Ledger, made: Month) -> None:
    report = await compare_bill(BillSpec(tables=[made.rows], mapping=MAPPING, **WHOLE_MONTH))
    for failure in report.of_kind("billed_failure"):
        assert failure.provider_words == "failed · 50500 · Internal error, please retry"
        assert failure.request_ids[0].startswith("req-")
        assert {each[:4] for each in failure.request_ids} == {"req-", "hdr-"}
        assert failure.billed_at
        assert failure.billed_at <= (failure.submitted_at or "")
        assert "documents that failed jobs are not billed" in failure.reason
    for again in report.of_kind("duplicate"):
        assert (again.reason, len(again.rows)) == ("the job was charged for this before", 1)
        assert (again.billed_at or "") > (again.submitted_at or "~")
        assert again.bill_words.startswith("消费")
    for missing in report.of_kind("not_billed"):
        assert (missing.rows, missing.billed, missing.account) == ([], None, report.accounts[0])
        assert missing.expected


async def test_the_command_prints_eighty_columns_and_writes_a_claim_that_a_spreadsheet_can_open(
    thousand: Ledger, made: Month, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    bill, mapping = tmp_path / "november.csv", tmp_path / "tokenops.toml"
    bill.write_bytes(csv_of(made.rows, "utf-16"))
    mapping.write_text(MAPPING, "utf-8")
    words = ["bill", "import", str(bill), "--mapping", str(mapping), "--since=2026-11-01", "--until=2026-12-01"]
    for claim in ("claim.csv", "claim.json", "claim.xlsx"):
        status = await typed([*words, "--claim", str(tmp_path / claim)])
        out = capsys.readouterr().out
        assert status == 0
        shown = out.replace(str(tmp_path), "").splitlines()
        assert max(map(len, shown)) <= 80, max(shown, key=len)
    total = Decimal(made.cents["bill"]) / 100
    claimed = Decimal(sum(made.cents[kind] for kind in made.planted)) / 100
    assert f"Billed in all: {total:.2f} CNY. To claim: {claimed:.2f} CNY." in out
    assert "an estimate by the price table" in " ".join(out.split())
    lines = list(csv.DictReader(io.StringIO((tmp_path / "claim.csv").read_text("utf-8-sig"))))
    as_json = json.loads((tmp_path / "claim.json").read_text("utf-8"))
    sheet = open_workbook(tmp_path / "claim.xlsx").active
    assert len(lines) == len(as_json) == sheet.max_row - 1 == 6 * OF_EACH
    assert sum(Decimal(line["claim"]) for line in lines) == claimed
    assert [line["job_key"].strip() for line in lines] == [each["job_key"] for each in as_json]
    assert all(line["provider_job_id"].startswith("\t2026") for line in lines)  # else a spreadsheet rounds it
    matched = next(line for line in out.splitlines() if line.startswith("billed as expected"))
    assert matched.split()[-4] == matched.split()[-3]  # to the cent what was expected


async def typed(words: list[str]) -> int:
    status: int = await asyncio.to_thread(app, words, result_action="return_int_as_exit_code_else_zero")
    return status


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
async def test_the_flow_shows_the_same_on_its_page(thousand: Ledger, made: Month, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    (tmp_path / "november.csv").write_bytes(csv_of(made.rows))
    state = await import_bill(
        str(tmp_path / "november.csv"), MAPPING, claim=str(tmp_path / "claim.json"), **WHOLE_MONTH, return_state=True
    )
    check(await state.result(), made)
    async with get_client() as client:
        found = await client.read_artifacts()
    artifacts = {each.key: each for each in found if each.flow_run_id == state.state_details.flow_run_id}
    assert {key for key in artifacts if key} == {"genmedia-bill", "genmedia-bill-findings"}
    assert "billed, although it failed" in str(artifacts["genmedia-bill"].data)
    assert len(json.loads(str(artifacts["genmedia-bill-findings"].data))) == 6 * OF_EACH


# --- one bill at a time ---


async def bill_of(ledger: Ledger, jobs: list[Job], rows: list[dict[str, Any]], **options: Any) -> BillReport:
    await put(ledger, jobs)
    mapping = options.pop("mapping", PLAIN)
    return await compare_bill(BillSpec(tables=[rows], mapping=mapping, **options))


def row(job: Job, amount: Any = "1.40", **more: Any) -> dict[str, Any]:
    time = more.pop("time", "2026-11-05T00:00:00Z")
    return {"task_id": job.provider_job_id, "amount": amount, "time": time, **more}


def kinds(report: BillReport) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in report.sums:
        found[each.kind] += each.findings
    return dict(found)


ONE, TWO, THREE = (job_at(number, BEGIN + 4 * DAY) for number in (0, 3, 6))  # 1.40 each


async def test_amounts_of_two_currencies_are_never_compared_or_added(ledger: Ledger) -> None:
    report = await bill_of(ledger, [ONE, TWO], [row(ONE, "$1.40"), row(TWO, "1.40", currency="usd")])
    assert kinds(report) == {"not_compared": 1, "unreadable": 1}
    assert report.billed == {"USD": Decimal("1.40")}
    assert "billed in USD, and estimated in CNY" in report.of_kind("not_compared")[0].reason
    assert "names $, although the line is in CNY" in report.of_kind("unreadable")[0].reason


async def test_a_job_that_was_charged_in_two_currencies_is_not_compared(ledger: Ledger) -> None:
    rows = [row(ONE, "1.40", item="a"), row(ONE, "0.20", item="b", currency="USD")]
    report = await bill_of(ledger, [ONE], rows)
    assert kinds(report) == {"not_compared": 2}
    assert report.billed == {"CNY": Decimal("1.40"), "USD": Decimal("0.20")}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("1.40", "")], {"matched": 1}),
        ([("1.404", "")], {"matched": 1}),  # less than a cent is rounding
        ([("1.41", "")], {"price_difference": 1}),
        ([("1.40", ""), ("1.40", "")], {"matched": 1, "duplicate": 1}),
        ([("1.40", ""), ("1.40", ""), ("-1.40", "")], {"matched": 2}),  # the second was refunded
        ([("1.40", ""), ("1.40", ""), ("1.40", "")], {"matched": 1, "duplicate": 2}),
        ([("1.00", "picture"), ("0.40", "sound")], {"matched": 1}),
        ([("1.00", "picture"), ("0.40", "sound"), ("0.40", "sound")], {"matched": 1, "duplicate": 1}),
        ([("2.00", ""), ("-0.60", "")], {"matched": 1}),  # part of it was refunded
        ([("-1.40", "")], {"matched": 1}),
        ([("0", "")], {"price_difference": 1}),
    ],
)
async def test_charges_and_refunds_of_one_job(
    rows: list[tuple[str, str]], found: dict[str, int], ledger: Ledger
) -> None:
    report = await bill_of(ledger, [ONE], [row(ONE, amount, item=item) for amount, item in rows])
    assert kinds(report) == found
    assert report.billed["CNY"] == sum(Decimal(amount) for amount, _ in rows)
    assert sum(each.rows for each in report.sums) == len(rows)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"state": JobState.FAILED, "error_kind": "OutputRefused"}, "billed_failure"),
        ({"state": JobState.REJECTED, "error_kind": "InputRefused"}, "billed_failure"),
        ({"state": JobState.UNDELIVERABLE, "error_kind": "ResultInvalid"}, "billed_failure"),
        ({"state": JobState.UNDELIVERABLE, "error_kind": "JobExpired"}, "matched"),  # made, and not fetched in time
        ({"state": JobState.SUBMITTED}, "matched"),
        ({"state": JobState.UNKNOWN}, "matched"),
        ({"cost_micros": None, "estimated_cost": None, "currency": None}, "not_compared"),
    ],
)
async def test_what_became_of_a_job_decides_what_its_charge_is(
    changes: dict[str, Any], kind: str, ledger: Ledger
) -> None:
    job = ONE.model_copy(update=changes)
    report = await bill_of(ledger, [job], [row(job)])
    assert kinds(report) == {kind: 1}
    assert report.claims == ({"CNY": Decimal("1.4")} if kind == "billed_failure" else {})


async def test_an_unknown_line_names_the_submission_without_an_answer_that_it_may_be(ledger: Ledger) -> None:
    lost = ONE.model_copy(update={"state": JobState.UNKNOWN, "provider_job_id": None, "evidence": None})
    report = await bill_of(ledger, [lost], [row(TWO, time="2026-11-04T16:02:00Z")])
    assert kinds(report) == {"unknown_here": 1}
    assert f"was sent near this time: job {lost.key}" in report.of_kind("unknown_here")[0].reason


async def test_an_id_of_another_account_is_unknown_to_the_bills_account(ledger: Ledger) -> None:
    other = TWO.model_copy(update={"account": "tokenops:ffffffff@https://api.tokenops.ai/v1"})
    await put(ledger, [ONE, other])
    named = (await compare_bill(BillSpec(tables=[[row(ONE)]], mapping=PLAIN))).accounts[0].partition("/")[2]
    both = [[row(ONE), row(other)]]
    report = await compare_bill(BillSpec(tables=both, mapping=PLAIN, account=named))
    assert kinds(report) == {"matched": 1, "unknown_here": 1}
    assert "of another account" in report.findings[0].reason
    with pytest.raises(errors.InvalidRequest, match="no account 'nobody'"):
        await compare_bill(BillSpec(tables=both, mapping=PLAIN, account="nobody"))


async def test_without_any_time_it_says_that_missing_lines_were_not_looked_for(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    await put(ledger, [ONE, TWO])
    (tmp_path / "bill.jsonl").write_text(json.dumps({"id": ONE.provider_job_id, "amount": 1.4}))
    (tmp_path / "map.toml").write_text(PLAIN)
    assert await typed(["bill", "import", str(tmp_path / "bill.jsonl"), "--mapping", str(tmp_path / "map.toml")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "delivered and not billed were not looked for" in out


# --- hostile and odd cells ---


@pytest.mark.parametrize(
    ("cell", "amount"),
    [
        ("1.40", "1.40"),
        ("￥1.40", "1.40"),
        ("1.40 CNY", "1.40"),
        ("1.40元", "1.40"),
        ("1,234.50", "1234.50"),
        ("(1.40)", "-1.40"),
        ("1.40-", "-1.40"),
        ("'-1.40", "-1.40"),
        ("\u22121.40", "-1.40"),
        (1.4, "1.4"),
        (0.1 + 0.2, "0.3"),
        (7, "7"),
        ("0001.40", "1.40"),
        ("+1.4", "1.4"),
    ],
)
async def test_amounts_as_people_and_spreadsheets_write_them(cell: Any, amount: str, ledger: Ledger) -> None:
    report = await bill_of(ledger, [], [row(ONE, cell)])
    assert report.billed == {"CNY": Decimal(amount)}


@pytest.mark.parametrize(
    "cell",
    [
        "NaN", "nan", "Infinity", "-inf", "1e999", "1e5", "1" * 5000, "999999999999999999999", 1e300, float("inf"),
        "=1+1", "=HYPERLINK(\"http://evil\")", "@SUM(A1)", "\x1b[31m1.40\x1b[0m", "1.40\u202e", "1,40", "1.2.3", "--1",
        "", "   ", "free", True, [1.4], {"a": 1}, "0x10", "1_000", "#REF!", "٣", "1.40 EUR", "$1.40", "½",
    ],
)  # fmt: skip
async def test_whatever_is_in_an_amounts_cell_is_no_sum_and_does_no_harm(cell: Any, ledger: Ledger) -> None:
    hidden = {"\x1b[31m1.40\x1b[0m", "1.40\u202e"}  # an amount, once it is cleaned
    report = await bill_of(ledger, [], [row(ONE, cell), row(TWO)])
    if cell in hidden if isinstance(cell, str) else False:
        assert report.billed == {"CNY": Decimal("2.80")}
        return
    assert kinds(report) == {"unknown_here": 1, "unreadable": 1}
    assert report.billed == {"CNY": Decimal("1.40")}
    (problem,) = report.of_kind("unreadable")
    assert problem.rows == [1]
    assert problem.reason.startswith("amount: ")
    assert len(problem.reason) < 200
    assert problem.reason.isprintable()


@pytest.mark.parametrize("job_id", [2.0260000000000002e17, "2.026E+17", "a\0b", "x" * 5000, True])
async def test_an_id_that_a_spreadsheet_has_rounded_is_refused_and_not_guessed(job_id: Any, ledger: Ledger) -> None:
    report = await bill_of(ledger, [ONE], [{"task_id": job_id, "amount": "1.40", "time": "2026-11-05"}])
    assert kinds(report) == {"unreadable": 1}
    assert report.of_kind("unreadable")[0].reason.startswith("job_id: ")


async def test_texts_of_a_bill_are_cleaned_wherever_they_are_shown(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;pwned\x07=cmd|' /C calc'!A0 https://cdn.example/v.mp4?X-Amz-Signature=SECRETSECRET"
    bill = [row(ONE, note=evil) | {"task_id": "=1+1\x1b[2J", "request_id": "+2"}]
    (tmp_path / "bill.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in bill))
    (tmp_path / "map.toml").write_text(PLAIN)
    words = ["bill", "import", str(tmp_path / "bill.jsonl"), "--mapping", str(tmp_path / "map.toml")]
    assert await typed([*words, "--claim", str(tmp_path / "claim.csv")]) == 0
    text = (tmp_path / "claim.csv").read_text("utf-8-sig")
    for shown in (capsys.readouterr().out, text):
        assert "SECRETSECRET" not in shown
        assert "\x1b" not in shown
    (line,) = csv.DictReader(io.StringIO(text))
    assert [name for name, cell in line.items() if cell.startswith(("=", "+", "-", "@"))] == []
    assert line["provider_job_id"] == "'=1+1\\x1b[2J"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("provider = \n[columns", "no TOML"),
        ("provider = 'nobody'\n[columns]\njob_id='a'\namount='b'", "one of the installed providers"),
        ("provider = 'tokenops'\n[columns]\namount='b'\n[amounts]\ncurrency='CNY'", "job_id or request_id is needed"),
        ("provider = 'tokenops'\n[columns]\njob_id='a'\namount='b'", "an amount without a currency is none"),
        ("provider = 'tokenops'\n[columns]\njob_id='a'\namount='b'\namuont='c'", "amuont"),
        ("provider = 'tokenops'\n[columns]\njob_id='a'\namount='b'\n[times]\nzone='Mars/Olympus'", "IANA name"),
        ("nothing.toml", "cannot be read"),
        ("", "no provider documents the format"),
    ],
)
async def test_a_wrong_mapping_is_refused_in_a_sentence(text: str, problem: str, ledger: Ledger) -> None:
    with pytest.raises(errors.InvalidRequest, match=problem):
        await bill_of(ledger, [], [row(ONE)], mapping=text)


async def test_a_time_without_a_zone_is_not_guessed(ledger: Ledger) -> None:
    without = PLAIN.replace('zone = "UTC"', "")
    rows = [row(ONE, time="2026-11-05 00:00:00"), row(TWO, time="2026-11-05T00:00:00+08:00")]
    report = await bill_of(ledger, [ONE, TWO], rows, mapping=without)
    assert kinds(report) == {"matched": 1, "unreadable": 1}
    assert "has no time zone: give times.zone" in report.of_kind("unreadable")[0].reason


async def test_a_bill_without_the_mapped_columns_names_those_that_it_has(ledger: Ledger) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"no column 'amount'; its columns are .*betrag"):
        await bill_of(ledger, [], [{"task_id": "1", "betrag": "1"}])


async def test_the_claim_never_replaces_the_bill(ledger: Ledger, tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    bill.write_text(json.dumps(row(ONE)))
    with pytest.raises(errors.InvalidRequest, match="is the bill itself"):
        await compare_bill(BillSpec(tables=[str(bill)], mapping=PLAIN, claim=str(bill)))
    assert json.loads(bill.read_text()) == row(ONE)


async def test_comparing_a_bill_changes_nothing_in_the_ledger(thousand: Ledger, made: Month, ledger_url: str) -> None:
    before = {job.key: job for job in await thousand.jobs()}
    await compare_bill(BillSpec(tables=[made.rows], mapping=MAPPING, **WHOLE_MONTH))
    async with open_ledger(ledger_url) as again:
        assert {job.key: job for job in await again.jobs()} == before


# --- what the documents show ---


def test_each_provider_has_an_example_of_a_mapping_that_can_be_read() -> None:
    blocks = [block.text for block in blocks_of(ROOT / "docs" / "spend.md") if block.language == "toml"]
    assert [read_mapping(text).provider for text in blocks] == ["tokenops", "jenius", "hidream"]


async def test_points_are_compared_by_what_one_costs_and_spent_ones_are_negative(ledger: Ledger) -> None:
    mapping = next(block.text for block in blocks_of(ROOT / "docs" / "spend.md") if 'provider = "jenius"' in block.text)
    poster = job_at(0, BEGIN + 4 * DAY, provider="jenius", account="jenius:0a1b2c3d@https://www.jenius.cn")
    rows = [{"uuid": poster.provider_job_id, "points": -14, "created_at": "2026-11-05 10:00:00"}]
    report = await bill_of(ledger, [poster], rows, mapping=mapping)
    assert kinds(report) == {"matched": 1}
    assert report.billed == {"CNY": Decimal("1.4")}

"""A compared bill on its run's page: the sums, and a table of what a person must check."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from prefect_genmedia._core.bills import KIND_WORDS, BillFinding
from prefect_genmedia._core.caps import shown_amount
from prefect_genmedia._prefect.markdown import cell, code, escape
from prefect_genmedia.billing.report import BillReport
from prefect_genmedia.text import counted

KEY = "genmedia-bill"

MOST_FINDINGS = 500
"""Findings in the table on the page; the claim has all of them."""

ESTIMATE = "What a job was expected to cost is an estimate by the price table: a difference is a question, not a proof."


def notes(report: BillReport) -> Iterator[str]:
    """What must be said beside the sums, in sentences.

    Args:
        report: the report.
    """
    if report.since is None or report.until is None or report.since >= report.until:
        yield (
            "The bill has no times, and since and until were not given: jobs that were delivered and not billed "
            "were not looked for."
        )
    elif report.edge_jobs:
        yield (
            f"{counted(report.edge_jobs, 'delivered job')} began or ended outside of the bill's time, and may be on "
            "another bill."
        )
    if unreadable := len(report.of_kind("unreadable")):
        yield f"{counted(unreadable, 'row')} cannot be read, and no sum has {'it' if unreadable == 1 else 'them'}."
    if len(report.accounts) > 1:
        yield f"The bill is about {len(report.accounts)} accounts: {', '.join(report.accounts)}."
    yield ESTIMATE


async def publish_bill(report: BillReport) -> None:
    """Show a compared bill on the run's page.

    Args:
        report: the report.
    """
    lines = [f"# Bill of {escape(report.provider)}", "", f"{counted(report.rows, 'row')} of {_files(report)}", ""]
    if report.since and report.until:
        lines += [f"From {report.since} until {report.until}", ""]
    lines += ["| found | count | billed | expected (estimate) | to claim |", "| --- | --: | --: | --: | --: |"]
    for each in report.sums:
        amounts = (_amount(getattr(each, name), each.currency) for name in ("billed", "expected", "claim"))
        lines.append(f"| {each.words} | {each.findings} | {' | '.join(amounts)} |")
    for currency, billed in report.billed.items():
        claim = report.claims.get(currency)
        to_claim = f"; to claim: **{_amount(claim, currency)}**" if claim else ""
        lines += ["", f"Billed in all: **{_amount(billed, currency)}**{to_claim}"]
    lines += [line for note in notes(report) for line in ("", escape(note))]
    if report.claim:
        lines += ["", f"The claim: {code(report.claim)}"]
    await acreate_markdown_artifact(key=KEY, markdown="\n".join(lines) + "\n", description="Bill against the ledger")
    rows = [_row(finding) for finding in report.findings[:MOST_FINDINGS]]
    left = len(report.findings) - len(rows)
    await acreate_table_artifact(
        key=f"{KEY}-findings",
        table=rows or [{"found": "every line is as expected"}],
        description=f"{counted(len(report.findings), 'finding')}{f'; {left} more are in the claim' if left else ''}",
    )


def _files(report: BillReport) -> str:
    return ", ".join(map(code, report.files))


def _amount(amount: Decimal | None, currency: str) -> str:
    return "" if amount is None or not currency else escape(shown_amount(amount, currency))


def _row(finding: BillFinding) -> dict[str, object]:
    return {
        "found": KIND_WORDS[finding.kind],
        "billed": _amount(finding.billed, finding.currency),
        "expected": _amount(finding.expected, finding.currency),
        "claim": _amount(finding.claim, finding.currency),
        "row": ", ".join(map(str, finding.rows)),
        "at the provider": cell(finding.provider_job_id),
        "job": cell(finding.job_key),
        "why": cell(finding.reason),
        "the provider's words": cell(finding.provider_words or finding.bill_words),
    }

"""`prefect-genmedia bill import`: a provider's bill against the ledger, and the claim that follows from it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_genmedia._core.bills import KIND_WORDS, BillFinding
from prefect_genmedia._core.caps import shown_amount
from prefect_genmedia.billing import BillReport, BillSpec, compare_bill
from prefect_genmedia.billing.show import notes
from prefect_genmedia.cli.console import Switch, command_console
from prefect_genmedia.cli.guard import ending_in_sentences
from prefect_genmedia.cli.ledger import print_ledger_url
from prefect_genmedia.text import counted, escaped, json_text

app = App(name="bill")

SHOWN_FINDINGS = 20
"""Findings that are printed; the claim and `--json` have all of them."""


@app.command(name="import")
def import_bill(
    files: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    mapping: str,
    account: str = "",
    since: str = "",
    until: str = "",
    claim: str = "",
    encoding: str = "",
    as_json: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """Compare a provider's bill with the ledger, and write the claim. No job is changed, and nothing is stored.

    For example:
    ```
    prefect-genmedia bill import november.csv --mapping columns.toml --claim claim.csv
    ```
    Next: send the claim to the provider; each line has the ids, times and words that prove it.

    Parameters
    ----------
    files
        The bill's tables: paths or fsspec URLs ending in .csv, .tsv, .jsonl, .parquet or .xlsx. Several are one bill.
    mapping
        Which columns mean what: path or fsspec URL of a TOML file.
    account
        Id or name of the account that the bill is about; by default those that have a job on it.
    since
        From when on the bill should have every job, such as 2026-11-01, in the mapping's time zone; by default from its
        first line on.
    until
        Until when, such as 2026-12-01; by default until its last line.
    claim
        Table of findings to write: .csv, .json, .jsonl, .tsv or .xlsx.
    encoding
        Encoding of a text table, such as gb18030; detected by default.
    as_json
        Print JSON: the sums, and every finding.
    """
    spec = BillSpec(
        tables=files, mapping=mapping, account=account, since=since, until=until, claim=claim, encoding=encoding
    )
    with ending_in_sentences():
        report = asyncio.run(compare_bill(spec))
    if as_json:
        print(json_text(report.model_dump(mode="json"), indent=2))  # noqa: T201 - for programs
        return
    _print(command_console(), report)
    print_ledger_url()


def _print(console: Console, report: BillReport) -> None:
    period = f", from {report.since} until {report.until}" if report.since and report.until else ""
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    head = f"Bill of {report.provider}: {counted(report.rows, 'row')}{skipped}{period}."
    console.print(head, markup=False, highlight=False)
    console.print()
    console.print(_sums(report))
    for currency, billed in report.billed.items():
        claim = report.claims.get(currency, Decimal(0))
        said = f"Billed in all: {shown_amount(billed, currency)}. To claim: {shown_amount(claim, currency)}."
        console.print(f"\n{said}", markup=False, highlight=False)
    if report.findings:
        console.print()
        for finding in report.findings[:SHOWN_FINDINGS]:
            console.print(_sentence(finding), highlight=False)
        if len(report.findings) > SHOWN_FINDINGS:
            left = len(report.findings) - SHOWN_FINDINGS
            where = "they are in the claim" if report.claim else "see all of them with --claim FILE or --json"
            console.print(f"… and {counted(left, 'more finding')}: {where}.", highlight=False)
    console.print()
    for note in notes(report):
        console.print(note, markup=False, highlight=False)
    if report.claim:
        console.print(f"Wrote the claim to {report.claim}.", markup=False, highlight=False, soft_wrap=True)


def _sums(report: BillReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("found", overflow="fold", ratio=1)
    for name in ("count", "billed", "estimated", "to claim"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in report.sums:
        amounts = [_number(getattr(each, name), each.currency) for name in ("billed", "expected", "claim")]
        table.add_row(each.words, str(each.findings), *amounts, Text(escaped(each.currency)))
    return table


def _number(amount: Decimal, currency: str) -> str:
    return shown_amount(amount, currency).rpartition(" ")[0] if currency else ""


def _sentence(finding: BillFinding) -> Text:
    """A finding on one or two lines: what, how much, which row and which job."""
    amount = finding.billed if finding.billed is not None else finding.expected
    estimate = " (estimate)" if finding.billed is None else ""
    parts = [
        f"row {', '.join(map(str, finding.rows))}" if finding.rows else "",
        f"{shown_amount(amount, finding.currency)}{estimate}" if amount is not None and finding.currency else "",
        escaped(finding.provider_job_id),
        f"job {finding.job_key}" if finding.job_key else "",
        finding.reason,
        finding.provider_words,
    ]
    text = Text(f"{KIND_WORDS[finding.kind]}: ", "bold")
    return text.append(" · ".join(filter(None, parts)), "default")

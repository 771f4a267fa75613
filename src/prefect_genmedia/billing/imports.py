"""Reading a bill and comparing it with the ledger. Nothing is sent, paid or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from anyio import to_thread

from prefect_genmedia._core.account_admin import find_account
from prefect_genmedia._core.billed_jobs import BilledJob, jobs_between, jobs_with_ids
from prefect_genmedia._core.bills import KIND_WORDS, BillLine, BillScope, KnownJobs, compare, edge_jobs
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.spend import account_names
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.table import name_of, read_rows
from prefect_genmedia.billing.amounts import seconds_of
from prefect_genmedia.billing.lines import LineReader, ReadLines
from prefect_genmedia.billing.mapping import BillMapping, read_mapping, refusal
from prefect_genmedia.billing.report import BillReport, sums_of, write_claim
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import iso_time

MARGIN_SECONDS = timedelta(days=2).total_seconds()
"""How long before or after its time on the bill a job may have been sent that is found by an id of its request."""


@dataclass(frozen=True, kw_only=True)
class BillSpec:
    """A bill, and how it is compared.

    Args:
        tables: its tables: paths or fsspec URLs, or rows. Several are one bill.
        mapping: which columns mean what; see `read_mapping`.
        account: id or name of the account that it is about; empty for those that have a job on it.
        since: from when on it should have every job, in ISO 8601, in the mapping's time zone; by default from its
            first line on.
        until: until when; by default until its last line.
        encoding: encoding of a text table; empty to detect it.
        claim: path or URL of the claim to write; empty for none.
    """

    tables: Sequence[Rows]
    mapping: str | Mapping[str, Any] | BillMapping
    account: str = ""
    since: str = ""
    until: str = ""
    encoding: str = ""
    claim: str = ""


async def compare_bill(spec: BillSpec) -> BillReport:
    """Compare a provider's bill with the ledger of the settings.

    Args:
        spec: the bill.

    Raises:
        InvalidRequest: the bill or the mapping cannot be read, or there is no such account.
        StorageError: the claim cannot be written.
    """
    if spec.claim and anywhere(spec.claim) in {anywhere(each) for each in spec.tables if isinstance(each, str)}:
        raise refusal("is the bill itself", "claim")
    mapping = await to_thread.run_sync(read_mapping, spec.mapping)
    read, files = await _read(spec, mapping)
    since, until = _period(spec, mapping, read.lines)
    async with open_ledger(current_settings().ledger) as ledger:
        accounts = await _accounts(ledger, spec.account, mapping.provider) if spec.account else frozenset()
        scope = BillScope(
            provider=mapping.provider,
            since=since,
            until=until,
            accounts=accounts,
            tolerance=mapping.amounts.tolerance,
        )
        known = KnownJobs(await _jobs(ledger, scope, read.lines))
    order = list(KIND_WORDS)
    findings = [*compare(read.lines, known, scope), *read.unreadable]
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.file, finding.rows))
    report = BillReport(
        provider=mapping.provider,
        files=files,
        rows=len(read.lines) + len(read.unreadable),
        skipped=read.skipped,
        since=iso_time(since),
        until=iso_time(until),
        accounts=sorted(accounts or {finding.account for finding in findings if finding.account}),
        edge_jobs=edge_jobs(known, scope),
        sums=sums_of(findings),
        findings=[finding for finding in findings if finding.kind != "matched"],
    )
    if not spec.claim:
        return report
    return report.model_copy(update={"claim": await write_claim(report, spec.claim)})


async def _read(spec: BillSpec, mapping: BillMapping) -> tuple[ReadLines, list[str]]:
    found, files = ReadLines(), []
    if not spec.tables:
        raise refusal("is needed", "file")
    for number, table in enumerate(spec.tables, 1):
        rows = list((await read_rows(table, spec.encoding or None)).rows)
        file = name_of(table) if isinstance(table, str) else f"table {number}"
        files.append(file)
        read = LineReader(mapping, file, rows).read()
        found.lines += read.lines
        found.unreadable += read.unreadable
        found.skipped += read.skipped
    return found, files


def _period(spec: BillSpec, mapping: BillMapping, lines: Sequence[BillLine]) -> tuple[float | None, float | None]:
    times = [line.at for line in lines if line.at is not None]
    zone = mapping.times.zone or "UTC"
    ends = [min(times, default=None), max(times, default=None)]
    for place, (name, typed) in enumerate((("since", spec.since), ("until", spec.until))):
        if typed:
            problem = ""
            try:
                ends[place] = seconds_of(typed, "", zone)
            except ValueError as error:
                problem = str(error)
            if problem:
                raise refusal(problem, name)
    since, until = ends
    if since is not None and until is not None and since >= until and (spec.since or spec.until):
        raise refusal("is not before until", "since")
    return since, until


async def _accounts(ledger: Ledger, account: str, provider: str) -> frozenset[str]:
    record = await find_account(ledger, account)
    if record.provider != provider:
        raise refusal(f"{account!r} is an account of {record.provider}, and the bill is one of {provider}", "account")
    names = await ledger.transact(account_names)
    return frozenset({names[record.id]})


async def _jobs(ledger: Ledger, scope: BillScope, lines: Sequence[BillLine]) -> list[BilledJob]:
    """The jobs that the lines name, and those of the bill's time."""
    found = await jobs_with_ids(ledger, scope.provider, (line.job_id for line in lines))
    if scope.since is not None and scope.until is not None:
        return found + await jobs_between(
            ledger, scope.provider, scope.since - MARGIN_SECONDS, scope.until + MARGIN_SECONDS
        )
    if any(line.request_id for line in lines):
        return found + await jobs_between(ledger, scope.provider, None, None)
    return found

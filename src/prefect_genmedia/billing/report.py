"""What came of comparing a bill with the ledger: sums by what was found, the findings, and the claim as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia._core.bills import KIND_WORDS, BillFinding, FindingKind
from prefect_genmedia._core.caps import shown_amount
from prefect_genmedia._media.folder import Storage
from prefect_genmedia.batch.sql_table import SqlDatabase
from prefect_genmedia.batch.table import TableFile, storage_of
from prefect_genmedia.batch.text_table import Dialect
from prefect_genmedia.billing.mapping import refusal

CLAIM_COLUMNS = tuple(BillFinding.model_fields)


class BillSum(BaseModel):
    """The findings of one kind in one currency, together."""

    model_config = ConfigDict(frozen=True)

    kind: FindingKind = Field(description="What was found.")
    currency: str = Field(description="The currency; empty for lines that cannot be read.")
    findings: int = Field(default=0, description="How many.")
    rows: int = Field(default=0, description="Rows of the bill in them.")
    billed: Decimal = Field(default=Decimal(0), description="What the rows charge.")
    expected: Decimal = Field(default=Decimal(0), description="What the jobs were expected to cost: an estimate.")
    claim: Decimal = Field(default=Decimal(0), description="What may be claimed back.")

    @property
    def words(self) -> str:
        """The kind for people."""
        return KIND_WORDS[self.kind]


class BillReport(BaseModel):
    """A bill, compared with the ledger. What jobs were expected to cost is an estimate by the price table."""

    model_config = ConfigDict(frozen=True)

    provider: str = Field(description="Whose bill it is.")
    files: list[str] = Field(description="Names of its tables.")
    rows: int = Field(description="Rows of the tables, without skipped ones.")
    skipped: int = Field(default=0, description="Rows that the mapping leaves out.")
    since: str | None = Field(default=None, description="From when on it should have every job, in ISO 8601.")
    until: str | None = Field(default=None, description="Until when.")
    accounts: list[str] = Field(default_factory=list, description="The accounts that it is about.")
    edge_jobs: int = Field(
        default=0, description="Delivered jobs that began or ended outside of that time: not judged as not billed."
    )
    sums: list[BillSum] = Field(description="Sums by kind and currency; billed ones add up to the bill.")
    findings: list[BillFinding] = Field(description="Everything but what matched.")
    claim: str | None = Field(default=None, description="Path or URL of the claim that was written.")

    @property
    def billed(self) -> dict[str, Decimal]:
        """What the bill charges, by currency."""
        return _by_currency(self.sums, "billed")

    @property
    def claims(self) -> dict[str, Decimal]:
        """What may be claimed back, by currency."""
        return {name: amount for name, amount in _by_currency(self.sums, "claim").items() if amount}

    def of_kind(self, kind: FindingKind) -> list[BillFinding]:
        """The findings of a kind; none of what matched.

        Args:
            kind: which.
        """
        return [finding for finding in self.findings if finding.kind == kind]


def _by_currency(sums: Sequence[BillSum], name: str) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for each in sums:
        if each.currency:
            found[each.currency] = found.get(each.currency, Decimal(0)) + getattr(each, name)
    return found


def sums_of(findings: Sequence[BillFinding]) -> list[BillSum]:
    """The findings together, by kind and currency, in the order of `KIND_WORDS`.

    Args:
        findings: all of them, also what matched.
    """
    found: dict[tuple[FindingKind, str], dict[str, Any]] = {}
    for each in findings:
        sums = found.setdefault(
            (each.kind, each.currency), dict.fromkeys(("findings", "rows"), 0) | dict.fromkeys(_AMOUNTS, Decimal(0))
        )
        sums["findings"] += 1
        sums["rows"] += len(each.rows)
        for name in _AMOUNTS:
            sums[name] += getattr(each, name) or Decimal(0)
    order = list(KIND_WORDS)
    listed = sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return [BillSum(kind=kind, currency=currency, **sums) for (kind, currency), sums in listed]


_AMOUNTS = ("billed", "expected", "claim")


async def write_claim(report: BillReport, location: str) -> str:
    """Write the findings as a table: a line each, with everything that proves it. Returns its path or URL.

    Args:
        report: the report.
        location: path or URL that ends in .csv, .tsv, .json, .jsonl, .parquet or .xlsx.

    Raises:
        InvalidRequest: the ending is not known.
        StorageError: it cannot be written.
    """
    rows = [claim_row(finding, report.provider) for finding in report.findings]
    columns = ("provider", *CLAIM_COLUMNS)
    storage = await storage_of(location)
    if isinstance(storage, SqlDatabase):
        raise refusal("is written to a file, not to a database", "claim")
    if location.lower().endswith(".json"):
        file: TableFile = _JsonFile(location, columns, storage)
    else:
        file = TableFile(location, columns, storage, _FOR_SPREADSHEETS)
    return await to_thread.run_sync(file.write, rows)


_FOR_SPREADSHEETS = Dialect("utf-8-sig", spreadsheet=True)
"""Whoever gets a claim opens it with a spreadsheet: Chinese words stay words, and long ids stay whole."""


class _JsonFile(TableFile):
    """A JSON array, which tables do not have."""

    def __init__(self, location: str, columns: Sequence[str], storage: Storage | None) -> None:
        super().__init__(f"{location}l", columns, storage)  # as JSON lines
        self.name = self.name.removesuffix("l")

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        return f"{json.dumps(list(rows), indent=2)}\n".encode()


def claim_row(finding: BillFinding, provider: str) -> dict[str, Any]:
    """A finding as a row: amounts are decimal text, so that no program rounds them.

    Args:
        finding: the finding.
        provider: whose bill it is.
    """
    row: dict[str, Any] = {"provider": provider, **finding.model_dump(mode="json")}
    for name in _AMOUNTS:
        amount = getattr(finding, name)
        row[name] = None if amount is None else shown_amount(amount, "").strip()
    row["rows"] = ", ".join(map(str, finding.rows))
    row["request_ids"] = ", ".join(finding.request_ids)
    return row

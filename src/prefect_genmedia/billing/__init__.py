"""What was spent, and bills of providers compared with the ledger: what differs, and can be claimed, with evidence."""

from prefect_genmedia._core.bills import BillFinding
from prefect_genmedia._core.spend import SpendLine
from prefect_genmedia.billing.imports import BillSpec, compare_bill
from prefect_genmedia.billing.mapping import BillMapping, read_mapping
from prefect_genmedia.billing.report import BillReport, BillSum, write_claim
from prefect_genmedia.billing.spend import spend

__all__ = [
    "BillFinding",
    "BillMapping",
    "BillReport",
    "BillSpec",
    "BillSum",
    "SpendLine",
    "compare_bill",
    "read_mapping",
    "spend",
    "write_claim",
]

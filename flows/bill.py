"""A provider's bill against the ledger: read → compare → claim. It sends and pays nothing, and changes no job."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from prefect_genmedia._prefect.forms import run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia.batch.frames import Rows
from prefect_genmedia.batch.table import name_of
from prefect_genmedia.billing import BillReport, BillSpec, compare_bill
from prefect_genmedia.billing.show import publish_bill


def _run_name() -> str:
    file = flow_run.parameters["file"]
    return f"bill · {name_of(file)}" if isinstance(file, str) else "bill"


@flow(name="import-bill", flow_run_name=RunName(_run_name))
@run_form(file="Bill", mapping="Mapping", since="Since", until="Until", claim="Write the claim to")
async def import_bill(
    file: Rows,
    mapping: str,
    account: str = "",
    since: str = "",
    until: str = "",
    claim: str = "",
    encoding: str = "",
) -> BillReport:
    """Compare a provider's bill with the ledger: what matches, what does not, and what can be claimed.

    Args:
        file: The bill: a path, fsspec URL or block://SLUG/NAME/path ending in .csv, .tsv, .jsonl, .parquet or .xlsx; or
            its rows.
        mapping: Which columns mean what: a path or fsspec URL of a TOML file, or the TOML itself.
        account: Id or name of the account that the bill is about; by default those that have a job on it.
        since: From when on the bill should have every job, such as 2026-11-01; by default from its first line on.
        until: Until when, such as 2026-12-01; by default until its last line.
        claim: Table of findings to write, with all evidence (.csv, .json, .jsonl, .xlsx); none by default.
        encoding: Encoding of a text table, such as gb18030; detected by default.

    Returns:
        The sums and findings; they are on the run's page, too.

    Raises:
        InvalidRequest: the bill or the mapping cannot be read, or there is no such account.
    """
    report = await compare_bill(
        BillSpec(
            tables=[file],
            mapping=mapping,
            account=account,
            since=since,
            until=until,
            claim=claim,
            encoding=encoding,
        )
    )
    await publish_bill(report)
    return report

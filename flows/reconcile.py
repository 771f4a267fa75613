"""What was paid for and left behind is fetched before it expires; made for a schedule of some minutes.

`prefect-genmedia reconcile --every 10m` does the same in a process of its own.
"""

from __future__ import annotations

from prefect import flow

from prefect_genmedia._prefect.forms import run_form
from prefect_genmedia._prefect.run_names import RunName
from prefect_genmedia.tasks import reconcile_ledger


@flow(name="reconcile-jobs", flow_run_name=RunName(lambda: "reconcile"))
@run_form()
async def reconcile_jobs(
    credentials: list[str] = ["default"],  # noqa: B006 - nothing writes into it
) -> int:
    """Deliver the jobs whose runs crashed, timed out or were cancelled, and list those that need a person.

    While another round of the same credentials is at work, this one does nothing; the ledger has the lease.

    Args:
        credentials: Names of credentials Blocks, by default those named `default`; a job is taken up with the one of
            its account.

    Returns:
        How many jobs need a person; the table on the run's page names them, and the command that settles each.
    """
    findings = await reconcile_ledger(credentials=credentials or ["default"])
    return sum(bool(finding.next_step) for finding in findings)

"""`prefect-genmedia jobs prune`: old jobs lose their texts, and keep what stops a second payment."""

from __future__ import annotations

from prefect_genmedia._core.prune import PruneFilter
from prefect_genmedia._core.prune import prune as prune_jobs
from prefect_genmedia.cli.console import Switch, command_console
from prefect_genmedia.cli.guard import ending_in_sentences
from prefect_genmedia.cli.ledger import print_ledger_url, run_on_ledger


def prune(
    *,
    older_than: str = "",
    label: str = "",
    idempotency_key: str = "",
    dry_run: Switch = False,
    no_vacuum: Switch = False,
) -> None:
    """Drop the request and all texts of final jobs. It cannot be undone; nothing is paid again for it.

    Identity, state, account, provider id, cost, and the place and digest of the file stay. Jobs that are not final stay
    as they are. Files and their sidecars stay, and so do backups and what Prefect stores about runs.

    For example:
    ```
    prefect-genmedia jobs prune --older-than 1y --dry-run
    prefect-genmedia jobs prune --label "anna"
    ```
    Next: `prefect-genmedia ledger check`.

    Parameters
    ----------
    older_than
        Only jobs that have not changed for so long: 90d, 12w or 1y.
    label
        Only jobs whose label contains this.
    idempotency_key
        Only jobs of this key.
    dry_run
        Only count them.
    no_vacuum
        Do not rewrite the database's file afterwards: dropped texts may still be in it.
    """
    with ending_in_sentences():
        wanted = PruneFilter.read(older_than, label, idempotency_key)
    report = run_on_ledger(lambda ledger: prune_jobs(ledger, wanted, dry_run=dry_run, vacuum=not no_vacuum))
    console = command_console()
    for line in report.words(dry_run):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_ledger_url()

"""`prefect-genmedia accounts …`: who pays, with which keys, and whether anything may be sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Column, Table

from prefect_genmedia._core.account_admin import (
    account_budget,
    forget_caps,
    list_accounts,
    merge_accounts,
    rename_account,
)
from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia.cli.console import Switch, command_console
from prefect_genmedia.cli.ledger import run_on_ledger
from prefect_genmedia.prices import price_table
from prefect_genmedia.providers.plugin import list_prices
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import json_text

app = App(name="accounts")


@app.command(name="list")
def list_all(*, as_json: Annotated[Switch, Parameter(name="--json")] = False) -> None:
    """List the accounts of the ledger, the oldest first.

    For example:
    ```
    prefect-genmedia accounts list
    ```

    Parameters
    ----------
    as_json
        Print JSON, one array.
    """
    found = run_on_ledger(list_accounts)
    if as_json:
        listed = [{**asdict(each.record), "in_flight": each.in_flight} for each in found]
        print(json_text(listed, indent=2))  # noqa: T201 - for programs, so no wrapping or colour
        return
    # At 80 columns, too, an id and a URL can be copied: long values are folded, and not cut.
    folded = (Column(name, overflow="fold") for name in ("names", "provider", "base URL", "keys"))
    numbers = ("identity tokens", "in flight", "")
    table = Table(Column("id", no_wrap=True), *folded, *numbers, box=None, padding=(0, 1, 0, 0))
    for each in found:
        record = each.record
        paused = f"[bold red]paused[/] {escape(record.pause_reason or '')}" if record.paused_at is not None else ""
        table.add_row(
            escape(record.id),
            escape(", ".join(record.names)),
            escape(record.provider),
            escape(record.base_url),
            escape(", ".join(record.fingerprints)),
            str(len(record.tokens)),
            str(each.in_flight),
            paused.strip(),
        )
    command_console().print(table if found else "The ledger has no accounts yet.")


@app.command
def rename(account: str, name: str, /) -> None:
    """Give an account another name; a Block with the old name may then be another account.

    For example:
    ```
    prefect-genmedia accounts rename default customer-a
    ```

    Parameters
    ----------
    account
        The name to replace, or the account's id.
    name
        The new name.
    """
    _print_account(run_on_ledger(lambda ledger: rename_account(ledger, account, name)), "is named so now")


@app.command
def merge(into: str, other: str, /) -> None:
    """Make one account of two that are one at the provider: names, keys and paid jobs are shared from now on.

    For example:
    ```
    prefect-genmedia accounts merge 3f2a90c1 77b1e0d4
    ```
    It cannot be undone. No job is changed.

    Parameters
    ----------
    into
        The account that stays: its id or one of its names.
    other
        The account that is joined to it.
    """
    _print_account(run_on_ledger(lambda ledger: merge_accounts(ledger, into, other)), "has both now")


@app.command
def pause(account: str, /, *, reason: str = "") -> None:
    """Send nothing more for an account. Waiting and delivery of what is paid go on.

    For example:
    ```
    prefect-genmedia accounts pause default --reason "the key has leaked"
    ```
    Next: `prefect-genmedia accounts resume ACCOUNT`.

    Parameters
    ----------
    account
        Its id or one of its names.
    reason
        Why; errors of runs say it.
    """
    from prefect_genmedia._prefect.session import pause as pause_with_event

    _print_account(
        run_on_ledger(lambda ledger: pause_with_event(ledger, account, reason)), "is paused: nothing is sent for it"
    )


@app.command
def resume(account: str, /) -> None:
    """Let a paused account send again.

    For example:
    ```
    prefect-genmedia accounts resume default
    ```
    Next: run again what was refused meanwhile.

    Parameters
    ----------
    account
        Its id or one of its names.
    """
    from prefect_genmedia._prefect.session import resume as resume_with_event

    _print_account(run_on_ledger(lambda ledger: resume_with_event(ledger, account)), "may send again")


@app.command
def budget(account: str, /, *, as_json: Annotated[Switch, Parameter(name="--json")] = False) -> None:
    """Show the caps of an account, and what is spent and reserved of each in its present period.

    For example:
    ```
    prefect-genmedia accounts budget default
    ```

    Parameters
    ----------
    account
        Its id or one of its names.
    as_json
        Print JSON, one array.
    """
    prices = price_table(list_prices(), current_settings().prices)
    record, caps = run_on_ledger(lambda ledger: account_budget(ledger, account, prices))
    if as_json:
        print(json_text([dict(each) for each in caps], indent=2))  # noqa: T201 - for programs
        return
    columns = ("cap", "Block", "limit", "spent", "reserved", "unit", "period ends")
    table = Table(*columns)
    for each in caps:
        amounts = (f"{each[name]:.10g}" for name in ("limit", "spent", "reserved"))
        table.add_row(
            str(each["cap"]), escape(str(each["block"])), *amounts, str(each["unit"]), str(each["period_ends"])
        )
    command_console().print(table if caps else f"Account {escape(record.shown)} has no caps.", soft_wrap=True)


@app.command
def uncap(account: str, block: str, /) -> None:
    """Remove the caps that a deleted Block gave an account.

    For example:
    ```
    prefect-genmedia accounts uncap default old-block
    ```
    They come back if a Block of that name with caps is used.

    Parameters
    ----------
    account
        Its id or one of its names.
    block
        The name under which the Block was saved.
    """
    _print_account(
        run_on_ledger(lambda ledger: forget_caps(ledger, account, block)), f"is no longer capped by the Block {block}"
    )


def _print_account(record: AccountRecord, what: str) -> None:
    command_console().print(f"Account {escape(record.shown)} {escape(what)}.", soft_wrap=True)

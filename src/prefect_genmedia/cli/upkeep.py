"""`prefect-genmedia ledger …`: backing up, restoring, checking and vacuuming the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from rich.markup import escape

from prefect_genmedia.cli.console import Switch, command_console, print_facts
from prefect_genmedia.cli.guard import ending_in_sentences
from prefect_genmedia.cli.ledger import name_ledger, print_ledger_url
from prefect_genmedia.text import counted, iso_time, json_text

Answer = TypeVar("Answer")

app = App(name="ledger")

_SHOWN = 50
"""How many problems are printed."""


@app.command
def backup(file: Path, /) -> None:
    """Copy the ledger to a new file with mode 0600. Workers go on meanwhile.

    The file is a SQLite ledger, whichever database it was made from. It holds prompts, as the ledger does.

    For example:
    ```
    prefect-genmedia ledger backup ledger-2026-05-01.db
    ```
    Next: `prefect-genmedia ledger check --backup FILE`, then keep it on another disk.

    Parameters
    ----------
    file
        The copy. A file that exists is never overwritten.
    """
    from prefect_genmedia.housekeeping import back_up_ledger  # Prefect takes a second to import

    report = _run(back_up_ledger(file))
    newest = iso_time(report.newest_at)
    facts = {"Backup": report.file, "Jobs": str(report.jobs), "Newest": f"changed {newest}" if newest else ""}
    print_facts(command_console(), facts)
    print_ledger_url()


@app.command
def restore(file: Path, /, *, force: Switch = False) -> None:
    """Replace the ledger's content by a backup's. Stop the workers first.

    It is refused where the ledger has jobs that the backup does not have, or that have changed since: they would be
    forgotten, and paid again. A missing, empty or damaged SQLite ledger is replaced by the backup's file.

    For example:
    ```
    prefect-genmedia ledger restore ledger-2026-05-01.db
    ```
    Next: compare what was sent after the backup with the provider's console, and adopt it, before you run anything.

    Parameters
    ----------
    file
        A file that `prefect-genmedia ledger backup` has made.
    force
        Forget jobs that the backup does not have. The ledger's former content is kept in a file beside the backup.
    """
    from prefect_genmedia.housekeeping import restore_ledger

    report = _run(restore_ledger(file, force=force))
    console = command_console()
    newest = iso_time(report.newest_at)
    print_facts(
        console,
        {
            "Restored": f"{counted(report.jobs, 'job')} to {name_ledger()}",
            "Newest": f"changed {newest}" if newest else "",
            "Forgotten": f"{counted(report.lost, 'job')}, and news of {report.older}" if report.kept else "",
            "Kept": report.kept or "",
        },
    )
    lines = []
    if report.unknown:
        lines.append(
            f"Unknown now, since it may have been sent after the backup: {counted(report.unknown, 'job')}. "
            "See `prefect-genmedia jobs list --state unknown`."
        )
    lines.append(
        f"What was sent after {newest or 'the backup'} is not in this ledger, and would be paid again. Look into the "
        "provider's console before you run anything."
    )
    for line in lines:
        console.print(f"[yellow]{escape(line)}[/]", highlight=False, soft_wrap=True)


@app.command
def check(
    *, files: Switch = False, backup: Path | None = None, as_json: Annotated[Switch, Parameter(name="--json")] = False
) -> None:
    """Check the database, every row, accounts and budgets. Ends with status 1 if something is wrong.

    For example:
    ```
    prefect-genmedia ledger check --files
    prefect-genmedia ledger check --backup ledger-2026-05-01.db
    ```
    Next: `prefect-genmedia jobs show KEY` of a job that is named.

    Parameters
    ----------
    files
        Read every delivered file, and compare its digest.
    backup
        Check this backup instead of the ledger; it is not changed.
    as_json
        Print JSON: numbers and problems.
    """
    from prefect_genmedia.housekeeping import check_backup, check_ledger

    report = _run(check_ledger(files=files) if backup is None else check_backup(backup, files=files))
    if as_json:
        print(json_text({"jobs": report.jobs, **asdict(report)}, indent=2))  # noqa: T201 - for programs
    else:
        states = ", ".join(f"{number} {state}" for state, number in sorted(report.states.items()))
        facts = {
            "Ledger": str(backup or name_ledger()),
            "Jobs": f"{report.jobs}: {states}" if report.jobs else "0",
            "Pruned": str(report.pruned) if report.pruned else "",
            "Files": f"{report.files} read" if files else "not read (--files)",
            "Problems": str(len(report.problems)),
        }
        console = command_console()
        print_facts(console, facts)
        for each in report.problems[:_SHOWN]:
            console.print(f"[red]{escape(each.about)}[/]  {escape(each.problem)}", highlight=False, soft_wrap=True)
        if len(report.problems) > _SHOWN:
            console.print(f"… and {len(report.problems) - _SHOWN} more; --json has all of them.", highlight=False)
    if report.problems:
        raise SystemExit(1)


@app.command
def vacuum() -> None:
    """Give the room of pruned jobs back; on SQLite the file is written anew, and nothing of dropped texts stays in it.

    For example:
    ```
    prefect-genmedia ledger vacuum
    ```
    """
    from prefect_genmedia.housekeeping import vacuum_ledger

    size = _run(vacuum_ledger())
    command_console().print(f"The ledger takes {size:,} bytes.", highlight=False)
    print_ledger_url()


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    with ending_in_sentences():
        return asyncio.run(work)

"""`prefect-genmedia review …`: the batches that wait for a review, and a file of decisions."""

from __future__ import annotations

import getpass
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.reviews import ReviewQuestion, waiting
from prefect_genmedia.cli.console import Switch, command_console, print_facts
from prefect_genmedia.cli.ledger import print_ledger_url, run_on_ledger, span
from prefect_genmedia.text import counted, iso_time, json_text

app = App(name="review")


@app.command
def apply(file: Path, /, *, batch: str | None = None, reviewer: str | None = None) -> None:
    """Record the decisions of a file that a report page has exported; the run that waits for them goes on.

    Nothing is recorded if a line is invalid; all problems are named at once.

    For example:
    ```
    prefect-genmedia review apply postcards.decisions.jsonl
    ```
    Next: the run goes on by itself; otherwise run the batch again.

    Parameters
    ----------
    file
        JSON lines: `row`, `decision` (accept, reject or regenerate), `reason`, `reviewer`; and `batch` and `job`.
    batch
        The batch of lines that do not name one.
    reviewer
        The reviewer of lines that do not name one; by default the user of this machine.
    """
    from prefect_genmedia._prefect.reconcile import server_answers  # Prefect takes a second to import
    from prefect_genmedia.batch.decisions import Applied, apply_decisions

    async def work(ledger: Ledger) -> list[Applied]:
        resumes = await server_answers()
        return await apply_decisions(ledger, file, batch or "", reviewer or getpass.getuser(), resumes=resumes)

    for applied in run_on_ledger(work):
        words = Counter(each.word for each in applied.decisions)
        facts = {
            "Batch": applied.batch_id,
            "Decisions": ", ".join(f"{number} {word}" for word, number in words.items()),
            "Recorded": f"{applied.new}; the others were known" if applied.new < len(applied.decisions) else "all",
            "Next": " ".join(applied.runs) or "no run waits for them: run the batch again with the same review.",
        }
        print_facts(command_console(), facts)
    print_ledger_url()


@app.command(name="list")
def list_all(*, as_json: Annotated[Switch, Parameter(name="--json")] = False) -> None:
    """List the batches that wait for a review, the newest first.

    For example:
    ```
    prefect-genmedia review list
    ```
    Next: open the batch's report page, and `prefect-genmedia review apply FILE`; or resume the run in the UI.

    Parameters
    ----------
    as_json
        Print JSON, one array.
    """

    async def work(ledger: Ledger) -> tuple[list[ReviewQuestion], float]:
        return await waiting(ledger), ledger.now()

    found, now = run_on_ledger(work)
    console = command_console()
    if as_json:
        print(json_text([_plain(each) for each in found], indent=2))  # noqa: T201 - for programs
    elif not found:
        console.print("No batch waits for a review.")
    for each in () if as_json else found:
        facts = {
            "Batch": each.batch_id,
            "To review": counted(len(each.job_keys), "row"),
            "Run": each.flow_run_id,
            "Waits": f"for {span(each.expires_at - now)} more, then the batch stops",
        }
        print_facts(console, facts)
        console.print()
    print_ledger_url()


def _plain(question: ReviewQuestion) -> dict[str, object]:
    return {
        "question": question.id,
        "batch": question.batch_id,
        "flow_run_id": question.flow_run_id,
        "root_run_id": question.root_run_id,
        "jobs": list(question.job_keys),
        "asked_at": iso_time(question.asked_at),
        "expires_at": iso_time(question.expires_at),
    }

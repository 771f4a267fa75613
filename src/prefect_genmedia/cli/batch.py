"""`prefect-genmedia batch TABLE`: the flow generate_batch, run in this process."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from prefect_genmedia._core.lookup import JobFilter
from prefect_genmedia.batch.plan import plan_counts
from prefect_genmedia.batch.show import shown_part
from prefect_genmedia.batch.table import stem_of
from prefect_genmedia.cli.console import Switch, Tag, command_console, print_facts
from prefect_genmedia.cli.interrupted import closing_sentence
from prefect_genmedia.cli.options import in_options
from prefect_genmedia.cli.server import require_server
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import counted


def batch(
    table: str,
    /,
    *,
    kind: str | None = None,
    dry_run: Switch = False,
    credentials: Annotated[tuple[str, ...], Parameter(negative="")] = ("default",),
    batch_id: str | None = None,
    output: str | None = None,
    results: str | None = None,
    max_in_flight: Annotated[int, Parameter(validator=Number(gte=1))] = 8,
    canary: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    max_jobs: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    max_cost: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    confirm_above: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    skip_invalid: Switch = False,
    project: str | None = None,
    tag: Tag = (),
    regenerate: Annotated[list[str] | None, Parameter(negative=())] = None,
    row_task_runs: Literal["auto", "on", "off"] = "auto",
    reverify: Switch = False,
    review: str = "",
    convert_inputs: Switch = False,
    encoding: str = "",
) -> None:
    """Make every row; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    table
        A path, fsspec URL or block://SLUG/NAME/path ending in .csv, .tsv, .jsonl, .parquet or .xlsx, or
        sql://BLOCK/TABLE: rows with an id, a kind, and the fields of that kind.
    kind
        Kind of the rows that do not name one; by default the one that the flow `generate_batch` has.
    dry_run
        Only show what would be done, and its estimated cost. Nothing is sent.
    credentials
        The name that the credentials Blocks of all providers in the table have. Give it several times for several
        accounts that share the rows; the first one names the results.
    batch_id
        The same id and rows mean the same paid results, in any run; the file's name by default.
    output
        Folder or fsspec URL for the files.
    results
        Table of results to write; beside the table by default.
    max_in_flight
        Jobs of each account at its provider at once.
    canary
        Number of rows that must be delivered before the others start.
    max_jobs
        Most jobs that may be paid for, over all runs of the batch.
    max_cost
        Most CNY that may be paid, estimated, over the same runs.
    confirm_above
        Ask a person before anything is sent that would cost more CNY than this, estimated; the setting by default.
        Answer in the UI, or with `prefect-genmedia confirm approve` in another terminal.
    skip_invalid
        Leave invalid rows out, instead of refusing the table.
    project
        Whom the rows are paid for that have no project of their own, in `prefect-genmedia spend`.
    tag
        A further word to group the jobs of all rows by; may be given several times.
    regenerate
        Id of a row whose result is made anew and paid again; give it once for each row.
    row_task_runs
        Whether each row has a task run of its own; `auto` has them for up to 2,000 rows.
    reverify
        Read the files of delivered rows again; by default they are trusted while size and time are the same.
    review
        Which results a person reviews while the run pauses: `canary`, `all`, or a share of the rows such as 0.1. Answer
        in the UI, or with `prefect-genmedia review apply` in another terminal.
    convert_inputs
        Convert local pictures that the provider does not take: HEIC, AVIF, WebP, CMYK, too large.
    encoding
        Encoding of a CSV or JSON lines table, such as gb18030; detected by default.
    """
    require_server()
    from prefect.flows import load_flow_from_entrypoint

    flow: Any = load_flow_from_entrypoint("prefect_genmedia.flows.batch.generate_batch")
    _log_in_sentences()
    name = batch_id or stem_of(table)
    with closing_sentence(JobFilter(batch=name)):
        report = asyncio.run(
            flow(
                table,
                **({} if kind is None else {"kind": kind}),
                credentials=credentials[0] if len(credentials) == 1 else list(credentials),
                batch_id=batch_id,
                output=output,
                results=results,
                max_in_flight=max_in_flight,
                canary=canary,
                max_jobs=max_jobs,
                max_cost=max_cost,
                confirm_above=confirm_above,
                skip_invalid=skip_invalid,
                project=project,
                tags=list(tag),
                row_task_runs=row_task_runs,
                reverify=reverify,
                review=review,
                convert_inputs=convert_inputs,
                encoding=encoding,
                dry_run=dry_run,
                regenerate=regenerate or [],
            )
        )
    cost = f"about {report.estimated_cost:.2f} {CURRENCY} (estimate)" if report.estimated_cost or dry_run else ""
    if report.estimated_cost_of_run < report.estimated_cost and not dry_run:
        cost += f", {shown_part(report.estimated_cost_of_run)} now"
    facts = {
        "Batch": report.batch_id,
        "Rows": f"{counted(report.rows, 'row')}: {plan_counts(report.states)}" if report.states else "0 rows",
        "Rejected": counted(report.rejected, "row") if report.rejected else "",
        "Cost": cost,
        "Results": "" if report.dry_run else report.results or "",
    }
    print_facts(command_console(), facts)


def _log_in_sentences() -> None:
    """Prefect logs the traceback of an error that ends a run; the error's sentence says it all, in options."""

    def as_typed(record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        record.msg, record.args = in_options(record.getMessage()), None
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(as_typed)

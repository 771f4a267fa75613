"""`prefect-genmedia jobs export`: the whole ledger as a table, for accounting."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from prefect_genmedia._core.model import Job
from prefect_genmedia.cli.console import command_console, stop
from prefect_genmedia.cli.ledger import name_ledger, plain_job, print_ledger_url, run_on_ledger
from prefect_genmedia.text import counted, csv_cell, escaped, json_text

Format = Literal["csv", "jsonl"]

_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def export(
    *, output: Path | None = None, file_format: Annotated[Format | None, Parameter(name="--format")] = None
) -> None:
    """Write the whole ledger as a table, for accounting. Times are in ISO 8601, in UTC.

    For example:
    ```
    prefect-genmedia jobs export --output ledger.csv
    ```

    Parameters
    ----------
    output
        File to write; standard output by default.
    file_format
        csv or jsonl; by default what the file's name ends in, and csv on standard output.
    """
    chosen = _chosen(output, file_format)
    if output is not None and not output.absolute().parent.is_dir():
        stop(f"{output} cannot be written: its folder does not exist.")
    rows = [plain_job(job) for job in run_on_ledger(lambda ledger: ledger.jobs())]
    if output is None:
        write_rows(rows, chosen, sys.stdout)
        print_ledger_url()
        return
    with output.open("w", newline="", encoding="utf-8") as file:
        write_rows(rows, chosen, file)
    said = f"Wrote {counted(len(rows), 'job')} of {name_ledger()} to {output}."
    command_console().print(said, markup=False, highlight=False, soft_wrap=True)


def _chosen(output: Path | None, file_format: Format | None) -> Format:
    """The format that is asked for; the file's name must not promise another one."""
    named = None if output is None else _FORMATS.get(output.suffix.lower())
    if file_format is None and output is not None and named is None:
        stop(f"{output} does not end in {' or '.join(_FORMATS)}: choose with --format.")
    if file_format is not None and named not in (None, file_format):
        stop(f"{output} is named as {named}, and --format says {file_format}.")
    return file_format or named or "csv"


def write_rows(rows: Sequence[dict[str, Any]], file_format: Format, file: Any) -> None:
    """Write jobs as a table.

    Args:
        rows: the jobs' fields.
        file_format: csv or jsonl.
        file: a file that takes text.
    """
    if file_format == "jsonl":
        file.writelines(f"{json_text(row)}\n" for row in rows)
        return
    writer = csv.DictWriter(file, list(Job.model_fields), extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json_text(value)
    if not isinstance(value, str):
        return value
    return csv_cell("\n".join(map(escaped, value.split("\n"))))  # a note has a line for each decision

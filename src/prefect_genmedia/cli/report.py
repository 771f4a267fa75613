"""`prefect-genmedia report BATCH`: a batch's report page, made again from the ledger and its table of results."""

from __future__ import annotations

import asyncio

from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.reviews import review_state
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia._prefect.links import public_link
from prefect_genmedia.batch.cells import id_text
from prefect_genmedia.batch.report import (
    ReportSource,
    folder_of_jobs,
    jobs_of_batch,
    own_columns,
    results_named_in,
    write_report,
)
from prefect_genmedia.batch.table import read_rows
from prefect_genmedia.cli.console import command_console, print_facts, stop
from prefect_genmedia.cli.ledger import PATIENCE_SECONDS, name_ledger, print_ledger_url
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.settings import current_settings


def report(batch: str, /, *, results: str | None = None, output: str | None = None) -> None:
    """Make the report; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    batch
        The batch's id, as `generate_batch` has it.
    results
        Its table of results, for your own columns and the rows that were never sent; by default the one that the
        batch's report names.
    output
        Folder or fsspec URL to write the report to; by default that of the batch's files.
    """
    source, uri = asyncio.run(_written(batch, results, None if output is None else anywhere(output)))
    rows = len({*source.results, *source.jobs})
    facts = {
        "Report": uri,
        "Link": public_link(uri) or "",
        "Rows": f"{rows}, {len(source.jobs)} of them with a job in the ledger",
        "Table": source.location or "none: give it with --results, for your own columns",
    }
    print_facts(command_console(), facts)
    print_ledger_url()


async def _written(batch: str, results: str | None, output: str | None) -> tuple[ReportSource, str]:
    async with open_ledger(current_settings().ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
        jobs, reviews = await jobs_of_batch(ledger, batch), await review_state(ledger, batch)
    folder = output or folder_of_jobs(jobs)
    if not jobs or folder is None:
        stop(f"The ledger has no job of a batch {batch!r}. It is {name_ledger()}.")
    location = results or await results_named_in(folder, batch)
    rows = await _table(location, is_given=results is not None)
    cells = {id_text(row.get("id", "")): row for row in rows}
    source = ReportSource(batch, folder, jobs, cells, own_columns(rows), location or "" if rows else "", reviews)
    return source, await write_report(source)


async def _table(location: str | None, is_given: bool) -> list[dict[str, object]]:
    """The rows of the table of results; none where nobody has named it, or it is gone."""
    if location is None:
        return []
    try:
        return list((await read_rows(location)).rows)
    except InvalidRequest as error:
        if is_given:
            raise
        command_console(stderr=True).print(f"Without the table of results: {error.message}", markup=False)
        return []

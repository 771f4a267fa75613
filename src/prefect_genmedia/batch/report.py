"""The report of a batch: an `index.html` beside its files that plays, filters and summarizes the results.

It is made from the ledger and the table of results, so it can be made again at any time.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from anyio import to_thread
from prefect.logging import get_run_logger

from prefect_genmedia._core.attempts import batch_scope
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.links import poster_url, public_link, watch_url
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.report_page import GENERATOR, ReportPage, batch_mark
from prefect_genmedia.batch.results import COLUMNS, NOT_SENT, cell_text
from prefect_genmedia.errors import StorageError
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.providers.inputs import local_path
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.text import clean_text, iso_time

if TYPE_CHECKING:
    from prefect_genmedia.batch.scheduler import BatchScheduler

NAME = "index.html"

HEAD_BYTES = 4096
"""The first bytes of a report, which contain its generator and batch marks."""

VALUE_CHARACTERS = 1000
"""Maximum number of characters of a value on the page."""

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class ReportSource:
    """The data that a report is made from.

    Args:
        batch_id: the batch's name.
        folder: the folder of the batch's files, where the report goes.
        jobs: the newest job of each row that has one, by row id.
        results: the table of results: each row's cells by column, by row id; the only source for rows without a job.
        columns: the user's own columns in the table of results.
        location: path or URL of the table of results; empty if there is none.
    """

    batch_id: str
    folder: str
    jobs: Mapping[str, Job]
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Sequence[str] = ()
    location: str = ""


async def report_of(run: BatchScheduler) -> str | None:
    """Write the report of a batch that has ended or was interrupted; returns its path or URL, or its public link.

    If it cannot be written, the batch continues without it: the files and the table of results exist.

    Args:
        run: the batch.
    """
    carried, results = run.results.carried, run.results.all()
    logger = get_run_logger()
    try:
        cells = {row.id: vars(row) | carried.of(row.extra) for row in results}
        jobs = {row_id: job for row_id, job in (await run.jobs.look()).items() if row_id in cells}
        columns, location = [*carried.columns.values()], run.results.location or ""
        uri = await write_report(ReportSource(run.name, run.output, jobs, cells, columns, location))
    except Exception as error:  # a report must not make a batch with paid jobs fail
        logger.warning("The report of batch %s cannot be written: %s", run.name, _words(error))
        return None
    shown = public_link(uri) or uri
    logger.info("Batch %s: its report is %s", run.name, shown)
    return shown


async def jobs_of_batch(ledger: Ledger, batch_id: str) -> dict[str, Job]:
    """Returns the newest job of each row of a batch, by row id.

    Args:
        ledger: where jobs are recorded.
        batch_id: the batch's name.
    """
    prefix = batch_scope(batch_id)
    newest = sorted((await ledger.newest_in(prefix)).values(), key=lambda job: job.created_at)
    # The name of one batch may be a prefix of another's.
    return {job.label: job for job in newest if job.scope == f"{prefix}{job.label}"}


def folder_of_jobs(jobs: Mapping[str, Job]) -> str | None:
    """Returns the folder that most of a batch's files go to; None if no job names one.

    Args:
        jobs: the batch's jobs, by row id.
    """
    folders = Counter(posixpath.dirname(job.output.replace("\\", "/")) for job in jobs.values() if job.output)
    return folders.most_common(1)[0][0] if folders else None


async def write_report(source: ReportSource) -> str:
    """Write the report's page into the folder of the batch's files; returns its path or URL.

    Its name is `index.html`. If another file has that name, the batch's name with `.html` is used.

    Args:
        source: the data that it is made from.

    Raises:
        StorageError: both names are taken by other files.
    """
    storage = (await target_of(source.folder)).storage
    page = _page(source, storage.uri_of(""))

    def write() -> str:
        name = _free_name(storage, source.batch_id)
        with storage.staging() as staged:
            staged.write_text(page.html(), "utf-8", errors="replace")
            return storage.publish(staged, name)

    return await to_thread.run_sync(write)


async def results_named_in(folder: str, batch_id: str) -> str | None:
    """Returns the table of results that a batch's earlier report was made from; None if there is no such report.

    Args:
        folder: the folder of the batch's files.
        batch_id: the batch's name.
    """
    storage = (await target_of(folder)).storage

    def read() -> str | None:
        for name in _names(batch_id):
            if _is_ours(storage, name, batch_id):
                with storage.local_copy(storage.uri_of(name)) as path:
                    found = _DATA.search(path.read_text("utf-8", errors="replace"))
                with suppress(ValueError, TypeError, KeyError):
                    return str(json.loads(found[1])["results"]) or None if found else None
        return None

    return await to_thread.run_sync(read)


def own_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the user's own columns of a table of results.

    Args:
        rows: its rows.
    """
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]


def _names(batch_id: str) -> tuple[str, str]:
    return NAME, f"{file_stem(batch_id)}.html"


def _free_name(storage: Storage, batch_id: str) -> str:
    for name in _names(batch_id):
        if not storage.is_folder(name) and (storage.size(name) is None or _is_ours(storage, name, batch_id)):
            return name
    names = " and ".join(_names(batch_id))
    raise StorageError(f"{names} stand in {storage.uri_of('')} already, and are other files.", retryable=False)


def _is_ours(storage: Storage, name: str, batch_id: str) -> bool:
    """Whether a file is an earlier report of the same batch."""
    try:
        with storage.local_copy(storage.uri_of(name)) as path, path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", "replace")
    except Exception:  # storages raise errors of their own; an unreadable file is not replaced
        return False
    return f'content="{GENERATOR}"' in head and f'content="{batch_mark(batch_id)}"' in head


def _page(source: ReportSource, folder: str) -> ReportPage:
    ids = dict.fromkeys([*source.results, *source.jobs])
    rows = [
        _row(row_id, source.results.get(row_id, {}), source.jobs.get(row_id), source.columns, folder) for row_id in ids
    ]
    delivered = sum(row["delivered"] for row in rows)
    cost = sum(row["cost"] or 0.0 for row in rows)
    return ReportPage(
        batch_id=source.batch_id,
        summary=f"{delivered} of {len(rows)} delivered · about {cost:.2f} {CURRENCY} (estimate)",
        made_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        rows=sorted(rows, key=lambda row: row["delivered"]),
        results=unsigned_text(source.location),
        columns=source.columns,
    )


def _row(row_id: str, cells: Mapping[str, Any], job: Job | None, columns: Sequence[str], folder: str) -> dict[str, Any]:
    """Returns a row for the page's script. The ledger's data about its job is newer than the table's."""
    delivery = job.delivery if job is not None else None
    uri = delivery.uri if delivery else cells.get("path")
    state = job.state.value if job is not None else str(cells.get("state") or NOT_SENT)
    is_delivered = state == JobState.DELIVERED.value and bool(uri)
    key = job.key if job is not None else cells.get("job_key")
    poster = delivery.poster_uri if delivery else None
    own = [(name, cells[name]) for name in columns if cells.get(name) not in (None, "")]
    error = (job.error_kind if job is not None else None) or cells.get("error_kind")
    message = (job.error_message if job is not None else None) or cells.get("error_message")
    return {
        "id": _shown(row_id),
        "state": state.replace("_", " "),
        "delivered": is_delivered,
        "play": _address(uri, watch_url(uri, key), folder) if is_delivered else None,
        "poster": _address(poster, poster_url(poster, key), folder) if is_delivered else None,
        "file": _shown(uri) if is_delivered else "",
        "error": "" if is_delivered else _shown(error),
        "message": "" if is_delivered else _shown(message),
        "model": _shown(f"{job.provider}/{job.model}") if job is not None else "",
        "cost": _number(cells.get("estimated_cost")) if job is None else _cost(job, cells),
        "day": (iso_time(job.submitted_at) or "")[:10] if job is not None else "",
        "facts": _facts(job, cells),
        "own": [[_shown(name), _shown(cell_text(value))] for name, value in own],
        "words": _shown(_wanted(job)),
        "request": _request(job),
        "details": _details(job, cells, uri if is_delivered else None),
    }


def _cost(job: Job, cells: Mapping[str, Any]) -> float | None:
    """Returns a job's estimated cost from the table, which the batch's sum uses, or else from the ledger."""
    written = _number(cells.get("estimated_cost"))
    return written if written is not None or job.state not in _COST_STATES else job.estimated_cost


_COST_STATES = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.UNKNOWN}
)


def _facts(job: Job | None, cells: Mapping[str, Any]) -> str:
    delivery = job.delivery if job is not None else None
    seconds = delivery.seconds if delivery else _number(cells.get("seconds"))
    size = f"{delivery.width}×{delivery.height}" if delivery else ""
    cost = _number(cells.get("estimated_cost")) if job is None else _cost(job, cells)
    parts = [
        f"{seconds:.1f} s" if seconds is not None else "",
        size,
        job.model if job is not None else "",
        f"about {cost:.2f} {CURRENCY}" if cost else "",
    ]
    return _shown(" · ".join(filter(None, parts)))


def _request(job: Job | None) -> list[list[str]]:
    if job is None:
        return []
    request = kinds().get(job.kind)
    hidden = request.technical_fields if request is not None else frozenset()
    values = {name: value for name, value in job.request.items() if name not in hidden and value not in (None, "", [])}
    return [[_shown(name), _shown(cell_text(value))] for name, value in values.items()]


def _wanted(job: Job | None) -> str:
    """What a person asked for in words: the longest text of the request that is no URL."""
    values = job.request.values() if job is not None else ()
    return max((value for value in values if isinstance(value, str) and "://" not in value), key=len, default="")


def _details(job: Job | None, cells: Mapping[str, Any], uri: str | None) -> list[list[str]]:
    delivery = job.delivery if job is not None else None
    facts = {
        "File": uri,
        "SHA-256": delivery.sha256 if delivery else cells.get("sha256"),
        "Job": job.key if job is not None else cells.get("job_key"),
        "At the provider": job.shown_id if job is not None else cells.get("provider_job_id"),
        "Attempt": job.attempt if job is not None else cells.get("attempts"),
        "Submitted": iso_time(job.submitted_at) if job is not None else None,
        "Delivered": iso_time(job.delivered_at) if job is not None else None,
        "Queued (s)": cells.get("queued_seconds"),
        "Generating (s)": cells.get("running_seconds"),
    }
    return [[name, _shown(value)] for name, value in facts.items() if value not in (None, "")]


def _address(uri: str | None, link: str | None, folder: str) -> str | None:
    """Returns a file's address for the page: a relative path on the same disk or bucket, otherwise its link."""
    if not uri:
        return None
    path, beside = local_path(uri), local_path(folder)
    if path is not None and beside is not None:
        with suppress(ValueError):  # the file is on another drive
            relative = Path(os.path.relpath(path, beside)).as_posix()
            return quote(relative if relative.startswith("../") else f"./{relative}", errors="surrogateescape")
    if link is not None:
        return link
    inner = uri.removeprefix(folder)
    return f"./{quote(inner)}" if inner != uri and path is None else None


def _shown(value: Any) -> str:
    return "" if value is None else clean_text(unsigned_text(str(value)), VALUE_CHARACTERS)


def _number(value: Any) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def _words(error: Exception) -> str:
    return clean_text(f"{type(error).__name__}: {unsigned_text(str(error))}", 300)

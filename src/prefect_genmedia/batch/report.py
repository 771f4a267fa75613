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

from prefect_genmedia._core.attempts import batch_scope, chain_of
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.naming import file_stem
from prefect_genmedia._core.quality import findings_of
from prefect_genmedia._core.reviews import ReviewState, review_state
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._prefect.links import poster_url, public_link, watch_url
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.batch.chain import failed_step
from prefect_genmedia.batch.known import StepJobs
from prefect_genmedia.batch.report_page import GENERATOR, ReportPage, batch_mark
from prefect_genmedia.batch.result import COLUMNS, COST_STATES, NOT_SENT, STEPS, read_steps
from prefect_genmedia.batch.results import REVIEW_COLUMNS, cell_text, has_review_columns
from prefect_genmedia.errors import StorageError
from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.providers.inputs import local_path
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.text import clean_text, error_words, iso_time

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

    Parameters:
        batch_id: the batch's name.
        folder: the folder of the batch's files, where the report goes.
        jobs: the newest job of each step that has one, by row id; a row that is no chain has one step.
        results: the table of results: each row's cells by column, by row id; the only source for rows without a job.
        columns: the user's own columns in the table of results.
        location: path or URL of the table of results; empty if there is none.
        reviews: what people decided about the results, and what waits for a decision.
    """

    batch_id: str
    folder: str
    jobs: Mapping[str, StepJobs]
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Sequence[str] = ()
    location: str = ""
    reviews: ReviewState = field(default_factory=ReviewState)


async def report_of(run: BatchScheduler) -> str | None:
    """Write the report of a batch that has ended or was interrupted; returns its path or URL, or its public link.

    If it cannot be written, the batch continues without it: the files and the table of results exist.

    Parameters:
        run: the batch.
    """
    carried, results = run.results.carried, run.results.all()
    logger = get_run_logger()
    try:
        cells = {row.id: vars(row) | carried.of(row.extra) for row in results}
        jobs = {row_id: job for row_id, job in (await run.jobs.look()).items() if row_id in cells}
        columns, location = [*carried.columns.values()], run.results.location or ""
        reviews = await review_state(run.jobs.ledger, run.name)
        uri = await write_report(ReportSource(run.name, run.output, jobs, cells, columns, location, reviews))
    except Exception as error:  # a report must not make a batch with paid jobs fail
        logger.warning("The report of batch %s cannot be written: %s", run.name, _words(error))
        return None
    shown = public_link(uri) or uri
    logger.info("Batch %s: its report is %s", run.name, shown)
    return shown


async def jobs_of_batch(ledger: Ledger, batch_id: str) -> dict[str, StepJobs]:
    """Returns the newest job of each step of each row of a batch, by row id.

    Parameters:
        ledger: where jobs are recorded.
        batch_id: the batch's name.
    """
    prefix = batch_scope(batch_id)
    newest = sorted((await ledger.newest_in(prefix)).values(), key=lambda job: job.created_at)
    found: dict[str, StepJobs] = {}
    for job in newest:
        scope, number = chain_of(job.scope)
        if scope == f"{prefix}{job.label}":  # the name of one batch may be a prefix of another's
            # A job after those of later steps is a new beginning: their input was another file.
            found[job.label] = (*found.get(job.label, ())[: number - 1], job)
    return found


def folder_of_jobs(jobs: Mapping[str, StepJobs]) -> str | None:
    """Returns the folder that most of a batch's files go to; None if no job names one.

    Parameters:
        jobs: the batch's jobs, by row id.
    """
    outputs = (job.output for its in jobs.values() for job in its if job.output)
    folders = Counter(posixpath.dirname(output.replace("\\", "/")) for output in outputs)
    return folders.most_common(1)[0][0] if folders else None


async def write_report(source: ReportSource) -> str:
    """Write the report's page into the folder of the batch's files; returns its path or URL.

    Its name is `index.html`. If another file has that name, the batch's name with `.html` is used.

    Parameters:
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

    Parameters:
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

    Parameters:
        rows: its rows.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    made = {*COLUMNS, *(REVIEW_COLUMNS if has_review_columns(names) else ())}
    if any(read_steps(row.get(STEPS)) for row in rows):
        made.add(STEPS)
    return [name for name in names if name not in made]


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
    rows = [_row(row_id, source, folder) for row_id in ids]
    delivered, flawed = sum(row["delivered"] for row in rows), sum(bool(row["quality"]) for row in rows)
    cost = sum(row["cost"] or 0.0 for row in rows)
    return ReportPage(
        batch_id=source.batch_id,
        summary=f"{delivered} of {len(rows)} delivered · about {cost:.2f} {CURRENCY} (estimate)"
        + (f" · {flawed} with quality findings" if flawed else ""),
        made_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        rows=sorted(rows, key=lambda row: row["delivered"]),
        results=unsigned_text(source.location),
        columns=source.columns,
    )


def _row(row_id: str, source: ReportSource, folder: str) -> dict[str, Any]:
    """Returns a row for the page's script. The ledger's data about its jobs is newer than the table's."""
    cells, jobs = source.results.get(row_id, {}), source.jobs.get(row_id, ())
    job = jobs[-1] if jobs else None
    delivery = job.delivery if job is not None else None
    uri = delivery.uri if delivery else cells.get("path")
    state = job.state.value if job is not None else str(cells.get("state") or NOT_SENT)
    steps = max(len(jobs), len(read_steps(cells.get(STEPS))))
    if state == JobState.DELIVERED.value and 0 < len(jobs) < steps:
        state = NOT_SENT  # the next step
    is_delivered = state == JobState.DELIVERED.value and bool(uri)
    key = job.key if job is not None else cells.get("job_key")
    poster = delivery.poster_uri if delivery else None
    own = [(name, cells[name]) for name in source.columns if cells.get(name) not in (None, "")]
    error = (job.error_kind if job is not None else None) or cells.get("error_kind")
    message = (job.error_message if job is not None else None) or cells.get("error_message")
    if job is not None and job.error_message and steps > 1:
        message = failed_step((len(jobs), steps), job.kind, job.error_message, jobs[:-1])
    return {
        "id": shown_value(row_id),
        "state": state.replace("_", " "),
        "delivered": is_delivered,
        "play": _address(uri, watch_url(uri, key), folder) if is_delivered else None,
        "poster": _address(poster, poster_url(poster, key), folder) if is_delivered else None,
        "file": shown_value(uri) if is_delivered else "",
        "error": "" if is_delivered else shown_value(error),
        "message": "" if is_delivered else shown_value(message),
        "quality": _flaws(job, cells) if is_delivered else [],
        "model": shown_value(" → ".join(f"{each.provider}/{each.model}" for each in jobs)),
        "cost": _cost(jobs, cells),
        "charges": _charges(jobs, cells),
        "facts": _facts(jobs, cells),
        "own": [[shown_value(name), shown_value(cell_text(value))] for name, value in own],
        "words": shown_value(_wanted(jobs)),
        "request": [line for number, each in enumerate(jobs, 1) for line in _request(each, number, len(jobs))],
        "details": [*_details(job, cells, uri if is_delivered else None), *_step_details(jobs)],
        "review": _review(job, source.reviews) if is_delivered else None,
    }


def _review(job: Job | None, reviews: ReviewState) -> dict[str, Any] | None:
    """Returns what the page needs to show and take decisions about a result; None if the ledger has no job of it."""
    if job is None:
        return None
    decision = reviews.decisions.get(job.key)
    facts = {"job": job.key, "waits": job.key in reviews.waiting, "word": "", "by": "", "reason": ""}
    if decision is not None:
        facts |= {"word": decision.word, "by": shown_value(decision.reviewer), "reason": shown_value(decision.reason)}
    return facts


def _flaws(job: Job | None, cells: Mapping[str, Any]) -> list[str]:
    """What the quality checks found about a delivered file."""
    if job is not None and job.delivery is not None:
        return [shown_value(finding) for finding in findings_of(job.delivery)]
    return [shown_value(cells["quality"])] if cells.get("quality") else []


def _cost(jobs: StepJobs, cells: Mapping[str, Any]) -> float | None:
    """Returns a row's estimated cost from the table, which the batch's sum uses, or else from the ledger."""
    written = _number(cells.get("estimated_cost"))
    if written is not None or not jobs:
        return written
    costs = [job.estimated_cost for job in jobs if job.state in COST_STATES and job.estimated_cost is not None]
    return sum(costs) if costs else None


def _charges(jobs: StepJobs, cells: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """Returns model, day and estimated cost of each of a row's jobs."""
    if len(jobs) < 2:  # the model is not known without a job
        costs = [_cost(jobs, cells)]
    else:
        written = [_number(step.get("estimated_cost")) for step in read_steps(cells.get(STEPS))]
        costs = [*written[: len(jobs)], *(_cost((job,), {}) for job in jobs[len(written) :])]
    names = [(shown_value(f"{job.provider}/{job.model}"), (iso_time(job.submitted_at) or "")[:10]) for job in jobs]
    return [(*name, cost) for name, cost in zip(names or [("", "")], costs, strict=True)]


def _facts(jobs: StepJobs, cells: Mapping[str, Any]) -> str:
    delivery = jobs[-1].delivery if jobs else None
    seconds = delivery.seconds if delivery else _number(cells.get("seconds"))
    size = f"{delivery.width}×{delivery.height}" if delivery else ""
    cost = _cost(jobs, cells)
    parts = [
        f"{seconds:.1f} s" if seconds is not None else "",
        size,
        " → ".join(job.model for job in jobs),
        f"about {cost:.2f} {CURRENCY}" if cost else "",
    ]
    return shown_value(" · ".join(filter(None, parts)))


def _request(job: Job, number: int, steps: int) -> list[list[str]]:
    request = kinds().get(job.kind)
    hidden = request.technical_fields if request is not None else frozenset()
    values = {name: value for name, value in job.request.items() if name not in hidden and value not in (None, "", [])}
    step = f"Step {number}, " if steps > 1 else ""
    return [[shown_value(f"{step}{name}"), shown_value(cell_text(value))] for name, value in values.items()]


def _wanted(jobs: StepJobs) -> str:
    """What a person asked for in words: the longest text of the requests that is no URL."""
    filled = {job.delivery.uri for job in jobs if job.delivery is not None}
    values = (value for job in jobs for value in job.request.values() if isinstance(value, str) and value not in filled)
    return max((value for value in values if "://" not in value), key=len, default="")


def _step_details(jobs: StepJobs) -> list[list[str]]:
    """Returns a line for each step of a chain: what was made of it, its job and what it cost."""
    lines = []
    for number, job in enumerate(jobs if len(jobs) > 1 else (), 1):
        cost = job.estimated_cost if job.state in COST_STATES else None
        about = "" if cost is None else f"about {cost:.2f} {CURRENCY}"
        uri = job.delivery.uri if job.delivery is not None else ""
        facts = (job.kind, job.state.value, about, f"job {job.key}", job.shown_id, uri)
        lines.append([f"Step {number}", shown_value(" · ".join(filter(None, facts)))])
    return lines


def _details(job: Job | None, cells: Mapping[str, Any], uri: str | None) -> list[list[str]]:
    delivery = job.delivery if job is not None else None
    facts = {
        "File": uri,
        "SHA-256": delivery.sha256 if delivery else cells.get("sha256"),
        "Job": job.key if job is not None else cells.get("job_key"),
        "At the provider": job.shown_id if job is not None else cells.get("provider_job_id"),
        "Attempt": job.attempt if job is not None else cells.get("attempts"),
        "Account": cells.get("account"),
        "Submitted": iso_time(job.submitted_at) if job is not None else None,
        "Delivered": iso_time(job.delivered_at) if job is not None else None,
        "Queued (s)": cells.get("queued_seconds"),
        "Generating (s)": cells.get("running_seconds"),
    }
    return [[name, shown_value(value)] for name, value in facts.items() if value not in (None, "")]


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


def shown_value(value: Any) -> str:
    """Returns a value as the page shows it: on one line, cut, and without the signatures of URLs.

    Parameters:
        value: the value; None is shown as nothing.
    """
    return "" if value is None else clean_text(unsigned_text(str(value)), VALUE_CHARACTERS)


def _number(value: Any) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def _words(error: Exception) -> str:
    return clean_text(unsigned_text(error_words(error)), 300)

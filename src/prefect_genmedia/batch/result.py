"""What became of one row: a line of the table of results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from prefect_genmedia._core.budgets import estimated_cost
from prefect_genmedia._core.model import NEVER_PAID, Job, JobState
from prefect_genmedia._core.quality import quality_words
from prefect_genmedia._prefect.links import watch_url
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.errors import GenMediaError, QualityError
from prefect_genmedia.prices import CURRENCY, PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import clean_text, escaped, json_text

NOT_SENT = "not_sent"
"""State of a row that was not submitted (yet): it waits for its turn, or the batch was stopped before."""

IN_FLIGHT = "in_flight"
"""State of a row in progress."""

FAILED_QUALITY = "failed_quality"
"""State of a row whose file is delivered and does not pass the quality checks, in a run that fails for that."""

INVALID = "invalid"
"""State of a row that was skipped because it is invalid."""


@dataclass
class Result:
    """What became of one row. Times in seconds, sizes in pixels, cost in `currency` and estimated."""

    id: str
    state: str = NOT_SENT
    attempts: int = 0
    provider_job_id: str | None = None
    job_key: str | None = None
    path: str | None = None
    sha256: str | None = None
    verified: str | None = None
    quality: str | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    queued_seconds: float | None = None
    running_seconds: float | None = None
    estimated_cost: float | None = None
    currency: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    watch_url: str | None = None
    steps: str | None = None
    poster_uri: str | None = None
    task_run_id: str | None = None
    costs_by_run: Mapping[str, float] = field(default_factory=dict)
    account: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def take_job(self, job: Job, request: GenerationRequest, prices: PriceTable, payers: Mapping[str, str]) -> None:
        """Record the state of the row's job.

        Args:
            job: the row's job.
            request: the job's request.
            prices: the price table.
            payers: the accounts' names, by id and by text; see `account_names`.
        """
        self.account = _payer_of(job, payers)
        self.state = job.state.value
        self.attempts = job.attempt
        self.provider_job_id = escaped(job.provider_job_id) if job.provider_job_id else None  # not cut: a join key
        self.job_key = job.key
        self.queued_seconds = _between(job.submitted_at, job.running_at)
        self.running_seconds = _between(job.running_at, job.succeeded_at)
        self.error_kind, self.error_message = job.error_kind, job.error_message
        if job.delivery is not None:
            self.path, self.sha256 = job.delivery.uri, job.delivery.sha256
            self.seconds, self.width, self.height = job.delivery.seconds, job.delivery.width, job.delivery.height
            self.poster_uri, self.verified = job.delivery.poster_uri, job.delivery.verified
            self.quality = quality_words(job.delivery) or None
            self.watch_url = watch_url(job.delivery.uri, job.key)
        if job.state in COST_STATES:
            self._take_costs([job], [request], prices)

    def take_steps(
        self,
        jobs: Sequence[Job],
        requests: Sequence[GenerationRequest],
        prices: PriceTable,
        payers: Mapping[str, str] | None = None,
    ) -> None:
        """Record the state of a row by the jobs of its steps. The row has a file once its last step is delivered.

        Args:
            jobs: the jobs of its steps, from the first to the last one that has a job.
            requests: the requests of all steps.
            prices: the price table.
            payers: the accounts' names, by id and by text; see `account_names`.
        """
        if jobs:
            self.take_job(jobs[-1], requests[len(jobs) - 1], prices, payers or {})
        else:
            self.state = NOT_SENT
        if len(requests) == 1:
            return
        steps = enumerate(itertools.zip_longest(requests, jobs), 1)
        self.steps = json_text([_step_line(number, *step, prices, payers or {}) for number, step in steps])
        self._take_costs(jobs, requests, prices)
        if len(jobs) < len(requests) and self.state == JobState.DELIVERED.value:
            self.state = NOT_SENT
            self.path = self.sha256 = self.verified = self.watch_url = self.poster_uri = self.quality = None
            self.seconds = self.width = self.height = None

    def _take_costs(self, jobs: Sequence[Job], requests: Sequence[GenerationRequest], prices: PriceTable) -> None:
        costs = [(job, _cost_of(job, request, prices)) for job, request in zip(jobs, requests, strict=False)]
        known = [(job, cost) for job, cost in costs if cost is not None]
        total = sum((cost for _, cost in known), Decimal(0))
        self.estimated_cost, self.currency = (float(total), CURRENCY) if known else (None, None)
        by_run: dict[str, Decimal] = {}
        for job, cost in known:
            run = job.root_run_id or ""
            by_run[run] = by_run.get(run, Decimal(0)) + cost
        self.costs_by_run = {run: float(cost) for run, cost in by_run.items()}

    def take_error(self, error: BaseException) -> None:
        """Record why the row has no file."""
        self.error_kind = error.kind if isinstance(error, GenMediaError) else type(error).__name__
        self.error_message = (
            error.message if isinstance(error, GenMediaError) else clean_text(unsigned_text(str(error)))
        )
        if isinstance(error, QualityError):
            self.state = FAILED_QUALITY


COST_STATES = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNDELIVERABLE, JobState.UNKNOWN}
)


def _payer_of(job: Job, payers: Mapping[str, str]) -> str | None:
    """Returns the name of the account that paid for a job; None if nothing was paid, or the account has no name."""
    return None if job.state in NEVER_PAID else payers.get(job.account_id or "") or payers.get(job.account)


def _cost_of(job: Job, request: GenerationRequest, prices: PriceTable) -> Decimal | None:
    """Returns a job's estimated cost, from the expected duration, as in the ledger and the budget."""
    seconds = job.delivery.seconds if job.delivery is not None else None
    is_paid = job.state in COST_STATES
    return estimated_cost(request, prices, job.expectation.seconds or seconds) if is_paid else None


def _step_line(
    number: int, request: GenerationRequest, job: Job | None, prices: PriceTable, payers: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what the table of results says of a step."""
    line: dict[str, Any] = {"step": number, "kind": request.kind, "state": NOT_SENT if job is None else job.state.value}
    if job is not None:
        cost, delivery = _cost_of(job, request, prices), job.delivery
        line |= {
            "job_key": job.key,
            "provider_job_id": escaped(job.provider_job_id) if job.provider_job_id else None,
            "attempts": job.attempt,
            "account": _payer_of(job, payers),
            "path": delivery.uri if delivery else None,
            "sha256": delivery.sha256 if delivery else None,
            "estimated_cost": None if cost is None else float(cost),
            "currency": None if cost is None else CURRENCY,
        }
    return {name: value for name, value in line.items() if value is not None}


def read_steps(cell: Any) -> list[dict[str, Any]]:
    """Returns the steps that a cell of the column `steps` lists; empty if it is another column of that name.

    Args:
        cell: the cell.
    """
    try:
        steps = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return []
    is_list = isinstance(steps, list) and all(
        isinstance(each, dict) and {"step", "kind"} <= each.keys() for each in steps
    )
    return list(steps) if is_list else []


_NOT_WRITTEN = frozenset({"steps", "poster_uri", "task_run_id", "costs_by_run", "extra"})

COLUMNS = tuple(field.name for field in fields(Result) if field.name not in _NOT_WRITTEN)
"""The columns of a table of results, in their order. `QUALITY` is left out if no quality is checked."""

QUALITY = "quality"
"""The column with what the quality checks found. Only tables of batches with quality checks have it."""

STEPS = "steps"
"""The column with the steps of each chain, as JSON. Only tables with chains have it."""


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(max(end - begin, 0.0), 3)

"""Compares a provider's bill with the ledger: what was billed and delivered, and each difference with its evidence.

Amounts are decimal, and amounts in different currencies are never compared or added. The expected cost of a job is an
estimate from the price table: a difference from it is a question to the provider, not a proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict, Field

from prefect_genmedia._core.billed_jobs import BilledJob
from prefect_genmedia._core.model import JobState
from prefect_genmedia.providers.plugin import providers_with_free_failures
from prefect_genmedia.providers.restoring import StoredModel
from prefect_genmedia.text import clean_text, iso_time, shown_id

FindingKind = Literal[
    "matched",
    "unknown_here",
    "not_billed",
    "billed_failure",
    "price_difference",
    "duplicate",
    "not_compared",
    "unreadable",
]
"""The kinds of findings about lines of a bill, or about a job without a line."""

KIND_WORDS: Mapping[str, str] = {
    "matched": "billed as expected",
    "unknown_here": "billed, but unknown here",
    "not_billed": "delivered, but not billed",
    "billed_failure": "billed, although it failed",
    "price_difference": "billed at another price",
    "duplicate": "billed again",
    "not_compared": "billed, with no price to compare",
    "unreadable": "lines that cannot be read",
}

NEAR_SECONDS = 600.0
"""A line may belong to a submission without a certain answer if both lie within this many seconds."""

_UNDECIDED = frozenset({JobState.UNKNOWN, JobState.ABANDONED, JobState.SENDING})


@dataclass(frozen=True, kw_only=True)
class BillLine:
    """A charge or refund on a bill. Texts are cleaned; ids are kept unaltered.

    Args:
        row: the row number in its table, from 1.
        file: the table's name.
        amount: the charged amount; negative for a refund.
        currency: its currency, or a unit that the provider defines.
        job_id: the provider's id of the job; empty if the line has none.
        request_id: an id of the request; empty if the line has none.
        at: when it was billed, in seconds since 1970; None if the bill does not say.
        model: the model, as the bill names it.
        item: distinguishes several charges for one job.
        words: the text of the line.
    """

    row: int
    file: str
    amount: Decimal
    currency: str
    job_id: str = ""
    request_id: str = ""
    at: float | None = None
    model: str = ""
    item: str = ""
    words: str = ""


class BillFinding(StoredModel):
    """One result of the comparison, with its evidence. Times are in ISO 8601, in UTC."""

    model_config = ConfigDict(frozen=True)

    kind: FindingKind = Field(description="What was found.")
    reason: str = Field(default="", description="The same in a sentence.")
    currency: str = Field(default="", description="The currency of the amounts.")
    billed: Decimal | None = Field(default=None, description="What the lines charge together.")
    expected: Decimal | None = Field(default=None, description="What the job was expected to cost: an estimate.")
    claim: Decimal = Field(default=Decimal(0), description="What may be claimed back.")
    file: str = Field(default="", description="Name of the bill's table.")
    rows: list[int] = Field(default_factory=list, description="Rows of the table, from 1.")
    billed_at: str | None = Field(default=None, description="When it was billed, as the bill says.")
    provider_job_id: str = Field(default="", description="The provider's id of the job.")
    request_ids: list[str] = Field(default_factory=list, description="Ids of requests, by the bill and by the ledger.")
    job_key: str = Field(default="", description="The job in the ledger.")
    account: str = Field(default="", description="The account that pays the job.")
    project: str = Field(default="", description="The project that the job is booked to.")
    model: str = Field(default="", description="The model.")
    state: str = Field(default="", description="The job's state in the ledger.")
    provider_words: str = Field(default="", description="What the provider said of the job.")
    bill_words: str = Field(default="", description="What the bill says of it.")
    sent_at: str | None = Field(default=None, description="When it was sent.")
    submitted_at: str | None = Field(default=None, description="When the provider accepted it.")
    ended_at: str | None = Field(default=None, description="When it was delivered, or was seen to have failed.")


@dataclass(frozen=True, kw_only=True)
class BillScope:
    """What a bill covers.

    Args:
        provider: whose bill it is.
        since: start of the period in which the bill should have every job; None if not known.
        until: end of that period; None if not known.
        accounts: the accounts that it covers; if empty, those that have a job on it.
        tolerance: a difference from the estimate below this counts as rounding.
    """

    provider: str
    since: float | None = None
    until: float | None = None
    accounts: frozenset[str] = frozenset()
    tolerance: Decimal = Decimal("0.01")


@dataclass
class KnownJobs:
    """The ledger's jobs that a bill is compared with.

    Args:
        jobs: the jobs whose ids are on the bill, and the jobs of its period.
    """

    jobs: Iterable[BilledJob]
    by_id: dict[str, list[BilledJob]] = field(default_factory=dict, init=False)
    by_request: dict[str, list[BilledJob]] = field(default_factory=dict, init=False)
    undecided: list[BilledJob] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Index the jobs by their ids."""
        self.jobs = list({job.key: job for job in self.jobs}.values())
        for job in self.jobs:
            if job.provider_job_id:
                self.by_id.setdefault(job.provider_job_id, []).append(job)
            for request_id in job.request_ids:
                self.by_request.setdefault(request_id, []).append(job)
            if job.state in _UNDECIDED and job.sent_at and not job.provider_job_id:
                self.undecided.append(job)

    def of(self, line: BillLine, accounts: frozenset[str]) -> BilledJob | None:
        """Returns the job that a line belongs to.

        If several jobs have the line's id, a job of the accounts is preferred, then a delivered one, then the newest.

        Args:
            line: a line of the bill.
            accounts: the accounts that the bill covers, if known.
        """
        found = self.by_id.get(line.job_id) if line.job_id else None
        if not found:  # some bills give a request id as the task id
            found = self.by_request.get(line.request_id) or self.by_request.get(line.job_id) or []

        def rank(job: BilledJob) -> tuple[bool, bool, float]:
            return job.account in accounts, job.state is JobState.DELIVERED, job.sent_at or 0.0

        return max(found, key=rank, default=None)


def compare(lines: Sequence[BillLine], known: KnownJobs, scope: BillScope) -> list[BillFinding]:
    """Returns findings for every line of a bill and every delivered job without a line. Each line is in one finding.

    Args:
        lines: the bill's lines.
        known: the jobs.
        scope: what the bill covers.
    """
    found: list[BillFinding] = []
    of_job: dict[str, list[BillLine]] = {}
    jobs: dict[str, BilledJob] = {}
    for line in lines:
        job = known.of(line, scope.accounts)
        if job is None or (scope.accounts and job.account not in scope.accounts):
            found.append(_unknown(line, job, known))
        else:
            of_job.setdefault(job.key, []).append(line)
            jobs[job.key] = job
    for key, its_lines in of_job.items():
        found += _of_job(jobs[key], its_lines, scope)
    found += _not_billed(known, jobs.values(), scope)
    return found


def edge_jobs(known: KnownJobs, scope: BillScope) -> int:
    """Returns how many delivered jobs began or ended outside of the bill's period, so that they may be on another bill.

    Args:
        known: the jobs.
        scope: what the bill covers.
    """
    if scope.since is None or scope.until is None:
        return 0
    return sum(
        job.state is JobState.DELIVERED
        and job.is_within(scope.since, scope.until, whole=False)
        and not job.is_within(scope.since, scope.until, whole=True)
        for job in known.jobs
    )


def _unknown(line: BillLine, job: BilledJob | None, known: KnownJobs) -> BillFinding:
    if job is not None:
        reason = f"the ledger has the id for job {job.key} of another account: {job.account}"
    elif not (line.job_id or line.request_id):
        reason = "the line names no job and no request"
    else:
        reason = "the ledger has no job with this id"
        if near := _near(line, known):
            reason += f"; a submission without a certain answer was sent near this time: job {near.key}"
    return _finding("unknown_here", reason, [line], None, claim=max(line.amount, Decimal(0)))


def _near(line: BillLine, known: KnownJobs) -> BilledJob | None:
    if line.at is None:
        return None
    at = line.at
    near = [job for job in known.undecided if abs((job.sent_at or 0.0) - at) <= NEAR_SECONDS]
    return min(near, key=lambda job: abs((job.sent_at or 0.0) - at), default=None)


def _of_job(job: BilledJob, lines: Sequence[BillLine], scope: BillScope) -> list[BillFinding]:
    """Returns the findings about one job: refunded charges, duplicate charges, and the rest."""
    refunded, left = _refunded(lines)
    found = [_finding("matched", "charged, and refunded", pair, job) for pair in refunded]
    main: list[BillLine] = []
    listed: set[str] = set()
    for line in left:
        if line.amount > 0 and line.item in listed:
            reason = "the job was charged for this before"
            found.append(_finding("duplicate", reason, [line], job, claim=line.amount))
            continue
        main.append(line)
        if line.amount > 0:
            listed.add(line.item)
    currencies = list(dict.fromkeys(line.currency for line in main))
    found += [_charged(job, [line for line in main if line.currency == each], scope, currencies) for each in currencies]
    return found


def _refunded(lines: Sequence[BillLine]) -> tuple[list[list[BillLine]], list[BillLine]]:
    """Pairs each refund with the last charge of the same amount; also returns the remaining lines, ordered by time."""
    left = sorted(lines, key=lambda line: (line.at is None, line.at or 0.0, line.row))
    pairs = []
    for refund in [line for line in left if line.amount < 0]:
        same = [line for line in left if (line.amount, line.currency) == (-refund.amount, refund.currency)]
        if same:
            pairs.append([same[-1], refund])
            left = [line for line in left if line is not refund and line is not same[-1]]
    return pairs, left


def _charged(job: BilledJob, lines: Sequence[BillLine], scope: BillScope, currencies: Sequence[str]) -> BillFinding:
    net = _net(lines)
    currency = lines[0].currency
    if job.has_failed and net > 0:
        return _finding("billed_failure", _failure_words(job), lines, job, claim=net)
    if job.has_failed:
        return _finding("matched", "failed, and not charged", lines, job)
    if all(line.amount < 0 for line in lines):
        return _finding("matched", "a refund of a charge that is not on this bill", lines, job)
    if job.expected is None:
        return _finding("not_compared", "no price of the model was known when it was sent", lines, job)
    if len(currencies) > 1:
        return _finding("not_compared", f"billed in {' and '.join(currencies)}: not compared", lines, job)
    if job.currency != currency:
        reason = f"billed in {currency}, and estimated in {job.currency}: not compared"
        return _finding("not_compared", reason, lines, job)
    difference = net - job.expected
    undecided = f"; the ledger has no certain answer: `prefect-genmedia jobs show {job.key}`"
    tail = undecided if job.state in _UNDECIDED else ""
    if abs(difference) < scope.tolerance:
        return _finding("matched", f"as expected{tail}", lines, job)
    words = "more" if difference > 0 else "less"
    reason = f"{abs(difference):f} {currency} {words} than estimated{tail}"
    return _finding("price_difference", reason, lines, job, claim=max(difference, Decimal(0)))


def _net(lines: Iterable[BillLine]) -> Decimal:
    return sum((line.amount for line in lines), Decimal(0))


def _failure_words(job: BilledJob) -> str:
    if job.state is JobState.UNDELIVERABLE:
        return "the provider's file is not usable, and the job was charged"
    if job.state is JobState.REJECTED:
        return "the provider refused the submission, and charged it"
    if job.provider in providers_with_free_failures():
        return "the job failed, and the provider documents that failed jobs are not billed"
    return "the job failed; whether failed jobs are billed is not documented"


def _not_billed(known: KnownJobs, billed: Iterable[BilledJob], scope: BillScope) -> list[BillFinding]:
    if scope.since is None or scope.until is None:
        return []
    billed = list(billed)
    ids = {job.provider_job_id for job in billed}
    keys = {job.key for job in billed}
    accounts = scope.accounts or {job.account for job in billed}
    return [
        _finding("not_billed", "the job was delivered in the bill's time, and no line names it", [], job)
        for job in known.jobs
        if job.state is JobState.DELIVERED
        and job.key not in keys
        and job.provider_job_id not in ids
        and job.account in accounts
        and job.is_within(scope.since, scope.until, whole=True)
    ]


_EXPECTED = frozenset({"matched", "price_difference", "not_billed", "not_compared"})
"""Kinds of findings with an expected cost. Second charges and failures have none."""


def _finding(
    kind: FindingKind,
    reason: str,
    lines: Sequence[BillLine],
    job: BilledJob | None,
    claim: Decimal = Decimal(0),
) -> BillFinding:
    ids = [line.request_id for line in lines if line.request_id]
    facts: Mapping[str, Any] = {}
    if job is not None:
        ids += job.request_ids
        facts = job.evidence_fields()
        if kind not in _EXPECTED or job.has_failed or (kind == "matched" and len(lines) == 2 and not _net(lines)):
            facts = {**facts, "expected": None}
    first = lines[0] if lines else None
    return BillFinding(
        kind=kind,
        reason=reason,
        currency=first.currency if first else (job.currency if job and job.currency else ""),
        billed=_net(lines) if lines else None,
        claim=claim,
        file=first.file if first else "",
        rows=[line.row for line in lines],
        billed_at=iso_time(first.at) if first else None,
        bill_words=clean_text("; ".join(dict.fromkeys(line.words for line in lines if line.words)), 500),
        request_ids=[shown_id(each) for each in dict.fromkeys(ids)],
        **{
            "provider_job_id": shown_id(first.job_id) if first else "",
            "model": first.model if first else "",
            **facts,
        },
    )

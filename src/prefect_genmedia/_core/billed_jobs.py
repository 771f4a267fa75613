"""The ledger's jobs, as compared with a bill: only a few columns each, because a bill may have a million lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core import schema
from prefect_genmedia._core.account_budgets import micros_column
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import JobState
from prefect_genmedia._core.spend import account_names
from prefect_genmedia.errors import JobExpired
from prefect_genmedia.prices import CURRENCY, from_micros
from prefect_genmedia.text import WORDS_CHARACTERS, clean_text, iso_time, shown_id, storable

_JOBS = schema.jobs

_IDS_AT_ONCE = 500

_COLUMNS = (
    *(
        _JOBS.c[name]
        for name in (
            "key", "provider", "account", "account_id", "model", "label", "project", "state", "provider_job_id",
            "provider_status", "sent_at", "submitted_at", "succeeded_at", "delivered_at", "updated_at", "error_kind",
            "error_message", "error_code", "currency", "evidence",
        )
    ),
    micros_column().label("micros"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BilledJob:
    """A job, with the ids by which its provider can find it. Times are seconds since 1970.

    Args:
        key: its key in the ledger.
        provider: the provider's name.
        account: who pays it, as `spend` names the account.
        model: the provider's model.
        project: the project that it is charged to.
        state: its state.
        provider_job_id: the provider's id; empty if not known.
        request_ids: ids of requests about it.
        expected: its expected cost, from the price table; None if no price was known.
        currency: the currency of `expected`.
        sent_at: when it was sent.
        submitted_at: when the provider accepted it.
        ended_at: when it was delivered, or when it was last changed.
        made_at: when a poll first found the result ready; None if none did.
        error_kind: the kind of its failure.
        words: the provider's message about it.
    """

    key: str
    provider: str
    account: str
    model: str
    project: str
    state: JobState
    provider_job_id: str
    request_ids: tuple[str, ...]
    expected: Decimal | None
    currency: str
    sent_at: float | None
    submitted_at: float | None
    ended_at: float | None
    made_at: float | None
    error_kind: str
    words: str

    @property
    def has_failed(self) -> bool:
        """Whether the provider failed to make a usable file. A file that expired at the provider was made."""
        if self.state is JobState.UNDELIVERABLE:
            return self.error_kind != JobExpired.__name__
        return self.state in (JobState.FAILED, JobState.REJECTED)

    def is_within(self, since: float, until: float, *, whole: bool) -> bool:
        """Whether the job was sent and made, or only one of the two, within a period.

        Args:
            since: start of the period, inclusive.
            until: end of the period, exclusive.
            whole: whether both times must lie in the period.
        """
        times = [at for at in (self.sent_at, self.submitted_at, self.made_at or self.ended_at) if at is not None]
        within = [since <= at < until for at in times]
        return bool(within) and (all(within) if whole else any(within))

    def evidence_fields(self) -> Mapping[str, Any]:
        """Returns what a finding shows about the job; texts are cut to what a table can show."""
        return {
            "expected": self.expected,
            "provider_job_id": shown_id(self.provider_job_id),
            "job_key": self.key,
            "account": self.account,
            "project": self.project,
            "model": self.model,
            "state": self.state.value,
            "provider_words": self.words,
            "sent_at": iso_time(self.sent_at),
            "submitted_at": iso_time(self.submitted_at),
            "ended_at": iso_time(self.ended_at),
        }


async def jobs_with_ids(ledger: Ledger, provider: str, ids: Iterable[str]) -> list[BilledJob]:
    """The jobs of a provider that have one of these ids.

    Args:
        ledger: the jobs.
        provider: the provider's name.
        ids: ids as the provider writes them.
    """
    found: list[BilledJob] = []
    wanted = iter(dict.fromkeys(storable(each) for each in ids if each))
    while part := list(islice(wanted, _IDS_AT_ONCE)):
        found += await _jobs(ledger, _JOBS.c.provider == provider, _JOBS.c.provider_job_id.in_(part))
    return found


async def jobs_between(ledger: Ledger, provider: str, since: float | None, until: float | None) -> list[BilledJob]:
    """Returns the jobs of a provider that were sent in a period.

    Args:
        ledger: the jobs.
        provider: the provider's name.
        since: start of the period, inclusive; None for no lower limit.
        until: end of the period, exclusive; None for no upper limit.
    """
    conditions: list[ColumnElement[bool]] = [_JOBS.c.provider == provider, _JOBS.c.sent_at.is_not(None)]
    if since is not None:
        conditions.append(_JOBS.c.sent_at >= since)
    if until is not None:
        conditions.append(_JOBS.c.sent_at < until)
    return await _jobs(ledger, *conditions)


async def _jobs(ledger: Ledger, *conditions: ColumnElement[bool]) -> list[BilledJob]:
    def read(connection: Connection) -> list[BilledJob]:
        rows: Sequence[Row[Any]] = connection.execute(select(*_COLUMNS).where(*conditions)).fetchall()
        names = account_names(connection) if rows else {}
        return [_job(row._mapping, names) for row in rows]

    return await ledger.transact(read)


def _job(row: Mapping[Any, Any], names: Mapping[str, str]) -> BilledJob:
    micros = row["micros"]
    words = (row["provider_status"], row["error_code"], row["error_message"])
    return BilledJob(
        key=row["key"],
        provider=row["provider"],
        account=names.get(row["account_id"] or "") or names.get(row["account"]) or row["account"],
        model=row["model"],
        project=row["project"] or "",
        state=JobState(row["state"]),
        provider_job_id=row["provider_job_id"] or "",
        request_ids=tuple(_request_ids(row["evidence"])),
        expected=None if micros is None else from_micros(int(micros)),
        currency=row["currency"] or CURRENCY,
        sent_at=row["sent_at"],
        submitted_at=row["submitted_at"],
        ended_at=row["delivered_at"] or row["updated_at"],
        made_at=row["succeeded_at"],
        error_kind=row["error_kind"] or "",
        words=clean_text(" · ".join(filter(None, words)), WORDS_CHARACTERS),
    )


def _request_ids(evidence: Mapping[str, Any] | None) -> Iterable[str]:
    for name, value in (evidence or {}).items():
        if "id" in name.lower():
            yield from (str(each) for each in (value if isinstance(value, list) else [value]) if each)

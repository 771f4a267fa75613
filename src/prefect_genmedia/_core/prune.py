"""Pruning: removes all texts of old final jobs, and keeps what prevents a second payment and what accounting needs.

A pruned row is a tombstone. Identity, scope, digests, attempt, state, kind of error, account, provider id, times, cost
and the delivery stay, so a new request for the same result gets the same answer as before. The request, label,
messages, notes, evidence and output are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update
from sqlalchemy.sql import ColumnElement

from prefect_genmedia._core import schema
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import FORGOTTEN_SECONDS, JobState
from prefect_genmedia._core.statements import JOBS
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.text import counted, storable

DROPPED: dict[str, Any] = {
    "request": {},
    "label": "",
    "error_message": None,
    "note": None,
    "evidence": None,
    "output": None,
}
"""The columns that are cleared, and their values afterwards."""

ENDED = frozenset({JobState.FAILED, JobState.REJECTED, JobState.ABANDONED})
"""States that are final immediately."""

FETCHED = frozenset({JobState.DELIVERED, JobState.UNDELIVERABLE})
"""States that are final once the provider no longer has the job's file."""

_AT_ONCE = 500
"""Number of jobs that one transaction prunes; bounds how long other writers wait."""

_DAYS = {"d": 1, "w": 7, "y": 365}


@dataclass(frozen=True, kw_only=True)
class PruneFilter:
    """Which jobs are pruned: final jobs that meet every given condition.

    Args:
        older_than_seconds: minimum time since the job's last change; None for any age.
        label: only jobs whose label contains this text, case-insensitive.
        idempotency_key: only jobs with this key.
    """

    older_than_seconds: float | None = None
    label: str | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        """Refuse a filter without conditions, which would prune everything.

        Raises:
            InvalidRequest: no condition is given, or a text is empty.
        """
        if self.older_than_seconds is None and self.label is None and self.idempotency_key is None:
            problem = "give an age, a label or an idempotency key: nothing says which jobs are meant"
            raise InvalidRequest.of("The pruning", [FieldProblem("older_than", problem)])
        for name, value in (("label", self.label), ("idempotency_key", self.idempotency_key)):
            if value == "":
                raise InvalidRequest.of("The pruning", [FieldProblem(name, "must not be empty")])

    @classmethod
    def read(cls, older_than: str = "", label: str = "", idempotency_key: str = "") -> PruneFilter:
        """Parses the filter from a form or a command. Empty texts are ignored.

        Args:
            older_than: an age, see `age_seconds`.
            label: part of a label.
            idempotency_key: a key.

        Raises:
            InvalidRequest: the age is invalid, or no condition is given.
        """
        return cls(
            older_than_seconds=age_seconds(older_than) if older_than.strip() else None,
            label=label or None,
            idempotency_key=idempotency_key or None,
        )

    def conditions(self, now: float) -> Iterator[ColumnElement[bool]]:
        """Yields the conditions on rows, except that the job must be final.

        Args:
            now: seconds since 1970.
        """
        yield JOBS.c.pruned_at.is_(None)
        if self.older_than_seconds is not None:
            yield JOBS.c.updated_at < now - self.older_than_seconds
        if self.label is not None:
            yield JOBS.c.label.icontains(storable(self.label), autoescape=True)
        if self.idempotency_key is not None:
            yield JOBS.c.scope == storable(f"key:{self.idempotency_key}")


@dataclass(frozen=True)
class PruneReport:
    """The result of pruning, or of a dry run.

    Args:
        jobs: number of pruned jobs.
        not_final: number of further jobs that meet the conditions but are kept, because they are not final.
        bytes_before: size of the ledger before, in bytes.
        bytes_after: size of the ledger after the vacuum, in bytes; None if it was not vacuumed.
    """

    jobs: int
    not_final: int
    bytes_before: int
    bytes_after: int | None = None

    def words(self, dry_run: bool) -> list[str]:
        """Describes the result in sentences.

        Args:
            dry_run: whether it was a dry run.
        """
        verb = "would be" if dry_run else "was" if self.jobs == 1 else "were"
        lines = [f"{counted(self.jobs, 'job')} {verb} pruned."]
        if self.not_final:
            one = self.not_final == 1
            verb = "is not final and stays" if one else "are not final and stay"
            until = "it ends and the provider no longer has its file"
            until = until if one else "they end and the provider no longer has their files"
            lines.append(f"{counted(self.not_final, 'more job')} {verb} until {until}: prune again later.")
        if self.bytes_after is not None:
            lines.append(f"The ledger takes {self.bytes_after:,} bytes, before {self.bytes_before:,}.")
        return lines


def age_seconds(typed: str) -> float:
    """Converts an age in days, weeks or years to seconds. Months are refused, because `m` means minutes elsewhere.

    Args:
        typed: such as `90d`, `12w` or `1y`; a year has 365 days.

    Raises:
        InvalidRequest: the text is not such an age.
    """
    match = re.fullmatch(r"(\d{1,6})\s*([dwy])", typed.strip(), re.ASCII)
    if match is None:
        problem = f"takes days, weeks or years such as 90d, 12w or 1y, not {typed!r}"
        raise InvalidRequest.of("The pruning", [FieldProblem("older_than", problem)])
    return int(match[1]) * _DAYS[match[2]] * 86400.0


def is_final(now: float) -> ColumnElement[bool]:
    """Returns the condition that a job is final: no further poll or download, and no pending decision of a person.

    Args:
        now: seconds since 1970.
    """
    ended = JOBS.c.state.in_(sorted(state.value for state in ENDED))
    fetched = JOBS.c.state.in_(sorted(state.value for state in FETCHED))
    ends_at = func.coalesce(
        JOBS.c.expires_at, func.coalesce(JOBS.c.submitted_at, JOBS.c.created_at) + FORGOTTEN_SECONDS
    )
    return or_(ended, and_(fetched, ends_at < now))


async def prune(ledger: Ledger, wanted: PruneFilter, *, dry_run: bool = False, vacuum: bool = True) -> PruneReport:
    """Turn the final jobs that meet the conditions into tombstones.

    Args:
        ledger: the jobs.
        wanted: the conditions.
        dry_run: whether only to count.
        vacuum: whether to rewrite the database file afterwards; until then it may still contain removed texts.

    Raises:
        LedgerError: the database is unavailable, or cannot be vacuumed now; jobs that were pruned stay pruned.
    """
    now = ledger.now()
    conditions = list(wanted.conditions(now))
    jobs, not_final = await ledger.transact(lambda connection: _counts(connection, conditions, now))
    before = await ledger.database.size()
    if dry_run:
        return PruneReport(jobs, not_final, before)
    pruned, keys = 0, [""]
    while keys:
        last = keys[-1]  # rows are read in the order of their keys, so none is read twice
        after = [*conditions, JOBS.c.key > last]
        keys = await ledger.transact(lambda connection, after=after: _prune_some(connection, after, now))  # type: ignore[misc]
        pruned += len(keys)
    await ledger.transact(lambda connection: _prune_titles(connection, wanted, now))
    if vacuum:
        await ledger.database.vacuum()
    return PruneReport(pruned, not_final, before, await ledger.database.size() if vacuum else None)


def _counts(connection: Connection, conditions: list[ColumnElement[bool]], now: float) -> tuple[int, int]:
    count = select(func.count()).select_from(JOBS).where(*conditions)
    every = int(connection.execute(count).scalar_one())
    final = int(connection.execute(count.where(is_final(now))).scalar_one())
    return final, every - final


def _prune_some(connection: Connection, conditions: list[ColumnElement[bool]], now: float) -> list[str]:
    """Prune a group of jobs in the transaction that checks the conditions; returns their keys."""
    chosen = (
        select(JOBS.c.key, JOBS.c.before_decision)
        .where(*conditions, is_final(now))
        .order_by(JOBS.c.key)
        .limit(_AT_ONCE)
    )
    rows = connection.execute(chosen.with_for_update()).fetchall()
    keys = [row.key for row in rows]
    if keys:
        connection.execute(update(JOBS).where(JOBS.c.key.in_(keys)).values(**DROPPED, pruned_at=now))
    for row in rows:
        if row.before_decision is not None:
            scrubbed = update(JOBS).where(JOBS.c.key == row.key)
            connection.execute(scrubbed.values(before_decision=_without_texts(row.before_decision)))
    return keys


def _without_texts(decision: dict[str, Any]) -> dict[str, Any]:
    """Returns a decision that can still be undone, without the texts that it replaced."""
    fields = {name: DROPPED.get(name, value) for name, value in decision.get("fields", {}).items()}
    return {**decision, "fields": fields}


def _prune_titles(connection: Connection, wanted: PruneFilter, now: float) -> None:
    """Remove the titles of confirmations, because they contain labels."""
    if wanted.idempotency_key is not None:
        return
    asked = schema.confirmations
    conditions = [asked.c.title != ""]
    if wanted.older_than_seconds is not None:
        conditions.append(asked.c.asked_at < now - wanted.older_than_seconds)
    if wanted.label is not None:
        conditions.append(asked.c.title.icontains(storable(wanted.label), autoescape=True))
    ended = or_(asked.c.answer.is_not(None), asked.c.expires_at < now)
    connection.execute(update(asked).where(*conditions, ended).values(title=""))

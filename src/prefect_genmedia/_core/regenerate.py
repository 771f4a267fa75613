"""Regeneration of existing results: each gets a new variant, and is paid once per run.

The variant is recorded in the ledger, by row and root flow run, before anything is sent. Retries and restarts of that
run find the variant and join its job. Another run that regenerates the row gets the next variant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from prefect_genmedia._core import schema
from prefect_genmedia._core.attempts import holds_payment
from prefect_genmedia._core.identity import BATCH_SCOPE
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import ACCEPTED, Job, JobState
from prefect_genmedia._core.statements import JOBS

STANDS = frozenset({JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED, JobState.DELIVERED, JobState.UNKNOWN})
"""States of a variant's job in which it counts as its row's, in runs that do not ask for the row anew. A variant that
was never sent, or came to nothing, leaves the row with the result that it had before; see `standing_variant`."""

_TABLE = schema.regenerations


async def fix_variants(ledger: Ledger, known: Mapping[str, int], root_run_id: str) -> dict[str, int]:
    """Returns the variants that a run requests, by scope, and records those that are not recorded yet.

    Two processes of the same run get the same variants. Two runs never get the same variant of a row.

    Args:
        ledger: where they are recorded.
        known: the highest variant that has a job, by the row's scope.
        root_run_id: the root flow run that requests them.
    """

    def fix(connection: Connection) -> dict[str, int]:
        return {
            scope: _fixed(connection, scope, highest, root_run_id, ledger.now()) for scope, highest in known.items()
        }

    return await ledger.transact(fix)


async def next_variants(ledger: Ledger, known: Mapping[str, int], root_run_id: str) -> dict[str, int]:
    """Returns what `fix_variants` would return, without writing.

    Args:
        ledger: where variants are recorded.
        known: the highest variant that has a job, by the row's scope.
        root_run_id: the root flow run that requests them.
    """

    def look(connection: Connection) -> dict[str, int]:
        found = {}
        for scope, highest in known.items():
            own = _own(connection, scope, root_run_id)
            found[scope] = _after(connection, scope, highest) if own is None else own
        return found

    return await ledger.transact(look)


def standing_variant(newest: Mapping[int, Job], now: float) -> int:
    """The variant that counts as a row's in runs that do not ask for it anew.

    A variant whose job holds a payment counts, too, where the row had no paid result before: it may still be delivered,
    or be with a person, and another job would pay a second time.

    Args:
        newest: the newest job of each variant of the row.
        now: seconds since 1970.
    """
    anew = {variant: job for variant, job in newest.items() if variant}
    if not (standing := [variant for variant, job in anew.items() if job.state in STANDS]):
        first = newest.get(0)
        if first is None or not holds_payment(first, now):
            standing = [variant for variant, job in anew.items() if holds_payment(job, now)]
    return max(standing, default=0)


async def is_replaced(ledger: Ledger, job: Job) -> bool:
    """Whether a batch row was regenerated later and that job was accepted; the file name then belongs to the later job.

    Args:
        ledger: where jobs are recorded.
        job: the job.
    """
    if not job.scope.startswith(BATCH_SCOPE):
        return False
    later = (JOBS.c.scope == job.scope, JOBS.c.variant > job.variant, JOBS.c.created_at > job.created_at)
    accepted = JOBS.c.state.in_([state.value for state in ACCEPTED])
    return bool(await ledger.query(select(JOBS.c.key).where(*later, accepted).limit(1)))


def _fixed(connection: Connection, scope: str, highest: int, root_run_id: str, now: float) -> int:
    while (own := _own(connection, scope, root_run_id)) is None:
        # On PostgreSQL another run may insert the same variant concurrently; then nothing is inserted here.
        values = {"row_digest": _digest(scope), "root_run_id": root_run_id, "created_at": now}
        new = schema.insert_new(connection, _TABLE).values(**values, variant=_after(connection, scope, highest))
        connection.execute(new)
    return own


def _own(connection: Connection, scope: str, root_run_id: str) -> int | None:
    mine = (_TABLE.c.row_digest == _digest(scope), _TABLE.c.root_run_id == root_run_id)
    found: int | None = connection.execute(select(_TABLE.c.variant).where(*mine)).scalar()
    return found


def _after(connection: Connection, scope: str, highest: int) -> int:
    fixed = connection.execute(select(func.max(_TABLE.c.variant)).where(_TABLE.c.row_digest == _digest(scope))).scalar()
    return max(highest, fixed or 0) + 1


def _digest(scope: str) -> str:
    """Returns a digest of a row's scope that fits into an index, because ids may be long."""
    return hashlib.sha256(scope.encode("utf-8", "surrogatepass")).hexdigest()

"""Selects the rows of a table that a run processes, and those that it regenerates."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from prefect_genmedia.batch.cells import id_text
from prefect_genmedia.batch.frames import given_rows
from prefect_genmedia.batch.rows import SHOWN_ROWS, BadRow, Row
from prefect_genmedia.batch.spec import BatchSpec
from prefect_genmedia.batch.table import all_filled
from prefect_genmedia.errors import FieldProblem, InvalidRequest


def given_fields(spec: BatchSpec, left_out: Set[int]) -> list[dict[str, Any]]:
    """Returns the rows that are passed to the runs of shards; none if they read the table themselves.

    Args:
        spec: the batch.
        left_out: positions of the rows that are skipped.
    """
    if spec.sharding.shards == 1 or isinstance(spec.table, str):
        return []
    return [row for position, row in enumerate(all_filled(given_rows(spec.table))) if position not in left_out]


def chosen_rows(
    spec: BatchSpec, rows: Sequence[Row], bad: Sequence[BadRow]
) -> tuple[list[Row], list[Row], list[BadRow]]:
    """Returns the selected rows, the other rows, and the invalid rows among the selected ones.

    Args:
        spec: the batch.
        rows: the valid rows of the table.
        bad: its invalid rows.

    Raises:
        InvalidRequest: `only` names rows that the table does not have.
    """
    if spec.only is None:
        return list(rows), [], list(bad)
    wanted = {id_text(each) for each in spec.only}
    chosen, wrong = [row for row in rows if row.id in wanted], [row for row in bad if row.id in wanted]
    absent = wanted - {row.id for row in chosen} - {row.id for row in wrong}
    if absent and spec.sharding.shard is None:
        raise _names_absent("only", absent, "that are not in the table")
    return chosen, [row for row in rows if row.id not in wanted], wrong


def rows_anew(spec: BatchSpec, rows: Sequence[Row]) -> set[str]:
    """Returns the ids of the rows to regenerate.

    Args:
        spec: the batch.
        rows: the rows that the run processes.

    Raises:
        InvalidRequest: `regenerate` names rows that this run does not process, or the batch is split into shards.
    """
    wanted = {id_text(each) for each in spec.regenerate or ()}
    if wanted and spec.sharding.shards > 1:
        problem = "cannot be split into shards: run these rows without shards, with only"
        raise InvalidRequest.of("The batch", [FieldProblem("regenerate", problem)])
    if absent := wanted - {row.id for row in rows}:
        raise _names_absent("regenerate", absent, "that this run does not do, or that are invalid")
    return wanted


def _names_absent(field: str, absent: Set[str], why: str) -> InvalidRequest:
    names = ", ".join(map(repr, sorted(absent)[:SHOWN_ROWS])) + (", …" if len(absent) > SHOWN_ROWS else "")
    return InvalidRequest.of("The batch", [FieldProblem(field, f"names rows {why}: {names}")])

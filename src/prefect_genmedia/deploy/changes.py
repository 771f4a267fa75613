"""What was found and done about each thing that is declared: the rows of the command's table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(str, Enum):
    """What became of one declared thing; with `--check`, what would."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    MISSING = "missing"  # nothing to create it from was given, and the server does not have it
    ACCEPTED = "accepted"  # by the provider, when its key was tried
    REFUSED = "refused"  # by the provider
    UNREACHABLE = "not reached"  # the provider gave no answer that tells
    INVALID = "invalid"  # what was given for it cannot be right
    WORKING = "working"  # it has succeeded lately
    OVERDUE = "overdue"  # it should have succeeded again by now


@dataclass(frozen=True)
class Change:
    """One row.

    Args:
        kind: what sort of thing it is, such as `Block type` or `deployment`.
        name: which one.
        outcome: what became of it.
        detail: a few words for a person; never a secret.
        off: what of it is switched off, by name.
    """

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""
    off: tuple[str, ...] = ()


def compared(existing: object | None, same: bool) -> Outcome:
    """The outcome for a thing that exists or not, and is already as declared or not.

    Args:
        existing: the thing on the server; None where there is none.
        same: whether it is as declared.
    """
    if existing is None:
        return Outcome.CREATED
    return Outcome.UNCHANGED if same else Outcome.UPDATED

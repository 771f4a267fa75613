"""A job's options, built once and passed as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect_genmedia._core.ledger import Spend
from prefect_genmedia._inputs.inspect import Seen
from prefect_genmedia.providers.protocol import GenerationRequest

DEFAULT_TIMEOUT_SECONDS = 1800.0
"""How long to wait by default: the providers' examples stop after 600 s, but long jobs take more."""


@dataclass(frozen=True)
class JobSpec:
    """All options of one job: what is wanted, which result exactly, and how it is submitted, awaited and delivered.

    Parameters:
        request: what is wanted.
        scope: what bounds "the same request": a root flow run's id, or an idempotency key.
        variant: tells apart several wanted results of the same request.
        label: a few words that name the request for people.
        output: a folder, a file name ending in .mp4, or a storage URL of either; None for the session's default.
        timeout_seconds: how long to wait for the result, in seconds from when the provider accepted the job.
        ask_again: whether an attempt that failed earlier may be followed by a new one.
        preflight: whether documented limits of the inputs are checked before anything is sent.
        allow_second_account: whether it may be sent although another account of the provider and base URL has the same
            request in flight or delivered.
        spend: reserves the job's cost in the transaction in which it begins to be sent; None for no budget.
        inspected: what was found in the inputs already, by URL.
    """

    request: GenerationRequest
    scope: str
    variant: int = 0
    label: str = ""
    output: str | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ask_again: bool = True
    preflight: bool = True
    allow_second_account: bool = False
    spend: Spend | None = None
    inspected: Mapping[str, Seen] = field(default_factory=dict)

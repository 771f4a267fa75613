"""New attempts after the provider refused what it had made: only as many as the user allows, each one in the ledger."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

from prefect.logging import get_run_logger

from prefect_genmedia.errors import OutputRefused
from prefect_genmedia.providers.protocol import GenerationRequest

Request = TypeVar("Request", bound=GenerationRequest)


class Attempt(Generic[Request]):
    """One attempt: a block around submitting and waiting, which a refused output leaves quietly while more are allowed.

    Attributes:
        request: what to submit: the user's request, with another seed after the first attempt.
        variant: tells the attempts apart in the ledger; 0 for the first.
        is_last: whether no other follows: only then may a rerun ask for it anew.
    """

    def __init__(self, request: Request, variant: int, last: bool) -> None:
        self.request = request
        self.variant = variant
        self.refused = False
        self.is_last = last

    def __enter__(self) -> Attempt[Request]:
        """Begin the attempt."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallow a refused output if another attempt is allowed."""
        self.refused = isinstance(error, OutputRefused) and not self.is_last
        if self.refused:
            get_run_logger().warning("The output was refused, so a new attempt is made: %s", error)
        return self.refused


def attempts(request: Request, resubmit_on_output_refusal: int) -> Iterator[Attempt[Request]]:
    """The first attempt at a request, and as many more after refused outputs as are allowed.

    Each one may be paid (providers say that they bill no refused output; that is their word). A retried run goes
    through the same attempts again and finds each in the ledger.

    Parameters:
        request: what is wanted.
        resubmit_on_output_refusal: how many new attempts are allowed.
    """
    for number in range(resubmit_on_output_refusal + 1):
        attempt = Attempt(_reseeded(request, number), number, last=number == resubmit_on_output_refusal)
        yield attempt
        if not attempt.refused:
            return


def _reseeded(request: Request, number: int) -> Request:
    """The request with a seed of its own for each attempt; the same one when a run is retried."""
    if number == 0 or "seed" not in type(request).model_fields:
        return request
    seed = zlib.crc32(f"{request.model_dump(include={'seed'})['seed']}:{number}".encode()) % 2**31
    return request.model_copy(update={"seed": seed})

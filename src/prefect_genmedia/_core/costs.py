"""What a job probably costs, from the request and the price table."""

from __future__ import annotations

from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.protocol import GenerationRequest


def priced_as(request: GenerationRequest) -> str:
    """The name under which a request's price is listed: `provider/model`.

    Parameters:
        request: what is wanted.
    """
    return f"{request.provider}/{request.model_name}"


def length_limit(request: GenerationRequest) -> float | None:
    """Seconds that the result plays at the longest, as far as the request alone tells.

    Parameters:
        request: what is wanted.
    """
    if not request.length_is_extra and (seconds := request.expectation().seconds) is not None:
        return seconds
    source = request.duration_source()
    return source.below_seconds if source else None


def estimated_cost(request: GenerationRequest, prices: PriceTable, seconds: float | None) -> float | None:
    """Estimate what a result costs, in CNY; None if no price is known, or it depends on an unknown length.

    Parameters:
        request: what is wanted.
        prices: by `provider/model`.
        seconds: length of the result; None if it is not known: the longest that the request allows.
    """
    price = prices.get(priced_as(request))
    return None if price is None else price.of(length_limit(request) if seconds is None else seconds)

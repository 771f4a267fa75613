"""What a result probably costs. Every figure made here is an estimate: what TokenOps itself charges is not known."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from prefect_genmedia.providers.protocol import GenerationRequest

CURRENCY = "CNY"

MICROS = 1_000_000
"""Budgets count in whole millionths, so that a thousand small sums add up to the limit and not beyond it."""


class Price(BaseModel):
    """The price of one provider's model, in CNY."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_second: float = Field(default=0.0, ge=0, description="CNY for each second of the result.")
    per_job: float = Field(default=0.0, ge=0, description="CNY for each result, however long.")
    as_of: str = Field(default="", description="When the price was true, and where it is from.")

    def of(self, seconds: float | None) -> float | None:
        """CNY for a result of `seconds`; None where the price depends on a length that is not known."""
        if self.per_second and seconds is None:
            return None
        return self.per_job + self.per_second * (seconds or 0.0)


PriceTable = Mapping[str, Price]

_LIST_PRICE = "the upstream's list price, 2026-11"

LIST_PRICES: dict[str, Price] = {
    "tokenops/jimeng-video-3.0-pro": Price(per_second=1.0, as_of=_LIST_PRICE),
    "tokenops/jimeng-video-3.0-1080P": Price(per_second=0.63, as_of=_LIST_PRICE),
    "tokenops/jimeng-video-3.0-720P": Price(per_second=0.28, as_of=_LIST_PRICE),
    "tokenops/OmniHuman_1.5": Price(per_second=1.2, as_of="reported by others, 2026-11"),
}
"""By `provider/model`; docs/providers/tokenops.md. Jenius bills in points and HiDream by plan: give those yourself."""


def price_table(own: Mapping[str, float | Price] | None) -> dict[str, Price]:
    """The list prices, with one's own in their place.

    Parameters:
        own: by `provider/model`: CNY per second, or a `Price`.
    """
    table = dict(LIST_PRICES)
    for name, price in (own or {}).items():
        table[name] = price if isinstance(price, Price) else Price(per_second=price, as_of="your own")
    return table


def priced_as(request: GenerationRequest) -> str:
    """The name under which a request's price stands: `provider/model`."""
    return f"{request.provider}/{request.model_name}"


def length_limit(request: GenerationRequest) -> float | None:
    """Seconds that the result plays at the longest, as far as the request alone tells."""
    if (seconds := request.expectation().seconds) is not None:
        return seconds
    source = request.duration_source()
    return source.below_seconds if source else None


def estimated_cost(request: GenerationRequest, prices: PriceTable, seconds: float | None) -> float | None:
    """Estimate what a result costs, in CNY; None if no price is known, or it depends on an unknown length.

    Parameters:
        request: what is asked for.
        prices: by `provider/model`.
        seconds: length of the result; None if it is not known: the longest that the request allows.
    """
    price = prices.get(priced_as(request))
    return None if price is None else price.of(length_limit(request) if seconds is None else seconds)


def in_micros(cost: float) -> int:
    """A sum in whole millionths, rounded."""
    return round(cost * MICROS)

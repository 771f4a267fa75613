"""Prices of results, in CNY. Every sum made from them is an estimate."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

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
"""Prices by `provider/model`."""


def price_table(listed: PriceTable, own: Mapping[str, float | Price] | None) -> dict[str, Price]:
    """The list prices, with the user's own in their place.

    Parameters:
        listed: the providers' list prices, by `provider/model`.
        own: by `provider/model`: CNY per second, or a `Price`.
    """
    table = dict(listed)
    for name, price in (own or {}).items():
        table[name] = price if isinstance(price, Price) else Price(per_second=price, as_of="your own")
    return table


def in_micros(cost: float) -> int:
    """A sum in whole millionths, rounded."""
    return round(cost * MICROS)

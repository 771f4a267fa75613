"""Prices of results, in CNY. Every sum made from them is an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from typing_extensions import Self

from prefect_genmedia.errors import FieldProblem, InvalidRequest

CURRENCY = "CNY"

MICROS = 1_000_000
"""Budgets count in whole millionths, so that a thousand small sums add up to the limit and not beyond it."""


MOST_CNY = 1_000_000_000
"""The largest price and limit that are taken: their sums must fit into the ledger's 64 bits of millionths."""


class Price(BaseModel):
    """The price of one provider's model, in CNY.

    Raises:
        InvalidRequest: a price is negative, infinite, not a number, or above a billion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_second: float = Field(default=0.0, ge=0, le=MOST_CNY, description="CNY for each second of the result.")
    per_job: float = Field(default=0.0, ge=0, le=MOST_CNY, description="CNY for each result, however long.")
    as_of: str = Field(default="", description="When the price was true, and where it is from.")

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Only for what is meant as a price: a plain number is tried as one, too, where either is allowed.
        try:
            return handler(data)
        except ValidationError as error:
            if not isinstance(data, Mapping):
                raise
            refusal = InvalidRequest.from_validation("The price", error)
        raise refusal

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

    Raises:
        InvalidRequest: a price is negative, infinite, not a number, or above a billion.
    """
    table = dict(listed)
    numbers = {name: price for name, price in (own or {}).items() if not isinstance(price, Price)}
    problems = [problem for name, price in numbers.items() for problem in amount_problems(f"prices.{name}", price)]
    if problems:
        raise InvalidRequest.of("The price table", problems)
    for name, price in (own or {}).items():
        table[name] = price if isinstance(price, Price) else Price(per_second=price, as_of="your own")
    return table


def amount_problems(field: str, amount: float) -> Iterator[FieldProblem]:
    """What is wrong with an amount of money, if anything.

    Parameters:
        field: where it was given.
        amount: CNY.
    """
    if not 0 <= amount <= MOST_CNY:  # false for NaN, too
        yield FieldProblem(field, f"must be an amount from 0 to {MOST_CNY:,} {CURRENCY}")


def in_micros(cost: float) -> int:
    """A sum in whole millionths, rounded.

    Raises:
        InvalidRequest: it is negative, infinite, not a number, or too large to be counted.
    """
    if problems := [*amount_problems("cost", cost)]:
        raise InvalidRequest.of("The budget", problems)
    return round(cost * MICROS)

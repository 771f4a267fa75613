"""Prices of results, in CNY. Every sum made from them is an estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
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

    def of(self, seconds: float | None) -> Decimal | None:
        """CNY for a result of `seconds`; None where the price depends on a length that is not known."""
        if self.per_second and seconds is None:
            return None
        return exact(self.per_job) + exact(self.per_second) * exact(seconds or 0.0)


PriceTable = Mapping[str, Price]
"""Prices by `provider/model`."""


def price_table(listed: PriceTable, own: Mapping[str, float | Price] | None) -> dict[str, Price]:
    """The list prices, with the user's own in their place.

    Args:
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


def amount_problems(field: str, amount: Decimal | float) -> Iterator[FieldProblem]:
    """What is wrong with an amount of money, if anything.

    Args:
        field: where it was given.
        amount: CNY.
    """
    # Compared with NaN, a Decimal raises an error.
    if not math.isfinite(amount) or not 0 <= amount <= MOST_CNY:
        yield FieldProblem(field, f"must be an amount from 0 to {MOST_CNY:,} {CURRENCY}")


def exact(amount: Decimal | float) -> Decimal:
    """An amount as it was typed: 0.1 is a tenth, not the nearest binary fraction.

    Args:
        amount: CNY.
    """
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def amount_of(field: str, amount: Decimal | float) -> Decimal:
    """An amount that a user gave, checked.

    Args:
        field: where it was given.
        amount: CNY.

    Raises:
        InvalidRequest: it is negative, infinite, not a number, or too large to be counted.
    """
    if problems := [*amount_problems(field, amount)]:
        raise InvalidRequest.of("The budget", problems)
    return exact(amount)


def in_micros(cost: Decimal | float) -> int:
    """A sum in whole millionths: an exact one is rounded up, so that no cost is counted as nothing.

    Raises:
        InvalidRequest: it is negative, infinite, not a number, or too large to be counted.
    """
    amount = amount_of("cost", cost) * MICROS
    # A float may be the result of an arithmetic of floats, and lie just above what was meant.
    return int(amount.to_integral_value(ROUND_CEILING) if isinstance(cost, Decimal) else round(amount))


def limit_in_micros(limit: Decimal | float) -> int:
    """A limit in whole millionths, rounded down, so that nothing above it fits.

    Args:
        limit: CNY.

    Raises:
        InvalidRequest: it is negative, infinite, not a number, or too large to be counted.
    """
    # 3 * 1.4 is 4.199999999999999 as a float: what lies that near is the amount that was meant.
    meant = amount_of("limit", limit).quantize(Decimal("1e-9"))
    return int(meant * MICROS)


def from_micros(micros: int) -> Decimal:
    """A sum in CNY.

    Args:
        micros: the sum in whole millionths.
    """
    return Decimal(micros) / MICROS

"""Which columns of a bill mean what: no provider documents a format, so the user says it in a TOML file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from prefect_genmedia._core.caps import time_zone
from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.billing.amounts import currency_word
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.inputs import local_path
from prefect_genmedia.providers.plugin import plugins

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 100_000
"""A mapping has a few lines; a larger file is another one."""

Names = tuple[str, ...]
"""The headers of a column: the first one that the bill has counts."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Part):
    """The headers of the bill's columns. Case, blanks and invisible characters do not count."""

    amount: Names = Field(description="What the line charges; negative for a refund.")
    job_id: Names = Field(default=(), description="The provider's id of the job.")
    request_id: Names = Field(default=(), description="An id of the request.")
    time: Names = Field(default=(), description="When it was billed, or when the job was sent.")
    currency: Names = Field(default=(), description="The amount's currency.")
    model: Names = Field(default=(), description="The model.")
    item: Names = Field(default=(), description="What tells several charges for one job apart.")
    words: Names = Field(default=(), description="Columns whose texts are evidence; all of them count.")

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_a_job(self) -> Self:
        if not (self.job_id or self.request_id):
            raise ValueError("job_id or request_id is needed: without an id no line can be proved")
        if not self.amount:
            raise ValueError("amount is needed")
        return self


class Amounts(_Part):
    """How amounts are written."""

    currency: str = Field(default="", description="Currency of every line where no column says it.")
    decimal: Literal[".", ","] = Field(default=".", description="What separates the decimals.")
    unit: Decimal = Field(default=Decimal(1), gt=0, le=10**6, description="What 1 in the column is worth, such as 0.01")
    negate: bool = Field(default=False, description="Whether charges are written as negative amounts.")
    tolerance: Decimal = Field(
        default=Decimal("0.01"), ge=0, le=10**6, description="A smaller difference from the estimate is rounding."
    )

    @field_validator("unit", "tolerance", mode="before")
    @classmethod
    def _as_typed(cls, value: Any) -> Any:
        return str(value) if isinstance(value, float) else value  # 0.01 is a hundredth, not the nearest fraction

    @field_validator("currency")
    @classmethod
    def _is_a_word(cls, value: str) -> str:
        return currency_word(value) if value else ""


class Times(_Part):
    """How times are written."""

    zone: str = Field(default="", description="Time zone of times without an offset, such as Asia/Shanghai.")
    format: str = Field(default="", description="strptime's format, `unix` or `unix_ms`; ISO 8601 by default.")

    @field_validator("zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value:
            try:
                time_zone(value)
            except InvalidRequest:
                known = False
            else:
                known = True
            if not known:
                raise ValueError("must be a time zone by its IANA name, such as Asia/Shanghai")
        return value


class BillMapping(_Part):
    """How a provider's bill is read.

    Attributes:
        provider: Whose bill it is.
        columns: The headers of its columns.
        amounts: How its amounts are written.
        times: How its times are written.
        skip: Lines that are no charges: cells by column, such as top-ups and sums.
    """

    provider: str
    columns: Columns
    amounts: Amounts = Field(default_factory=Amounts)
    times: Times = Field(default_factory=Times)
    skip: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("provider")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        known = sorted(plugin.name for plugin in plugins())
        if value not in known:
            raise ValueError(f"must be one of the installed providers: {', '.join(known)}")
        return value

    @field_validator("skip", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: (each,) if isinstance(each, str) else each for name, each in value.items()}

    @model_validator(mode="after")
    def _has_a_currency(self) -> Self:
        if not (self.columns.currency or self.amounts.currency):
            raise ValueError("columns.currency or amounts.currency is needed: an amount without a currency is none")
        return self


def read_mapping(source: str | Mapping[str, Any] | BillMapping) -> BillMapping:
    """Read a mapping. Blocks; run it in a thread.

    Args:
        source: path or fsspec URL of a TOML file; the TOML itself, on several lines; or what it holds.

    Raises:
        InvalidRequest: it cannot be read, or does not say what is needed; all problems are named.
    """
    if isinstance(source, BillMapping):
        return source
    found = _parsed(source) if isinstance(source, str) else dict(source)
    try:
        return BillMapping.model_validate(found)
    except ValidationError as error:
        refusal = InvalidRequest.from_validation("The mapping", error)
    raise refusal


def _parsed(source: str) -> dict[str, Any]:
    text = source if "\n" in source.strip() else _text_of(source.strip())
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = f"this is no TOML: {error}"
    except (RecursionError, ValueError):
        problem = "this is no TOML"
    else:
        return found
    raise refusal(problem)


def _text_of(location: str) -> str:
    if not location:
        raise refusal("is needed: no provider documents the format of its bills; see the examples in the documents")
    path = local_path(location)
    try:
        with path.open("rb") if path is not None else fsspec.open(location, "rb") as file:
            content: bytes = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        problem = unsigned_text(f"{location!r} cannot be read: {type(error).__name__}: {error}")
    else:
        if len(content) <= MOST_BYTES:
            return text
        problem = f"{unsigned_text(location)!r} is larger than {MOST_BYTES} bytes: this is no mapping"
    raise refusal(problem)


def refusal(problem: str, field: str = "mapping", subject: str = "The bill") -> InvalidRequest:
    """The error that says why a bill cannot be read.

    Args:
        problem: what is wrong.
        field: with what.
        subject: what is refused.
    """
    return InvalidRequest.of(subject, [FieldProblem(field, problem)])


def headers_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The headers of a table's rows, by how they are compared.

    Args:
        rows: the rows; empty cells may be left out.
    """
    return {folded(name): name for row in rows for name in row}


def folded(name: str) -> str:
    """A header as it is compared.

    Args:
        name: the header.
    """
    return " ".join(name.replace("\ufeff", "").casefold().split())

"""A bill's cells: amounts, currencies, times and ids as people and spreadsheets write them. Whatever is in a cell,
it is read as one of these or refused in a sentence."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from prefect_genmedia._core.caps import time_zone
from prefect_genmedia.prices import MOST_CNY
from prefect_genmedia.text import ID_BYTES, clean_text, csv_value, id_problem

STEP = Decimal("1e-9")
"""Amounts are taken to the billionth: a spreadsheet's 0.30000000000000004 is 0.3."""

_ALIASES = {"RMB": "CNY", "人民币": "CNY", "元": "CNY", "YUAN": "CNY", "US$": "USD", "美元": "USD"}

_SIGNS = {
    "¥": ("CNY", "JPY"),
    "￥": ("CNY", "JPY"),
    "元": ("CNY",),
    "$": ("USD", "CAD", "AUD", "SGD", "HKD", "TWD"),
    "€": ("EUR",),
    "£": ("GBP",),
}
"""What a sign in an amount's cell may stand for; the first one, where nothing else says it."""

_WORD = re.compile(r"[^\W\d_]{2,12}")
_CURRENCY = re.compile(r"[^\W_]{1,16}")
_PLAIN = re.compile(r"[+-]?\d+(?:\.\d*)?|[+-]?\.\d+", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_ISO = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"\s*([zZ]|[+-]\d{2}(?::?\d{2})?)?",
    re.ASCII,
)
_LONGEST = 64
"""Characters of an amount or time."""

_ROUNDED_ID = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")
_EXACT_FLOAT = 2.0**53


def currency_word(value: Any) -> str:
    """A currency, or a provider's own unit, in capitals.

    Args:
        value: the cell.

    Raises:
        ValueError: it is no such word.
    """
    word = clean_text(str(value), 40).strip().upper()
    word = _ALIASES.get(word, word)
    if not _CURRENCY.fullmatch(word):
        raise ValueError(f"{word[:20]!r} is no currency, such as CNY")
    return word


def amount_and_currency(value: Any, decimal: str, known: str) -> tuple[Decimal, str]:
    """An amount, and its currency by the cell itself or by what else is known.

    Args:
        value: the cell: a number, or text such as `¥1,234.50`, `(1.00)` or `1.234,50 EUR`.
        decimal: what separates the decimals.
        known: the currency that the line or the mapping says; empty if neither does.

    Raises:
        ValueError: it is no amount, is too large to be counted, or names another currency.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("is no amount")  # noqa: TRY004 - a cell's problem, as all others
    if not isinstance(value, str):
        return _checked(_of_number(value)), _known(known)
    text = clean_text(csv_value(value.strip()), 200).strip()
    if len(text) > _LONGEST:
        raise ValueError("is too long for an amount")
    number, currency = _without_currency(text, known)
    negative = number.startswith("(") and number.endswith(")")
    number = (number[1:-1] if negative else number).replace("\u2212", "-").replace(" ", "").replace("\u00a0", "")
    number = number.replace("'", "").replace("\u2019", "").replace("\u202f", "")
    if decimal == ",":
        number = number.replace(".", "\0").replace(",", ".").replace("\0", ",")
    if number.endswith("-"):  # some accounts write the sign last
        number = f"-{number[:-1]}"
    if not (_PLAIN.fullmatch(number) or _GROUPED.fullmatch(number)):
        raise ValueError(f"{text[:30]!r} is no amount")
    amount = _checked(Decimal(number.replace(",", "")))
    return (-amount if negative else amount), currency


def _of_number(value: float) -> Decimal:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is no amount")
    if abs(value) > MOST_CNY:
        raise ValueError("is too large to be an amount")
    return Decimal(repr(value))


def _checked(amount: Decimal) -> Decimal:
    try:
        if abs(amount) > MOST_CNY:
            raise ValueError("is too large to be an amount")
        # In plain notation, so that no exponent is left in what is shown.
        return Decimal(f"{amount.quantize(STEP).normalize():f}")
    except InvalidOperation:
        raise ValueError("is too large to be an amount") from None


def _without_currency(text: str, known: str) -> tuple[str, str]:
    """The number of a cell, and the currency; a sign or word beside the number must agree with what is known."""
    number, currency = text, known
    for sign, meant in _SIGNS.items():
        if sign in number:
            number = number.replace(sign, "", 1)
            currency = _agreed(currency, meant, sign)
    if word := _WORD.search(number):
        number = number.replace(word[0], "", 1)
        currency = _agreed(currency, (currency_word(word[0]),), word[0])
    return number.strip(), _known(currency)


def _agreed(currency: str, meant: tuple[str, ...], sign: str) -> str:
    if currency and currency not in meant:
        raise ValueError(f"names {sign}, although the line is in {currency}")
    return currency or meant[0]


def _known(currency: str) -> str:
    if not currency:
        raise ValueError("has no currency")
    return currency


def seconds_of(value: Any, form: str, zone: str) -> float:
    """A time as seconds since 1970.

    Args:
        value: the cell: text, or a number for `unix` and `unix_ms`.
        form: strptime's format, `unix` or `unix_ms`; empty for ISO 8601.
        zone: time zone of a time without an offset; empty if nobody said.

    Raises:
        ValueError: it is no time, or it is not said in which time zone it is.
    """
    text = clean_text(csv_value(str(value).strip()), 200).strip()
    if len(text) > _LONGEST:
        raise ValueError("is too long for a time")
    try:
        if form in ("unix", "unix_ms"):
            seconds = float(text) / (1000 if form == "unix_ms" else 1)
            return datetime.fromtimestamp(seconds, timezone.utc).timestamp()
        found = datetime.strptime(text, form) if form else _of_iso(text)
        if found.tzinfo is None and zone:
            found = found.replace(tzinfo=time_zone(zone))
        if found.tzinfo is not None:
            return found.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text[:40]!r} is no time in the format {form or 'ISO 8601'}") from None
    raise ValueError(f"{text[:40]!r} has no time zone: give times.zone in the mapping")


def _of_iso(text: str) -> datetime:
    """A time in ISO 8601, or as spreadsheets write it: `2026/11/5 9:05`."""
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(text)
    *numbers, fraction, offset = match.groups()
    parts = [int(each or 0) for each in numbers]
    found = datetime(*parts, microsecond=int((fraction or "0")[:6].ljust(6, "0")))  # type: ignore[arg-type,misc]
    if offset is None:
        return found
    if offset in "zZ":
        return found.replace(tzinfo=timezone.utc)
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    sign = -1 if offset[0] == "-" else 1
    return found.replace(tzinfo=timezone(sign * timedelta(hours=hours, minutes=minutes)))


def id_of(value: Any) -> str:
    """An id as the provider writes it, without the blanks and the guard that a spreadsheet's text has.

    Args:
        value: the cell.

    Raises:
        ValueError: a spreadsheet has rounded it, or no ledger can hold it.
    """
    if isinstance(value, bool | list | dict):
        raise ValueError("is no id")  # noqa: TRY004 - a cell's problem, as all others
    if isinstance(value, float):
        if abs(value) >= _EXACT_FLOAT or not value.is_integer():
            raise ValueError("is a number that was rounded by a spreadsheet: export ids as text")
        value = int(value)
    text = csv_value(str(value)).strip().strip("\u200b\ufeff")
    if _ROUNDED_ID.fullmatch(text):
        raise ValueError("is a number that was rounded by a spreadsheet: export ids as text")
    if len(text) > ID_BYTES or id_problem(text) is not None:
        raise ValueError("is no id that a ledger can hold")
    return text

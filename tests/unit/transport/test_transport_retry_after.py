"""Retry-After: seconds or a date, never believed beyond a cap, never a reason to fall over."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_genmedia._transport import retry_after_seconds

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("900", 900.0), ("-5", 0.0)],
)
def test_seconds_are_taken_as_they_are(value: str, seconds: float) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@pytest.mark.parametrize("value", ["901", "86400", "1e999", "inf"])
def test_a_wait_beyond_the_cap_is_the_cap(value: str) -> None:
    assert retry_after_seconds(value, NOW) == 900.0


def test_the_cap_can_be_chosen() -> None:
    assert retry_after_seconds("50", NOW, cap=20.0) == 20.0


def test_a_date_is_the_time_until_then() -> None:
    assert retry_after_seconds("Sun, 01 Mar 2026 12:01:30 GMT", NOW) == 90.0


def test_a_date_in_the_past_is_no_wait() -> None:
    assert retry_after_seconds("Sun, 01 Mar 2026 11:00:00 GMT", NOW) == 0.0


def test_a_date_far_away_is_the_cap() -> None:
    assert retry_after_seconds("Thu, 01 Mar 2035 12:00:00 GMT", NOW) == 900.0


def test_a_date_without_a_zone_is_in_universal_time() -> None:
    assert retry_after_seconds("Sun, 01 Mar 2026 12:00:10 -0000", NOW) == 10.0


def test_a_date_in_another_zone_is_converted() -> None:
    assert retry_after_seconds("Sun, 01 Mar 2026 20:00:10 +0800", NOW) == 10.0


def test_no_header_is_no_hint() -> None:
    assert retry_after_seconds(None, NOW) is None


@pytest.mark.parametrize(
    "value", ["", "   ", "soon", "nan", "2026-03-01", "12 seconds", "Sun, 99 Foo 2026 12:00:00 GMT"]
)
def test_what_cannot_be_read_is_no_hint(value: str) -> None:
    assert retry_after_seconds(value, NOW) is None


@pytest.mark.parametrize("offset", ["+2400", "-9999", "+99999999999999999999"])
def test_a_date_with_an_impossible_zone_does_not_raise(offset: str) -> None:
    wait = retry_after_seconds(f"Sun, 01 Mar 2026 12:00:00 {offset}", NOW)
    assert wait is None or 0.0 <= wait <= 900.0


_DATE_PIECES = st.sampled_from(
    [
        "Sun,",
        "01",
        "99",
        "Mar",
        "Foo",
        "2026",
        "0001",
        "9999",
        "12:00:00",
        "12:99",
        "25",
        "GMT",
        "-0000",
        "+0800",
        "-",
        ":",
    ]
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=40), st.lists(_DATE_PIECES, max_size=8).map(" ".join)))
def test_any_text_gives_no_hint_or_a_wait_within_the_cap(value: str) -> None:
    wait = retry_after_seconds(value, NOW)
    assert wait is None or 0.0 <= wait <= 900.0


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(min_value=-10_000, max_value=10_000))
def test_seconds_and_the_date_they_lead_to_say_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(date, NOW) == retry_after_seconds(str(seconds), NOW)

"""The Retry-After header: seconds or an HTTP date (RFC 9110, 10.2.3), never trusted beyond a cap."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

CAP_SECONDS = 900.0
"""The longest Retry-After that is believed, in seconds."""


def retry_after_seconds(value: str | None, now: datetime, cap: float = CAP_SECONDS) -> float | None:
    """How long to wait.

    Args:
        value: the header's text, or None where there was none.
        now: the present time, with a time zone.
        cap: the longest wait that is believed, in seconds.

    Returns:
        Seconds from 0 to `cap`; None where the header is missing or cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - now).total_seconds()
    if seconds != seconds:  # NaN
        return None
    return min(max(seconds, 0.0), cap)

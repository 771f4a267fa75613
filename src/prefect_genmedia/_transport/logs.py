"""Redacting what httpx and httpcore log of our exchanges: request URLs, and the headers of answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect_genmedia._transport.redact import MASK, Redactor

# A filter sees the records of its own logger only, not those of the loggers below it.
_LOGGERS = (
    *("httpx", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
    "httpcore.socks",
)
# Whatever signs a URL is in its query or fragment. A redirect may lead to a path on the same host: a URL without `://`.
_QUERY = re.compile(r"""([?#])[^\s"'<>]+""")
_COOKIE = re.compile(r"""(?i)(b?['"]set-cookie['"], )b?(?:'[^']*'|"[^"]*")""")

_redactor: ContextVar[Redactor | None] = ContextVar("genmedia_redactor", default=None)


class _OurRecords(logging.Filter):
    """Changes the records of our exchanges, and lets all pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        redactor = _redactor.get()
        if redactor is not None:
            text = _COOKIE.sub(rf"\1{MASK}", record.getMessage())
            record.msg, record.args = _QUERY.sub(rf"\1{MASK}", redactor.clean(text)), ()
        return True


_FILTER = _OurRecords()


@contextmanager
def redacted_logs(redactor: Redactor) -> Iterator[None]:
    """Redact what httpx and httpcore log inside the block; other users of these loggers are not affected.

    Parameters:
        redactor: knows the exchange's secrets.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adds it once; a new logging configuration may have removed it
    token = _redactor.set(redactor)
    try:
        yield
    finally:
        _redactor.reset(token)

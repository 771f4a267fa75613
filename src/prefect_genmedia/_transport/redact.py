"""Keeping secrets and signatures out of all that a person or a database sees, and of what httpx and httpcore log."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.text import clean_text

MASK = "[redacted]"

# A URL inside a text ends where one cannot go on: at quotes, as in JSON, and at Chinese punctuation, too. What stands
# for an ampersand in HTML, and in JSON inside JSON, belongs to it. Its scheme is not looked for: words before it may be
# megabytes of base64.
_URL_IN_TEXT = re.compile(r"""://(?:[^\s"'<>\\`{}|^\u2018-\u201f\u3000-\u303f\uff01-\uff5e]|\\+u0026)+""")
_ESCAPED_AMPERSAND = re.compile(r"&amp;|\\+u0026")
_END_OF_A_PHRASE = ".,;:!?)"


class Redactor:
    """Replaces known secrets, and what signs the URLs, in any text.

    Args:
        secrets: the secrets; those shorter than four characters are ignored, they would mangle every text.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        """Keep the longest secrets first, so that one secret inside another leaves nothing behind."""
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """The text as `clean_text` shows it, without any secret, and with each URL as `shown_url` shows it."""
        # Cleaned first, since an invisible character hides a secret. Masked twice, since reading a URL may undo an
        # escape that hid one.
        return self._masked(unsigned_text(self._masked(clean_text(text))))

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def __repr__(self) -> str:
        """Say how many secrets there are, not which."""
        return f"Redactor({len(self._secrets)} secrets)"


def unsigned_text(text: str, rule: Callable[[str], str] = shown_url) -> str:
    """The text with each URL in it changed by a rule: providers quote those that they cannot fetch.

    Args:
        text: the text.
        rule: changes one URL, and raises ValueError where it is none.
    """
    return _URL_IN_TEXT.sub(lambda found: _unsigned(found, rule), text)


def _unsigned(found: re.Match[str], rule: Callable[[str], str]) -> str:
    whole = _ESCAPED_AMPERSAND.sub("&", found.group())
    rest = whole.rstrip(_END_OF_A_PHRASE)  # `://…`
    if not set("?@#") & set(rest):
        return found.group()
    try:
        return rule(f"x{rest}").removeprefix("x") + whole[len(rest) :]
    except ValueError:  # no URL that anybody could read
        return f"://{MASK}"


def excerpt(text: str, limit: int = 2000) -> str:
    """The text, cut to `limit` characters with a mark where it was cut.

    Args:
        text: what is to be shown.
        limit: characters, at most.
    """
    return text if len(text) <= limit else f"{text[:limit]}… (cut, {len(text)} characters)"


# A filter sees the records of its own logger only, not those of the loggers below it.
_NAMES = "httpx httpcore httpcore.connection httpcore.http11 httpcore.http2 httpcore.proxy httpcore.socks"
_LOGGERS = [logging.getLogger(name) for name in _NAMES.split()]
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

    Args:
        redactor: knows the exchange's secrets.
    """
    for logger in _LOGGERS:
        logger.addFilter(_FILTER)  # adds it once; a new logging configuration may have removed it
    token = _redactor.set(redactor)
    try:
        yield
    finally:
        _redactor.reset(token)

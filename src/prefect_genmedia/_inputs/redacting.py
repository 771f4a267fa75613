"""Removing what was sent in place of a user's file from an error: gateways quote the request that they refuse."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlsplit

from prefect_genmedia._transport import MASK, Redactor
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.inputs import SentInputs

_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{100,}={0,2}")
"""An answer may cut what it repeats, so that no exact comparison finds it. No word of a language is as long."""
_SHORTEST_SECRET = 16
"""Characters: shorter values in a signed URL are dates and numbers."""


def without_inputs(error: GenMediaError, inputs: SentInputs) -> GenMediaError:
    """The error without the base64 text and the signed URLs that were sent. Errors go into ledgers and logs.

    Parameters:
        error: what the submission ended with.
        inputs: what was sent in place of the user's own files.
    """
    queries = [urlsplit(sent.url).query for sent in inputs.by_url.values() if sent.url]
    values = [value for query in queries for _, value in parse_qsl(query) if len(value) >= _SHORTEST_SECRET]
    redactor = Redactor([*queries, *values, *map(quote, values)])

    def clean(text: str) -> str:
        return _BASE64_RUN.sub(MASK, redactor.clean(text))

    error.message = clean(error.message)
    error.args = (error.message,)
    error.body = clean(error.body) if error.body is not None else None
    return error

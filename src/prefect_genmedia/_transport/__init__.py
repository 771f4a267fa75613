"""HTTP below every provider: clients, gates, Retry-After, fetching of public URLs, redaction."""

from prefect_genmedia._transport.api import ApiClient, FilePart, Gates, read_body
from prefect_genmedia._transport.bodies import BodyBounds
from prefect_genmedia._transport.fetch import FetchRules, body_of, fetch
from prefect_genmedia._transport.leases import LoopShared
from prefect_genmedia._transport.redact import MASK, Redactor, excerpt, unsigned_text
from prefect_genmedia._transport.retry_after import retry_after_seconds
from prefect_genmedia._transport.urls import shown_url

__all__ = [
    "MASK",
    "ApiClient",
    "BodyBounds",
    "FetchRules",
    "FilePart",
    "Gates",
    "LoopShared",
    "Redactor",
    "body_of",
    "excerpt",
    "fetch",
    "read_body",
    "retry_after_seconds",
    "shown_url",
    "unsigned_text",
]

"""What a plain HTTP status means as the answer to a submission, where the provider documents no codes of its own."""

from __future__ import annotations

from prefect_genmedia.errors import CredentialsError, InvalidRequest, ProviderError, QuotaError, RateLimited

REFUSALS = [
    (400, InvalidRequest, "refused"),
    (401, CredentialsError, "refused"),
    (402, QuotaError, "refused"),
    (403, CredentialsError, "refused"),
    (422, InvalidRequest, "refused"),
    (429, RateLimited, "unsent"),
    (404, ProviderError, "refused"),
    (500, ProviderError, "uncertain"),
    (503, ProviderError, "uncertain"),
]
"""Each status or code, its error, and whether the submission was refused, surely not sent, or is uncertain."""

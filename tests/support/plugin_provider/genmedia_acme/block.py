"""The Block for Acme. Prefect imports this module in servers and workers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator

from genmedia_acme.client import BASE_URL, AcmeClient
from prefect_genmedia.providers.credentials import (
    ConcurrencyLimit,
    MaxInFlight,
    ProviderCredentials,
    SubmissionsPerMinute,
    plausible_key,
)
from prefect_genmedia.settings import current_settings


class AcmeCredentials(ProviderCredentials):
    """Access to Acme: clips.

    Attributes:
        api_key: The key from Acme's console.
        base_url: The API's root.
        submissions_per_minute: How many jobs may be submitted in a minute.
        max_in_flight: How many jobs may be at the provider at once.
        concurrency_limit: A Prefect global concurrency limit that each job holds.
    """

    _block_type_name = "Acme Credentials"
    _block_type_slug = "acme-credentials"
    _description = "Access to Acme: clips."
    _documentation_url = HttpUrl("https://docs.acme.example/clips")

    provider: ClassVar[str] = "acme"

    api_key: SecretStr = Field(title="API key", description="The key from Acme's console.")
    base_url: str = Field(default=BASE_URL, title="Base URL", description="The API's root.")
    submissions_per_minute: SubmissionsPerMinute = None
    max_in_flight: MaxInFlight = None
    concurrency_limit: ConcurrencyLimit = None

    _key_is_plausible = field_validator("api_key")(plausible_key)

    def get_client(self) -> AcmeClient:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""
        return AcmeClient(
            self.api_key.get_secret_value(),
            self.base_url,
            allow_private_hosts=current_settings().allow_private_hosts,
            submissions_per_minute=self.submissions_per_minute,
        )

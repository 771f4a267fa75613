"""The Block: the account at a gateway."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator

from genmedia_openai_videos.client import BASE_URL, OpenAIVideosClient
from prefect_genmedia.providers.credentials import (
    ConcurrencyLimit,
    MaxInFlight,
    ProviderCredentials,
    SubmissionsPerMinute,
    plausible_key,
)
from prefect_genmedia.settings import current_settings


class OpenAIVideosCredentials(ProviderCredentials):
    """Access to an OpenAI-compatible videos API.

    Attributes:
        api_key: The gateway's key.
        base_url: The API's root, up to and including /v1.
        submissions_per_minute: How many jobs may be submitted in a minute.
        max_in_flight: How many jobs may be at the gateway at once.
        concurrency_limit: A Prefect global concurrency limit that each job holds.
    """

    _block_type_name = "OpenAI Videos Credentials"
    _block_type_slug = "openai-videos-credentials"
    _description = "Access to an OpenAI-compatible videos API."
    _documentation_url = HttpUrl("https://platform.openai.com/docs/api-reference/videos")

    provider: ClassVar[str] = "openai_videos"
    endpoints: ClassVar[tuple[str, ...]] = ("/videos",)

    api_key: SecretStr = Field(title="API key", description="The gateway's key.")
    base_url: str = Field(default=BASE_URL, title="Base URL", description="The API's root, up to and including /v1.")
    submissions_per_minute: SubmissionsPerMinute = None
    max_in_flight: MaxInFlight = None
    concurrency_limit: ConcurrencyLimit = None

    _key_is_plausible = field_validator("api_key")(plausible_key)

    def get_client(self) -> OpenAIVideosClient:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""
        return OpenAIVideosClient(
            self.api_key.get_secret_value(),
            self.base_url,
            allow_private_hosts=current_settings().allow_private_hosts,
            submissions_per_minute=self.submissions_per_minute,
        )

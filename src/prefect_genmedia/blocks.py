"""Credentials Blocks: who pays, and where the API is. Flows and tasks take a Block or its name, never a secret."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, field_validator

from prefect_genmedia.errors import CredentialsError
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.providers.tokenops import TokenOpsClient
from prefect_genmedia.providers.tokenops.catalog import BASE_URL as TOKENOPS_BASE_URL
from prefect_genmedia.settings import GenMediaSettings
from prefect_genmedia.transport import LoopShared

_CLIENTS: LoopShared[ProviderClient] = LoopShared(lambda client: client.aclose())


class ProviderCredentials(CredentialsBlock):
    """Base of the credentials Blocks: each belongs to one provider and opens its client."""

    _block_schema_capabilities: ClassVar[list[str]] = ["genmedia-credentials"]

    provider: ClassVar[str]

    @abstractmethod
    def get_client(self) -> Any:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """Use the client that all users of this account share in the running event loop."""
        client = self.get_client()

        async def opened() -> ProviderClient:
            return client  # type: ignore[no-any-return]

        async with _CLIENTS.lease((type(self), self._settings_key()), opened) as shared:
            if shared is not client:
                await client.aclose()
            yield shared

    def _settings_key(self) -> str:
        """Tells Blocks apart by everything that is in them, secrets included; never stored or shown."""
        return repr(sorted((name, _revealed(getattr(self, name))) for name in type(self).model_fields))


class TokenOpsCredentials(ProviderCredentials):
    """Access to TokenOps: Jimeng video and OmniHuman talking avatars.

    Attributes:
        api_key: The key from TokenOps' console.
        base_url: The API's root.

    Example:
        Load stored credentials and make a client:
        ```python
        from prefect_genmedia import TokenOpsCredentials

        credentials = TokenOpsCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "TokenOps Credentials"
    _block_type_slug = "tokenops-credentials"
    _description = "Access to TokenOps: Jimeng video and OmniHuman talking avatars."
    _documentation_url = HttpUrl("https://prefect-genmedia.readthedocs.io/en/latest/providers/tokenops/")

    provider: ClassVar[str] = "tokenops"

    api_key: SecretStr = Field(description="The key from TokenOps' console.")
    base_url: str = Field(
        default=TOKENOPS_BASE_URL,
        title="Base URL",
        description="The API's root; another one for a gateway or the simulator.",
    )

    @field_validator("api_key")
    @classmethod
    def _key_is_plausible(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if not key or key != key.strip() or not key.isascii() or not key.isprintable():
            raise ValueError("must not be empty, nor contain spaces, line breaks or non-ASCII characters")
        return value

    def get_client(self) -> TokenOpsClient:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""
        return TokenOpsClient(
            self.api_key.get_secret_value(),
            self.base_url,
            allow_private_hosts=GenMediaSettings().allow_private_hosts,
        )


CREDENTIALS: dict[str, type[ProviderCredentials]] = {block.provider: block for block in (TokenOpsCredentials,)}
"""The Block type of each provider."""


async def load_credentials(provider: str, credentials: ProviderCredentials | str) -> ProviderCredentials:
    """The Block itself: loaded where only its name is given.

    Parameters:
        provider: the provider it must belong to.
        credentials: a Block, or the name of a stored one.

    Raises:
        CredentialsError: there is no such Block, or it belongs to another provider.
    """
    block_type = CREDENTIALS[provider]
    if isinstance(credentials, str):
        try:
            loaded = await block_type.aload(credentials)
        except ValueError:
            raise CredentialsError(
                f"There is no {block_type.get_block_type_slug()} Block named {credentials!r}.",
                next_step=f"create it in the UI under Blocks, or in code with {block_type.__name__}(…).save(…).",
            ) from None
        assert isinstance(loaded, ProviderCredentials)  # noqa: S101 - tells the type checker
        return loaded
    if credentials.provider != provider:
        raise CredentialsError(f"{type(credentials).__name__} does not open {provider}.")
    return credentials


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value

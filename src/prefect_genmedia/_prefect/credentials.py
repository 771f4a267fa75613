"""Loading credentials Blocks. Flows and tasks take a Block or its name, never a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from prefect_genmedia.errors import CredentialsError
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.plugin import loaded_parts, plugin_named


def credentials_types() -> dict[str, type[ProviderCredentials]]:
    """The Block type of each provider whose plug-in can be loaded, by the provider's name."""
    return loaded_parts("credentials")


if TYPE_CHECKING:
    AnyCredentials = ProviderCredentials
else:
    # A run form offers the stored Blocks of the types that a parameter names, not those of their common base.
    AnyCredentials = Union[tuple(credentials_types().values())]  # noqa: UP007 - of a tuple


async def load_credentials(provider: str, credentials: ProviderCredentials | str) -> ProviderCredentials:
    """The Block itself: loaded where only its name is given.

    Parameters:
        provider: the provider it must belong to.
        credentials: a Block, or the name of a stored one.

    Raises:
        CredentialsError: there is no such Block, or it belongs to another provider.
    """
    block_type = plugin_named(provider).credentials_type()
    if isinstance(credentials, str):
        try:
            loaded = await block_type.aload(credentials)
        except ValueError:
            raise CredentialsError(
                f"There is no {block_type.get_block_type_slug()} Block named {credentials!r}.",
                next_step=f"create it in the UI under Blocks, or in code with {block_type.__name__}(…).save(…).",
            ) from None
        assert isinstance(loaded, ProviderCredentials)  # tells the type checker
        return loaded
    if credentials.provider != provider:
        raise CredentialsError(f"{type(credentials).__name__} does not open {provider}.")
    return credentials

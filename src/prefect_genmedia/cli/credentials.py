"""The credentials of a command that pays: the stored Block, or keys in the environment where no server has one."""

from __future__ import annotations

import os

from prefect_genmedia._prefect.reconcile import server_answers
from prefect_genmedia._prefect.session import load_credentials
from prefect_genmedia.deploy.documents import declared_credentials, declared_variables
from prefect_genmedia.errors import CredentialsError
from prefect_genmedia.providers.credentials import ProviderCredentials


async def credentials_at_hand(provider: str, name: str) -> ProviderCredentials:
    """The stored Block of a name; or else the keys in the environment variables that `blocks/documents.yaml` names.

    Args:
        provider: the provider's name.
        name: the Block's name.

    Raises:
        CredentialsError: there are none.
        InvalidRequest: a variable's value cannot be right; it is named, and its value is not shown.
    """
    missing = "No Prefect server answers"
    if await server_answers():
        try:
            return await load_credentials(provider, name)
        except CredentialsError as error:
            missing = error.message.rstrip(".")
    own = [each for each in declared_credentials(os.environ) if each.provider == provider]
    if own:
        return own[0]
    variables = " and ".join(declared_variables(provider))
    either = f"set {variables}, or " if variables else ""
    raise CredentialsError(
        f"{missing}, and the environment has no key of {provider}.",
        next_step=f"{either}save the Block on the Prefect server that PREFECT_API_URL names.",
    )

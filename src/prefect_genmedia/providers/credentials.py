"""What the credentials Blocks share: the client that an account's users share, and what a plausible key is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, SecretStr

from prefect_genmedia._transport import LoopShared
from prefect_genmedia.providers.protocol import ProviderClient

LOGOS = "https://raw.githubusercontent.com/prefect-genmedia/prefect-genmedia/main/src/prefect_genmedia/assets"
"""Where the UI finds the logos in `prefect_genmedia/assets`: Prefect takes http addresses only."""

SubmissionsPerMinute = Annotated[
    float | None,
    Field(
        gt=0,
        description="How many jobs one process may submit in a minute, evenly spaced. Empty: no limit.",
    ),
]
MaxInFlight = Annotated[
    int | None,
    Field(
        ge=1,
        description="How many jobs of this account may be at the provider at once, over all runs and machines that "
        "share the job ledger; others wait before anything is sent. Empty: no limit.",
    ),
]
ConcurrencyLimit = Annotated[
    str | None,
    Field(
        description="Name of a Prefect global concurrency limit that each job of our flows and batches holds until its "
        "provider is done. Empty: none.",
    ),
]

_CLIENTS: LoopShared[ProviderClient] = LoopShared(lambda client: client.aclose())


class ProviderCredentials(CredentialsBlock):
    """Base of the credentials Blocks: each belongs to one provider and opens its client."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input of a credentials Block is a secret

    _block_schema_capabilities: ClassVar[list[str]] = ["genmedia-credentials"]

    provider: ClassVar[str]

    # `Task.map` takes apart what `iter()` accepts, which pydantic makes of every model: a Block is one value, as if it
    # were `unmapped`. Prefect also reads models with `dict(model)`, which needs the two methods below then.
    __iter__ = None  # type: ignore[assignment]

    if TYPE_CHECKING:  # each Block has these as its own last fields: a form shows what is required first
        submissions_per_minute: SubmissionsPerMinute
        max_in_flight: MaxInFlight
        concurrency_limit: ConcurrencyLimit

    def keys(self) -> Iterable[str]:
        """Names of the fields, for `dict(block)`."""
        return vars(self).keys()

    def __getitem__(self, name: str) -> Any:
        """The field of that name, for `dict(block)`."""
        return vars(self)[name]

    @abstractmethod
    def get_client(self) -> Any:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """Use the client that all users of this account share in the running event loop."""

        async def opened() -> ProviderClient:
            client: ProviderClient = self.get_client()
            return client

        async with _CLIENTS.lease((type(self), self._settings_key()), opened) as shared:
            yield shared

    def _settings_key(self) -> str:
        """Tells Blocks apart by everything that is in them, secrets included; never stored or shown."""
        return repr(sorted((name, _revealed(getattr(self, name))) for name in type(self).model_fields))


def plausible_key(value: SecretStr) -> SecretStr:
    """The secret, if it can stand in an HTTP header: what a slip while copying it most often breaks.

    Raises:
        ValueError: it is empty, or has spaces, line breaks or non-ASCII characters.
    """
    key = value.get_secret_value()
    if not key or " " in key or not key.isascii() or not key.isprintable():
        raise ValueError("must not be empty, nor contain spaces, line breaks or non-ASCII characters")
    return value


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value

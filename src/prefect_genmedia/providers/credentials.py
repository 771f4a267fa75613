"""What the credentials Blocks share: the client that an account's users share, and what a plausible key is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, SecretStr, field_validator

from prefect_genmedia._transport import LoopShared
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.providers.restoring import with_defaults
from prefect_genmedia.text import clean_text

LOGOS = "https://raw.githubusercontent.com/prefect-genmedia/prefect-genmedia/main/src/prefect_genmedia/assets"
"""Where the UI finds the logos in `prefect_genmedia/assets`: Prefect takes http addresses only."""

SubmissionsPerMinute = Annotated[
    float | None,
    Field(
        gt=0,
        allow_inf_nan=False,
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
AccountName = Annotated[
    str | None,
    Field(
        max_length=100,
        description="Name of the account in the job ledger: Blocks with the same name, provider and base URL are the "
        "same payer, also after the key was rotated. Empty: the name under which this Block is saved.",
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
        account_name: AccountName

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled Block, also one of an earlier version."""
        super().__setstate__(with_defaults(type(self), state))

    def keys(self) -> Iterable[str]:
        """Names of the fields, for `dict(block)`."""
        return vars(self).keys()

    def __getitem__(self, name: str) -> Any:
        """The field of that name, for `dict(block)`."""
        return vars(self)[name]

    @field_validator("base_url", check_fields=False)
    @classmethod
    def _base_url_is_plain(cls, value: str) -> str:
        return plain_base_url(value)

    @property
    def name_of_account(self) -> str | None:
        """The account's name in the job ledger: `account_name`, or the name under which the Block is saved."""
        name = getattr(self, "account_name", None) or self._block_document_name or ""
        return name.strip() or None

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


def secrets_of(block: ProviderCredentials) -> list[str]:
    """Every secret field of a Block that is set: what no text may show.

    Parameters:
        block: the Block.
    """
    values = (getattr(block, name) for name in type(block).model_fields)
    return [text for value in values if isinstance(value, SecretStr) and (text := value.get_secret_value())]


def plausible_key(value: SecretStr) -> SecretStr:
    """The secret, if it can stand in an HTTP header: what a slip while copying it most often breaks.

    Raises:
        ValueError: it is empty, or has spaces, line breaks or non-ASCII characters.
    """
    key = value.get_secret_value()
    if not key or " " in key or not key.isascii() or not key.isprintable():
        raise ValueError("must not be empty, nor contain spaces, line breaks or non-ASCII characters")
    return value


def plain_base_url(value: str) -> str:
    """The API's root, unaltered, if requests can be sent below it: every path is added to its end.

    Raises:
        ValueError: it holds blanks, a user name, a query or a fragment, has another scheme than http and https, or
            names no host.
    """
    if clean_text(value) != value or any(character.isspace() or character == "\\" for character in value):
        raise ValueError("must not contain spaces, line breaks, backslashes or invisible characters")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://api.example.com/v1") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("must begin with http:// or https://, and name a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password: the key belongs into its own field")
    if "?" in value or "#" in value:
        raise ValueError("must not contain a query (?…) or a fragment (#…): paths are added to its end")
    return value


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value

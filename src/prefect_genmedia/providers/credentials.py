"""What the credentials Blocks share: the client that an account's users share, and what a plausible key is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, PlainSerializer, SecretStr, WithJsonSchema, field_validator

from prefect_genmedia._transport import LoopShared
from prefect_genmedia.prices import MOST_CNY
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.providers.restoring import with_defaults
from prefect_genmedia.text import clean_text

LOGOS = "https://raw.githubusercontent.com/prefect-genmedia/prefect-genmedia/main/src/prefect_genmedia/assets"
"""Where the UI finds the logos in `prefect_genmedia/assets`: Prefect takes http addresses only."""

_SHOWN_AS_NUMBER = PlainSerializer(
    lambda amount: None if amount is None else float(amount), return_type=float | None, when_used="json"
)
_NUMBER_IN_FORMS = WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]})
"""Prefect stores and shows an amount as a number, not as text."""

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

MaxCostPerDay = Annotated[
    Decimal | None,
    Field(
        ge=0,
        le=MOST_CNY,
        allow_inf_nan=False,
        description="Highest estimated cost of this account's jobs in a day, in CNY, over all runs, batches and "
        "machines that share the job ledger, whichever Block they use. Above it nothing is sent. Empty: no limit.",
    ),
    _SHOWN_AS_NUMBER,
    _NUMBER_IN_FORMS,
]
MaxCostPerMonth = Annotated[
    Decimal | None,
    Field(
        ge=0,
        le=MOST_CNY,
        allow_inf_nan=False,
        description="Highest estimated cost of this account's jobs in a calendar month, in CNY. Empty: no limit.",
    ),
    _SHOWN_AS_NUMBER,
    _NUMBER_IN_FORMS,
]
MaxJobsPerDay = Annotated[
    int | None,
    Field(ge=0, le=MOST_CNY, description="Highest number of jobs this account may send in a day. Empty: no limit."),
]
BudgetTimeZone = Annotated[
    str,
    Field(
        max_length=64,
        description="Time zone in which the days and months of the caps start, such as Asia/Shanghai.",
    ),
]

Project = Annotated[
    str,
    Field(
        max_length=100,
        description="Project that this account's jobs are booked to, unless a job names one. Empty: the name of the "
        "deployment or flow.",
    ),
]
Tags = Annotated[list[str], Field(max_length=20, description="More labels to group the jobs of this account by.")]

_CLIENTS: LoopShared[ProviderClient] = LoopShared(lambda client: client.aclose())


class ProviderCredentials(CredentialsBlock):
    """Base of the credentials Blocks: each belongs to one provider and opens its client."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input of a credentials Block is a secret

    _block_schema_capabilities: ClassVar[list[str]] = ["genmedia-credentials"]

    provider: ClassVar[str]
    endpoints: ClassVar[tuple[str, ...]] = ()
    """The paths that the client adds to `base_url`; one that was pasted with them is refused with the right one."""

    # `Task.map` takes apart what `iter()` accepts, which pydantic makes of every model: a Block is one value, as if it
    # were `unmapped`. Prefect also reads models with `dict(model)`, which needs the two methods below then.
    __iter__ = None  # type: ignore[assignment]

    if TYPE_CHECKING:  # each Block has these as its own last fields: a form shows what is required first
        submissions_per_minute: SubmissionsPerMinute
        max_in_flight: MaxInFlight
        concurrency_limit: ConcurrencyLimit
        account_name: AccountName
        max_cost_per_day: MaxCostPerDay
        max_cost_per_month: MaxCostPerMonth
        max_jobs_per_day: MaxJobsPerDay
        budget_time_zone: BudgetTimeZone
        project: Project
        tags: Tags

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
        default = cls.model_fields["base_url"].default
        return plain_base_url(value, default if isinstance(default, str) else "", cls.endpoints)

    @field_validator("budget_time_zone", check_fields=False)
    @classmethod
    def _time_zone_is_known(cls, value: str) -> str:
        value = value or "UTC"  # a form sends an empty text for a field that is left empty
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            known = False
        else:
            known = True
        if not known:
            raise ValueError("must be a time zone by its IANA name, such as UTC or Asia/Shanghai")
        return value

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

    Args:
        block: the Block.
    """
    values = (getattr(block, name) for name in type(block).model_fields)
    return [text for value in values if isinstance(value, SecretStr) and (text := value.get_secret_value())]


def plausible_key(value: SecretStr) -> SecretStr:
    """The secret without blanks around it, if it can stand in an HTTP header: what a slip while copying it breaks.

    Raises:
        ValueError: it is empty or an example's placeholder, has quotes around it, the word Bearer before it, or
            spaces, line breaks or non-ASCII characters in it.
    """
    given = value.get_secret_value()
    key = given.strip(_AROUND_KEYS)
    if key and (key[0] in _QUOTES or key[-1] in _QUOTES):
        raise ValueError("has quotation marks around it: give the key alone, without the quotes")
    if key.lower().startswith(("bearer ", "authorization:")):
        raise ValueError("begins with the name of its header: give the key alone, without `Bearer`")
    if key and (key[0] in "<{" or key.startswith("${")):
        raise ValueError("is the placeholder of an example: give the key itself")
    if not key or " " in key or not key.isascii() or not key.isprintable():
        raise ValueError("must not be empty, nor contain spaces, line breaks or non-ASCII characters")
    return value if key == given else SecretStr(key)


_QUOTES = frozenset("'\"`\u2018\u2019\u201c\u201d\u300c\u300d\u00ab\u00bb")
_AROUND_KEYS = " \t\r\n\f\v\u00a0\u2028\u2029\u3000\u200b\ufeff"
"""Blanks that come with a copied key; some of them cannot be seen."""


def plain_base_url(value: str, default: str = "", endpoints: Collection[str] = ()) -> str:
    """The API's root, unaltered, if requests can be sent below it: every path is added to its end.

    Args:
        value: the root.
        default: the provider's own; a root without any path is refused where this one has a path.
        endpoints: the paths that are added, which must not be in it already.

    Raises:
        ValueError: it holds blanks, a user name, a query, a fragment or an endpoint, has another scheme than http and
            https, or names no host or no version.
    """
    if clean_text(value) != value or any(character.isspace() or character == "\\" for character in value):
        raise ValueError("must not contain spaces, line breaks, backslashes or invisible characters")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://api.example.com/v1") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or "://" in parts.netloc + parts.path:
        raise ValueError("must begin with http:// or https://, and name a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password: the key belongs into its own field")
    if "?" in value or "#" in value:
        raise ValueError("must not contain a query (?…) or a fragment (#…): paths are added to its end")
    _check_path(parts, default, endpoints)
    return value


def _check_path(parts: SplitResult, default: str, endpoints: Collection[str]) -> None:
    """Refuse a path that ends in an endpoint, or lacks the version that the default has."""
    steps = [step for step in parts.path.split("/") if step]
    for endpoint in sorted(endpoints, key=len, reverse=True):
        path = [step for step in endpoint.split("/") if step]
        # The whole endpoint, or its beginning: `/api/plugins` of `/api/plugins/poster/tasks` would be sent twice.
        for length in range(len(path), 0, -1):
            is_telling = length == len(path) or length > 1
            at = len(steps) - length
            found = steps[-length:] == path[:length] or (length == len(path) and _index(steps, path) is not None)
            if is_telling and found:
                at = at if steps[-length:] == path[:length] else _index(steps, path) or 0
                root = f"{parts.scheme}://{parts.netloc}/{'/'.join(steps[:at])}".rstrip("/")
                raise ValueError(f"must not contain the endpoint /{'/'.join(steps[at:])}: give {root}")
    version = urlsplit(default).path.rstrip("/")
    if version and not steps:
        raise ValueError(f"lacks {version}: give {parts.scheme}://{parts.netloc}{version}")


def _index(steps: list[str], path: list[str]) -> int | None:
    """Where a path begins within another one."""
    places = range(len(steps) - len(path) + 1)
    return next((at for at in places if steps[at : at + len(path)] == path), None)


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value

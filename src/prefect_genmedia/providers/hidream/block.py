"""The Block for HiDream."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator
from typing_extensions import Self

from prefect_genmedia.providers.credentials import (
    LOGOS,
    AccountName,
    BudgetTimeZone,
    ConcurrencyLimit,
    MaxCostPerDay,
    MaxCostPerMonth,
    MaxJobsPerDay,
    Project,
    ProviderCredentials,
    Tags,
    plausible_key,
)
from prefect_genmedia.providers.hidream import HiDreamClient
from prefect_genmedia.providers.hidream.catalog import (
    BASE_URL,
    RESULTS_PATH,
    SUBMISSIONS_PER_MINUTE,
    SUBMIT_PATH,
    TOKEN_PATH,
)
from prefect_genmedia.providers.hidream.stylize import fits_a_header
from prefect_genmedia.settings import current_settings


class HiDreamCredentials(ProviderCredentials):
    """Access to HiDream: videos in another style. Takes an API key or a token.

    Attributes:
        api_key: An API key, exchanged for tokens that are renewed by themselves.
        token: A token, which lives one day.
        user_id: Your user's id at HiDream.
        base_url: The site's root.
        submissions_per_minute: How many jobs may be submitted in a minute.
        max_in_flight: How many jobs may be at the provider at once.
        concurrency_limit: A Prefect global concurrency limit that each job holds.
        account_name: The account's name in the job ledger; by default the name under which the Block is saved.
        max_cost_per_day: Highest estimated cost of the account's jobs in a day, in CNY.
        max_cost_per_month: Highest estimated cost of the account's jobs in a calendar month, in CNY.
        max_jobs_per_day: Highest number of jobs that the account may send in a day.
        budget_time_zone: Time zone in which the days and months of the caps start.
        project: Project that the account's jobs are booked to, unless a job names one.
        tags: More labels to group the account's jobs by.

    Example:
        Load stored credentials and make a client:
        ```python
        from prefect_genmedia import HiDreamCredentials

        credentials = HiDreamCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "HiDream Credentials"
    _block_type_slug = "hidream-credentials"
    _description = "Access to HiDream: videos in another style."
    _logo_url = HttpUrl(f"{LOGOS}/hidream.png")
    _documentation_url = HttpUrl("https://prefect-genmedia.readthedocs.io/en/latest/providers/hidream/")

    provider: ClassVar[str] = "hidream"
    endpoints: ClassVar[tuple[str, ...]] = (RESULTS_PATH, SUBMIT_PATH, TOKEN_PATH)

    api_key: SecretStr | None = Field(
        default=None,
        title="API Key",
        description="An API key: exchanged for tokens that are renewed by themselves. Give this or a token.",
    )
    token: SecretStr | None = Field(
        default=None, description="A token, which lives one day. Give this or an API key; for schedules take the key."
    )
    user_id: str = Field(
        default="",
        title="User ID",
        description="Sent as API-User-ID. Beside a token it also names the account, so that a new token finds the "
        "jobs of an older one.",
    )
    base_url: str = Field(
        default=BASE_URL,
        title="Base URL",
        description="The site's root; another one for a gateway or the simulator.",
    )
    submissions_per_minute: float | None = Field(
        default=SUBMISSIONS_PER_MINUTE,
        gt=0,
        allow_inf_nan=False,
        description="How many jobs may be submitted in a minute, evenly spaced; HiDream documents 2. Empty: no limit.",
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="How many jobs of this account may be at HiDream at once, over all runs and machines that share "
        "the job ledger; others wait before anything is sent. HiDream documents 1, 3, 5, 7 or 10, by tier. "
        "Empty: no limit.",
    )
    concurrency_limit: ConcurrencyLimit = None
    account_name: AccountName = None
    max_cost_per_day: MaxCostPerDay = None
    max_cost_per_month: MaxCostPerMonth = None
    max_jobs_per_day: MaxJobsPerDay = None
    budget_time_zone: BudgetTimeZone = "UTC"
    project: Project = ""
    tags: Tags = Field(default_factory=list)

    @field_validator("api_key", "token")
    @classmethod
    def _key_is_plausible(cls, value: SecretStr | None) -> SecretStr | None:
        # A form sends an empty text for a field that is left empty.
        return plausible_key(value) if value is not None and value.get_secret_value() else None

    @field_validator("user_id")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        return fits_a_header(value)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.api_key is None) == (self.token is None):
            raise ValueError("give an api_key or a token, one of them")
        return self

    def get_client(self) -> HiDreamClient:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""
        return HiDreamClient(
            token=self.token.get_secret_value() if self.token else None,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            user_id=self.user_id,
            base_url=self.base_url,
            submissions_per_minute=self.submissions_per_minute,
            allow_private_hosts=current_settings().allow_private_hosts,
        )
